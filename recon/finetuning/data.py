"""From files, scans, stamps or tensors to measurements that a network can be fine-tuned on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise
from torch import Tensor

from recon.compressed import prepare_compressed
from recon.datasets import CompressedScan, Measurements, Scan, Stamps
from recon.datasets import open as open_file
from recon.datasets.folders import is_companion
from recon.datasets.scan import evenly_spread
from recon.finetuning.measurements import Measurement
from recon.galaxies.catalogue import UNUSABLE
from recon.galaxies.opening import open_stamps
from recon.galaxies.plan import fingerprint
from recon.hashing import tensor_bytes
from recon.measured import with_noise
from recon.measured_files import operator_of
from recon.physics import PSFConvolution
from recon.physics.checks import check_operator
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.pipeline import only_measurements
from recon.prepare import Preparation, prepare
from recon.training.batches import TrainingBatch
from recon.volumes import as_slices

MOST = 1000
"""Measurements that are taken at most; of more, evenly spread ones."""
_STAMPS = 16  # objects in a measurement
_MEMORY = 4 * 2**30  # bytes of prepared measurements that are kept; others are prepared again when they are needed


@dataclass(frozen=True)
class Origin:
    """Where some of the measurements are from, and a checksum of what they are."""

    name: str
    sha256: str


class Gathered(Sequence[Measurement]):
    """Measurements that are prepared when they are first needed; of those of large files not all are kept.

    Parameters
    ----------
    makers
        One function a measurement.
    origins
        Where they are from.
    device
        Where they go.
    """

    def __init__(
        self, makers: Sequence[Callable[[], Measurement]], origins: Sequence[Origin], device: torch.device | str
    ) -> None:
        self._makers, self.origins, self._device = list(makers), tuple(origins), device
        self._kept: dict[int, Measurement] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._makers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"measurement {index} of {len(self)}")
        index %= len(self)
        if index in self._kept:
            return self._kept[index]
        made = self._makers[index]().to(self._device)
        self._bytes += _size(made)
        if self._bytes <= _MEMORY:
            self._kept[index] = made
        return made

    def __iter__(self) -> Iterator[Measurement]:
        return (self[i] for i in range(len(self)))


Data: TypeAlias = (
    str
    | Path
    | Scan
    | Stamps
    | CompressedScan
    | Measurements
    | Measurement
    | TrainingBatch
    | tuple[Tensor, LinearPhysics]
    | Sequence[Any]
)


def measurements_of(
    data: Any, *, psf: str | Path | None = None, how: Preparation | None = None, most: int = MOST
) -> Gathered:
    """Return the measurements that a user means.

    Parameters
    ----------
    data
        A file or folder, or what such files hold: a `Scan`, whose slices are prepared as for a reconstruction,
        `Stamps`, `CompressedScan`, `Measurements`; ``(y, physics)``; a batch of examples; or a list of any of these.
    psf
        Of stamps in files.
    how
        How slices are prepared.
    most
        Measurements at most, evenly spread over all.

    Raises
    ------
    OptionError
        There are none.
    DataError, ShapeError, OperatorError
        Measurements that are not finite or not their operator's; an operator that is not linear, or whose adjoint is
        wrong.
    """
    how = how or Preparation()
    if most < 1:
        raise OptionError("at least one measurement is needed", found=most)
    makers: list[Callable[[], Measurement]] = []
    origins: list[Origin] = []
    for item in _items(data):
        of_item, origin = _makers(item, psf, how, most)
        makers += of_item
        origins.append(origin)
    if not makers:
        raise OptionError("there are no measurements to fine-tune on", found="an empty list")
    found = Gathered(evenly_spread(makers, most), origins, how.resolved_device())
    check(found[0])  # of files the operators are ours; a user's own are all checked above
    return found


def check(measurement: Measurement, *, seed: int = 0) -> None:
    """Check that measurements are finite and their operator's, and that it is linear with an adjoint that is its own.

    Raises
    ------
    DataError, ShapeError, OperatorError
        They are not.
    """
    y, physics, file = measurement.y, measurement.physics, measurement.name or None
    if not bool(torch.isfinite(torch.view_as_real(y) if y.is_complex() else y).all()):
        raise DataError("the measurements have values that are not finite", file=file)
    sigma = getattr(physics.noise_model, "sigma", None)
    if sigma is not None and not bool((torch.as_tensor(sigma) >= 0).all()):
        raise DataError("a noise level is not below 0", file=file, found=torch.as_tensor(sigma).flatten()[0].item())
    try:
        with torch.no_grad():
            x = physics.A_adjoint(y)
            again = physics.A(x)
    except (RuntimeError, IndexError, TypeError) as error:  # how PyTorch tells of shapes that do not fit
        reason = str(error).splitlines()[0]
        raise ShapeError(
            f"the measurements do not fit the operator: {reason}", file=file, found=tuple(y.shape)
        ) from error
    if again.shape != y.shape:
        raise ShapeError(
            "the measurements do not fit the operator", file=file, found=tuple(y.shape), expected=tuple(again.shape)
        )
    check_operator(physics, x.shape[1:], batch=len(x), dtype=x.dtype, device=x.device, seed=seed)


def _items(data: Any) -> Iterator[Any]:
    """Flatten lists and folders; ``(y, physics)`` is one item."""
    if isinstance(data, str | Path):
        path = Path(data)
        inside = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else [path]
        yield from (p for p in inside if not is_companion(p))
    elif isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor):
        yield data
    elif isinstance(data, Iterable) and not isinstance(data, Tensor):
        for item in data:
            yield from _items(item)
    else:
        yield data


def _makers(
    item: Any, psf: str | Path | None, how: Preparation, most: int
) -> tuple[list[Callable[[], Measurement]], Origin]:
    if isinstance(item, Path):
        item = _opened(item, psf)
    if isinstance(item, tuple):
        y, physics = item
        if not isinstance(physics, LinearPhysics):
            raise OptionError("measurements need a linear operator", found=type(physics).__name__)
        item = _of_tensors(y, physics, "tensor")
    if isinstance(item, TrainingBatch):
        item = Measurement(y=item.y, physics=item.physics(), name=", ".join(item.names))
    if isinstance(item, Measurement):
        check(item)
        return [lambda: item], Origin(item.name or "tensor", hashlib.sha256(tensor_bytes(item.y)).hexdigest())
    if isinstance(item, Scan):
        sliced, _ = as_slices(item)
        return [partial(_of_slice, sliced, i, how) for i in range(sliced.n_slices)], _origin(item)
    if isinstance(item, Measurements):
        operator = operator_of(item)
        return [partial(_of_measurements, item, operator, i) for i in range(item.n_slices)], _origin(item)
    if isinstance(item, CompressedScan):
        return [partial(_of_compressed, item, i) for i in range(item.n_slices)], _origin(item)
    if isinstance(item, Stamps):
        # Few of millions of stamps are looked at.
        starts = [s for s in evenly_spread(range(0, item.n, _STAMPS), most) if _usable(item, s)]
        return [partial(_of_stamps, item, s) for s in starts], Origin(item.source.name, fingerprint(item))
    raise OptionError(
        "data that nothing is known of",
        found=type(item).__name__,
        expected="files, scans, stamps, or (y, physics)",
        cure="Open files with recon.datasets.open",
    )


def _opened(path: Path, psf: str | Path | None) -> Any:
    from recon.datasets.readers import ReadOptions

    if psf is not None:
        return open_stamps(path, ReadOptions(psf=Path(psf)))
    return only_measurements(open_file(path), path)


def _origin(data: Scan | CompressedScan | Measurements) -> Origin:
    sha = data.source.sha256
    if sha is None:
        first = data.slice(0)
        sha = hashlib.sha256(np.ascontiguousarray(first).tobytes()).hexdigest()
    return Origin(data.source.name, sha)


def _of_tensors(y: Tensor, physics: LinearPhysics, name: str) -> Measurement:
    """Find out the noise level where the operator has none, as a reconstruction does."""
    told, _ = with_noise(y, physics)
    return Measurement(y=y, physics=told, name=name, estimated=told is not physics)


def _of_measurements(data: Measurements, operator: LinearPhysics, index: int) -> Measurement:
    return _of_tensors(torch.from_numpy(data.slice(index))[None], operator, f"{data.source}, slice {index}")


def _of_slice(scan: Scan, index: int, how: Preparation) -> Measurement:
    problem = prepare(scan, index, how)
    return Measurement(y=problem.y, physics=problem.physics, name=f"{scan.source}, slice {index}")


def _of_compressed(scan: CompressedScan, index: int) -> Measurement:
    problem = prepare_compressed(scan, index)
    channels = problem.y.movedim(1, 0)  # one by one, as networks are trained on them
    return Measurement(y=channels, physics=problem.physics, name=f"{scan.source}, slice {index}")


def _of_stamps(stamps: Stamps, start: int) -> Measurement:
    batch = stamps.batch(start, start + _STAMPS)
    rows = torch.from_numpy(np.flatnonzero((batch.flags & UNUSABLE) == 0))
    whole = batch.physics()
    physics = PSFConvolution(
        batch.psf if len(batch.psf) == 1 else batch.psf[rows],
        whole.shape,
        pixel_scale=whole.pixel_scale,
        noise_model=GaussianNoise(batch.sigma[rows]),
        weight=None if batch.weight is None else batch.weight[rows],
    )
    return Measurement(
        y=batch.y[rows], physics=physics, name=f"{stamps.source}, objects {start} to {start + len(rows)}"
    )


def _usable(stamps: Stamps, start: int) -> bool:
    flags = stamps.batch(start, start + _STAMPS).flags
    return bool(((flags & UNUSABLE) == 0).any())


def _size(measurement: Measurement) -> int:
    held = [measurement.y, *measurement.physics.buffers()]
    return sum(v.numel() * v.element_size() for v in held)
