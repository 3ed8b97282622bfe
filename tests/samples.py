"""Small valid files, one function a format, written by the other side's own library wherever it has one.

``@sample("name")`` adds a format. The fuzz test damages each of them, and the recognition test checks that
exactly the reader of that name answers to it (a variant is called ``name-variant``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

SAMPLES: dict[str, Callable[[Path], Path]] = {}
"""Name of a reader (and a variant of its files) to a function that writes such a file into a folder."""
OPTIONS: dict[str, str] = {}
"""Name of the variable to be read, for samples of formats that need one."""


def sample(name: str, variable: str | None = None) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def register(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        assert name not in SAMPLES
        SAMPLES[name] = make
        if variable is not None:
            OPTIONS[name] = variable
        return make

    return register


def complex_normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def space(matrix: tuple[int, int, int], fov: tuple[float, float, float]):
    """A space of the ISMRMRD header, (x, y, z)."""
    from ismrmrd import xsd

    return xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(**dict(zip("xyz", matrix, strict=True))),
        fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", map(float, fov), strict=True))),
    )


def limit(values: tuple[int, int, int] | None):
    from ismrmrd import xsd

    return None if values is None else xsd.limitType(minimum=values[0], maximum=values[1], center=values[2])


def encoding(
    encoded: tuple[int, int, int],
    recon: tuple[int, int, int],
    *,
    encoded_fov: tuple[float, float, float] = (400, 200, 5),
    recon_fov: tuple[float, float, float] = (200, 200, 5),
    lines: tuple[int, int, int] | None = None,
    partitions: tuple[int, int, int] | None = None,
    trajectory: str = "cartesian",
    calibration: str | None = None,
):
    """An encoding of the ISMRMRD header; ``lines`` and ``partitions`` are (minimum, maximum, center)."""
    from ismrmrd import xsd

    parallel = None
    if calibration is not None:
        parallel = xsd.parallelImagingType(
            accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1),
            calibrationMode=xsd.calibrationModeType(calibration),
        )
    return xsd.encodingType(
        encodedSpace=space(encoded, encoded_fov),
        reconSpace=space(recon, recon_fov),
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=limit(lines),
            kspace_encoding_step_2=limit(partitions),
        ),
        trajectory=xsd.trajectoryType(trajectory),
        parallelImaging=parallel,
    )


def ismrmrd_xml(*encodings, vendor: str = "ACME") -> str:
    from ismrmrd import xsd

    return xsd.ToXML(
        xsd.ismrmrdHeader(
            encoding=list(encodings),
            experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=123200000),
            acquisitionSystemInformation=xsd.acquisitionSystemInformationType(systemVendor=vendor),
            sequenceParameters=xsd.sequenceParametersType(TR=[500.0]),
        )
    )


def readout(data: np.ndarray, trajectory: np.ndarray | None = None, *, flags: tuple[int, ...] = (), **fields):
    """An ISMRMRD readout of (coil, sample); counters by their names, the rest by the header's."""
    import ismrmrd

    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64), trajectory)
    counters = {name for name, _ in ismrmrd.EncodingCounters._fields_}
    defaults = {
        "center_sample": data.shape[1] // 2,
        "read_dir": (1.0, 0.0, 0.0),
        "phase_dir": (0.0, 1.0, 0.0),
        "slice_dir": (0.0, 0.0, 1.0),
    }
    for name, value in (defaults | fields).items():
        if name in counters:
            setattr(acquisition.idx, name, value)
        elif isinstance(value, tuple):
            getattr(acquisition, name)[:] = value
        else:
            setattr(acquisition, name, value)
    for flag in flags:
        acquisition.set_flag(flag)
    return acquisition


def write_ismrmrd(path: Path, header: str, readouts: list, group: str = "dataset") -> Path:
    import ismrmrd

    with ismrmrd.Dataset(str(path), group) as dataset:
        dataset.write_xml_header(header)
        for acquisition in readouts:
            dataset.append_acquisition(acquisition)
    return path


@sample("ismrmrd")
def make_ismrmrd(folder: Path) -> Path:
    k = complex_normal((2, 3, 12, 16))
    readouts = [
        readout(k[s, :, y], kspace_encode_step_1=y, slice=s, position=(0.0, 0.0, 5.0 * s))
        for s in range(2)
        for y in range(12)
    ]
    header = ismrmrd_xml(encoding((16, 12, 1), (8, 12, 1), lines=(0, 11, 6)))
    return write_ismrmrd(folder / "scan.mrd", header, readouts)


@sample("ismrmrd-radial")
def make_radial(folder: Path) -> Path:
    angles = np.arange(9) * np.pi / 9
    radius = (np.arange(16) - 8) / 16
    spokes = [np.stack([radius * np.cos(a), radius * np.sin(a)], 1).astype(np.float32) for a in angles]
    k = complex_normal((9, 2, 16))
    readouts = [readout(k[i], spokes[i], kspace_encode_step_1=i) for i in range(9)]
    header = ismrmrd_xml(
        encoding((16, 16, 1), (16, 16, 1), encoded_fov=(200, 200, 5), trajectory="radial", lines=(0, 8, 4))
    )
    return write_ismrmrd(folder / "radial.mrd", header, readouts)


@sample("ismrmrd-c")
def copy_ismrmrd_of_the_c_library(folder: Path) -> Path:
    return Path(shutil.copy(Path(__file__).parent / "data" / "ismrmrd_shepp_logan.h5", folder))


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


TWIX_PROTOCOL = {
    "sKSpace.lBaseResolution": "8",
    "sKSpace.lPhaseEncodingLines": "12",
    "sKSpace.lPartitions": "1",
    "sKSpace.ucDimension": "0x2",
    "sKSpace.ucTrajectory": "0x1",
    "sSliceArray.lSize": "2",
    "sSliceArray.asSlice[0].dReadoutFOV": "200.0",
    "sSliceArray.asSlice[0].dPhaseFOV": "240.0",
    "sSliceArray.asSlice[0].dThickness": "5.0",
    "sRXSPEC.alDwellTime[0]": "2000",
    "tProtocolName": '"brain"',
}


def twix_header(protocol: dict[str, str]) -> np.ndarray:
    """The protocol of a twix measurement, as twixtools wants it for writing."""
    text = "".join(f"{name}\t = \t{value}\n" for name, value in protocol.items())
    text = f"### ASCCONV BEGIN ###\n{text}### ASCCONV END ###"
    other = '<ParamDouble."flReadoutOSFactor">  { <Precision> 16  2.0 }\n<ParamLong."alRegridMode">  { 1 }'
    parts = b""
    for name, value in (("Meas", other), ("MeasYaps", text)):
        parts += name.encode() + b"\0" + len(value).to_bytes(4, "little") + value.encode()
    length = (8 + len(parts) + 31) // 32 * 32
    data = length.to_bytes(4, "little") + (2).to_bytes(4, "little") + parts
    return np.frombuffer(data.ljust(length, b"\0"), "S1")


def twix_readout(data: np.ndarray, *, flags: tuple[str, ...] = (), **fields):
    """A twix readout of (coil, sample); counters by their names (Lin, Sli), the rest by the header's."""
    import twixtools.mdb

    block = twixtools.mdb.Mdb_local(np.asarray(data, np.complex64))
    defaults = {"CenterCol": data.shape[1] // 2, "Quaternion": (1.0, 0.0, 0.0, 0.0), "SlicePos": (0.0, 0.0, 0.0)}
    for name, value in (defaults | fields).items():
        if name == "Quaternion":
            block.mdh.SliceData.Quaternion[:] = value
        elif name == "SlicePos":
            for axis, number in zip(("Sag", "Cor", "Tra"), value, strict=True):
                setattr(block.mdh.SliceData.SlicePos, axis, number)
        elif name in ("Pre", "Post"):
            setattr(block.mdh.CutOff, name, value)
        else:
            setattr(block.mdh if hasattr(block.mdh, name) else block.mdh.Counter, name, value)
    for flag in flags:
        block.add_flag(flag)
    return block


def write_twix(path: Path, *measurements: tuple[dict[str, str], list]) -> Path:
    import twixtools

    scans = [{"hdr_str": twix_header(protocol), "mdb": list(blocks)} for protocol, blocks in measurements]
    with redirect_stdout(StringIO()):
        twixtools.write_twix(scans, str(path))
    return path


@sample("twix")
def make_twix(folder: Path) -> Path:
    k = complex_normal((2, 3, 12, 16))
    noise = [twix_readout(complex_normal((3, 32), 9), flags=("NOISEADJSCAN",))]
    lines = [
        twix_readout(k[s, :, y], Lin=y, CenterLin=6, Sli=s, SlicePos=(0.0, 0.0, 5.0 * s))
        for s in range(2)
        for y in range(12)
    ]
    return write_twix(folder / "meas.dat", (TWIX_PROTOCOL, noise), (TWIX_PROTOCOL, lines))


DATA = Path(__file__).parent / "data"


@sample("cfl")
def make_cfl(folder: Path) -> Path:
    """Written by BART itself (tests/data/README.md): two slices, three coils, 15 x 12."""
    for ending in (".cfl", ".hdr"):
        shutil.copyfile(DATA / f"bart_slices{ending}", folder / f"scan{ending}")
    return folder / "scan.cfl"


@sample("npy")
def make_npy(folder: Path) -> Path:
    np.save(folder / "scan.npy", complex_normal((2, 3, 13, 10)))
    return folder / "scan.npy"


@sample("npz")
def make_npz(folder: Path) -> Path:
    k = complex_normal((2, 3, 13, 10))
    np.savez(folder / "scan.npz", kspace=k, mask=np.arange(10) % 3 == 0, maps=k / 2, noise=complex_normal((3, 40)))
    return folder / "scan.npz"


@sample("npz-compressed")
def make_npz_compressed(folder: Path) -> Path:
    np.savez_compressed(folder / "scan.npz", kspace=complex_normal((3, 13, 10)))
    return folder / "scan.npz"


@sample("npz-packed")
def make_npz_packed(folder: Path) -> Path:
    """The layout of the built-in sample: sampled entries only."""
    mask = np.random.default_rng(0).random((13, 10)) < 0.3
    samples = complex_normal((3, int(mask.sum())))
    np.savez(folder / "scan.npz", samples=samples, mask=np.packbits(mask), shape=np.array([3, 13, 10]))
    return folder / "scan.npz"


def write_mat73(path: Path, kinds: dict[str, str] | None = None, **arrays: np.ndarray) -> Path:
    """As MATLAB does with -v7.3: a block of 512 bytes, then HDF5 with reversed axes and {real, imag}."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = np.atleast_2d(array).T
            kind = {"f4": "single", "f8": "double", "c8": "single", "c16": "double"}.get(array.dtype.str[1:])
            if np.iscomplexobj(stored):
                part = stored.real.dtype
                pairs = np.empty(stored.shape, [("real", part), ("imag", part)])
                pairs["real"], pairs["imag"] = stored.real, stored.imag
                stored = pairs
            dataset = file.create_dataset(name, data=stored)
            dataset.attrs["MATLAB_class"] = np.bytes_((kinds or {}).get(name, kind or array.dtype.name))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1".ljust(124) + b"\x00\x02IM")
    return path


@sample("matlab", variable="DATA")
def make_mat73(folder: Path) -> Path:
    k = np.moveaxis(complex_normal((2, 3, 13, 10)), (0, 1), (3, 2))
    mask = (np.arange(130).reshape(13, 10) % 3 > 0).astype(np.uint8)
    return write_mat73(folder / "scan.mat", {"mask": "logical"}, DATA=k, mask=mask, im=np.ones((13, 10)))


@sample("matlab-5")
def make_mat5(folder: Path) -> Path:
    from scipy.io import savemat

    k = np.moveaxis(complex_normal((3, 13, 10)), 0, 2)
    savemat(folder / "scan.mat", {"DATA": k, "te": 3.0, "name": "brain"}, do_compression=True)
    return folder / "scan.mat"


RAS = np.array([[-1.0, 0, 0, 30], [0, -1.5, 0, 20], [0, 0, 4, -7], [0, 0, 0, 1]])
"""Voxel (x, y, z) to mm: 1 x 1.5 x 4 mm, rows and columns as in DICOM."""


@sample("nifti")
def make_nifti(folder: Path) -> Path:
    import nibabel

    volume = np.random.default_rng(0).integers(-500, 500, (10, 13, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, RAS), folder / "brain.nii.gz")
    return folder / "brain.nii.gz"


@sample("nifti-complex")
def make_nifti_complex(folder: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(complex_normal((10, 13, 3)), RAS), folder / "brain.nii")
    return folder / "brain.nii"


@sample("nifti-2")
def make_nifti2(folder: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti2Image(complex_normal((10, 13, 3)).real, RAS), folder / "brain.nii")
    return folder / "brain.nii"


def dicom_slice(pixels: np.ndarray, index: int = 0, **elements: object):
    """One slice as a scanner writes it: RAS from above, positions in LPS."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"1.2.3.{index + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", "1.2.3.4", 7
    dataset.Modality, dataset.PatientName, dataset.PatientID = "MR", "Doe^Jane", "0815"
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [-30.0, -20.0, -7.0 + 4 * index]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [1.5, 1.0], 3.0, 4.0
    dataset.Rows, dataset.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.shape[-1] == 3 else "MONOCHROME2"
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


@sample("dicom")
def make_dicom(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 4000, (13, 10)).astype(np.uint16)
    dataset = dicom_slice(pixels, RescaleSlope=2.0, RescaleIntercept=-10.0)
    dataset.save_as(folder / "slice.dcm", enforce_file_format=True)
    return folder / "slice.dcm"


@sample("dicom-series")
def make_dicom_series(folder: Path) -> Path:
    """Three slices, the names in another order than the positions, and a file of another kind."""
    pixels = np.random.default_rng(0).integers(0, 4000, (3, 13, 10)).astype(np.uint16)
    for index, name in enumerate(("c", "a", "b")):
        dicom_slice(pixels[index], index).save_as(folder / f"{name}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("not an image")
    return folder


@sample("png")
def make_png(folder: Path) -> Path:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 65535, (13, 10)).astype(np.uint16)).save(folder / "a.png")
    return folder / "a.png"


@sample("png-colour")
def make_png_colour(folder: Path) -> Path:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (13, 10, 3)).astype(np.uint8)).save(folder / "a.png")
    return folder / "a.png"


@sample("png-tiff")
def make_tiff(folder: Path) -> Path:
    from PIL import Image

    pages = [Image.fromarray(complex_normal((13, 10), seed).real) for seed in range(3)]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    return folder / "a.tif"


@sample("hdf5")
def make_submission(folder: Path) -> Path:
    """As fastMRI wants its submissions."""
    import h5py

    with h5py.File(folder / "file.h5", "w") as file:
        file["reconstruction"] = np.random.default_rng(0).random((2, 13, 10), np.float32)
    return folder / "file.h5"


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
