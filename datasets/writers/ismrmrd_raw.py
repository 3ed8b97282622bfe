"""ISMRMRD, its readouts made by its own package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy import ndarray

from recon.datasets.hdf5_output import hdf5_output
from recon.datasets.ismrmrd_table import COUNTERS
from recon.datasets.ismrmrd_xml import header_xml
from recon.datasets.scan import Scan
from recon.datasets.writers import Data, Writer, writers
from recon.physics.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    import h5py

_BATCH = 64
_MAX_SAMPLES = 2**15  # the counters have 16 bits


@writers.register("ismrmrd")
class IsmrmrdWriter(Writer):
    """Readouts with their places, directions and counters; noise readouts first.

    The readout is `Scan.readout_axis` (x where it is None) and becomes the header's x. Lines without a sample are
    not written. A trajectory is normalised to +-0.5, in the order x, y(, z); density compensation is its third
    column in 2D. Where the affine is not known, directions are zero; where the voxel size is not, see
    `header_xml`. Coil maps, reference and header are left out.
    """

    endings: ClassVar[tuple[str, ...]] = (".mrd",)
    kinds: ClassVar[tuple[type, ...]] = (Scan,)

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice."""
        try:
            import h5py
            import ismrmrd
        except ImportError as error:
            raise MissingDependencyError(
                "writing ISMRMRD needs the package ismrmrd", file=path.name, cure="pip install recon-imaging[mri]"
            ) from error

        assert isinstance(data, Scan)
        axes = _axes(data)
        with hdf5_output(path) as (file, check):
            group = file.create_group("dataset")
            group.create_dataset(
                "xml", data=[header_xml(data, axes)], maxshape=(None,), dtype=h5py.string_dtype("ascii")
            )
            table = group.create_dataset(
                "data", (0,), maxshape=(None,), chunks=(_BATCH,), dtype=ismrmrd.hdf5.acquisition_dtype
            )
            for batch in _batches(_acquisitions(data, axes, path)):
                _append(table, batch)
                check()


def _acquisitions(scan: Scan, axes: tuple[int, ...], path: Path) -> Iterator[Any]:
    yield from _noise(scan)
    for index in range(scan.n_slices):
        fields = _geometry(scan, axes, index) | _counters(scan, index)
        lines = _lines(scan, axes, index, path) if scan.trajectory is None else _samples(scan, index)
        yield from (_acquisition(line, fields) for line in lines)


def _batches(acquisitions: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(acquisitions, _BATCH)):
        yield batch


def _append(table: h5py.Dataset, acquisitions: list[Any]) -> None:
    """Add rows as ``ismrmrd.Dataset.append_acquisition`` does, but many at once, which is 20 times faster."""
    from ismrmrd.hdf5 import acquisition_dtype, acquisition_header_dtype

    rows = np.empty(len(acquisitions), acquisition_dtype)
    for row, acquisition in zip(rows, acquisitions, strict=True):
        row["head"] = np.frombuffer(acquisition.getHead(), dtype=acquisition_header_dtype)[0]
        row["data"] = acquisition.data.view(np.float32).ravel()
        row["traj"] = acquisition.traj.view(np.float32).ravel()
    start = table.shape[0]
    table.resize(start + len(rows), axis=0)
    table[start:] = rows


@dataclass(frozen=True, eq=False)
class _Line:
    """One readout: (coil, sample), what it starts from, and where it lies."""

    data: ndarray
    center: int = 0
    step_1: int = 0
    step_2: int = 0
    trajectory: ndarray | None = None


def _axes(scan: Scan) -> tuple[int, ...]:
    """Return the spatial axes, counted from the end, that become x (readout), y and z of the header."""
    n = len(scan.spatial) if scan.trajectory is None else scan.trajectory.shape[-1]
    readout = -1 if scan.readout_axis is None or scan.trajectory is not None else scan.readout_axis
    return (readout, *(axis for axis in range(-1, -n - 1, -1) if axis != readout))


def _acquisition(line: _Line, fields: Mapping[str, Any]) -> Any:
    import ismrmrd

    samples = np.ascontiguousarray(line.data, np.complex64)
    acquisition = ismrmrd.Acquisition.from_array(samples, line.trajectory)
    acquisition.center_sample = line.center
    acquisition.idx.kspace_encode_step_1, acquisition.idx.kspace_encode_step_2 = line.step_1, line.step_2
    for name, value in fields.items():
        if name in COUNTERS:
            setattr(acquisition.idx, name, value)
        else:
            getattr(acquisition, name)[:] = value
    return acquisition


def _noise(scan: Scan) -> Iterator[Any]:
    import ismrmrd

    if scan.noise is not None:
        for start in range(0, scan.noise.shape[1], _MAX_SAMPLES):
            acquisition = _acquisition(_Line(scan.noise[:, start : start + _MAX_SAMPLES]), {})
            acquisition.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
            yield acquisition


def _lines(scan: Scan, axes: tuple[int, ...], index: int, path: Path) -> Iterator[_Line]:
    """Yield the readouts of one slice, without what was not acquired at their ends."""
    forward = tuple(axes[::-1])  # (z,) y, x of the header
    kspace = np.asarray(scan.kspace[index]).transpose(0, *(len(scan.spatial) + 1 + axis for axis in forward))
    mask = np.asarray(scan.sampling(index)[0]).transpose([len(scan.spatial) + axis for axis in forward])
    n = kspace.shape[-1]
    for place in np.argwhere(mask.any(axis=-1)):
        sampled = np.flatnonzero(mask[tuple(place)])
        first, last = int(sampled[0]), int(sampled[-1])
        if last - first + 1 != len(sampled) or first > n // 2:
            raise OptionError(
                "ISMRMRD holds whole readouts, and this scan's samples lie otherwise",
                file=path.name,
                found=f"slice {index}, line {', '.join(map(str, place))}: {len(sampled)} of {n} samples",
                cure="Choose .h5, .npz or .cfl",
            )
        step_2, step_1 = (0, *map(int, place))[-2:]
        yield _Line(kspace[:, *place, first : last + 1], n // 2 - first, step_1, step_2)


def _samples(scan: Scan, index: int) -> Iterator[_Line]:
    """Yield the samples of a trajectory in pieces of equal length."""
    assert scan.trajectory is not None
    trajectory = scan.trajectory if scan.trajectory.ndim == 2 else scan.trajectory[index]
    matrix = np.array(scan.matrix if scan.matrix is not None else 2 * np.ceil(np.abs(trajectory).max(axis=0)))
    columns = (trajectory / np.maximum(matrix, 1))[:, ::-1]
    if scan.density is not None and columns.shape[1] == 2:
        density = scan.density if scan.density.ndim == 1 else scan.density[index]
        columns = np.concatenate([columns, density[:, None]], axis=1)
    kspace = np.asarray(scan.kspace[index])
    n = kspace.shape[1]
    length = next(size for size in range(min(n, _MAX_SAMPLES), 0, -1) if n % size == 0)
    for start in range(0, n, length):
        piece = slice(start, start + length)
        yield _Line(kspace[:, piece], trajectory=np.ascontiguousarray(columns[piece], np.float32))


def _counters(scan: Scan, index: int) -> dict[str, int]:
    """Return the counters of a slice: its labels, where these tell all slices apart."""
    if scan.labels:
        rows = [tuple(label.get(name, 0) for name in COUNTERS) for label in scan.labels]
        if len(set(rows)) == len(rows) and min(map(min, rows)) >= 0:
            return dict(zip(COUNTERS, rows[index], strict=True))
    return {"slice": index}


def _geometry(scan: Scan, axes: tuple[int, ...], index: int) -> dict[str, ndarray]:
    """Return directions, and the centre of the slice or volume, in the patient's coordinates (LPS)."""
    if scan.affine is None:
        return {}
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    columns = [-1 - axis for axis in axes] + [2] * (3 - len(axes))  # x, y, z of the image are columns 0, 1, 2
    matrix = scan.matrix or scan.spatial
    counters = [label.get("slice", k) for k, label in enumerate(scan.labels or [{}] * scan.n_slices)]
    place = list(dict.fromkeys(counters)).index(counters[index])  # repetitions of a slice lie at the same place
    center = [matrix[-1] // 2, matrix[-2] // 2, place if len(axes) == 2 else matrix[-3] // 2]
    names = ("read_dir", "phase_dir", "slice_dir")
    directions = {name: steps[:, column] for name, column in zip(names, columns, strict=True)}
    return {"position": (affine @ [*center, 1.0])[:3], **directions}
