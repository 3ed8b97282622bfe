"""The XML header of ISMRMRD, which fastMRI files carry too [Inati 2017, https://doi.org/10.1002/mrm.26089]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree as ET

from recon.physics.errors import FileFormatError

Element: TypeAlias = ET.Element

_MAX_MATRIX = 65535  # the counters of a readout have 16 bits
_MAX_TEXT = 1 << 24
_LIMITS = {"kspace_encoding_step_1", "kspace_encoding_step_2"}
_KEPT = (
    "studyInformation",
    "measurementInformation",
    "acquisitionSystemInformation",
    "experimentalConditions",
    "sequenceParameters",
)  # not subjectInformation: it names the patient


@dataclass(frozen=True)
class Space:
    """A matrix and its field of view in mm, both (x, y, z): x is the readout."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (x, y, z) in mm."""
        x, y, z = (fov / n for fov, n in zip(self.fov, self.matrix, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Limit:
    """Range of a phase encoding counter, both ends included, and its value in the k-space centre."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True)
class Encoding:
    """One encoding of a scan."""

    encoded: Space
    recon: Space
    trajectory: str
    limits: Mapping[str, Limit]
    acceleration: tuple[int, int] | None
    calibration: str | None

    @property
    def oversampling(self) -> float:
        """Encoded over reconstructed field of view along the readout."""
        return round(self.encoded.fov[0] / self.recon.fov[0], 4)

    @property
    def crop(self) -> tuple[int, int, int]:
        """Voxels (x, y, z) of the encoded size that fill the reconstructed field of view.

        That is the reconstructed matrix, unless the scanner interpolated.
        """
        x, y, z = (
            min(n, max(1, round(fov / size)))
            for n, fov, size in zip(self.encoded.matrix, self.recon.fov, self.encoded.spacing, strict=True)
        )
        return x, y, z


@dataclass(frozen=True)
class Header:
    """What a reader needs of the header, and the rest as ``{"sequenceParameters.TR": "500", ...}``."""

    encodings: tuple[Encoding, ...]
    vendor: str | None
    fields: Mapping[str, str]


def parse_header(text: str, file: Path) -> Header:
    """Parse the XML; what is broken or missing raises `FileFormatError`."""
    if len(text) > _MAX_TEXT:
        raise FileFormatError("the ISMRMRD header is absurdly long", file=file, found=f"{len(text)} characters")
    try:
        root = ET.fromstring(text.strip("\x00 \n\r\t").encode())  # noqa: S314 - expat bounds expansion
    except (ET.ParseError, ValueError, LookupError) as error:
        raise FileFormatError("the ISMRMRD header is not valid XML", file=file, found=error) from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    if root.tag != "ismrmrdHeader":
        raise FileFormatError(
            "the ISMRMRD header is something else", file=file, found=f"<{root.tag}>", expected="<ismrmrdHeader>"
        )
    encodings = tuple(_encoding(element, file) for element in root.findall("encoding"))
    if not encodings:
        raise FileFormatError("the ISMRMRD header has no <encoding>", file=file)
    fields: dict[str, str] = {}
    for name in _KEPT:
        for element in root.findall(name):
            for leaf in element:
                if not len(leaf) and leaf.text and len(fields) < 200:
                    fields[f"{name}.{leaf.tag}"] = leaf.text.strip()[:200]
    return Header(encodings, fields.get("acquisitionSystemInformation.systemVendor"), fields)


def _encoding(element: Element, file: Path) -> Encoding:
    limits = {}
    for name in _LIMITS:
        limit = element.find(f"encodingLimits/{name}")
        if limit is not None:
            values = (_integer(limit, key, file) for key in ("minimum", "maximum", "center"))
            limits[name] = Limit(*values)
    factor = element.find("parallelImaging/accelerationFactor")
    return Encoding(
        encoded=_space(element, "encodedSpace", file),
        recon=_space(element, "reconSpace", file),
        trajectory=(element.findtext("trajectory") or "cartesian").strip().lower(),
        limits=limits,
        acceleration=None
        if factor is None
        else (_integer(factor, "kspace_encoding_step_1", file), _integer(factor, "kspace_encoding_step_2", file)),
        calibration=element.findtext("parallelImaging/calibrationMode"),
    )


def _space(encoding: Element, name: str, file: Path) -> Space:
    matrix = [_integer(encoding, f"{name}/matrixSize/{axis}", file) for axis in "xyz"]
    fov = [_number(encoding, f"{name}/fieldOfView_mm/{axis}", file) for axis in "xyz"]
    if not all(1 <= n <= _MAX_MATRIX for n in matrix):
        raise FileFormatError(
            f"<{name}> has an impossible matrix", file=file, found=matrix, expected=f"1 to {_MAX_MATRIX}"
        )
    if not all(math.isfinite(length) and length > 0 for length in fov):
        raise FileFormatError(f"<{name}> has an impossible field of view", file=file, found=f"{fov} mm")
    return Space((matrix[0], matrix[1], matrix[2]), (fov[0], fov[1], fov[2]))


def _text(parent: Element, path: str, file: Path) -> str:
    text = parent.findtext(path)
    if text is None or not text.strip():
        raise FileFormatError(f"the ISMRMRD header has no <{parent.tag}/{path}>", file=file)
    return text.strip()


def _number(parent: Element, path: str, file: Path) -> float:
    text = _text(parent, path, file)
    try:
        return float(text)
    except ValueError as error:
        raise FileFormatError(f"<{parent.tag}/{path}> is not a number", file=file, found=repr(text[:40])) from error


def _integer(parent: Element, path: str, file: Path) -> int:
    value = _number(parent, path, file)
    if not math.isfinite(value) or value != int(value) or not 0 <= value <= _MAX_MATRIX:
        raise FileFormatError(
            f"<{parent.tag}/{path}> is impossible", file=file, found=value, expected=f"0 to {_MAX_MATRIX}"
        )
    return int(value)
