"""What a card keeps of requests to forget, and what that means for the next one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deepinv.models import Reconstructor

from recon.cards import UNLEARNING, Card
from recon.checkpoint import distinct
from recon.hashing import tensor_bytes
from recon.physics.errors import DataError
from recon.unlearning.examples import Examples
from recon.unlearning.verdict import FORGOTTEN, Verdict

_DIGITS = 16  # of an example's digest


def drift_of(card: Card) -> float:
    """Return the logarithm of the factor by which all requests changed the loss on what is kept, where it is known."""
    return float(sum(math.log(request["retain loss"]) for request in card.requests if request["retain loss"]))


def check_not_forgotten(card: Card, examples: Examples, what: str) -> None:
    """Check that nothing that an earlier request forgot comes back.

    Raises
    ------
    DataError
        It would.
    """
    for number, request in enumerate(card.requests, 1):
        gone = set(request["forgotten"]["digests"])
        files = set(request["forgotten"]["files"].values())
        names = [item.name for item in examples if item.digest[:_DIGITS] in gone]
        names += [name for name, sha in examples.files.items() if sha in files]
        if names:
            raise DataError(
                f"the {what} set holds what request {number} had the network forget",
                found=f"{names[0]}" + f" and {len(names) - 1} more" * (len(names) > 1),
                cure="Take it out: it would be learned again",
            )


def described(examples: Examples | None) -> dict[str, Any]:
    """Say what a set is, by checksums."""
    if examples is None:
        return {"examples": 0, "files": {}, "digests": []}
    return {
        "examples": len(examples),
        "files": dict(examples.files),
        "digests": [item.digest[:_DIGITS] for item in examples],
    }


def weights_sha256(model: Reconstructor) -> str:
    """Checksum of the weights, in whatever file they are."""
    digest = hashlib.sha256()
    for name, value in distinct(model).items():
        digest.update(name.encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()


def extended(card: Card, own: str, request: Mapping[str, Any], verdict: Verdict) -> Card:
    """Return the card of the network after another request.

    Parameters
    ----------
    card
        Of the network before.
    own
        What the network is called where the card has no name.
    request
        As the card keeps it.
    verdict
        What may be said; unless it is forgotten, the summary says so first.
    """
    requests = [*card.requests, dict(request)]
    files = request["forgotten"]["files"]
    what = ", ".join(list(files)[:3]) + f" and {len(files) - 3} more files" * (len(files) > 3)
    what = what or f"{request['forgotten']['examples']} examples"
    done = verdict.outcome == FORGOTTEN
    told = f"{what} forgotten by {request['method']}" if done else f"{verdict.outcome} ({verdict.why}): {what}"
    summary = f"{card.name or own}: {told}" if done else f"{told}, tried by {request['method']} on {card.name or own}"
    return replace(
        card,
        name="",
        sha256="",
        created="",
        parameters=0,
        summary=summary,
        command=f"recon.unlearn, seed {request['seed']}",
        trained_on=tuple(name for name in card.trained_on if not (done and name in files)),
        tested_on=(),
        figures={UNLEARNING: {"requests": requests}},  # what was measured before does not hold for these weights
        calibration={},
    )
