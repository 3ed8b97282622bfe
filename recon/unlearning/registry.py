"""Methods of unlearning by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from deepinv.models import Reconstructor

from recon.physics.errors import OptionError

Function = Callable[..., Reconstructor]
"""``function(model, forget, retain, budget, **options) -> model``; the model is the function's own copy already."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method and what it asks for.

    Parameters
    ----------
    name
        As users write it.
    function
        The method.
    search
        Values of its options that are worth a try, for the search that all methods share.
    needs_retain
        Whether it looks at examples that are kept.
    needs_truth
        Whether it looks at targets in any way other than by the budget's objective.
    exact
        Whether its result is that of training without what is forgotten.
    """

    name: str
    function: Function
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    needs_retain: bool = True
    needs_truth: bool = False
    exact: bool = False

    @property
    def summary(self) -> str:
        """First line of what the method says of itself."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


_METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    search: Mapping[str, Sequence[Any]] | None = None,
    needs_retain: bool = True,
    needs_truth: bool = False,
    exact: bool = False,
) -> Callable[[Function], Function]:
    """Give a function a name among the methods; see `Method`."""

    def add(function: Function) -> Function:
        _METHODS[name] = Method(
            name=name,
            function=function,
            search=search or {},
            needs_retain=needs_retain,
            needs_truth=needs_truth,
            exact=exact,
        )
        return function

    return add


class Registry(Mapping[str, Method]):
    """All methods; each module of `recon.unlearning.methods` is one or several."""

    def __getitem__(self, name: str) -> Method:
        methods = _loaded()
        if name not in methods:
            raise OptionError("no such method of unlearning", found=name, expected=", ".join(sorted(methods)))
        return methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(_loaded()))

    def __len__(self) -> int:
        return len(_loaded())


def _loaded() -> dict[str, Method]:
    from recon.unlearning import methods

    for module in iter_modules(methods.__path__):
        import_module(f"{methods.__name__}.{module.name}")
    return _METHODS


methods = Registry()
