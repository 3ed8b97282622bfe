"""`recon.finetune`: a trained network, and measurements of a new scanner without any truth."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from deepinv.models import Reconstructor

from recon.cards import UNLEARNING, Card, Covers, card_of
from recon.checkpoint import save_checkpoint
from recon.finetuning.data import MOST, Data, Gathered, measurements_of
from recon.finetuning.holding_out import Holding, hold_out
from recon.finetuning.loop import Course, Descent, Objective, Progress, descend, seeded
from recon.finetuning.losses import MeasurementLoss, automatic, make_loss
from recon.finetuning.low_rank import add_adapters, merge_adapters
from recon.finetuning.measurements import Measurement
from recon.finetuning.null_space import WEIGHT, NullSpace, automatic_term
from recon.models.learned import LearnedReconstructor
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, OptionError
from recon.prepare import Preparation
from recon.zoo import load_model

_STANDARD = Descent()
_OPERATORS = 32  # that are looked at, and that an image is measured by again, at most


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What fine-tuning gives.

    Parameters
    ----------
    model
        With the best weights; with those of the start, where none were better.
    card
        What was done, on what, and the held-out error before and after.
    course
        Held-out errors on the way, and why it ended.
    notes
        What a user should know, a line each.
    """

    model: Reconstructor
    card: Card
    course: Course
    notes: tuple[str, ...]

    @property
    def improved(self) -> bool:
        """Whether the network is another than the one that came in."""
        return self.course.step > 0

    def save(self, path: str | Path, *, overwrite: bool = False) -> Card:
        """Write the weights, ``NAME.safetensors``, and their card; see `recon.checkpoint.save_checkpoint`."""
        return save_checkpoint(path, self.model, self.card, overwrite=overwrite)


def finetune(
    model: str | Path | Reconstructor,
    data: Data,
    *,
    loss: str | MeasurementLoss = "auto",
    null_space: str = "auto",
    null_weight: float = WEIGHT,
    rank: int | None = None,
    descent: Descent = _STANDARD,
    psf: str | Path | None = None,
    how: Preparation | None = None,
    most: int = MOST,
    seed: int = 0,
    progress: Progress | None = None,
) -> FineTuned:
    """Fine-tune a network on measurements alone, without ground truth.

    What it predicts of measurements that are held out decides which weights are the best, and when to stop: the
    network that comes back never predicts them worse than the one that came in. With five measurements or more, a fifth
    of them is held out (8 at most); with fewer, a tenth of each.

    Parameters
    ----------
    model
        A name, a file of weights, or any deepinv `Reconstructor`, which is copied.
    data
        Files or folders of k-space, compressed measurements or galaxy stamps; `Scan` or `Stamps`; ``(y, physics)``; or
        a list of any of these. One measurement is enough.
    loss
        A name in `recon.finetuning.losses.LOSSES`; ``auto`` chooses by the data, and the card says why; or a function
        of (model, measurement, generator) that returns the loss and the image.
    null_space
        ``equivariant``, ``multi-operator``, ``none`` or ``auto``; see `recon.finetuning.null_space`.
    null_weight
        Of that term.
    rank
        Train low-rank adapters only, of this rank, and merge them in the end; None: all weights.
    descent
        Steps, learning rate, optimiser, early stop.
    psf
        Of stamps in files.
    how
        How slices of k-space are prepared: coil compression, whitening, sets of maps, device.
    most
        Measurements at most, evenly spread over all.
    seed
        Of all random choices.
    progress
        Told after each step.

    Returns
    -------
    FineTuned
        After Ctrl-C too, with the best weights so far: ``course.stop`` says so.

    Raises
    ------
    ReconError
        A model, measurements, operator or options that cannot be used: no measurements, an operator that is not linear
        or whose adjoint is wrong, a noise level below 0, negative Poisson data.

    References
    ----------
    Terris et al., Reconstruct Anything Model, arXiv 2503.08915, section 5; Yaman et al., MRM 84, 2020 (ssdu);
    Tachella, Davies, Jacques, UNSURE, ICLR 2025; Pang et al., Recorrupted-to-Recorrupted, CVPR 2021; Hu et al., LoRA,
    ICLR 2022.
    """
    start = time.perf_counter()
    own = load_model(model) if isinstance(model, str | Path) else model
    if not any(True for _ in own.parameters()):
        raise OptionError("a method without weights cannot be fine-tuned", found=type(own).__name__)
    measurements = measurements_of(data, psf=psf, how=how, most=most)
    _check_not_forgotten(own, measurements)
    tuned = copy.deepcopy(own).to(measurements[0].y.device)
    holding = hold_out(tuned, measurements, seed=seed)
    objective, told = _objective(loss, null_space, null_weight, holding)
    if rank is None:
        tuned.requires_grad_(True)
        trained = sum(p.numel() for p in tuned.parameters())
    else:
        trained = add_adapters(tuned, rank, seed=seed)
    _try(objective, tuned, holding.training[0], seed)
    course = descend(
        tuned, holding.training, objective, lambda: holding.error(tuned), descent, seed=seed, progress=progress
    )
    merge_adapters(tuned)
    if not course.step:
        tuned = copy.deepcopy(own)  # bit for bit, whatever adapters rounded
    notes = _notes(course, told)
    figures = {
        "fine-tuning": {
            "held-out error": {"before": course.before, "after": course.after},
            "held out": holding.what,
            "steps": course.step,
            "stopped": course.stop,
            "loss": told["loss"],
            "null space": told["null space"],
            "trained weights": trained,
            "rank": rank,
            "learning rate": descent.lr,
            "optimiser": descent.optimiser,
            "seed": seed,
            "measurements": len(measurements),
            "data": {origin.name: origin.sha256 for origin in measurements.origins},
            "seconds": round(time.perf_counter() - start, 1),
        }
    }
    card = _card(own, measurements, figures, improved=course.step > 0)
    tuned.eval()
    if isinstance(tuned, LearnedReconstructor):
        tuned.card = card
    return FineTuned(tuned, card, course, notes)


def _objective(
    loss: str | MeasurementLoss, null_space: str, weight: float, holding: Holding
) -> tuple[Objective, dict[str, str]]:
    """Return the sum of loss and null-space term, and what each is and why."""
    some = list(holding.training[:_OPERATORS])
    name, why = (loss, "asked for") if isinstance(loss, str) else (getattr(loss, "__name__", "given"), "given")
    if loss == "auto":
        name, why = automatic(some[0], can_split=holding.how == "split")
    term, because = (null_space, "asked for") if null_space != "auto" else automatic_term(name, some)
    of_data = make_loss(name) if isinstance(loss, str) else loss
    of_null_space = NullSpace(term, weight, [m.physics for m in some])

    def objective(model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> torch.Tensor:
        value, x = of_data(model, measurement, rng)
        return value + of_null_space(model, x, measurement, rng)

    return objective, {"loss": f"{name}: {why}", "null space": f"{term}: {because}"}


def _check_not_forgotten(own: Reconstructor, measurements: Gathered) -> None:
    """Check that no file is learned again that the network had to forget.

    Raises
    ------
    DataError
        One would be.
    """
    gone = {sha for request in card_of(own).requests for sha in request["forgotten"]["files"].values()}
    for origin in measurements.origins:
        if origin.sha256 in gone:
            raise DataError(
                "the network had to forget this file, and would learn it again",
                file=origin.name,
                cure="Take it out, or fine-tune the network that never forgot it",
            )


def _try(objective: Objective, model: Reconstructor, measurement: Measurement, seed: int) -> None:
    """Meet what is wrong with the data, or with a method that cannot be trained, before any work is done."""
    model.eval()
    with seeded(seed, 0, measurement.y.device) as rng:
        value = objective(model, measurement, rng)
    if not value.requires_grad:
        raise OptionError(
            "the images of this method have no gradient, so that nothing can be trained", found=type(model).__name__
        )


def _notes(course: Course, told: dict[str, str]) -> tuple[str, ...]:
    notes = [f"loss {told['loss']}", f"null space {told['null space']}"]
    if course.stop == "diverged":
        notes.append("fine-tuning diverged and was stopped: a lower learning rate may help")
    if course.stop == "interrupted":
        notes.append("interrupted: these are the best weights until then")
    if not course.step:
        notes.append("nothing predicted the held-out measurements better than the network that came in: it is returned")
    return tuple(notes)


def _card(own: Reconstructor, measurements: Gathered, figures: dict[str, Any], *, improved: bool) -> Card:
    before = card_of(own)
    if not improved:
        return replace(before, figures={**before.figures, **figures})
    names = tuple(f"{o.name} (measurements only, sha256 {o.sha256[:12]}...)" for o in measurements.origins)
    result = figures["fine-tuning"]
    errors = result["held-out error"]
    return Card(
        summary=f"{before.name or type(own).__name__} fine-tuned without ground truth on {len(measurements)} "
        f"measurement{'s' * (len(measurements) > 1)}: held-out error {errors['before']:.4g} before, "
        f"{errors['after']:.4g} after",
        licence=before.licence,
        command=f"recon.finetune, seed {result['seed']}",
        trained_on=(*before.trained_on, *names),
        validated_on=before.validated_on,
        tested_on=(),
        split=before.split,
        covers=_covers(before.covers, measurements[: min(len(measurements), _OPERATORS)]),
        # What was measured of the network before, and its intervals, do not hold for this one; requests to forget do.
        figures={**{key: kept for key, kept in before.figures.items() if key == UNLEARNING}, **figures},
    )


def _covers(before: Covers | None, measurements: Sequence[Measurement]) -> Covers | None:
    """Widen what is covered by the scans that were fine-tuned on."""
    physics = [m.physics for m in measurements if isinstance(m.physics, MultiCoilMRI)]
    if before is None or not physics:
        return before
    coils = [float(p.coil_maps.shape[2]) for p in physics]
    rates = [float(1 / p.mask.float().mean()) for p in physics]
    sides = [float(n) for p in physics for n in p.spatial]

    def wider(old: tuple[float, float], new: list[float]) -> tuple[float, float]:
        return min(old[0], *new), max(old[1], *new)

    return Covers(
        organs=before.organs,
        coils=wider(before.coils, coils),
        acceleration=wider(before.acceleration, rates),
        matrix=wider(before.matrix, sides),
    )
