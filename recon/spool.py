"""Finished slices, or parts of stamps, on disk, so that an interrupted reconstruction goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray

from recon.datasets.atomic import atomic_path

if TYPE_CHECKING:
    from recon.slices import SliceResult


class Spool:
    """A folder of finished slices of one input under one set of options.

    Parameters
    ----------
    folder
        Where the slices are kept; slices of another input or of other options in it are dropped.
    key
        What the slices depend on, JSON-serialisable.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self._folder = folder
        self._digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        marker = folder / "key"
        if folder.is_dir() and (not marker.exists() or marker.read_text() != self._digest):
            shutil.rmtree(folder)

    def make(self) -> None:
        """Make the folder, unless it is there; `put` does it too.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        marker = self._folder / "key"
        if not marker.exists():
            with atomic_path(marker, overwrite=True) as temporary:
                temporary.write_text(self._digest)

    def note(self, name: str) -> dict[str, Any] | None:
        """Return what was noted about all slices under a name, or None."""
        path = self._folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def put_note(self, name: str, note: Mapping[str, Any]) -> None:
        """Note something about all slices, JSON-serialisable; errors as those of `put_arrays`."""
        self.make()
        with atomic_path(self._folder / f"{name}.json", overwrite=True) as temporary:
            temporary.write_text(json.dumps(note), encoding="utf-8")

    def get(self, index: int) -> SliceResult | None:
        """Return a finished slice, or None."""
        from recon.slices import SliceResult

        stored = self.get_arrays(index)
        if stored is None:
            return None
        text = json.loads(str(stored["text"]))
        maps = {name: torch.from_numpy(stored[f"map_{name}"]) for name in text["maps"]}
        return SliceResult(
            image=torch.from_numpy(stored["image"]), maps=maps, metrics=text["metrics"], report=text["report"]
        )

    def put(self, index: int, item: SliceResult) -> None:
        """Keep a finished slice; errors as those of `put_arrays`."""
        text = json.dumps({"maps": list(item.maps), "metrics": item.metrics, "report": item.report})
        maps = {f"map_{name}": value.numpy() for name, value in item.maps.items()}
        self.put_arrays(index, {"image": item.image.numpy(), "text": np.array(text), **maps})

    def get_arrays(self, index: int, names: Sequence[str] | None = None) -> dict[str, ndarray] | None:
        """Return the arrays of a finished part by name, or None; only those of some names are read."""
        path = self._folder / f"{index}.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in (stored.files if names is None else names)}

    def has(self, index: int) -> bool:
        """Whether a part is finished."""
        return (self._folder / f"{index}.npz").exists()

    def put_arrays(self, index: int, arrays: Mapping[str, ndarray]) -> None:
        """Keep a finished part.

        Raises
        ------
        OutputError
            The folder cannot be written (read-only, full disk).
        """
        self.make()
        named: dict[str, Any] = dict(arrays)
        with atomic_path(self._folder / f"{index}.npz", overwrite=True) as temporary, temporary.open("wb") as file:
            np.savez(file, **named)
