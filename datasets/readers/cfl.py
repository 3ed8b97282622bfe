"""BART's ``.cfl/.hdr`` pairs: a text header with up to 16 dimensions, and column-major complex64 data."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from numpy import ndarray

from recon.datasets.lazy import LazySlices, check_size
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Scan, Source
from recon.physics.errors import FileFormatError, ShapeError

_COIL, _MAPS = 3, 4
_LABELS = {
    5: "contrast",
    6: "coefficient",
    7: "coefficient2",
    8: "iteration",
    9: "shift",
    10: "repetition",
    11: "repetition2",
    12: "level",
    13: "slice",
    14: "average",
    15: "batch",
}
_MAX_HEADER = 1 << 20


@readers.register("cfl")
class CflReader:
    """k-space as BART stores it.

    BART's dimensions 0, 1, 2 (read, phase 1, phase 2) become the spatial axes in this order: where one of them
    has length 1, the other two are (y, x), so that ``1 230 180 8`` is (1, 8, 230, 180); where all three are longer,
    they are (z, y, x), so that a volume cut along its readout looks like such a slice. Dimension 3 is the coil.
    Those from 5 on (echo, time, slice, ...) become the slice axis, the lower ones running faster, and each
    slice's place in them is in ``labels``. One slice is one piece of the file and is read alone.

    The format says neither field of view nor whether the data are k-space or an image: they are taken for
    k-space, and a pair with one coil gets a note that says so.
    """

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell a header by its first section; a data file, which has no mark, by its ending."""
        return path.suffix == ".cfl" or (path.suffix == ".hdr" and b"# Dimensions" in head)

    def read(self, path: Path, options: ReadOptions) -> Scan:  # noqa: ARG002
        """Read the header, and check it against the size of the data."""
        data, header = path.with_suffix(".cfl"), path.with_suffix(".hdr")
        for part in (header, data):
            if not part.is_file():
                raise FileFormatError(
                    f"the {part.suffix} of the pair is missing", file=path, expected=f"{part.name} beside it"
                )
        sections = _sections(header)
        dims = _dimensions(header, sections.pop("Dimensions", None))
        if dims[_MAPS] > 1:
            raise ShapeError(
                "several sets of maps, which k-space does not have",
                file=data,
                found=f"dimensions {' '.join(map(str, dims))}",
                expected="1 in the fifth",
                cure="Give the k-space, not the output of ecalib",
            )
        spatial = dims[:3] if min(dims[:3]) > 1 else _plane(dims[:3])
        n_slices = math.prod(dims[5:])
        shape = (n_slices, dims[_COIL], *spatial)
        present = data.stat().st_size
        check_size(data, shape, 8, present)
        if present > 8 * math.prod(shape):
            raise FileFormatError(
                "the data do not belong to the header",
                file=data,
                found=f"{present} bytes",
                expected=f"{8 * math.prod(shape)} bytes for {' '.join(map(str, dims))}",
            )
        notes = []
        if dims[_COIL] == 1:
            notes.append("one coil: a .cfl does not say whether it holds k-space or an image; taken for k-space")
        return Scan(
            kspace=_slices(data, shape),
            source=Source("cfl", data),
            readout_axis=-sum(n > 1 for n in dims[:3]) if dims[0] > 1 else None,
            labels=_labels(dims),
            header=sections,
            notes=tuple(notes),
        )


def _slices(path: Path, shape: tuple[int, ...]) -> LazySlices:
    count = math.prod(shape[1:])
    dtype = np.dtype("<c8")

    def read(index: int) -> ndarray:
        flat = np.fromfile(path, dtype, count, offset=index * count * dtype.itemsize)
        if flat.size < count:
            raise FileFormatError("the file has been cut short", file=path)
        spatial = shape[2:]
        column_major = flat.reshape(shape[1], *reversed(spatial))
        return np.ascontiguousarray(column_major.transpose(0, *range(len(spatial), 0, -1)))

    return LazySlices(shape, dtype, read, path)


def _plane(dims: tuple[int, ...]) -> tuple[int, int]:
    y, x = [1, 1, *(n for n in dims if n > 1)][-2:]
    return y, x


def _sections(header: Path) -> dict[str, str]:
    """Split the header at its ``# Name`` lines."""
    if header.stat().st_size > _MAX_HEADER:
        raise FileFormatError("the header is too long for one of BART", file=header)
    text = header.read_bytes().decode("utf-8", errors="replace")
    pieces = re.split(r"^# *(\w+)[^\S\n]*$", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def _dimensions(header: Path, text: str | None) -> tuple[int, ...]:
    words = (text or "").split()
    while len(words) > 16 and words[-1] == "1":
        words.pop()
    if not words or len(words) > 16 or not all(re.fullmatch(r"\d{1,18}", word) for word in words):
        raise FileFormatError(
            "not a header of BART",
            file=header,
            found=repr(text[:80]) if text else "no dimensions",
            expected="'# Dimensions' and up to 16 numbers",
        )
    dims = tuple(int(word) for word in words) + (1,) * (16 - len(words))
    if min(dims) < 1:
        raise ShapeError("the header says that the file is empty", file=header, found=f"dimensions {' '.join(words)}")
    return dims


def _labels(dims: tuple[int, ...]) -> tuple[dict[str, int], ...] | None:
    axes = [axis for axis in _LABELS if dims[axis] > 1]
    if not axes:
        return None
    sizes = [dims[axis] for axis in axes]
    places = np.unravel_index(np.arange(math.prod(sizes)), sizes, order="F")
    return tuple(
        {_LABELS[axis]: int(place[k]) for axis, place in zip(axes, places, strict=True)}
        for k in range(math.prod(sizes))
    )
