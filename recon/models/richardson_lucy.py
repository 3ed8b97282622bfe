"""Richardson-Lucy deconvolution of galaxy stamps."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.models import registry
from recon.models.convolution import Grid, Stamps
from recon.models.stamps import Seen, check_stamps, noise_levels, seen_pixels, with_flux_of
from recon.physics.errors import OptionError
from recon.physics.psf import PSFConvolution

_MOST, _PATIENCE = 150, 15  # iterations where the data decide, and those without gain after which it is decided
_SPLITS, _STRENGTH = 3, 0.7  # of the data in two by noise, and that of the noise


@registry.register("richardson-lucy")
class RichardsonLucy(Reconstructor):
    r"""Richardson-Lucy [1]_, stopped where it predicts data best that it has not seen.

    .. math:: x + c \leftarrow \frac{x + c}{H^T w} \, H^T\!\left( w \, \frac{y + c}{Hx + c} \right)

    with w 0 where a pixel is masked, and 1 elsewhere.

    Parameters
    ----------
    iterations
        So many for all stamps. None: each stamp has its own number, which is found by splitting its noise: with random
        noise n of the data's level, y + 0.7 n and y - n / 0.7 are independent, and the first, deconvolved, has to
        predict the second [2]_. It takes four times as long.
    pedestal
        True: c lifts the least pixel of a stamp to 0, on a sky that goes on outside of the stamp, so that noise is
        neither clipped nor made positive; the result is scaled to the flux of the data. False: c = 0, negative pixels
        are clipped, and it starts from the data, as in most codes.

    References
    ----------
    .. [1] Lucy, An iterative technique for the rectification of observed distributions, AJ 79, 1974.
    .. [2] Oliveira, Lei, Tibshirani, Unbiased risk estimation in the normal means problem via coupled bootstrap
       techniques, arXiv 2111.09447.
    """

    stamps = True  # what it is for; models without it take k-space

    def __init__(self, iterations: int | None = None, *, pedestal: bool = True) -> None:
        super().__init__()
        if iterations is not None and iterations < 1:
            raise OptionError("Richardson-Lucy has at least one iteration", found=iterations)
        self.iterations, self.pedestal = iterations, pedestal
        self.details: dict[str, list[int]] = {}

    @torch.no_grad()
    def forward(self, y: Float[Tensor, "b 1 y x"], physics: PSFConvolution) -> Float[Tensor, "b 1 y x"]:
        """Deconvolve; `details` then has the iterations of each stamp. Parameters and errors as those of `Wiener`."""
        physics = check_stamps(y, physics)
        grid, seen, sigma = Grid.of(physics, y), seen_pixels(y, physics), noise_levels(y, physics)
        data = y if seen is None else torch.where(seen, y, 0)
        if self.iterations is None:
            wanted = self._best_iteration(data, grid, seen, sigma)
        else:
            wanted = torch.full((len(y),), self.iterations, device=y.device)
        lifted, c = lift(data, pedestal=self.pedestal)
        x = start(lifted, c, grid, seen) if self.pedestal else lifted
        share = sensitivity(y, grid, seen)
        for n in range(int(wanted.max())):
            x = torch.where((n < wanted)[:, None, None, None], step(x, lifted, c, grid, share, seen), x)
        self.details = {"iterations": wanted.tolist()}
        return with_flux_of(data, x, grid, sigma, seen) if self.pedestal else x

    def _best_iteration(self, y: Stamps, grid: Grid, seen: Seen | None, sigma: Float[Tensor, " b"]) -> Tensor:
        """Return the number of iterations of each stamp; the random numbers are the same for all stamps."""
        shape, count = (_SPLITS, 1, 1, *y.shape[2:]), len(y)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype).to(y.device)
        noise = (sigma[:, None, None, None] * noise) * (1 if seen is None else seen)
        many = Grid(grid.H.repeat(_SPLITS, 1, 1, 1) if len(grid.H) > 1 else grid.H, grid.grid, grid.shape)
        mask = None if seen is None else seen.repeat(_SPLITS, 1, 1, 1)
        learned, c = lift((y + _STRENGTH * noise).flatten(0, 1), pedestal=self.pedestal)
        unseen = (y - noise / _STRENGTH).flatten(0, 1)
        x = start(learned, c, many, mask) if self.pedestal else learned
        share = sensitivity(learned, many, mask)
        best = torch.full((count,), torch.inf, dtype=y.dtype, device=y.device)
        chosen = torch.ones(count, dtype=torch.long, device=y.device)
        for n in range(1, _MOST + 1):
            x = step(x, learned, c, many, share, mask)
            miss = unseen - many.A(x)
            error = (miss if mask is None else miss * mask).square().sum((1, 2, 3)).reshape(_SPLITS, count).sum(0)
            chosen = torch.where(error < best, n, chosen)
            best = torch.minimum(error, best)
            if n > int(chosen.max()) + _PATIENCE:
                break
        return chosen


def lift(y: Stamps, *, pedestal: bool) -> tuple[Stamps, Float[Tensor, "b 1 1 1"]]:
    """Make stamps non-negative, by a constant, which is returned, or by clipping."""
    if not pedestal:
        return y.clamp_min(0), y.new_zeros(len(y), 1, 1, 1)
    c = -y.amin((1, 2, 3), keepdim=True).clamp_max(0)
    return y + c, c


def start(lifted: Stamps, c: Float[Tensor, "b 1 1 1"], grid: Grid, seen: Seen | None) -> Stamps:
    """Return the stamp seen through its PSF once more, in which there is little noise, above the pedestal."""
    light = lifted - c
    least = 1e-4 * light.amax((1, 2, 3), keepdim=True).clamp_min(0) - c
    return torch.maximum(grid.adjoint(light) / sensitivity(lifted, grid, seen), least)


def sensitivity(y: Stamps, grid: Grid, seen: Seen | None) -> Stamps:
    """Part of a pixel's light that unmasked pixels of the stamp receive."""
    ones = torch.ones_like(y) if seen is None else seen.to(y.dtype)
    return grid.adjoint(ones).clamp_min(1e-3)


def step(
    x: Stamps, lifted: Stamps, c: Float[Tensor, "b 1 1 1"], grid: Grid, share: Stamps, seen: Seen | None
) -> Stamps:
    """Go one iteration further."""
    expected = grid.adjoint(quotient(lifted, grid.A(x) + c, seen)).clamp_min(0)
    return (x + c) * expected / share - c


def quotient(lifted: Stamps, model: Stamps, seen: Seen | None) -> Stamps:
    """Divide data by model; 1 where neither has light, 0 where masked."""
    tiny = 1e-6 * lifted.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(lifted.dtype).tiny ** 0.5)
    value = (lifted + tiny) / (model.clamp_min(0) + tiny)
    return value if seen is None else value * seen
