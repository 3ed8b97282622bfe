"""Foreign files of weights, read without running anything that they may hold, and made into a model of ours."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recon import models
from recon.checkpoint import ENDING, load_weights
from recon.datasets.readers.matlab import real_matrices
from recon.foreign import MATRICES, converters
from recon.models.learned import LearnedReconstructor
from recon.physics.errors import CheckpointError, OptionError


def read_foreign(path: Path) -> Mapping[str, Any]:
    """Return what a file of weights holds: safetensors, or a pickle of PyTorch's that has nothing but data.

    Raises
    ------
    CheckpointError
        No such file, damaged, or with code in it, which is not run.
    """
    if not path.is_file():
        raise CheckpointError("there is no such file of weights", file=path)
    try:
        content = load_file(path) if path.suffix == ENDING else torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            "the file holds more than weights, which is not loaded because it could run code, or is none of PyTorch's",
            file=path,
            found=_reason(error),
            cure='Where you trust it: torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW)',
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(f"the weights cannot be read: {_reason(error)}", file=path) from error
    if not isinstance(content, Mapping):
        raise CheckpointError("the file holds no named weights", file=path, found=type(content).__name__)
    return content


def read_matrices(path: Path) -> dict[str, Tensor]:
    """Return the real matrices of a MATLAB file, by their names.

    Raises
    ------
    FileFormatError
        No such file, or damaged.
    CheckpointError
        A file without any.
    """
    found = {name: torch.from_numpy(matrix) for name, matrix in real_matrices(path).items()}
    if not found:
        raise CheckpointError("the file holds no matrices", file=path)
    return found


def import_weights(
    path: Path, model: str, overrides: Mapping[str, Any] | None = None, beside: Sequence[Path] = ()
) -> tuple[LearnedReconstructor, tuple[str, ...]]:
    """Build our model with the weights of a foreign file.

    Parameters
    ----------
    path
        The file.
    model
        Name of our model.
    overrides
        Constructor arguments that the weights do not tell.
    beside
        MATLAB files that belong to the weights: their matrices go to the importer with the weights.

    Returns
    -------
    tuple
        The model in evaluation mode, and what a user should know.

    Raises
    ------
    CheckpointError
        A file that cannot be used, or the weights of something else.
    FileFormatError
        A MATLAB file that cannot be read.
    OptionError
        A model whose weights cannot be imported, an argument that it does not have, or files beside the weights of a
        model that needs none.
    """
    converter = converters[model]
    cls = models.registry[model]
    assert issubclass(cls, LearnedReconstructor)
    if beside and not getattr(cls, "linear_start", False):
        raise OptionError(f"{model} needs no matrices beside its weights", cure="Leave out --with")
    content = read_foreign(path)
    if beside:
        content = {**content, MATRICES: {name: x for file in beside for name, x in read_matrices(file).items()}}
    try:
        foreign = converter(content)
    except CheckpointError as error:
        raise CheckpointError(
            error.problem, file=path, found=error.found, expected=error.expected, cure=error.cure
        ) from error
    known = list(inspect.signature(cls.__init__).parameters)[1:]
    for name in overrides or {}:
        if name not in known:
            raise OptionError(f"{model} has no argument {name!r}", expected=f"one of {', '.join(known)}")
    try:
        network = cls(**{**foreign.arguments, **(overrides or {})})
    except (TypeError, ValueError, LookupError) as error:
        raise OptionError(f"{model} cannot be built: {error}") from error
    load_weights(network, {name: value.float() for name, value in foreign.weights.items()}, path)
    return network.eval(), foreign.notes


def _reason(error: Exception) -> str:
    """First sentence of a long message."""
    return str(error).strip().split("\n")[0].split(". ")[0][:160]
