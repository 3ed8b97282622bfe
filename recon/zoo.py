"""Models by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon import models
from recon.cards import Card, read_card, shipped
from recon.checkpoint import load_checkpoint
from recon.physics.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from deepinv.models import Reconstructor


def load_model(name_or_path: str | Path) -> Reconstructor:
    """Return a model that is ready to be used.

    Parameters
    ----------
    name_or_path
        One of ``recon.models()``, the name of weights that come with the package, or a file of weights
        (``.safetensors``). The name of a learned model stands for its weights that come with the package: those of
        the same name, else the first. Methods with a denoiser take its weights, the package's, or those of a file:
        ``"dpir:FILE.safetensors"``.

    Raises
    ------
    OptionError
        No model of this name.
    CheckpointError
        No weights come with the package for it, or a file that cannot be used.
    """
    method, _, file = str(name_or_path).partition(":")
    if file and method in models.registry and models.source_of_weights(method) not in {None, method}:
        return models.registry[method](load_checkpoint(file)[0])
    if is_file(name_or_path):
        return load_checkpoint(name_or_path)[0]
    name, weights = str(name_or_path), shipped()
    if name in weights:
        return load_checkpoint(weights[name])[0]
    if name not in models.registry:
        raise OptionError(f"no model is called {name!r}", expected=f"one of {', '.join([*models.registry, *weights])}")
    cls, source = models.registry[name], models.source_of_weights(name)
    if source is None:
        return cls()
    for path in weights.values():
        if read_card(path.with_suffix(".json")).model == source:
            loaded = load_checkpoint(path)[0]
            return loaded if source == name else cls(loaded)
    raise CheckpointError(
        f"no weights for {name!r} come with the package",
        cure="Train it with `recon train`, or convert published weights with `recon import-weights`, and give the file",
    )


def ready() -> list[str]:
    """Names of the models that can be used as they are: those that need no training or whose weights ship."""
    trained = {read_card(path.with_suffix(".json")).model for path in shipped().values()}
    return [name for name in models.registry if models.source_of_weights(name) in {None, *trained}]


def is_file(name_or_path: str | Path) -> bool:
    """Whether a file of weights is meant, not a name: it has a folder or an ending, or is there."""
    path = Path(name_or_path)
    return isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix != "" or path.is_file()


def describe(name_or_path: str | Path) -> dict[str, Any]:
    """Return name, one-line summary and full description of a model, and the card of weights.

    Parameters
    ----------
    name_or_path
        As for `load_model`; a learned model without weights is described too.

    Raises
    ------
    OptionError, CheckpointError
        No model of this name; a file without a card.
    """
    card: Card | None = None
    weights = shipped()
    if is_file(name_or_path) or str(name_or_path) in weights:
        path = weights.get(str(name_or_path), Path(name_or_path))
        card = load_checkpoint(path)[1]
        if card is None:
            raise CheckpointError("the weights have no card", file=path, expected=path.with_suffix(".json").name)
        name = card.model
    else:
        name = str(name_or_path)
    documentation = (models.registry[name].__doc__ or "").strip()
    if not documentation:
        raise OptionError(f"model {name!r} has no description")
    summary = documentation.splitlines()[0].rstrip(".")
    described = {"name": name, "summary": summary, "description": documentation}
    if card is None:
        return described
    return described | {"name": card.name, "summary": card.summary or summary, "card": card.as_dict()}
