"""Siemens raw data by twixtools."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from samples.registry import complex_normal, sample

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
