"""`recon.unlearn`: a trained network, and what it should forget."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepinv.models import Reconstructor

from recon.cards import Card, card_of
from recon.checkpoint import save_checkpoint
from recon.datasets.atomic import atomic_path
from recon.physics.errors import OptionError
from recon.unlearning.audit import CHEAP, ROWS, Audit, Thresholds
from recon.unlearning.audit import audit as run_audit
from recon.unlearning.budget import Budget, Meter
from recon.unlearning.budget import Progress as Steps
from recon.unlearning.choice import Choice, choose
from recon.unlearning.gathering import Sets, gather, objective_of, try_forward, without_truth
from recon.unlearning.history import described, drift_of, extended, weights_sha256
from recon.unlearning.sources import Reading
from recon.unlearning.verdict import FORGOTTEN, PRICE, Verdict, judge, unknown_members
from recon.unlearning.work import Work
from recon.zoo import load_model

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it is done, and how much there is."""

_BUDGET, _READING = Budget(), Reading()
_REQUEST = "request.json"
_UNKNOWN = "whether the network knew what it was to forget was not tested: that needs other examples of its kind"


@dataclass(frozen=True, eq=False)
class Unlearned:
    """What unlearning gives.

    Parameters
    ----------
    model
        Another network than the one that came in, which is left as it was.
    card
        Request, method, what the audit says, checksums of what was to be forgotten, and all earlier requests.
    verdict
        Whether it may be called forgotten, and why not.
    audit
        What was found; None where none was asked for.
    notes
        What a user should know, a line each.
    """

    model: Reconstructor
    card: Card
    verdict: Verdict
    audit: Audit | None
    notes: tuple[str, ...]

    @property
    def forgotten(self) -> bool:
        """Whether it may be called so."""
        return self.verdict.outcome == FORGOTTEN

    def save(self, path: str | Path, *, overwrite: bool = False) -> Card:
        """Write the weights, ``NAME.safetensors``, and their card; see `recon.checkpoint.save_checkpoint`."""
        return save_checkpoint(path, self.model, self.card, overwrite=overwrite)


def unlearn(
    model: str | Path | Reconstructor,
    *,
    forget: Any,
    retain: Any = None,
    method: str = "auto",
    options: Mapping[str, Any] | None = None,
    budget: Budget = _BUDGET,
    loss: str = "auto",
    outliers: float = 0.0,
    oracle: str | Path | Reconstructor | None = None,
    forget_test: Any = None,
    retain_test: Any = None,
    audit: str | Sequence[str] = "quick",
    thresholds: Thresholds | None = None,
    drift: float = 0.1,
    how: Reading = _READING,
    state: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Unlearned:
    """Make a network forget training examples, and say whether it did.

    Parameters
    ----------
    model
        A name, a file of weights, or any deepinv `Reconstructor`, which is copied.
    forget, retain
        What is forgotten, and all or a part of what else it was trained on: files, folders, scans, batches; see
        `recon.unlearning.sources.examples_of`.
    method, options
        A name in `recon.unlearning.registry.methods`, and its options; ``auto`` chooses by budget and data.
    budget
        Steps, batch size, learning rate, and the objective where it fits ``loss``; seed and progress are set here.
    loss
        ``supervised``, ``self-supervised`` (no example needs ground truth), or ``auto``: by whether all have it.
    outliers
        Share of the forget set that is left to follow the rest; see `recon.unlearning.coreset`.
    oracle
        A network that was trained without what is forgotten, if there is one: then the audit can give all figures.
    forget_test, retain_test
        Examples of the same kinds that no network was trained on. A fifth of the retain set, 16 examples at most, is
        left out of unlearning where there is an audit: it decides on repairs, and stands for the second where there is
        none.
    audit
        ``quick``: rows that do not train; ``full``: all; ``none``; or names of rows.
    thresholds
        Bars of the audit.
    drift
        Share by which all requests to this network together may raise the loss on what is kept. Where a method exceeds
        it, the network is repaired on the retain set, in three rounds of as many steps at most.
    how
        How examples are made of files, and where is computed.
    state
        Folder in which the state is kept, so that the same call goes on after an interruption. To be removed when
        the result is saved.
    seed
        Of all random choices.
    progress
        Told on the way.

    Raises
    ------
    OptionError
        Nothing to forget; a method, option or layer that does not exist, or that needs what there is not; the state of
        another request.
    DataError
        Sets that overlap, or hold what an earlier request had the network forget.
    ShapeError
        Data that the network cannot take.
    OutputError
        The state cannot be written.

    References
    ----------
    Xue, Liu, McDonagh, Tsaftaris, Erase to Enhance, MIDL 2024, arXiv 2405.15517.
    """
    own = load_model(model) if isinstance(model, str | Path) else model
    if not any(True for _ in own.parameters()):
        raise OptionError("a method without weights has nothing to forget", found=type(own).__name__)
    if not drift >= 0:
        raise OptionError("the drift that is allowed is not negative", found=drift)
    rows = _rows(audit)
    joint = copy.deepcopy(own).to(how.device).eval()
    before = card_of(own)
    sets = gather(forget, retain, forget_test, retain_test, how, before, hold_out=bool(rows), seed=seed)
    without = without_truth(sets)
    objective = objective_of(loss, budget.objective, without)
    budget = replace(budget, objective=objective, seed=seed, meter=Meter(), progress=_steps(progress, "unlearning"))
    choice = choose(method, options or {}, budget, retain=len(sets.retain) > 0, truth=not without, without=without)
    try_forward(joint, sets)
    request = _asked(joint, choice, budget, outliers, drift, how)
    work = Work(joint, sets, choice, budget, outliers, math.log1p(drift) - drift_of(before))
    tuned = work.done(None if state is None else _opened(state, sets, request))
    losses, found = work.losses(tuned), None
    total = drift_of(before) + math.log(losses.retain)
    if rows:
        found = run_audit(
            tuned,
            joint,
            None if oracle is None else _network(oracle, how),
            forget=sets.forget,
            retain=sets.retain if len(sets.retain) else None,
            forget_test=sets.forget_test,
            retain_test=sets.test,
            method=work.again,
            cost=budget.meter,
            rows=rows,
            thresholds=thresholds,
            objective=objective,
            seed=seed,
            progress=_steps(progress, "auditing"),
        )
    told = None if found is None else found.as_dict()
    for note in () if found is None else found.notes:
        warnings.warn(note, stacklevel=2)
    verdict = judge(found, losses, drift=total, most=drift)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **request,
        "why": choice.why,
        "forgotten": described(sets.forget),
        "kept": described(sets.retain),
        "cost": asdict(budget.meter),
        "forget loss": _number(losses.forget),
        "retain loss": _number(losses.retain),
        "drift": _number(math.expm1(total)),
        "weights moved": work.moved(tuned),
        "verdict": {"outcome": verdict.outcome, "failed": list(verdict.failed), "why": verdict.why},
        "checks": [{**asdict(check), "value": _number(check.value)} for check in verdict.checks],
        "audit": None if told is None else {key: told[key] for key in ("score", "cannot", "notes")},
    }
    card = extended(before, type(own).__name__, record, verdict)
    tuned.__dict__["card"] = card  # also of networks that have none by their class: the next request knows of this one
    return Unlearned(tuned, card, verdict, found, _notes(sets, choice, budget, without, found, verdict))


def _rows(audit: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(audit, str):
        return tuple(audit)
    depths = {"quick": CHEAP, "full": ROWS, "none": ()}
    if audit not in depths:
        raise OptionError("no such audit", found=audit, expected=", ".join(depths))
    return depths[audit]


def _network(model: str | Path | Reconstructor, how: Reading) -> Reconstructor:
    return copy.deepcopy(load_model(model) if isinstance(model, str | Path) else model).to(how.device)


def _steps(progress: Progress | None, what: str) -> Steps | None:
    return None if progress is None else lambda done, count: progress(what, done, count)


def _asked(
    joint: Reconstructor, choice: Choice, budget: Budget, outliers: float, drift: float, how: Reading
) -> dict[str, Any]:
    """Return all that determines the result, for the card, and to tell one request from another."""
    return {
        "model": weights_sha256(joint),
        "method": choice.method.name,
        "options": dict(choice.options),
        "loss": "supervised" if budget.objective.needs_truth else "self-supervised",
        "steps": budget.steps,
        "batch size": budget.batch_size,
        "learning rate": budget.lr,
        "sharpness": budget.sharpness,
        "clip": budget.clip,
        "outliers": outliers,
        "most drift": drift,
        "seed": budget.seed,
        "reading": str(replace(how, device="cpu")),  # wherever it is computed
    }


def _opened(folder: Path, sets: Sets, request: Mapping[str, Any]) -> Path:
    """Open the folder of the state, or take up one of the same request.

    Raises
    ------
    OptionError
        It is of another request.
    """
    text = json.dumps({**request, **{name: described(examples)["digests"] for name, examples in sets}}, indent=1)
    file = folder / _REQUEST
    known = file.exists() and file.read_text(encoding="utf-8") == text
    if not known and any(folder.glob("*.pt")):
        raise OptionError(
            "another request was interrupted, and its state is here",
            file=folder,
            cure="Give the same request to go on with it, or remove the folder",
        )
    if not known:
        with atomic_path(file, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder


def _notes(
    sets: Sets, choice: Choice, budget: Budget, without: str, found: Audit | None, verdict: Verdict
) -> tuple[str, ...]:
    notes = [f"method {choice.method.name}: {choice.why}"]
    if not budget.objective.needs_truth and without:
        notes.append(f"self-supervised: {without} has no ground truth")
    matrices = {item.group for _, examples in sets for item in examples}
    if len(matrices) > 1:
        notes.append(f"examples of {len(matrices)} matrices or operators: a batch holds one of them")
    if sets.validation is not None and sets.retain_test is None:
        notes.append(f"held out, in place of test data: {len(sets.validation)} of the retain set's examples")
    if found is not None:
        notes += found.notes
        if unknown_members(found):
            notes.append(_UNKNOWN)
        dear = [check.name for check in found.checks if check.name in PRICE and not check.passed]
        notes += [f"it cost more of the oracle's {name} than was wanted" for name in dear]
    if verdict.why:
        notes.append(f"{verdict.outcome}: {verdict.why}")
    return tuple(notes)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
