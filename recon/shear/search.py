"""The search for adaptive moments: Newton's steps where they serve, galsim.hsm's own where they do not."""

from __future__ import annotations

import math
from enum import IntFlag

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from recon.shear.gaussian_weight import (
    inverse,
    is_positive,
    lesser_eigenvalue,
    linearise,
    monomials,
    raw_moments,
    weights,
)

# The limits of galsim.hsm (HSMParams), which are part of what it measures and what it refuses.
_LARGEST_MOMENT = 8000.0
_LARGEST_SHIFT = 15.0
_SMALLEST_DETERMINANT = 1e-8
_LARGEST_STEP = 0.25
_MOST_STEPS = 400

_TOLERANCE = (3e-3, 1e-6)  # of the last Newton step, whose error is of its square; in single, in double precision
_THRESHOLD = (1e-3, 1e-6)  # of the damped steps, whose factor is a root
_NEWTON_STEPS = 20
_MOST_GROWTH = 2.0  # of the trace in one step to a Gaussian's moments
_SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)  # of the guess: round weights to start from
_REACH = 25.0  # squared radius (of the weight's) within which pixels count: the others have weights below 4e-6
_ATTRACTION = 0.05
_NEARLY = 0.1  # a damped step so small may end in Newton steps
_EVERY = 8  # damped steps between such attempts
_PIXELS_A_CHUNK = 2**25  # the last few of a chunk take as long as thousands
_BLOCK = 64  # stamps whose pixels stay in a core's cache; an accelerator takes all at once
_Window = tuple[int, int, int, int]  # first row, last row + 1, first column, last column + 1


class MomentFlag(IntFlag):
    """Why moments are missing."""

    EMPTY = 1  # nothing but masked pixels, or values that are not finite
    NOT_POSITIVE = 2  # no Gaussian: second moments that are not positive definite
    OUT_OF_RANGE = 4  # the moments grew, or the centre moved, beyond all bounds
    NOT_CONVERGED = 8
    COLLAPSED = 16  # the weight shrank to nothing: a cusp finer than a pixel


def starting_point(pixels: Tensor, guess: float) -> Float[Tensor, "b 5"]:
    """Return a round Gaussian of sigma ``guess`` at the pixel ``n // 2`` for each stamp."""
    theta = pixels.new_zeros(len(pixels), 5)
    theta[:, 2] = theta[:, 4] = guess**2
    return theta


def chunks(pixels: Tensor) -> range:
    """Return the first rows of pieces that fit the memory, as a range."""
    return range(0, len(pixels), max(1, _PIXELS_A_CHUNK // (pixels.shape[1] * pixels.shape[2])))


def find_moments(
    pixels: Float[Tensor, "b y x"], guess: float
) -> tuple[Float[Tensor, "b 5"], Float[Tensor, " b"], Int32[Tensor, " b"]]:
    """Find theta = (x, y, Mxx, Mxy, Myy) and flux of each stamp, and the flags of those without."""
    theta = starting_point(pixels, guess)
    flux = torch.zeros_like(theta[:, 0])
    flags = torch.zeros(len(pixels), dtype=torch.int32, device=pixels.device)
    steps = chunks(pixels)
    done = (
        torch.cat(
            [
                _newton(pixels[rows], theta[rows], flux[rows])
                for rows in (slice(first, first + steps.step) for first in steps)
            ]
        )
        if len(pixels)
        else flags == 0
    )
    slow = (~done).nonzero()[:, 0]
    for part in slow.split(steps.step):
        theta[part], amplitude, flags[part] = _damped(pixels[part], guess)
        flux[part] = 2 * amplitude
    return theta, flux, flags


def _newton(
    pixels: Float[Tensor, "b y x"],
    result: Float[Tensor, "b 5"],
    flux: Float[Tensor, " b"],
) -> Bool[Tensor, " b"]:
    """Improve theta and fill in the flux where this converges; return where it did."""
    tolerance = _TOLERANCE[pixels.dtype == torch.float64]
    done = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    theta = _first(pixels, result)
    row = theta[:, 2:].sum(1).argsort()
    theta = theta[row]
    view = _View(pixels)
    for _ in range(_NEWTON_STEPS):
        if not len(row):
            break
        raw = view.moments(row, theta)
        at = linearise(raw, theta)
        step = solve_small(at.jacobian, -at.residual)
        scale = lesser_eigenvalue(theta[:, 2:])
        size = torch.maximum(step[:, :2].abs().amax(1) / scale.sqrt(), step[:, 2:].abs().amax(1) / scale)
        moved = theta + step
        small = (size < 0.5) & is_positive(moved[:, 2:]) & (at.amplitude > 0)
        arrived = small & (size < tolerance)
        if bool(arrived.any()):
            finished = arrived & _attracts(at.jacobian, 4)
            into = row[finished]
            result[into], done[into] = moved[finished], True
            flux[into] = (2 * at.amplitude * (1 + (at.growth * step).sum(1)))[finished]
        if not bool(small.all()):
            other, possible = _gaussian_step(raw[:, :6], theta)
            damped = theta + _damped_step(raw[:, :6], theta)[0]
            moved = torch.where(small[:, None], moved, torch.where(possible[:, None], other, damped))
        theta = moved
        inside = (theta[:, :2].abs().amax(1) < _LARGEST_SHIFT) & (theta[:, 2:].abs().amax(1) < _LARGEST_MOMENT)
        going = inside & is_positive(theta[:, 2:]) & ~arrived
        row, theta = row[going], theta[going]
    return done


def _first(pixels: Float[Tensor, "b y x"], start: Float[Tensor, "b 5"]) -> Float[Tensor, "b 5"]:
    """Return the moments of Gaussian galaxies, or the guess, from round weights that all stamps share.

    The guess tells which of some smaller weights is near the galaxy, and that one tells more. One product of matrices
    gives the moments under all of them.
    """
    columns = monomials((pixels.shape[1], pixels.shape[2]), pixels)[:6].flatten(1)
    scales = torch.tensor(_SCALES, dtype=pixels.dtype, device=pixels.device)
    round_ones = start[:1] * scales.square()[:, None]
    shared = (weights(round_ones, columns)[:, None] * columns).flatten(0, 1)
    raw = (pixels.flatten(1) @ shared.T).view(-1, len(_SCALES), 6)
    theta, possible = _gaussian_step(raw[:, 0], start)
    wanted = torch.nan_to_num((theta[:, 2] * theta[:, 4] - theta[:, 3].square()).clamp(min=0) ** 0.25, 0.0)
    nearest = (wanted[:, None] - start[:, 2:3].sqrt() * scales).abs().argmin(1)
    better, also = _gaussian_step(raw[torch.arange(len(raw), device=raw.device), nearest], round_ones[nearest])
    return torch.where((possible & also)[:, None], better, torch.where(possible[:, None], theta, start))


def _attracts(jacobian: Float[Tensor, "b 5 5"], doublings: int) -> Bool[Tensor, " b"]:
    """Tell where the damped steps are drawn to this fixed point too: 2**doublings of them leave little."""
    gain = torch.tensor([2.0, 2.0, 4.0, 4.0, 4.0], dtype=jacobian.dtype, device=jacobian.device)
    power = torch.eye(5, dtype=jacobian.dtype, device=jacobian.device) + gain[:, None] * jacobian
    for _ in range(doublings):
        power = power @ power
    return power.abs().amax((1, 2)) < _ATTRACTION


def solve_small(A: Float[Tensor, "b 5 5"], b: Float[Tensor, "b 5"]) -> Float[Tensor, "b 5"]:
    """Solve; singular systems give values that are not finite instead of an error."""
    return torch.linalg.solve_ex(A, b)[0]


def _gaussian_step(raw: Float[Tensor, "b 6"], theta: Float[Tensor, "b 5"]) -> tuple[Tensor, Tensor]:
    """Return the moments that a Gaussian would have under which the weighted ones were measured, and where it has.

    With weight M and object G the product has C = (M^-1 + G^-1)^-1 about its mean, which lies at C G^-1 of the way.
    """
    amplitude = raw[:, 0]
    x, y = raw[:, 1] / amplitude, raw[:, 2] / amplitude
    C = raw[:, 3:6] / amplitude[:, None] - torch.stack([x * x, x * y, y * y], -1)
    M_inverse = inverse(theta[:, 2:])
    G_inverse = inverse(C) - M_inverse
    G = inverse(G_inverse)
    d = torch.stack([x, y], -1) - theta[:, :2]
    v = torch.stack(
        [M_inverse[:, 0] * d[:, 0] + M_inverse[:, 1] * d[:, 1], M_inverse[:, 1] * d[:, 0] + M_inverse[:, 2] * d[:, 1]],
        -1,
    )
    centre = torch.stack([x + G[:, 0] * v[:, 0] + G[:, 1] * v[:, 1], y + G[:, 1] * v[:, 0] + G[:, 2] * v[:, 1]], -1)
    possible = (amplitude > 0) & is_positive(C) & is_positive(G_inverse) & is_positive(G)
    possible &= G[:, [0, 2]].sum(1) < _MOST_GROWTH * theta[:, [2, 4]].sum(1)
    possible &= (centre - theta[:, :2]).square().sum(1) < theta[:, [2, 4]].sum(1)
    return torch.cat([centre, G], -1), possible


class _View:
    """The pixels of some stamps that their weights reach, in blocks of stamps whose weights are alike in extent."""

    def __init__(self, pixels: Float[Tensor, "b y x"]) -> None:
        self._whole = pixels
        self._basis = monomials((pixels.shape[1], pixels.shape[2]), pixels)
        self._row = torch.zeros(0, dtype=torch.long, device=pixels.device)
        self._blocks: list[tuple[_Window, Tensor, Tensor]] = []

    def moments(self, row: Int64[Tensor, " r"], theta: Float[Tensor, "r 5"]) -> Float[Tensor, "r 16"]:
        """Sum the pixels of the stamps ``row`` times the weights ``theta`` and the monomials."""
        windows = _windows(theta, self._whole.shape, self._size(len(row)))
        if len(row) != len(self._row) or not all(
            _holds(old, new) for (old, _, _), new in zip(self._blocks, windows, strict=True)
        ):
            self._row = row
            pairs = zip(row.split(self._size(len(row))), windows, strict=True)
            self._blocks = [(window, *self._cut(part, window)) for part, window in pairs]
        parts = zip(self._blocks, theta.split(self._size(len(row))), strict=True)
        return torch.cat([raw_moments(pixels, t, columns) for (_, pixels, columns), t in parts])

    def _size(self, rows: int) -> int:
        return _BLOCK if self._whole.device.type == "cpu" else max(rows, 1)

    def _cut(self, row: Tensor, window: _Window) -> tuple[Tensor, Tensor]:
        top, bottom, left, right = window
        pixels = self._whole[:, top:bottom, left:right].index_select(0, row)  # in this order: ten times as fast
        return pixels.flatten(1), self._basis[:, top:bottom, left:right].flatten(1)


def _windows(theta: Float[Tensor, "b 5"], shape: torch.Size, size: int) -> list[_Window]:
    """Return for each block of ``size`` stamps the rows and columns that hold all pixels with a weight that counts."""
    reach = (_REACH * theta[:, [2, 4]]).sqrt()
    reach = torch.where(torch.isfinite(reach), reach, shape[1] + shape[2])
    bounds = torch.cat([theta[:, :2] - reach, -theta[:, :2] - reach], 1)
    bounds = torch.cat([bounds, bounds[-1:].expand(-len(bounds) % size, -1)]).view(-1, size, 4).amin(1)
    windows = []
    for x0, y0, x1, y1 in bounds.tolist():
        limits = []
        for low, high, n in ((y0, -y1, shape[1]), (x0, -x1, shape[2])):
            first = max(0, min(n - 1, math.floor(low) + n // 2 - 1))
            limits += [first, min(n, max(first + 1, math.ceil(high) + n // 2 + 2))]
        windows.append((limits[0], limits[1], limits[2], limits[3]))
    return windows


def _holds(old: _Window, new: _Window) -> bool:
    """Tell whether the pixels cut out still serve: all are there, and not too many others."""
    inside = old[0] <= new[0] and old[1] >= new[1] and old[2] <= new[2] and old[3] >= new[3]
    return inside and 4 * _area(new) >= 3 * _area(old)


def _area(window: _Window) -> int:
    return (window[1] - window[0]) * (window[3] - window[2])


def _damped(
    pixels: Float[Tensor, "b y x"], guess: float
) -> tuple[Float[Tensor, "b 5"], Float[Tensor, " b"], Int32[Tensor, " b"]]:
    """Go galsim.hsm's way (find_ellipmom_2): damped steps, and its reasons to give up."""
    view, other_view = _View(pixels), _View(pixels)
    threshold = _THRESHOLD[pixels.dtype == torch.float64]
    theta = starting_point(pixels, guess)
    amplitudes = torch.zeros_like(theta[:, 0])
    flags = torch.full((len(pixels),), int(MomentFlag.NOT_CONVERGED), dtype=torch.int32, device=pixels.device)
    usable = torch.isfinite(pixels).all((1, 2)) & (pixels != 0).any(2).any(1)
    flags[~usable] = int(MomentFlag.EMPTY)
    row = usable.nonzero()[:, 0]
    now = theta[row]
    first_scale = torch.full_like(now[:, 0], guess)
    for number in range(_MOST_STEPS):
        if not len(row):
            break
        raw = view.moments(row, now)[:, :6]
        amplitude = raw[:, 0]
        step, factor, shift_scale = _damped_step(raw, now)
        factor = factor * (first_scale / shift_scale).clamp(min=1)
        now = now + step
        finite = torch.isfinite(now).all(1) & torch.isfinite(factor)
        inside = (now[:, 2:].abs().amax(1) <= _LARGEST_MOMENT) & (now[:, :2].abs().amax(1) <= _LARGEST_SHIFT)
        positive = is_positive(now[:, 2:])
        determinant = now[:, 2] * now[:, 4] - now[:, 3].square()
        collapsed = inside & positive & (determinant < _SMALLEST_DETERMINANT)
        done = finite & inside & ~collapsed & (factor <= threshold)
        flags[row[collapsed]] = int(MomentFlag.COLLAPSED)
        near = finite & inside & positive & ~collapsed & ~done & (factor < _NEARLY)
        if number % _EVERY == _EVERY - 1 and bool(near.any()):
            now[near], amplitude[near], arrived = _polished(other_view, row[near], now[near])
            done[near.nonzero()[:, 0][arrived]] = True
        flags[row[done]] = 0
        flags[row[finite & ~inside]] = int(MomentFlag.OUT_OF_RANGE)
        flags[row[~finite | (inside & ~positive & ~done)]] = int(MomentFlag.NOT_POSITIVE)
        theta[row], amplitudes[row] = now, amplitude
        going = finite & inside & positive & ~done & ~collapsed
        if not bool(going.all()):
            row, now, first_scale = row[going], now[going], first_scale[going]
    return theta, amplitudes, flags


def _damped_step(raw: Float[Tensor, "b 6"], theta: Float[Tensor, "b 5"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the step, its relative size, and the length that it is relative to."""
    K, amplitude = _central_second(raw, theta[:, :2]), raw[:, 0]
    least = lesser_eigenvalue(theta[:, 2:])
    length = least.sqrt()
    first = 2 * K[:, :2] / (amplitude * length)[:, None]
    second = 4 * (K[:, 2:] / amplitude[:, None] - 0.5 * theta[:, 2:]) / least[:, None]
    first, second = first.clamp(-_LARGEST_STEP, _LARGEST_STEP), second.clamp(-_LARGEST_STEP, _LARGEST_STEP)
    factor = torch.maximum(first.square().amax(1), second.abs().amax(1)).sqrt()
    return torch.cat([first * length[:, None], second * least[:, None]], 1), factor, length


def _polished(
    view: _View, row: Int64[Tensor, " b"], start: Float[Tensor, "b 5"]
) -> tuple[Float[Tensor, "b 5"], Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Finish damped steps by three of Newton's, where they stay near and end where the damped ones would."""
    theta, scale = start, lesser_eigenvalue(start[:, 2:])
    for _ in range(3):
        at = linearise(view.moments(row, theta), theta)
        step = torch.nan_to_num(solve_small(at.jacobian, -at.residual), torch.inf)
        moved = theta + step
        theta = torch.where(is_positive(moved[:, 2:])[:, None], moved, start)
    moved, left = (
        torch.maximum(d[:, :2].abs().amax(1) / scale.sqrt(), d[:, 2:].abs().amax(1) / scale)
        for d in (theta - start, step)
    )
    arrived = (moved < 0.1) & (left < _TOLERANCE[start.dtype == torch.float64]) & _attracts(at.jacobian, 10)
    amplitude = at.amplitude * (1 + (at.growth * step).sum(1))
    return torch.where(arrived[:, None], theta, start), amplitude, arrived


def _central_second(raw: Float[Tensor, "b 6"], centre: Float[Tensor, "b 2"]) -> Float[Tensor, "b 5"]:
    """Sum dx, dy, dx^2, dx dy, dy^2 about a centre."""
    s, sx, sy, sxx, sxy, syy = raw.unbind(-1)
    x, y = centre.unbind(-1)
    return torch.stack(
        [
            sx - x * s,
            sy - y * s,
            sxx - 2 * x * sx + x * x * s,
            sxy - x * sy - y * sx + x * y * s,
            syy - 2 * y * sy + y * y * s,
        ],
        -1,
    )
