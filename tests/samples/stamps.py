"""FITS: stamps of galaxies, pictures and MEDS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samples.registry import sample


@sample("fits")
def make_fits(folder: Path) -> Path:
    """Stamps with PSFs and what else there may be."""
    write_stamps(folder / "stamps.fits", 5)
    return folder / "stamps.fits"


@sample("fits-gz")
def make_fits_gz(folder: Path) -> Path:
    write_stamps(folder / "stamps.fits.gz", 5)
    return folder / "stamps.fits.gz"


@sample("fits-image")
def make_fits_image(folder: Path) -> Path:
    from astropy.io import fits

    pixels = np.random.default_rng(0).integers(0, 60000, (3, 13, 10)).astype(np.uint16)
    fits.PrimaryHDU(pixels).writeto(folder / "image.fits")
    return folder / "image.fits"


@sample("fits-tiles")
def make_fits_tiles(folder: Path) -> Path:
    from astropy.io import fits

    pixels = np.random.default_rng(0).integers(0, 99, (3, 16, 20)).astype(np.int32)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels)]).writeto(folder / "tiles.fits")
    return folder / "tiles.fits"


@sample("fits-meds")
def make_meds(folder: Path) -> Path:
    write_meds(folder / "meds.fits", [32, 48], [2, 1])
    return folder / "meds.fits"


def gaussian_stamp(size: int | tuple[int, int], sigma: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """A Gaussian whose centre is (x, y) pixels from the pixel n // 2, of sum 1 on an endless plane."""
    rows, columns = (size, size) if isinstance(size, int) else size
    v, u = np.mgrid[:rows, :columns]
    r2 = (v - rows // 2 - y) ** 2 + (u - columns // 2 - x) ** 2
    return (np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)).astype(np.float32)


def write_stamps(path: Path, n: int, size: int = 12, psf_size: int = 9, **extensions: np.ndarray | None) -> None:
    """Stamps of flux 100, 101, ..., with noise 0.1; an extension given as None is left out."""
    from astropy.io import fits

    rng = np.random.default_rng(0)
    pixels = np.stack([(100 + i) * gaussian_stamp(size, 2.0) for i in range(n)])
    pixels = (pixels + 0.1 * rng.standard_normal(pixels.shape)).astype(np.float32)
    arrays = {
        "PSF": np.stack([gaussian_stamp(psf_size, 1.2 + 0.01 * i) for i in range(n)]),
        "WEIGHT": np.full(pixels.shape, 100, np.float32),
        "MASK": np.zeros(pixels.shape, np.uint8),
    } | extensions
    primary = fits.PrimaryHDU(pixels if "SCI" not in arrays else arrays.pop("SCI"))
    primary.header["BUNIT"], primary.header["PIXSCALE"] = "adu", 0.2
    table = fits.BinTableHDU.from_columns([fits.Column("ID", "K", array=1000 + np.arange(n))], name="OBJECTS")
    images = [fits.ImageHDU(array, name=name) for name, array in arrays.items() if array is not None]
    fits.HDUList([primary, *images, table]).writeto(path, overwrite=True)


def write_meds(path: Path, boxes: list[int], epochs: list[int]) -> None:
    """A MEDS file by galsim: object i has the pixel value 100 i + epoch at its centre, and a neighbour in a corner."""
    import galsim
    from galsim.des import MultiExposureObject, WriteMEDS

    objects = []
    for i, (box, n) in enumerate(zip(boxes, epochs, strict=True), start=1):
        images, weights, labels, psfs = [], [], [], []
        for epoch in range(n):
            image = galsim.Image(np.zeros((box, box), np.float32) + epoch)
            image.array[box // 2, box // 2] = 100 * i + epoch
            label = np.zeros((box, box), np.int32)
            label[box // 2 - 2 : box // 2 + 3, box // 2 - 2 : box // 2 + 3] = i
            label[0, 0] = 99
            images.append(image)
            weights.append(galsim.Image(np.full((box, box), 4.0 + epoch, np.float32)))
            labels.append(galsim.ImageI(label))
            psfs.append(galsim.Image(gaussian_stamp(box, 1.2)))
        jacobian = galsim.JacobianWCS(0.26, 0.01, -0.02, 0.27)
        objects.append(MultiExposureObject(images, weight=weights, seg=labels, psf=psfs, wcs=[jacobian] * n, id=i))
    WriteMEDS(objects, str(path))
