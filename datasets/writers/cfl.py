"""BART's ``.cfl/.hdr`` pairs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from recon.datasets.scan import Image, Scan
from recon.datasets.writers import Data, Writer, writers
from recon.physics.errors import OptionError

_REPETITION, _SLICE = 10, 13


@writers.register("cfl")
class CflWriter(Writer):
    """k-space as ``1 y x coil`` (``y x 1 coil`` where y is the readout, ``z y x coil`` in 3D), an image as ``1 y x``.

    Slices go into dimension 13, repetitions, if nothing else varies, into 10. The format has no room for
    masks, geometry and provenance: samples that were not acquired are zero, as BART expects.
    """

    endings: ClassVar[tuple[str, ...]] = (".cfl",)
    kinds: ClassVar[tuple[type, ...]] = (Image, Scan)

    def companions(self, path: Path) -> tuple[str, ...]:
        """Return the name of the header."""
        return (path.with_suffix(".hdr").name,)

    def write(self, data: Data, path: Path) -> None:
        """Write the data, then the header."""
        assert isinstance(data, Image | Scan)
        if path.suffix != ".cfl":
            raise OptionError("BART's data file ends in .cfl", file=path.name)
        array = data.pixels if isinstance(data, Image) else data.kspace
        n, *shape = array.shape
        if isinstance(data, Image):
            if len(shape) != 2:
                raise OptionError("a .cfl holds no colours", file=path.name, cure="Choose .png or .npz")
            dims = [1, *shape, 1]
        elif data.trajectory is not None:
            raise OptionError("a .cfl holds no trajectory", file=path.name, cure="Choose .mrd or .npz")
        elif len(shape) == 4:
            dims = [*shape[1:], shape[0]]
        else:
            dims = [*shape[1:], 1, shape[0]] if data.readout_axis == -2 else [1, *shape[1:], shape[0]]
        dims += [1] * (16 - len(dims))
        dims[_slice_dimension(data)] = n
        with path.open("wb") as file:
            for index in range(n):
                values = np.asarray(array[index], dtype=np.complex64)
                columns = values.T if values.ndim == 2 else values.transpose(0, *range(values.ndim - 1, 0, -1))
                file.write(np.ascontiguousarray(columns).astype("<c8", copy=False).data)
        header = f"# Dimensions\n{' '.join(map(str, dims))} \n# Creator\nrecon\n"
        path.with_suffix(".hdr").write_text(header, encoding="ascii")


def _slice_dimension(data: Image | Scan) -> int:
    if isinstance(data, Image) or not data.labels:
        return _SLICE
    varying = {name for label in data.labels for name, value in label.items() if value != data.labels[0].get(name)}
    return _REPETITION if varying == {"repetition"} else _SLICE
