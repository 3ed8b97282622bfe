"""Trained weights on disk: ``NAME.safetensors`` and the card ``NAME.json`` beside it.

The weights' file says by itself which model it is for: its metadata are ``{"format": "recon", "model": registered name,
"arguments": JSON of the constructor's}``, and how quantised weights are packed (`recon.onebit.storage`). It is never a
pickle, so that opening one runs nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recon import models
from recon.cards import Card, read_card, shipped
from recon.datasets.atomic import atomic_path
from recon.models.learned import LearnedReconstructor
from recon.onebit import storage
from recon.onebit.count import count_links
from recon.physics.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from deepinv.models import Reconstructor

ENDING = ".safetensors"
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


def save_checkpoint(
    path: str | Path, model: Reconstructor, card: Card, *, half: bool = False, overwrite: bool = False
) -> Card:
    """Write weights and card, both or neither.

    Parameters
    ----------
    path
        ``NAME.safetensors``; the card goes to ``NAME.json`` beside it.
    model
        An instance of a registered class.
    card
        Name, model, arguments, parameters, sha256 and date are filled in.
    half
        Store numbers of 16 bits: half the size, and a relative error of 5e-4. They load as 32 bits.
    overwrite
        Replace existing files.

    Returns
    -------
    Card
        As written.

    Raises
    ------
    OutputError
        The file exists, the folder is read-only, the disk is full.
    OptionError
        A model of another package.
    CheckpointError
        One that is not registered, another ending, or weights that are not finite.
    """
    if not isinstance(model, LearnedReconstructor):
        raise OptionError(
            "only registered networks have a file of weights here",
            found=type(model).__name__,
            cure="Save its state_dict with PyTorch",
        )
    path = Path(path)
    if path.suffix != ENDING:
        raise CheckpointError("weights are saved under another ending", file=path, expected=ENDING)
    name, arguments = registered_name(type(model)), constructor_arguments(model)
    plain, table = storage.packed(model, distinct(model))
    weights = {key: _stored(value, half) for key, value in plain.items()}
    bad = next((key for key, value in weights.items() if not torch.isfinite(value).all()), None)
    if bad is not None:
        raise CheckpointError(f"the weights {bad!r} are not finite" + (" in 16 bits" if half else ""), file=path)
    metadata = {"format": "recon", "model": name, "arguments": json.dumps(arguments)}
    if table:
        metadata[storage.KEY] = json.dumps(table)
        card = replace(card, figures={**card.figures, "bits_per_link": count_links(model).per_link})
    with atomic_path(path, overwrite=overwrite, companions=(path.with_suffix(".json").name,)) as temporary:
        save_file(weights, temporary, metadata)
        card = card.completed(
            name=path.stem,
            model=name,
            arguments={key: list(v) if isinstance(v, tuple) else v for key, v in arguments.items()},  # as JSON has it
            parameters=sum(p.numel() for p in model.parameters()),
            sha256=sha256(temporary),
        )
        temporary.with_suffix(".json").write_text(card.as_json(), encoding="utf-8")
    return card


def load_checkpoint(path: str | Path) -> tuple[LearnedReconstructor, Card | None]:
    """Build the model that a file of weights is for, in evaluation mode, with these weights in 32 bits.

    Where there is a card, beside the file or among those of the package, the file must have the sha256 that it says.

    Raises
    ------
    CheckpointError
        No such file, another format, damaged, another sha256, an unknown model, arguments or weights that do not fit.
    """
    path = Path(path)
    metadata, stored = _read(path)
    weights = storage.unpacked(stored, metadata, path)
    card = _card_of(path)
    model = _build(path, metadata)
    load_weights(model, weights, path)
    model.card = card
    return model.eval(), card


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a model; ``path`` is for messages.

    Raises
    ------
    CheckpointError
        Names or shapes that are not the model's, or values that are not finite.
    """
    wanted = distinct(model)
    missing, unexpected = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    if missing or unexpected:
        raise CheckpointError(
            "the weights are not those of the model",
            file=path,
            found="; ".join(
                f"{what} {len(keys)}, as {min(keys)}"
                for what, keys in (("missing", missing), ("unknown", unexpected))
                if keys
            ),
        )
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            raise CheckpointError(
                f"the weights {key!r} have another shape than the model's",
                file=path,
                found=tuple(value.shape),
                expected=tuple(wanted[key].shape),
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"the weights {key!r} are not finite", file=path)
    model.load_state_dict(dict(weights), strict=False)  # names left out share the storage of one that is there


def distinct(model: torch.nn.Module) -> dict[str, Tensor]:
    """Weights of a model, those that are shared only under their first name."""
    seen: set[tuple[int, torch.Size]] = set()
    found = {}
    for key, value in model.state_dict().items():
        place = (value.data_ptr(), value.shape)
        if value.numel() == 0 or place not in seen:
            seen.add(place)
            found[key] = value
    return found


def registered_name(cls: type[Reconstructor]) -> str:
    """Return the name under which a class of models is registered.

    Raises
    ------
    CheckpointError
        It is not.
    """
    for name, entry in models.registry.items():
        if entry is cls:
            return name
    raise CheckpointError(f"{cls.__name__} is not a registered model", cure="Give its class a name in recon.models")


def constructor_arguments(model: LearnedReconstructor) -> dict[str, Any]:
    """Return what a model's constructor was given.

    Raises
    ------
    CheckpointError
        One that is not a plain number, string, truth value or sequence of them.
    """
    for name, value in model.arguments.items():
        if not _plain(value):
            raise CheckpointError(f"{type(model).__name__}'s argument {name!r} cannot be stored", found=type(value))
    return dict(model.arguments)


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.is_floating_point() else value


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and weights of a file of ours."""
    if not path.is_file():
        raise CheckpointError(
            "there is no such file of weights", file=path, cure="`recon models` lists those there are"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError) as error:
        cure = "Convert it with `recon import-weights`" if path.suffix in _PICKLES else None
        raise CheckpointError(f"not a whole file of safetensors: {error}", file=path, cure=cure) from error
    if metadata.get("format") != "recon":
        raise CheckpointError(
            "the file does not say which model its weights are for",
            file=path,
            cure="Convert foreign weights with `recon import-weights`",
        )
    return metadata, {key: v.float() if v.is_floating_point() else v for key, v in weights.items()}


def _card_of(path: Path) -> Card | None:
    """Read the card beside the weights, which must fit, or find the packaged one that fits."""
    found = sha256(path)
    beside = path.with_suffix(".json")
    if beside.exists():
        card = read_card(beside)
        if card.sha256 != found:
            raise CheckpointError(
                "the weights are not those of the card beside them",
                file=path,
                found=f"sha256 {found[:12]}...",
                expected=f"{card.sha256[:12]}...",
                cure="Get both files again; one was changed or damaged",
            )
        return card
    cards = (read_card(p.with_suffix(".json")) for p in shipped().values() if p.with_suffix(".json").exists())
    return next((card for card in cards if card.sha256 == found), None)


def _build(path: Path, metadata: Mapping[str, str]) -> LearnedReconstructor:
    """Build the model that the metadata name, with random weights."""
    try:
        cls = models.registry[metadata.get("model", "")]
        arguments = json.loads(metadata.get("arguments", ""))
    except OptionError as error:
        raise CheckpointError(
            error.problem, file=path, expected=error.expected, cure="It may need a newer release"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"the constructor's arguments are not JSON: {error}", file=path) from error
    if not issubclass(cls, LearnedReconstructor):
        raise CheckpointError("the file names a model that is not learned", file=path, found=metadata["model"])
    known = list(inspect.signature(cls.__init__).parameters)[1:]
    if not isinstance(arguments, dict) or not arguments.keys() <= set(known) or not _plain([*arguments.values()]):
        raise CheckpointError(
            "the file has arguments that the model does not know",
            file=path,
            found=str(arguments)[:80],
            expected=", ".join(known),
            cure="It may need a newer release",
        )
    lists = {name: tuple(value) for name, value in arguments.items() if isinstance(value, list)}
    try:
        return cls(**arguments | lists)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the model cannot be built: {error}", file=path, found=str(arguments)[:80]) from error
