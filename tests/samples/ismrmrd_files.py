"""ISMRMRD files by the ismrmrd package, readout by readout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from samples.registry import DATA, complex_normal, sample


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
    return Path(shutil.copy(DATA / "ismrmrd_shepp_logan.h5", folder))
