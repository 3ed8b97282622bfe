"""What goes beside the arrays of a `Scan` or `Image` as one JSON text, in every format that has room for a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from recon.datasets.compressed import CompressedScan
from recon.datasets.measurements import Measurements
from recon.datasets.scan import Image, Scan
from recon.physics.errors import FileFormatError


def to_json(value: Any) -> str:
    """Return ``value`` as JSON in plain ASCII on one line; numpy's numbers and arrays and paths are taken too."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return str(value) if np.iscomplexobj(value) else value.tolist()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def describe_scan(scan: Scan) -> str:
    """Return what a scan says beside its arrays, as JSON."""
    names = (
        "spacing",
        "affine",
        "matrix",
        "readout_axis",
        "oversampling",
        "partial_fourier",
        "labels",
        "header",
        "notes",
    )
    return _describe(scan, names)


def describe_image(image: Image) -> str:
    """Return what an image says beside its arrays, as JSON."""
    return _describe(image, ("spacing", "affine", "unit", "header", "notes"))


def describe_compressed(scan: CompressedScan) -> str:
    """Return what compressed measurements say beside their arrays, as JSON."""
    return _describe(scan, tuple(_COMPRESSED))


def describe_measurements(data: Measurements) -> str:
    """Return what measurements say beside their arrays, as JSON."""
    return _describe(data, tuple(_MEASUREMENTS))


def _describe(data: Scan | Image | CompressedScan | Measurements, names: tuple[str, ...]) -> str:
    values = {name: getattr(data, name) for name in names}
    for name in ("header", "labels"):
        if values.get(name):
            values[name] = dict(values[name]) if name == "header" else [dict(label) for label in values[name]]
    return to_json({name: value for name, value in values.items() if value is not None})


def scan_fields(text: str | None, path: Path) -> dict[str, Any]:
    """Turn the text of `describe_scan` into the fields of a `Scan`; None gives none."""
    return _fields(
        text,
        path,
        {
            "spacing": _floats,
            "affine": _affine,
            "matrix": _integers,
            "readout_axis": int,
            "oversampling": float,
            "partial_fourier": _floats,
            "labels": lambda labels: tuple({str(k): int(v) for k, v in label.items()} for label in labels),
            "header": dict,
            "notes": _texts,
        },
    )


def image_fields(text: str | None, path: Path) -> dict[str, Any]:
    """Turn the text of `describe_image` into the fields of an `Image`; None gives none."""
    convert = {"spacing": _floats, "affine": _affine, "unit": str, "header": dict, "notes": _texts}
    return _fields(text, path, convert)


def compressed_fields(text: str | None, path: Path) -> dict[str, Any]:
    """Turn the text of `describe_compressed` into the fields of a `CompressedScan`; None gives none."""
    return _fields(text, path, _COMPRESSED)


def measurements_fields(text: str, path: Path) -> dict[str, Any]:
    """Turn the text of `describe_measurements` into the fields of `Measurements`."""
    fields = _fields(text, path, _MEASUREMENTS)
    if missing := {"physics", "img_size"} - fields.keys():
        raise FileFormatError(
            "the description of the data is damaged", file=path, found=f"no {' and no '.join(sorted(missing))}"
        )
    return fields


def _fields(text: str | None, path: Path, convert: dict[str, Any]) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        values = json.loads(text)
        return {name: convert[name](v) for name, v in values.items() if name in convert and v is not None}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FileFormatError("the description of the data is damaged", file=path, found=str(error)) from error


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _affine(values: Any) -> np.ndarray:
    return np.array(values, dtype=float).reshape(4, 4)


def _pair(values: Any) -> tuple[int, int]:
    first, second = _integers(values)
    return first, second


_COMPRESSED: dict[str, Any] = {
    "block": _pair,
    "size": _pair,
    "peak": float,
    "levels": str,
    "sigma": float,
    "colour": str,
    "unit": str,
    "spacing": _floats,
    "affine": _affine,
    "header": dict,
    "notes": _texts,
}

_MEASUREMENTS: dict[str, Any] = {
    "physics": str,
    "img_size": _integers,
    "sigma": float,
    "gain": float,
    "scale": float,
    "offset": float,
    "unit": str,
    "levels": str,
    "spacing": _floats,
    "notes": _texts,
}
