"""The model for a scan of which nobody said how it is to be reconstructed.

A learned model is taken only where it is at home, and only after it has done better than the best classical method on
one slice of the very scan: by samples that neither has seen.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import torch
from deepinv.models import Reconstructor

from recon.cards import Card, Covers, read_card, shipped
from recon.models.pocs import partial_axis
from recon.physics import MultiCoilMRI
from recon.physics.errors import MaskError, ReconError
from recon.prepare import Problem
from recon.trust import RESIDUAL_LIMIT, data_residual, hold_out_error
from recon.zoo import load_model

LEARNED, CLASSICAL = "recurrentvarnet", "l1-wavelet"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the learned model is taken for the undersampled slices of a scan, and why or why not."""

    accepted: bool
    why: str


def choose(problem: Problem, verdict: Verdict | None = None) -> tuple[str, str]:
    """Return the name of the model for a prepared slice, and why.

    Parameters
    ----------
    problem
        The slice.
    verdict
        What `compare` found for the scan; None: the learned model was not tried.
    """
    physics = problem.physics
    if not isinstance(physics, MultiCoilMRI):
        return "cg-sense", "samples off the grid"
    if bool(physics.mask.all()):
        return "zero-filled", "fully sampled: the coil-combined inverse Fourier transform is the image"
    with suppress(MaskError):  # partial Fourier with gaps in it is undersampling
        if partial_axis(physics.mask) is not None:
            return "pocs", "partial Fourier, complete otherwise"
    if verdict is None:
        return CLASSICAL, "undersampled"
    card = shipped_card()
    reason = None if card is None else outside(card.covers, problem)
    if verdict.accepted and reason is not None:  # slices of a scan may differ
        return CLASSICAL, f"undersampled; {LEARNED} was not trained for {reason}"
    return LEARNED if verdict.accepted else CLASSICAL, f"undersampled; {verdict.why}"


def shipped_card() -> Card | None:
    """Return the card of the learned model that comes with the package; None where none does."""
    weights = shipped()
    paths = [weights[LEARNED]] if LEARNED in weights else list(weights.values())
    cards = (read_card(path.with_suffix(".json")) for path in paths)
    return next((card for card in cards if card.model == LEARNED), None)


def outside(covers: Covers | None, problem: Problem) -> str | None:
    """Return what about a slice lies outside what weights were trained for; None where all lies inside.

    Weights whose card does not tell what they cover are not known to cover anything.
    """
    if covers is None:
        return "anything that its card tells"
    if problem.sigma is None:
        return "data of unknown noise level"
    mask = problem.physics.mask
    measured = {
        "coils": (covers.coils, [float(problem.y.shape[1])]),
        "acceleration": (covers.acceleration, [float(1 / mask.float().mean())]),
        "matrix": (covers.matrix, [float(side) for side in mask.shape[2:]]),
    }
    for name, ((low, high), values) in measured.items():
        if not all(low <= value <= high for value in values):
            found = " x ".join(f"{value:.3g}" for value in values)
            return f"{name} {found} (its card says {low:g} to {high:g})"
    return None


@torch.no_grad()
def compare(problem: Problem, *, seed: int = 0) -> Verdict | None:
    """Try the learned model against the classical one on a slice that stands for its scan.

    It is taken where it predicts left-out samples no worse; where none can be left out, where its data residual is
    below `RESIDUAL_LIMIT`. Costs both reconstructions with their hold-out folds (`recon.trust.hold_out_error`: 1 for
    samples in a plane, 4 for lines).

    Returns
    -------
    Verdict, or None
        None where the slice is not one for either of them, or no weights come with the package.
    """
    card = shipped_card()
    if card is None or choose(problem)[0] != CLASSICAL:
        return None
    reason = outside(card.covers, problem)
    if reason is not None:
        return Verdict(accepted=False, why=f"{LEARNED} was not trained for {reason}")
    try:
        return _tried(load_model(LEARNED), problem, seed)
    except ReconError as error:
        return Verdict(accepted=False, why=f"{LEARNED} cannot reconstruct it: {error.problem}")


def _tried(model: Reconstructor, problem: Problem, seed: int) -> Verdict:
    y, physics, sigma = problem.y, problem.physics, problem.sigma
    assert isinstance(physics, MultiCoilMRI)
    assert sigma is not None
    errors = [hold_out_error(m, y, physics, seed=seed).error for m in (model, load_model(CLASSICAL))]
    told = f"{errors[0]:.3g} against {errors[1]:.3g}"
    if errors[0] <= errors[1]:
        return Verdict(accepted=True, why=f"{LEARNED} predicts left-out samples best (hold-out error {told})")
    if all(map(math.isfinite, errors)):
        return Verdict(
            accepted=False, why=f"{LEARNED} predicts left-out samples worse than {CLASSICAL} (hold-out error {told})"
        )
    residual = data_residual(model(y, physics), y, physics, sigma)
    fits = residual < RESIDUAL_LIMIT
    return Verdict(
        accepted=fits, why=f"{LEARNED} {'fits' if fits else 'misses'} the data ({residual:.2f} times the noise)"
    )
