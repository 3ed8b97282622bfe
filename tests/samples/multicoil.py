"""K-space as fastMRI and the Calgary-Campinas collection lay it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samples.ismrmrd_files import encoding, ismrmrd_xml
from samples.registry import complex_normal, sample


def write_fastmri(
    path: Path, kspace: np.ndarray, *, header: str | None = None, mask: np.ndarray | None = None, **arrays: np.ndarray
) -> Path:
    """As fastMRI lays it out: (slice, coil, readout, phase), or without coils."""
    import h5py

    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if header is not None:
            file.create_dataset("ismrmrd_header", data=header.encode())
        if mask is not None:
            file["mask"] = mask
        for name, array in arrays.items():
            file[name] = array
        file.attrs["acquisition"] = "AXT2"
        file.attrs["max"] = 0.5
        file.attrs["patient_id"] = "0" * 8
    return path


def fastmri_header() -> str:
    """640 x 368 scaled down: readout 32 samples, 20 lines of which 18 were acquired."""
    return ismrmrd_xml(
        encoding((32, 20, 1), (16, 16, 1), encoded_fov=(320, 200, 5), recon_fov=(160, 160, 5), lines=(0, 17, 9))
    )


@sample("fastmri")
def make_fastmri(folder: Path) -> Path:
    kspace = complex_normal((2, 4, 32, 20))
    kspace[..., :1] = kspace[..., 19:] = 0
    reference = np.random.default_rng(0).random((2, 16, 16), np.float32)
    return write_fastmri(folder / "multicoil.h5", kspace, header=fastmri_header(), reconstruction_rss=reference)


@sample("fastmri-singlecoil")
def make_fastmri_singlecoil(folder: Path) -> Path:
    mask = np.zeros(20, np.float32)
    mask[::3] = mask[8:12] = 1
    kspace = complex_normal((2, 32, 20)) * mask
    return write_fastmri(folder / "singlecoil.h5", kspace.astype(np.complex64), header=fastmri_header(), mask=mask)


def calgary_kspace(image: np.ndarray, *, corner: bool) -> np.ndarray:
    """From images (x, coil, y, z) to the collection's layout (x, ky, kz, 24)."""
    k = np.fft.fft2(image)
    if not corner:
        k = np.fft.fftshift(k, (-2, -1))
    k = np.moveaxis(k, 1, -1)
    return np.stack([k.real, k.imag], -1).reshape(*k.shape[:3], 24).astype(np.float32)


def blob(shape: tuple[int, int], coils: int) -> np.ndarray:
    """A smooth image off the centre, seen by several coils with their own phases: (coil, y, x)."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    magnitude = np.exp(-(((y[:, None] - 3) / shape[0] * 6) ** 2) - ((x / shape[1] * 7) ** 2))
    return magnitude * np.exp(1j * np.arange(coils))[:, None, None]


@sample("calgary")
def make_calgary_npy(folder: Path) -> Path:
    image = np.stack([blob((40, 36), 12)] * 4)
    np.save(folder / "e1.npy", calgary_kspace(image, corner=False))
    return folder / "e1.npy"


@sample("calgary-h5")
def make_calgary_h5(folder: Path) -> Path:
    import h5py

    image = np.stack([blob((40, 36), 12)] * 4)
    with h5py.File(folder / "e1.h5", "w") as file:
        file.create_dataset("kspace", data=calgary_kspace(image, corner=True))
    return folder / "e1.h5"
