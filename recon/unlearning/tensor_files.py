"""Tensors of ours in safetensors, with text that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recon.datasets.atomic import atomic_path
from recon.physics.errors import CheckpointError


def write_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], told: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write tensors, from whatever device they are on.

    Parameters
    ----------
    path
        ``NAME.safetensors``.
    kind
        Of file: `read_tensors` asks for the same.
    tensors, told
        By name; the name ``format`` is taken.
    overwrite
        Replace an existing file.

    Raises
    ------
    OutputError
        The file exists, or cannot be written.
    """
    with atomic_path(Path(path), overwrite=overwrite) as temporary:
        save_file({name: value.cpu() for name, value in tensors.items()}, temporary, {**told, "format": kind})


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and what is told of them.

    Parameters
    ----------
    path
        The file.
    kind
        As it was written.

    Raises
    ------
    CheckpointError
        No such file, a damaged one, or another kind of file.
    """
    if not Path(path).is_file():
        raise CheckpointError("there is no such file", file=path, expected=kind)
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"not a whole file of safetensors: {error}", file=path) from error
    if told.get("format") != kind:
        raise CheckpointError("another kind of file", file=path, found=told.get("format"), expected=kind)
    return tensors, told
