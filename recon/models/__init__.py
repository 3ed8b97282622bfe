"""One file a method: each is a `deepinv.models.Reconstructor`, ``model(y, physics) -> x``.

``@recon.models.registry.register(name)`` adds one. The module is callable: ``recon.models()`` lists the names.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from recon.physics.registry import Registry

if TYPE_CHECKING:
    from deepinv.models import Reconstructor

registry: Registry[type[Reconstructor]] = Registry("model", package=__name__)


def takes_stamps(model: str | type[Reconstructor] | Reconstructor) -> bool:
    """Whether a model, by name, class or instance, is for galaxy stamps; the others take k-space."""
    return bool(getattr(registry[model] if isinstance(model, str) else model, "stamps", False))


def takes_compressed(model: str | type[Reconstructor] | Reconstructor) -> bool:
    """Whether a model, by name, class or instance, takes block compressed sensing (`BlockCompressedSensing`).

    Of the registered ones those with a true attribute ``compressed``; any model of a user's own.
    """
    entry = registry[model] if isinstance(model, str) else model
    ours = (entry if isinstance(entry, type) else type(entry)) in registry.values()
    return bool(getattr(entry, "compressed", not ours))


class _CallableModule(ModuleType):
    """Lets ``recon.models`` be both the package of methods and the function that lists them."""

    def __call__(self) -> tuple[str, ...]:
        """List the names of all models."""
        return tuple(registry)


sys.modules[__name__].__class__ = _CallableModule
