"""One kind of registry for readers, writers, operators, models and unlearning methods."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Generic, TypeVar, cast

from recon.physics.errors import OptionError

T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(Generic[T]):
    """Names and what they stand for; the decorator `register` is the only way in.

    Parameters
    ----------
    what
        What is registered, for messages ("model", "operator").
    package
        The package whose modules hold the entries. They are imported at the first look-up, not before,
        so that start-up stays short.
    """

    def __init__(self, what: str, package: str) -> None:
        self.what = what
        self._package = package
        self._loaded = False
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Register the decorated object as ``name``; a name that is taken raises `OptionError`."""

        def decorate(entry: Entry) -> Entry:
            if name in self._entries:
                raise OptionError(f"{self.what} {name!r} is registered twice")
            self._entries[name] = cast(T, entry)  # the decorated name keeps its own, narrower type
            return entry

        return decorate

    def _load(self) -> dict[str, T]:
        if not self._loaded:
            for module in pkgutil.iter_modules(import_module(self._package).__path__):
                import_module(f"{self._package}.{module.name}")
            self._loaded = True
        return self._entries

    def __getitem__(self, name: str) -> T:
        """Return what ``name`` stands for; an unknown name raises `OptionError` with the known ones."""
        entries = self._load()
        if name not in entries:
            raise OptionError(f"no {self.what} is called {name!r}", expected=f"one of {', '.join(entries)}")
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())

    def values(self) -> Iterator[T]:
        """Iterate over the entries."""
        return iter(self._load().values())

    def items(self) -> Iterator[tuple[str, T]]:
        """Iterate over (name, entry)."""
        return iter(self._load().items())
