"""Line integrals through an image by Joseph's method, exactly adjoint: as a sparse matrix, or ray by ray."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon.physics.errors import ShapeError
from recon.physics.linalg import max_eigenvalue

MATRIX_BYTES = 1536 << 20
"""Memory that the matrix and its transpose may take; with more rays than that, they are followed anew each time."""

_PATIENCE = 3  # applications before a matrix is made
_CHUNK_SAMPLES = 1 << 21  # points worked on at once: some 50 MB


@dataclass(frozen=True, eq=False)
class Rays:
    """Straight lines in the plane; x points right, y down, the origin is the centre of the image.

    Parameters
    ----------
    point
        A point on each ray, (x, y), in pixels.
    direction
        Of each ray, (x, y), of any length but 0.
    """

    point: Float[Tensor, "ray 2"]
    direction: Float[Tensor, "ray 2"]

    def __len__(self) -> int:
        return len(self.point)

    def __getitem__(self, part: slice | Tensor) -> Rays:
        return Rays(self.point[part], self.direction[part])

    @property
    def steep(self) -> Bool[Tensor, "ray"]:
        """Whether a ray crosses more rows than columns."""
        return self.direction[:, 1].abs() >= self.direction[:, 0].abs()

    def crossings(self, shape: tuple[int, int]) -> tuple[Float[Tensor, "ray line"], Float[Tensor, "ray"]]:
        """Where rays that are all steep cross the rows: column there, and the length of a ray between two rows."""
        ny, nx = shape
        slope = self.direction[:, 0] / self.direction[:, 1]
        y = torch.arange(ny, dtype=slope.dtype, device=slope.device) - (ny - 1) / 2
        x = self.point[:, :1] + (y - self.point[:, 1:]) * slope[:, None]
        return x + (nx - 1) / 2, (1 + slope.square()).sqrt()

    def to(self, device: torch.device, dtype: torch.dtype) -> Rays:
        """Return the rays there, in that precision."""
        return Rays(self.point.to(device, dtype), self.direction.to(device, dtype))

    def transposed(self) -> Rays:
        """Return the rays in the image with rows and columns exchanged."""
        return Rays(self.point.flip(1), self.direction.flip(1))


class Projector:
    r"""Sums of an image along rays [1]_: linear interpolation in each row (or column) that a ray crosses.

    .. math:: y_r = \ell_r \sum_j \left[(1 - f_{rj})\, x_{j, c_{rj}} + f_{rj}\, x_{j, c_{rj} + 1}\right]

    The same weights make `forward` and `adjoint`, so that they are adjoint up to rounding.

    Parameters
    ----------
    rays
        In double precision.
    shape
        (y, x) of the image.
    matrix
        Keep the weights as a sparse matrix; None: where it fits `MATRIX_BYTES`, from the fourth application on, because
        making it takes as long as a few of them.

    References
    ----------
    .. [1] Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE TMI 1982.
    """

    def __init__(self, rays: Rays, shape: tuple[int, int], *, matrix: bool | None = None) -> None:
        self.rays, self.shape = rays, shape
        lines = torch.where(rays.steep, shape[0], shape[1])
        needed = 2 * 2 * 8 * float(lines.sum())  # two taps, twice, of an index and a float32 value
        self.matrix = needed <= MATRIX_BYTES if matrix is None else matrix
        self._patience = _PATIENCE if matrix is None else 0
        self._matrices: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, _memo: dict[int, Any]) -> Projector:
        """Share it: what it computes never changes, and its matrix is large."""
        return self

    def forward(self, x: Float[Tensor, "b y x"]) -> Float[Tensor, "b ray"]:
        """Integrate each image along the rays; differentiable, as often as one likes."""
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(
                "an image of another size than the rays were made for", found=tuple(x.shape[1:]), expected=self.shape
            )
        return _Apply.apply(x, self, False)

    def adjoint(self, y: Float[Tensor, "b ray"]) -> Float[Tensor, "b y x"]:
        """Smear each value back along its ray: the adjoint of `forward`."""
        if y.shape[1] != len(self.rays):
            raise ShapeError("values that do not fit the rays", found=y.shape[1], expected=len(self.rays))
        return _Apply.apply(y, self, True)

    @cached_property
    def sqnorm(self) -> float:
        """Largest eigenvalue of adjoint times forward; found soon, as its vector is positive like the weights."""
        start = torch.ones(1, *self.shape)
        return float(max_eigenvalue(lambda x: self.apply(self.apply(x, False), True), start, tol=1e-5))

    def apply(self, v: Tensor, adjoint: bool) -> Tensor:
        """Compute `forward` or `adjoint` without recording it."""
        if v.is_meta:
            return v.new_empty((len(v), *self.shape) if adjoint else (len(v), len(self.rays)))
        self._patience -= 1
        if self.matrix and self._patience < 0:
            product = self._matrix(v.dtype, v.device)[adjoint] @ v.flatten(1).T
            return product.T.reshape(len(v), *(self.shape if adjoint else (-1,)))
        return self._backward(v) if adjoint else self._forward(v)

    def _matrix(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        if (dtype, device) not in self._matrices:
            self._matrices[dtype, device] = sparse_matrices(self.rays, self.shape, dtype, device)
        return self._matrices[dtype, device]

    def _chunks(self, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Tensor, bool, Tensor, Tensor]]:
        """Give (indices of rays, whether on the transposed image, sampling grid, lengths), a piece at a time."""
        for flip in (False, True):
            which = torch.nonzero(self.rays.steep != flip)[:, 0]
            shape = self.shape[::-1] if flip else self.shape
            for part in which.split(max(1, _CHUNK_SAMPLES // shape[0])):
                rays = self.rays[part].to(device, dtype)
                column, length = (rays.transposed() if flip else rays).crossings(shape)
                grid = torch.empty(1, *column.shape, 2, dtype=dtype, device=device)
                grid[0, ..., 0] = column.add_(0.5).mul_(2 / shape[1]).sub_(1)
                grid[0, ..., 1] = (2 * torch.arange(shape[0], dtype=dtype, device=device) + 1) / shape[0] - 1
                yield part.to(device), flip, grid, length

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(len(x), len(self.rays))
        for part, flip, grid, length in self._chunks(x.dtype, x.device):
            image = (x.mT if flip else x)[None]  # images as channels: one grid for all
            y[:, part] = torch.nn.functional.grid_sample(image, grid, align_corners=False)[0].sum(-1) * length
        return y

    def _backward(self, y: Tensor) -> Tensor:
        straight, flipped = y.new_zeros(len(y), *self.shape), y.new_zeros(len(y), *self.shape[::-1])
        for part, flip, grid, length in self._chunks(y.dtype, y.device):
            image = (flipped if flip else straight)[None]
            smeared = (y[:, part] * length)[None, ..., None].expand(-1, -1, -1, grid.shape[2]).contiguous()
            bilinear, zeros = 0, 0  # torch's numbers of interpolation and padding
            image += torch.ops.aten.grid_sampler_2d_backward(
                smeared, image, grid, bilinear, zeros, False, [True, False]
            )[0]
        return straight + flipped.mT


class _Apply(torch.autograd.Function):
    """A projector or its adjoint; each is the gradient of the other."""

    @staticmethod
    def forward(v: Tensor, projector: Projector, adjoint: bool) -> Tensor:
        return projector.apply(v, adjoint)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, ctx.projector, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Apply.apply(gradient, ctx.projector, not ctx.adjoint), None, None


def sparse_matrices(
    rays: Rays, shape: tuple[int, int], dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return the CSR matrix (ray, pixel) of the projector, and its transpose."""
    from scipy.sparse import csr_array

    counts, columns, values = [], [], []
    for start in range(0, len(rays), step := max(1, _CHUNK_SAMPLES // max(shape))):
        part = rays[start : start + step]
        ray, column, value = _taps(part, shape)
        counts.append(torch.bincount(ray, minlength=len(part)))
        order = ray.argsort(stable=True)
        columns.append(column[order])
        values.append(value[order].to(dtype))
    pointer = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
    index = torch.int32 if int(pointer[-1]) < 2**31 else torch.int64
    size = (len(rays), shape[0] * shape[1])
    matrix = csr_array(
        (torch.cat(values).numpy(), torch.cat(columns).to(index).numpy(), pointer.to(index).numpy()), size
    )
    return _as_tensor(matrix, device), _as_tensor(matrix.T.tocsr(), device)


def _as_tensor(matrix: Any, device: torch.device | str) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)  # in beta; not checked
        pointer, columns, values = (torch.from_numpy(array) for array in (matrix.indptr, matrix.indices, matrix.data))
        return torch.sparse_csr_tensor(pointer, columns, values, matrix.shape).to(device)


def _taps(rays: Rays, shape: tuple[int, int]) -> tuple[Int[Tensor, "tap"], Int[Tensor, "tap"], Float[Tensor, "tap"]]:
    """Return (ray, pixel, weight) of all pixels that the rays touch."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for flip in (False, True):
        which = torch.nonzero(rays.steep != flip)[:, 0]
        lines, across = shape[::-1] if flip else shape
        column, length = (rays[which].transposed() if flip else rays[which]).crossings((lines, across))
        low = column.floor()
        share = column - low
        line = torch.arange(lines).expand_as(low)
        ray, length = which[:, None].expand_as(low), length[:, None]
        for tap, weight in ((low, (1 - share) * length), (low + 1, share * length)):
            inside = (tap >= 0) & (tap < across) & (weight > 0)
            place = tap[inside].long()
            pixel = place * shape[1] + line[inside] if flip else line[inside] * shape[1] + place
            found.append((ray[inside], pixel, weight[inside]))
    ray, pixel, weight = (torch.cat(parts) for parts in zip(*found, strict=True))
    return ray, pixel, weight
