"""The parts of a Siemens twix file: its measurements, their protocols and the headers of their readouts.

The layouts come from `twixtools`. Its own `read_twix` is not used: it reads every readout into a Python object,
and a damaged length makes it go round for ever.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recon.physics.errors import FileFormatError, MissingDependencyError

_MAX_PROTOCOL = 1 << 26
_RAID_ENTRIES = 64
_RAID = struct.Struct("<IIQQ64s64s")
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z][\w.\[\]]*)\s*=\s*(.+?)\s*(?:#.*)?$", re.MULTILINE)
_END, _SYNC = "ACQEND", "SYNCDATA"


def import_twixtools() -> Any:
    """Return the `mdh_def` and `geometry` of twixtools; `MissingDependencyError` where it is not installed."""
    try:
        import twixtools.geometry
        import twixtools.mdh_def
    except ImportError as error:
        raise MissingDependencyError(
            "Siemens twix files need the package twixtools", cure='pip install "recon-imaging[mri]"'
        ) from error
    return twixtools


def measurement_bounds(head: bytes, size: int) -> tuple[bool, list[tuple[int, int]]] | None:
    """Return VD/VE or not and (offset, length) of each measurement, or None for what is no twix file.

    VD and VE files begin with a table of measurements, VB files with the protocol of the only one.
    """
    if len(head) < 8:
        return None
    first, count = struct.unpack_from("<II", head)
    if first >= 10000:
        return (False, [(0, size)]) if _is_protocol(head, 0) else None
    if not 1 <= count <= _RAID_ENTRIES or len(head) < 8 + count * _RAID.size:
        return None
    bounds = []
    for i in range(count):
        _, _, offset, length, _, _ = _RAID.unpack_from(head, 8 + i * _RAID.size)
        if offset < 8 + count * _RAID.size or offset % 8:
            return None
        bounds.append((offset, length if length or count > 1 else max(0, size - offset)))
    return True, bounds


def _is_protocol(head: bytes, start: int) -> bool:
    _, buffers = struct.unpack_from("<II", head, start)
    return 1 <= buffers <= 64 and re.match(rb"\w{4,32}\x00", head[start + 8 : start + 48]) is not None


@dataclass(frozen=True, eq=False)
class Measurement:
    """One measurement of a file.

    Parameters
    ----------
    path, newer
        The file, and whether it is VD/VE.
    headers
        Headers of the readouts, as twixtools lays them out.
    offsets
        Where each readout begins.
    protocol
        ``{"sKSpace.lBaseResolution": "256", ...}`` of the part ``MeasYaps``.
    extra
        Single values of the other parts that readers ask for.
    complete
        The end mark was found.
    """

    path: Path
    newer: bool
    headers: np.ndarray
    offsets: np.ndarray
    protocol: dict[str, str]
    extra: dict[str, str] = field(default_factory=dict)
    complete: bool = True

    def flag(self, name: str) -> np.ndarray:
        """Return which readouts have a flag, by twixtools' name."""
        bit = np.uint64(import_twixtools().mdh_def.mask_dict[name])
        return (self.headers["EvalInfoMask"] >> bit) & np.uint64(1) != 0

    def number(self, name: str) -> float | None:
        """Return a number of the protocol, or None."""
        text = self.protocol.get(name, "")
        try:
            value = float(int(text, 16)) if text.lower().startswith("0x") else float(text)
        except ValueError:
            return None
        return value if np.isfinite(value) else None

    def samples(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Read readouts as (coil, sample)."""
        gap, lead = (32, 192) if self.newer else (128, 0)
        with self.path.open("rb") as file:
            for row in rows:
                head = self.headers[row]
                coils, n = int(head["UsedChannels"]), int(head["SamplesInScan"])
                file.seek(int(self.offsets[row]) + lead)
                data = file.read(coils * (gap + 8 * n))
                if len(data) != coils * (gap + 8 * n):
                    raise FileFormatError(f"readout {row} is cut short", file=self.path)
                block = np.frombuffer(data, np.uint8).reshape(coils, gap + 8 * n)[:, gap:]
                yield np.ascontiguousarray(block).view(np.complex64)


def read_measurement(path: Path, newer: bool, start: int, length: int) -> Measurement:
    """Read the protocol and walk through the headers of one measurement.

    Raises
    ------
    FileFormatError
        The measurement reaches beyond the file, or a header is impossible.
    """
    size = path.stat().st_size
    if start + length > size:
        raise FileFormatError(
            "the twix file is cut short", file=path, found=f"{size} bytes", expected=f"{start + length} bytes"
        )
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        head = file.read(48)
        if len(head) < 48 or not _is_protocol(head, 0):
            raise FileFormatError("no protocol where a measurement should begin", file=path, found=f"at byte {start}")
        protocol_length = struct.unpack_from("<I", head)[0]
        if not 16 <= protocol_length <= min(length, _MAX_PROTOCOL):
            raise FileFormatError(
                "a protocol of impossible length",
                file=path,
                found=f"{protocol_length} bytes",
                expected=f"up to {length}",
            )
        file.seek(start)
        parts = _protocol_parts(file.read(protocol_length), path)
        offsets, headers, complete = _walk(file, path, newer, start + protocol_length, start + length)
    text = parts.get("MeasYaps") or parts.get("Phoenix") or ""
    _, marker, body = text.partition("### ASCCONV BEGIN")
    body = body.partition("### ASCCONV END")[0] if marker else text
    protocol = {m.group(1): m.group(2).strip('"') for m in _ASSIGNMENT.finditer(body)}
    extra: dict[str, str] = {}
    for name in ("flReadoutOSFactor", "alRegridMode"):
        for part in ("Meas", "Dicom", "Config"):
            found = re.search(rf'"{name}">\s*{{\s*(?:<Precision>\s*\d+\s*)?([\d.]+)', parts.get(part, ""))
            if found:
                extra.setdefault(name, found.group(1))
    return Measurement(path, newer, headers, offsets, protocol, extra, complete)


def _protocol_parts(data: bytes, path: Path) -> dict[str, str]:
    """Split the protocol into its named texts."""
    count, position = struct.unpack_from("<I", data, 4)[0], 8
    parts: dict[str, str] = {}
    for _ in range(count):
        end = data.find(b"\x00", position, position + 64)
        if end < 0 or end + 5 > len(data):
            raise FileFormatError("the protocol is damaged", file=path, found=f"after {len(parts)} of {count} parts")
        name = data[position:end].decode("latin1").strip()
        length = struct.unpack_from("<I", data, end + 1)[0]
        if end + 5 + length > len(data):
            raise FileFormatError("the protocol is damaged", file=path, found=f"part {name[:20]!r} of {length} bytes")
        parts[name] = data[end + 5 : end + 5 + length].decode("latin1")
        position = end + 5 + length
    return parts


def _walk(file: Any, path: Path, newer: bool, position: int, end: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Go from header to header; return offsets, headers and whether the end mark was there."""
    mdh = import_twixtools().mdh_def
    layout = np.dtype(mdh.Scan_header if newer else mdh.VB17_header)
    size, (gap, lead) = layout.itemsize, (32, 192) if newer else (128, 0)
    flags_at, samples_at = layout.fields["EvalInfoMask"][1], layout.fields["SamplesInScan"][1]
    last, sync = 1 << mdh.mask_dict[_END], 1 << mdh.mask_dict[_SYNC]
    offsets: list[int] = []
    heads = bytearray()
    complete = False
    while position + 128 < end:
        file.seek(position)
        head = file.read(size)
        if len(head) < size:
            break
        flags = struct.unpack_from("<Q", head, flags_at)[0]
        if flags & last:
            complete = True
            break
        samples, channels = struct.unpack_from("<HH", head, samples_at)
        if flags & sync:
            length = struct.unpack_from("<I", head)[0] & 0x1FFFFFF
        else:
            length = lead + channels * (gap + 8 * samples)
            if position + length > end:
                break
            offsets.append(position)
            heads += head
        if length < size:
            raise FileFormatError("a readout of impossible length", file=path, found=f"{length} bytes at {position}")
        position += length
    return np.array(offsets, np.int64), np.frombuffer(bytes(heads), layout), complete
