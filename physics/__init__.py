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

    from recon.physics.blur import Blur, CircularBlur
    from recon.physics.compressed_sensing import BlockCompressedSensing
    from recon.physics.ct import FanCT, ParallelCT
    from recon.physics.demosaicing import Demosaicing
    from recon.physics.denoising import Denoising
    from recon.physics.functions import FunctionPhysics
    from recon.physics.inpainting import Inpainting
    from recon.physics.mri import MultiCoilMRI
    from recon.physics.noncartesian import NonCartesianMRI
    from recon.physics.psf import PSFConvolution
    from recon.physics.single_coil import SingleCoilMRI
    from recon.physics.sky_noise import SkyNoise
    from recon.physics.superresolution import Resampling, SuperResolution


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
    "Blur": "recon.physics.blur",
    "CircularBlur": "recon.physics.blur",
    "Demosaicing": "recon.physics.demosaicing",
    "Denoising": "recon.physics.denoising",
    "FanCT": "recon.physics.ct",
    "FunctionPhysics": "recon.physics.functions",
    "Inpainting": "recon.physics.inpainting",
    "MultiCoilMRI": "recon.physics.mri",
    "NonCartesianMRI": "recon.physics.noncartesian",
    "PSFConvolution": "recon.physics.psf",
    "ParallelCT": "recon.physics.ct",
    "Resampling": "recon.physics.superresolution",
    "SingleCoilMRI": "recon.physics.single_coil",
    "SkyNoise": "recon.physics.sky_noise",
    "SuperResolution": "recon.physics.superresolution",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BlockCompressedSensing",
    "Blur",
    "CircularBlur",
    "Demosaicing",
    "Denoising",
    "FanCT",
    "FunctionPhysics",
    "Inpainting",
    "MultiCoilMRI",
    "NonCartesianMRI",
    "PSFConvolution",
    "ParallelCT",
    "Resampling",
    "SingleCoilMRI",
    "SkyNoise",
    "SuperResolution",
    "operators",
]
