"""Operators and the linear algebra on them; each is a `deepinv.physics.LinearPhysics`.

To add one, write a file here with a class that has ``A`` and ``A_adjoint``, decorate it with
``@recon.physics.operators.register(name)``, and give it the one classmethod of `Operator`::

    @classmethod
    def example(cls, generator, *, dtype=torch.float32, device="cpu", batch=1):
        return cls(...), x

The shared operator test walks the registry and checks adjointness, linearity, norm, dtype, device, batch and
``A_adjoint_A`` on what ``example`` returns.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from recon.physics.registry import Registry

if TYPE_CHECKING:
    import torch
    from deepinv.physics import LinearPhysics

    from recon.physics.compressed_sensing import BlockCompressedSensing
    from recon.physics.mri import MultiCoilMRI
    from recon.physics.noncartesian import NonCartesianMRI
    from recon.physics.psf import PSFConvolution
    from recon.physics.sky_noise import SkyNoise


class Operator(Protocol):
    """What the registry holds: an operator's class."""

    def example(
        self, generator: torch.Generator, *, dtype: torch.dtype, device: torch.device | str, batch: int
    ) -> tuple[LinearPhysics, torch.Tensor]:
        """Make a small random instance, and an image of ``batch`` and real ``dtype`` that it measures."""
        ...


operators: Registry[Operator] = Registry("operator", package=__name__)

# Imported at first use: they bring torch and deepinv along.
_LAZY = {
    "BlockCompressedSensing": "recon.physics.compressed_sensing",
    "MultiCoilMRI": "recon.physics.mri",
    "NonCartesianMRI": "recon.physics.noncartesian",
    "PSFConvolution": "recon.physics.psf",
    "SkyNoise": "recon.physics.sky_noise",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["BlockCompressedSensing", "MultiCoilMRI", "NonCartesianMRI", "PSFConvolution", "SkyNoise", "operators"]
