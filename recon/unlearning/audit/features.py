"""What comes out of each layer: whether it is as in the oracle, and whether it tells what was forgotten.

Linear CKA [1]_ layer by layer against the joint network and the oracle [2]_, with pixels for samples; and a linear
probe of each group of layers that tells slices of what is kept from slices of what is forgotten.

References
----------
.. [1] Kornblith et al., Similarity of neural network representations revisited, ICML 2019, eq. 3 and section 3.
.. [2] Kim et al., Are we truly forgetting? A critical re-examination of machine unlearning evaluation protocols, 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.unlearning.audit.membership import area
from recon.unlearning.audit.subjects import (
    FORGET,
    FORGET_TEST,
    JOINT,
    NO_ORACLE,
    ORACLE,
    RETAIN,
    RETAIN_TEST,
    UNLEARNED,
    CannotError,
    Row,
    Subjects,
    spread,
)
from recon.unlearning.examples import Examples
from recon.unlearning.layers import captured, weighted_layers

_SLICES = 12  # of each set that features are taken of
_PIXELS = 256  # of each slice and layer
_GROUPS = 12  # of layers, at most, where names can be shortened
_RIDGE = 1.0  # penalty of the probe, over the number of examples


def cka(subjects: Subjects) -> Row:
    """Likeness of the unlearned network's layers to those of the joint network and of the oracle."""
    names = [UNLEARNED, *subjects.present(JOINT, ORACLE)]
    figures: dict[str, Any] = {}
    cannot: dict[str, str] = {} if ORACLE in subjects.models else {"likeness to the oracle": NO_ORACLE}
    for examples in (FORGET_TEST, RETAIN_TEST):
        try:
            few = _few(subjects, examples)
            found = {
                name: subjects.remember(
                    name, "layers", examples, make=partial(layer_outputs, subjects.models[name], few)
                )
                for name in names
            }
        except CannotError as error:
            cannot[examples] = str(error)
            continue
        figures[examples] = _likeness(found)
    if not figures:
        raise CannotError("there are no test examples")
    return Row(figures, cannot)


def _likeness(outputs: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    layers = [name for name in outputs[UNLEARNED] if all(name in found for found in outputs.values())]
    if not layers:
        raise CannotError("the networks have no layer in common")
    pairs = {f"to {other}": (UNLEARNED, other) for other in (JOINT, ORACLE) if other in outputs}
    if ORACLE in outputs:
        pairs["joint to oracle"] = (JOINT, ORACLE)
    by_layer = {
        what: {name: linear_cka(outputs[a][name], outputs[b][name]) for name in layers}
        for what, (a, b) in pairs.items()
    }
    groups = layer_groups(layers)
    return {
        "layers": by_layer,
        "groups": {
            what: {group: _mean([values[name] for name in members]) for group, members in groups.items()}
            for what, values in by_layer.items()
        },
        "mean": {what: _mean(list(values.values())) for what, values in by_layer.items()},
    }


def linear_cka(x: Float[Tensor, "n p"], y: Float[Tensor, "n q"]) -> float:
    """Linear centred kernel alignment of two sets of features of the same samples; NaN for constant features."""
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    norm = (x.T @ x).norm() * (y.T @ y).norm()
    return float((x.T @ y).square().sum() / norm) if norm > 0 else float("nan")


def probe(subjects: Subjects) -> Row:
    """Tell what is kept from what is forgotten by the features of each group of layers; the test sets judge."""
    sets = (RETAIN, FORGET, RETAIN_TEST, FORGET_TEST)
    groups = layer_groups(list(weighted_layers(subjects.model(UNLEARNED))))
    accuracy: dict[str, dict[str, float]] = {}
    areas: dict[str, dict[str, float]] = {}
    for name in subjects.present():
        if not set(weighted_layers(subjects.models[UNLEARNED])) <= set(weighted_layers(subjects.models[name])):
            raise CannotError(f"the {name} has other layers")
        pooled = {
            part: subjects.remember(
                name, "pooled", part, make=partial(pooled_outputs, subjects.models[name], _few(subjects, part))
            )
            for part in sets
        }
        accuracy[name], areas[name] = {}, {}
        for group, members in groups.items():
            kept, forgotten, kept_test, forgotten_test = (
                torch.cat([pooled[part][layer] for layer in members if layer in pooled[part]], dim=1) for part in sets
            )
            predict = Probe(forgotten, kept)
            positive, negative = predict(forgotten_test), predict(kept_test)
            hits = 0.5 * float((positive > 0).double().mean() + (negative <= 0).double().mean())
            accuracy[name][group], areas[name][group] = hits, area(positive.tolist(), negative.tolist())
    return Row({"balanced accuracy": accuracy, "area under ROC": areas})


class Probe:
    """Least squares with a ridge, classes weighted alike; call it on features: above 0 is the first class."""

    def __init__(self, positive: Float[Tensor, "n p"], negative: Float[Tensor, "m p"]) -> None:
        x = torch.cat([positive, negative]).double()
        self.mean, self.scale = x.mean(0), x.std(0).clamp_min(1e-12)
        sign = torch.cat([x.new_ones(len(positive)), -x.new_ones(len(negative))])
        weight = torch.cat([x.new_full((len(part),), len(x) / (2 * len(part))) for part in (positive, negative)])
        z = torch.cat([self._standard(x), x.new_ones(len(x), 1)], dim=1) * weight.sqrt()[:, None]
        dual = z @ z.T + _RIDGE * len(x) * torch.eye(len(x), dtype=x.dtype, device=x.device)
        self.weights = z.T @ torch.linalg.solve(dual, sign * weight.sqrt())

    def __call__(self, x: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
        """Return how much each example is like the first class."""
        return self._standard(x) @ self.weights[:-1] + self.weights[-1]

    def _standard(self, x: Tensor) -> Tensor:
        return (x.double() - self.mean) / self.scale


def layer_outputs(model: Reconstructor, examples: Examples) -> dict[str, Float[Tensor, "n channel"]]:
    """Features of pixels, the same ones in every network, of every layer that runs."""
    parts: dict[str, list[Tensor]] = {}
    for layer, values in _outputs(model, examples):
        chosen = torch.linspace(0, len(values) - 1, min(len(values), _PIXELS), device=values.device).long()
        parts.setdefault(layer, []).append(values[chosen])
    return {layer: torch.cat(found) for layer, found in parts.items()}


def pooled_outputs(model: Reconstructor, examples: Examples) -> dict[str, Float[Tensor, "n feature"]]:
    """Mean and standard deviation of each channel of every layer that runs, of each example."""
    parts: dict[str, list[Tensor]] = {}
    for layer, values in _outputs(model, examples):
        parts.setdefault(layer, []).append(torch.cat([values.mean(0), values.std(0, correction=0)]))
    return {layer: torch.stack(found) for layer, found in parts.items()}


def _outputs(model: Reconstructor, examples: Examples) -> Iterator[tuple[str, Float[Tensor, "position channel"]]]:
    """Give, for each example and layer, what came out: positions by channels, all runs of the layer together."""
    layers = weighted_layers(model)
    for batch in examples.batches(1):
        with torch.no_grad(), captured(model, list(layers)) as found:
            model(batch.y, batch.physics())
        for name, values in found.items():
            if values:
                last = isinstance(layers[name], nn.Linear)
                rows = [(v if last else v.movedim(1, -1)).reshape(-1, v.shape[-1 if last else 1]) for v in values]
                yield name, torch.cat(rows)


def layer_groups(names: list[str]) -> dict[str, list[str]]:
    """Group layers by the module that they are in; what all names begin with is left out."""
    split = [name.split(".") for name in names]
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == split[0][shared] for parts in split):
        shared += 1
    owners = [tuple(parts[shared:-1]) or tuple(parts[shared:]) for parts in split]
    while len(set(owners)) > _GROUPS and any(len(owner) > 1 for owner in owners):
        longest = max(len(owner) for owner in owners)
        owners = [owner[: longest - 1] for owner in owners]
    groups: dict[str, list[str]] = {}
    for name, owner in zip(names, owners, strict=True):
        groups.setdefault(".".join(owner), []).append(name)
    return groups


def _few(subjects: Subjects, examples: str) -> Examples:
    return spread(subjects.examples(examples), _SLICES)


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
