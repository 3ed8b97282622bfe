"""Projected noisy gradient descent on what is kept, with a statement of deletion where its assumptions hold.

The statement is kept with the network that comes back, as ``model.deletion`` (`recon.unlearning.deletion.Statement`).
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.finetuning.loop import for_training
from recon.physics.errors import DataError, OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.deletion import Statement, divergence, epsilon_of, noise_for
from recon.unlearning.examples import Examples
from recon.unlearning.journal import active
from recon.unlearning.layers import flat
from recon.unlearning.readout import find_readout, readout_weights, set_readout, statistics, write_weights
from recon.unlearning.registry import register

_LAYERS = ("readout", "all")
_ALWAYS = (
    "requests do not depend on networks that were shown before",
    "the radius, which is of the norm of the weights that came in, tells nothing",
)
_FEATURES = "the weights before the read-out never saw what is deleted"
_OTHERS = "what is not changed of the network never saw what is deleted"


@register(
    "noisy_descent",
    search={"layers": _LAYERS, "epsilon": (1.0, 100.0, 1e4), "penalty": (1e-2, 1.0)},
)
def noisy_descent(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    layers: str = "readout",
    epsilon: float = 1.0,
    delta: float = 1e-5,
    radius: float = 1.0,
    penalty: float = 1e-2,
    rate: float = 1.0,
    clean_features: bool = False,
) -> Reconstructor:
    """Descend on what is kept with so much noise that (epsilon, delta)-deletion can be stated, where it can be.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods. ``budget.clip`` bounds the gradients of ``all`` layers.
    layers
        ``readout``: the last layer's ridge regression, whose descent brings any two points nearer: its curvature is
        known. The other weights stay, and what they learned of the forget set too. ``all``: every weight; nothing is
        assumed of the loss, and so much noise is needed for a small epsilon that the network is hardly of use.
    epsilon, delta
        What is to be stated.
    radius
        Of the ball around 0 that weights are projected to, over the norm of those that come in.
    penalty
        Of the ridge regression, and the decay of all weights.
    rate
        Of ``all``: step size, over the budget's learning rate.
    clean_features
        Of ``readout``: you know that the weights before it never saw what is deleted, as where they were trained on
        other data. Without it nothing is stated, unless the read-out is all there is.

    Raises
    ------
    OptionError
        No such layers, no read-out, options out of range.
    DataError
        A loss that is not finite.
    """
    if layers not in _LAYERS:
        raise OptionError("no such layers", found=layers, expected=", ".join(_LAYERS))
    if not (radius > 0 and penalty > 0):
        raise OptionError("radius and penalty are above 0", found=f"radius {radius:g}, penalty {penalty:g}")
    if layers == "readout":
        statement = _readout(model, retain, budget, epsilon, delta, radius, penalty, clean_features)
    else:
        statement = _all(model, retain, budget, epsilon, delta, radius, penalty, rate * budget.lr)
    model.deletion = statement
    return model.eval()


def _readout(
    model: Reconstructor,
    retain: Examples,
    budget: Budget,
    epsilon: float,
    delta: float,
    radius: float,
    penalty: float,
    clean_features: bool,
) -> Statement:
    name = find_readout(model, retain.batch([0]))
    curvature, linear = statistics(model, retain, name, budget).quadratic(penalty)
    least, most = (float(v) for v in torch.linalg.eigvalsh(curvature)[[0, -1]])
    step, contraction = 2 / (least + most), (most - least) / (most + least)
    w = readout_weights(model, name)
    ball = radius * float(w.norm())
    noise = noise_for(epsilon, delta, distance=2 * ball, steps=budget.steps, contraction=contraction)
    rng = budget.rng(1)
    w = projected(w, ball)
    for k in range(budget.steps):
        w = projected(w - step * (curvature @ w - linear), ball)
        w = w + noise * torch.randn(w.shape, generator=rng, dtype=w.dtype).to(w.device)
        if budget.progress is not None:
            budget.progress(k + 1, budget.steps)
    set_readout(model, name, w)
    alone = _whole(model, len(w))
    known = _ALWAYS if alone else (*_ALWAYS, _FEATURES)
    about = "the network" if alone else f"the read-out {name}"
    broken = () if alone or clean_features else (_FEATURES,)
    return _statement(budget, noise, delta, 2 * ball, contraction, 0.0, about, known, broken)


def _all(
    model: Reconstructor,
    retain: Examples,
    budget: Budget,
    epsilon: float,
    delta: float,
    radius: float,
    penalty: float,
    lr: float,
) -> Statement:
    weights = [p for p in model.parameters() if p.requires_grad]
    contraction = 1 - lr * penalty
    if not 0 < contraction < 1:
        raise OptionError("learning rate times penalty is below 1", found=lr * penalty)
    ball = radius * float(flat(weights).detach().norm())
    drift = 2 * lr * budget.clip
    noise = noise_for(epsilon, delta, distance=2 * ball, steps=budget.steps, contraction=contraction, drift=drift)
    write_weights(weights, projected(flat(weights).detach(), ball))
    batches = retain.endless(budget.batch_size, budget.rng(0))
    for_training(model)
    journal = active()
    for k in range(0 if journal is None else journal.begin(weights, ()), budget.steps):
        rng = budget.rng(1, k)
        model.zero_grad(set_to_none=True)
        value = budget.loss(model, next(batches), rng)
        if not torch.isfinite(value):
            raise DataError(
                f"the loss is not finite at step {k}",
                found=float(value.detach()),
                cure="Noise for so small an epsilon breaks this network: raise epsilon, or take layers='readout'",
            )
        value.backward()
        nn.utils.clip_grad_norm_(weights, budget.clip)
        with torch.no_grad():
            w = flat(weights)
            gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in weights])
            w = projected(contraction * w - lr * gradient, ball)
            write_weights(weights, w + noise * torch.randn(w.shape, generator=rng, dtype=w.dtype).to(w.device))
        if journal is not None:
            journal.step(k + 1, last=k + 1 == budget.steps, weights=weights, stateful=())
        if budget.progress is not None:
            budget.progress(k + 1, budget.steps)
    model.zero_grad(set_to_none=True)
    whole = _whole(model, sum(p.numel() for p in weights))
    known, broken = (_ALWAYS, ()) if whole else ((*_ALWAYS, _OTHERS), (_OTHERS,))
    return _statement(budget, noise, delta, 2 * ball, contraction, drift, "the network", known, broken)


def _statement(
    budget: Budget,
    noise: float,
    delta: float,
    distance: float,
    contraction: float,
    drift: float,
    about: str,
    assumptions: tuple[str, ...],
    broken: tuple[str, ...],
) -> Statement:
    rho = divergence(distance=distance, steps=budget.steps, noise=noise, contraction=contraction, drift=drift)
    return Statement(
        epsilon=epsilon_of(rho, delta),
        delta=delta,
        steps=budget.steps,
        noise=noise,
        distance=distance,
        contraction=contraction,
        drift=drift,
        about=about,
        assumptions=assumptions,
        broken=broken,
    )


def projected(w: Float[Tensor, " p"], radius: float) -> Float[Tensor, " p"]:
    """Return the nearest point in a ball around 0."""
    return w * (radius / w.norm().clamp_min(radius))


def _whole(model: Reconstructor, count: int) -> bool:
    """Whether so many weights are all that training may have changed."""
    learned = sum(p.numel() for p in model.parameters())
    return count == learned and not any(b.is_floating_point() for b in model.buffers())
