"""Sparse recovery: signals that are mostly zero, and their noisy projections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recon.datasets.random import Seed, as_generator
from recon.physics.errors import OptionError


def bernoulli_gaussian(
    shape: Sequence[int], rate: float, *, seed: Seed, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "..."]:
    """Draw entries that are standard normal with probability ``rate``, and else zero.

    Raises
    ------
    OptionError
        A rate that is no probability above 0.
    """
    if not 0 < rate <= 1:
        raise OptionError("the share of entries that are not zero", found=rate, expected="above 0, at most 1")
    generator = as_generator(seed)
    values = torch.randn(*shape, generator=generator, dtype=dtype)
    return values * (torch.rand(*shape, generator=generator) < rate)


def gaussian_projections(m: int, n: int, *, seed: Seed, dtype: torch.dtype = torch.float32) -> Float[Tensor, "m n"]:
    """Draw a matrix of independent normal entries of variance 1/m: its columns have a norm of about 1.

    Raises
    ------
    OptionError
        No measurements, or no unknowns.
    """
    if min(m, n) < 1:
        raise OptionError("a matrix has a row and a column", found=f"{m} x {n}")
    return torch.randn(m, n, generator=as_generator(seed), dtype=dtype) / m**0.5


def noise_of_snr(matrix: Float[Tensor, "m n"], rate: float, snr: float) -> float:
    """Return the standard deviation of noise that is ``snr`` dB below the measurements of `bernoulli_gaussian` signals.

    The power of a measurement is its expectation, ``rate`` times the mean squared norm of a row.
    """
    power = rate * float(matrix.double().square().sum(1).mean())
    return (power / 10 ** (snr / 10)) ** 0.5
