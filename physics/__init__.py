"""Operators and the linear algebra on them; each is a `deepinv.physics.LinearPhysics`.

``@recon.physics.operators.register(name)`` adds one, and the shared operator test picks it up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from recon.physics.registry import Registry

if TYPE_CHECKING:
    from deepinv.physics import LinearPhysics
    from recon.physics.mri import MultiCoilMRI
    from recon.physics.noncartesian import NonCartesianMRI

operators: Registry[type[LinearPhysics]] = Registry("operator", package=__name__)

# Imported at first use: they bring torch and deepinv along.
_LAZY = {"MultiCoilMRI": "recon.physics.mri", "NonCartesianMRI": "recon.physics.noncartesian"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["MultiCoilMRI", "NonCartesianMRI", "operators"]
