"""The shear of many galaxies, calibrated by their responses, and how far it is from the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon.physics.errors import DataError, OptionError, ShapeError
from recon.shear.responses import ShearResponses

_BLOCKS = 100  # of the jackknife


@dataclass(frozen=True)
class MeanShear:
    """The mean shear of many galaxies.

    Parameters
    ----------
    g1, g2
        Calibrated mean.
    g1_error, g2_error
        Jackknife.
    response
        ``(2, 2)``: of the mean shape to shear, that of the selection included.
    number
        Galaxies with a shape.
    """

    g1: float
    g2: float
    g1_error: float
    g2_error: float
    response: Float[Tensor, "2 2"]
    number: int


@dataclass(frozen=True)
class Bias:
    """Multiplicative and additive bias: measured = (1 + m) true + c.

    Parameters
    ----------
    m, m_error
        Along the applied shear.
    c1, c2, c1_error, c2_error
        Of both components.
    response
        Mean of the diagonal of the mean response.
    number
        Stamps with a shape.
    """

    m: float
    m_error: float
    c1: float
    c1_error: float
    c2: float
    c2_error: float
    response: float
    number: int


def mean_shear(
    responses: ShearResponses, group: Int[Tensor, " b"] | None = None, *, blocks: int = _BLOCKS
) -> MeanShear:
    r"""Return the mean shear, :math:`\langle R\rangle^{-1} \langle e\rangle` [Sheldon & Huff 2017, eq. 9-14].

    Parameters
    ----------
    responses
        From `shear_responses`.
    group
        What belongs together in the jackknife (a ring, a patch of sky); None: each object by itself.
    blocks
        Of the jackknife.

    Raises
    ------
    DataError
        No galaxy has a shape.
    """
    sums = _block_sums(responses, _blocks(group, len(responses), blocks))
    total, step = sums.sum(0), responses.step
    g = torch.stack([torch.linalg.solve(_response(rest, step), _mean(rest)) for rest in [total, *(total - sums)]])
    error = _jackknife(g[1:])
    return MeanShear(
        g1=float(g[0, 0]),
        g2=float(g[0, 1]),
        g1_error=float(error[0]),
        g2_error=float(error[1]),
        response=_response(total, step),
        number=int(responses.good[0].sum()),
    )


def bias(
    responses: ShearResponses,
    shear: Float[Tensor, "s 2"],
    group: Int[Tensor, " n"],
    *,
    blocks: int = _BLOCKS,
) -> Bias:
    """Return m and c from pairs or rings of known shear +g and -g.

    Both signs share one mean response, so that shape noise that cancels between them stays cancelled.

    Parameters
    ----------
    responses
        Of all stamps; `ShearResponses.without` gives the uncalibrated values.
    shear
        Applied to each stamp: one vector and its opposite.
    group
        Number of the galaxy (ring) that a stamp is of; the jackknife leaves out whole ones.
    blocks
        Of the jackknife.

    Raises
    ------
    ShapeError
        Shears or groups of another number than of responses.
    DataError
        Shears that are not +g and -g, or no shapes on one side.
    """
    if not len(shear) == len(group) == len(responses):
        raise ShapeError(
            "shears and groups that do not fit", found=(len(shear), len(group)), expected=f"{len(responses)} of each"
        )
    shear = shear.to(torch.float64)
    size = float(torch.linalg.vector_norm(shear[0]))
    unit = shear[0] / size if size > 0 else shear[0]
    positive = (shear @ unit) > 0
    expected = torch.where(positive[:, None], 1.0, -1.0) * shear[0]
    if size == 0 or bool(positive.all()) or not torch.allclose(expected, shear, rtol=1e-6, atol=1e-9):
        raise DataError("the shears are not +g and -g of one vector", expected="a ring or pairs")
    block = _blocks(group, len(responses), blocks)
    sums = torch.stack(
        [_block_sums(responses, block, side.to(responses.e.device)) for side in (positive, ~positive)], 1
    )
    total = sums.sum(0)
    values = torch.stack([_biases(rest, responses.step, size, unit) for rest in [total, *(total - sums)]])
    error = _jackknife(values[1:])
    response = _response(total.sum(0), responses.step)
    return Bias(
        m=float(values[0, 0]),
        m_error=float(error[0]),
        c1=float(values[0, 1]),
        c1_error=float(error[1]),
        c2=float(values[0, 2]),
        c2_error=float(error[2]),
        response=float(response.diagonal().mean()),
        number=int(responses.good[0].sum()),
    )


def bias_in_bins(
    responses: ShearResponses,
    shear: Float[Tensor, "b 2"],
    group: Int[Tensor, " b"],
    values: Float[Tensor, " b"],
    edges: Sequence[float],
    *,
    blocks: int = _BLOCKS,
) -> list[Bias]:
    """Return the bias in bins of a true property (SNR, size, PSF ellipticity): ``edges[i] <= value < edges[i + 1]``.

    The property is the galaxy's, the mean over its ring: a measured one would select by shear.

    Raises
    ------
    DataError
        A bin without galaxies of both signs, and the errors of `bias`.
    """
    _, member = torch.unique(group, return_inverse=True)
    total = torch.zeros(int(member.max()) + 1, dtype=torch.float64)
    total.index_add_(0, member, values.double())
    mean = (total / torch.bincount(member))[member]
    rows = []
    for low, high in pairwise(edges):
        inside = ((mean >= low) & (mean < high)).nonzero()[:, 0]
        if not len(inside):
            raise DataError("a bin without galaxies", found=f"{low} to {high}")
        here = inside.to(responses.e.device)
        part = ShearResponses(e=responses.e[:, here], good=responses.good[:, here], step=responses.step)
        rows.append(bias(part, shear[inside], group[inside], blocks=blocks))
    return rows


def _blocks(group: Tensor | None, number: int, blocks: int) -> Tensor:
    """Return for each object the jackknife block that it is of."""
    if number == 0:
        raise DataError("no galaxies", expected="at least one with a shape")
    if blocks < 2:
        raise OptionError("a jackknife of one block", found=blocks, expected="2 or more")
    member = torch.arange(number) if group is None else torch.unique(group.cpu(), return_inverse=True)[1]
    return member % min(blocks, int(member.max()) + 1)


# Columns of a block's sums: e1, e2 and number of the unsheared shapes; their response (11, 12, 21, 22) and its number;
# e1, e2 and number of the unsheared shapes of what each of the four sheared versions selects.
_COLUMNS = 3 + 5 + 4 * 3


def _block_sums(responses: ShearResponses, block: Tensor, rows: Tensor | None = None) -> Float[Tensor, "block 20"]:
    """Add up what the ensemble's shear is made of, block by block, in double precision."""
    e, measured = responses.e[0].double(), torch.isfinite(responses.e).all(-1)
    good = responses.good if rows is None else responses.good & rows
    pieces = [_masked(e, good[0]), _masked(responses.response.double().flatten(1), good[0] & measured.all(0))]
    pieces += [_masked(e, measured[0] & good[version]) for version in range(1, 5)]
    sums = torch.zeros(int(block.max()) + 1, _COLUMNS, dtype=torch.float64)
    return sums.index_add_(0, block, torch.cat(pieces, 1).cpu())


def _masked(values: Tensor, good: Tensor) -> Tensor:
    """Return values and count, 0 where not good."""
    return torch.cat([torch.where(good[:, None], values, 0), good[:, None].to(values.dtype)], 1)


def _mean(sums: Float[Tensor, " 20"]) -> Float[Tensor, " 2"]:
    if not sums[2] > 0:
        raise DataError("no galaxies with a shape", expected="some on each side, and in each block of the jackknife")
    return sums[:2] / sums[2]


def _response(sums: Float[Tensor, " 20"], step: float) -> Float[Tensor, "2 2"]:
    """Return the response of the mean shape: of the shapes, and of what is selected."""
    if not sums[7] > 0:
        raise DataError("no galaxies with a response", expected="some on each side, and in each block of the jackknife")
    selected = sums[8:].view(4, 3)
    means = selected[:, :2] / selected[:, 2:].clamp(min=1)
    selection = torch.stack([means[0] - means[1], means[2] - means[3]], 1) / (2 * step)
    return (sums[3:7] / sums[7]).view(2, 2) + selection


def _biases(sides: Float[Tensor, "2 20"], step: float, size: float, unit: Tensor) -> Float[Tensor, " 3"]:
    """Return m, c1 and c2 from the sums of +g and -g."""
    response = 0.5 * (_response(sides[0], step) + _response(sides[1], step))
    plus, minus = (torch.linalg.solve(response, _mean(side)) for side in sides)
    m = (plus - minus) @ unit.to(plus) / (2 * size) - 1
    return torch.cat([m[None], 0.5 * (plus + minus)])


def _jackknife(left_out: Float[Tensor, "block values"]) -> Float[Tensor, " values"]:
    """Return the standard error from the estimates without one block each."""
    n = len(left_out)
    return ((n - 1) / n * (left_out - left_out.mean(0)).square().sum(0)).sqrt()
