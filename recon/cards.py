"""The card of trained weights: what they are, what they were trained on, what they can and cannot do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.physics.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

Range = tuple[float, float]
UNLEARNING = "unlearning"
"""Of the requests to forget among a card's figures."""


@dataclass(frozen=True, kw_only=True)
class Covers:
    """The scans that weights were trained for; least and greatest of each number.

    Parameters
    ----------
    organs
        Such as ``("brain", "knee")``.
    coils, acceleration, matrix
        Number of coils, acceleration, sides of the matrix.
    """

    organs: tuple[str, ...]
    coils: Range
    acceleration: Range
    matrix: Range


@dataclass(frozen=True, kw_only=True)
class Card:
    """Everything a reader should know of trained weights. JSON beside the weights, under the same name.

    Parameters
    ----------
    name
        Name of the weights' file without its ending.
    model, arguments
        Registered name of the model, and what its constructor was given.
    parameters
        Their number.
    sha256
        Of the weights' file.
    summary, licence, command
        One line of what it is; licence of the weights; how they were made.
    trained_on, validated_on, tested_on, split
        Volumes, and by what they were kept apart.
    covers
        The scans it was trained for; None: not known.
    psf_sigma
        Of galaxy stamps: least and greatest width of the PSFs it was trained for, standard deviation in pixels by
        adaptive moments; empty: not known.
    figures, calibration
        Measured quality; scale of the uncertainty.
    created
        Date and time.
    """

    name: str = ""
    model: str = ""
    summary: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    sha256: str = ""
    licence: str = ""
    command: str = ""
    trained_on: tuple[str, ...] = ()
    validated_on: tuple[str, ...] = ()
    tested_on: tuple[str, ...] = ()
    split: str = ""
    covers: Covers | None = None
    psf_sigma: tuple[float, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def requests(self) -> list[Mapping[str, Any]]:
        """Requests to forget that were carried out, oldest first; see `recon.unlearn`."""
        return list(self.figures.get(UNLEARNING, {}).get("requests", []))

    def completed(self, **known: Any) -> Card:
        """Return the card with what the writer of a file knows, and the time where it has none."""
        created = self.created or datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, created=created, **known)

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, strings and numbers."""
        return asdict(self)

    def as_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(self.as_dict(), indent=2) + "\n"


def card_of(model: nn.Module) -> Card:
    """Return the card of a network, an empty one where it has none."""
    return getattr(model, "card", None) or Card()


def read_card(path: Path) -> Card:
    """Read a card.

    Raises
    ------
    CheckpointError
        No such file, no JSON, a missing sha256, entries that a card does not have or of another kind.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"the card cannot be read: {error.strerror}", file=path) from error
    except ValueError as error:
        raise CheckpointError(f"the card is not JSON: {error}", file=path) from error
    return card_from(entries, path)


def card_from(entries: object, path: Path) -> Card:
    """Make a card of what its JSON holds; ``path`` is for messages.

    Raises
    ------
    CheckpointError
        As `read_card`.
    """
    if not isinstance(entries, dict):
        raise CheckpointError("the card is not a JSON object", file=path)
    unknown = entries.keys() - {entry.name for entry in fields(Card)}
    if unknown:
        raise CheckpointError("the card has unknown entries", file=path, found=", ".join(sorted(unknown)))
    defaults = Card()
    for name, value in entries.items():
        default = getattr(defaults, name)
        wanted = dict if isinstance(default, Mapping) or name == "covers" else type(default)
        if (
            isinstance(default, tuple)
            and isinstance(value, list)
            and all(isinstance(item, float if name == "psf_sigma" else str) for item in value)
        ):
            continue
        if not (isinstance(value, wanted) or (name == "covers" and value is None)):
            raise CheckpointError(f"the card's entry {name!r} is of the wrong kind", file=path, found=repr(value)[:60])
    if not entries.get("sha256"):
        raise CheckpointError("the card has no sha256", file=path, cure="Save the weights anew")
    lists = {name: tuple(value) for name, value in entries.items() if isinstance(value, list)}
    covers = entries.get("covers")
    return Card(**{**entries, **lists, "covers": None if covers is None else _covers(covers, path)})


def _covers(entries: Mapping[str, Any], path: Path) -> Covers:
    try:
        if entries.keys() != {entry.name for entry in fields(Covers)}:
            raise KeyError
        return Covers(
            organs=tuple(str(organ) for organ in entries["organs"]),
            coils=_range(entries["coils"]),
            acceleration=_range(entries["acceleration"]),
            matrix=_range(entries["matrix"]),
        )
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            "the card's entry 'covers' cannot be used",
            file=path,
            found=repr(entries)[:80],
            expected="organs, and least and greatest coils, acceleration, matrix",
        ) from None


def _range(pair: Sequence[float]) -> Range:
    least, greatest = pair
    return float(least), float(greatest)


def shipped() -> dict[str, Path]:
    """Weights that come with the package, by name."""
    folder = Path(str(resources.files("recon.checkpoints")))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
