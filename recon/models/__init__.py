"""One file a method: each is a `deepinv.models.Reconstructor`, ``model(y, physics) -> x``.

``@recon.models.registry.register(name)`` adds one. The module is callable: ``recon.models()`` lists the names.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_type_hints

from recon.physics.registry import Registry

if TYPE_CHECKING:
    from deepinv.models import Reconstructor
    from deepinv.physics import LinearPhysics

registry: Registry[type[Reconstructor]] = Registry("model", package=__name__)


def takes_stamps(model: str | type[Reconstructor] | Reconstructor) -> bool:
    """Whether a model, by name, class or instance, is for galaxy stamps; the others take k-space."""
    return bool(getattr(registry[model] if isinstance(model, str) else model, "stamps", False))


def takes(model: str | type[Reconstructor] | Reconstructor, operator: type[LinearPhysics]) -> bool:
    """Whether a model, by name, class or instance, is for a kind of operators: ``forward`` says so by its annotation.

    Of one that says nothing, a user's own, it is assumed.
    """
    entry = registry[model] if isinstance(model, str) else model
    owner: Any = entry if isinstance(entry, type) else type(entry)
    try:
        hint = get_type_hints(owner.forward).get("physics", object)
        return issubclass(operator, hint)
    except (NameError, TypeError):  # a name for type checkers alone, or no class
        return True


def source_of_weights(name: str) -> str | None:
    """Return the model whose weights a model of a name needs: itself where it is learned, a denoiser, or None."""
    entry = registry[name]
    other: str | None = getattr(entry, "weights_of", None)
    return name if other is None and getattr(entry, "learned", False) else other


class _CallableModule(ModuleType):
    """Lets ``recon.models`` be both the package of methods and the function that lists them."""

    def __call__(self) -> tuple[str, ...]:
        """List the names of all models."""
        return tuple(registry)


sys.modules[__name__].__class__ = _CallableModule
