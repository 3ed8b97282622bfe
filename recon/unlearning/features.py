"""What a network makes of an example on the way, teachers that stay as they are, and how far one is from the other."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn

from recon.physics.errors import OptionError
from recon.training.batches import TrainingBatch
from recon.unlearning.budget import Meter
from recon.unlearning.layers import layer, weighted_layers

OUTPUT = "output"
"""Stands for the image itself among the names of layers."""
_IMAGES = 4  # dimensions of a batch of feature maps


def frozen(model: Reconstructor) -> Reconstructor:
    """Copy a network into one that is not trained: a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation, where nothing is drawn, and each module back to what it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def reconstructed(model: Reconstructor, batch: TrainingBatch, meter: Meter) -> Float[Tensor, "b *image"]:
    """Return the images of a batch, and count it."""
    _count(meter, len(batch.y))
    with evaluating(model):
        return model(batch.y, batch.physics())


@torch.no_grad()
def taught(teacher: Reconstructor, batch: TrainingBatch, meter: Meter) -> Float[Tensor, "b *image"]:
    """Return what a teacher makes of a batch, without derivatives, and count it."""
    return reconstructed(teacher, batch, meter)


def features(model: Reconstructor, y: Tensor, physics: LinearPhysics, name: str, meter: Meter) -> list[Tensor]:
    """Return what a layer sees, once for each time that it is run, with its derivatives; or the image (`OUTPUT`).

    It is what comes in rather than what comes out, for that is after the normalisation and the activation of the layer
    before: a scale or an offset that normalisation takes away again is no feature.
    """
    _count(meter, len(y))
    with evaluating(model), _seen(model, [] if name == OUTPUT else [name]) as found:
        x = model(y, physics)
    return [x] if name == OUTPUT else [value for _, value in found]


def pooled(values: Sequence[Tensor]) -> Float[Tensor, "n channel"]:
    """Average features over space, and over the runs of the layer."""
    return torch.stack([v.flatten(2).mean(2) if v.ndim > 2 else v for v in values]).mean(0)


def feature_layer(model: Reconstructor, batch: TrainingBatch, which: str, meter: Meter) -> str:
    """Return the name of the layer whose features are looked at.

    Parameters
    ----------
    model, batch
        The network, and examples that it is tried on.
    which
        ``deepest``: where features are smallest in space, and among those have most channels, the last of such: of a
        U-Net the end of its encoder. ``last``: before the last layer. ``output``: the image. Or the name of a layer.
    meter
        Counts the try.

    Raises
    ------
    OptionError
        No such layer, or one whose features no weights change.
    """
    if which == OUTPUT:
        return which
    if which not in ("deepest", "last"):
        layer(model, which)
    _count(meter, len(batch.y))
    with torch.enable_grad(), evaluating(model), _seen(model, list(weighted_layers(model))) as found:
        model(batch.y, batch.physics())
    learned = [(name, value) for name, value in found if value.requires_grad]
    if which not in ("deepest", "last"):
        if which not in dict(learned):
            raise OptionError("the weights do not change what this layer sees", found=which, cure="Take a later one")
        return which
    if not learned:
        raise OptionError(
            "no layer of this network sees what weights before it change",
            found=type(model).__name__,
            cure=f"Take the layer {OUTPUT!r}",
        )
    maps = [(name, value) for name, value in learned if value.ndim >= _IMAGES] or learned
    if which == "last":
        return maps[-1][0]
    return min(reversed(maps), key=lambda pair: (pair[1][0, 0].numel(), -pair[1].shape[1]))[0]


def relative_square(x: Float[Tensor, "b ..."], wanted: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Mean over a batch of the squared difference over the square of what is wanted."""
    size = wanted.flatten(1).square().sum(1)
    tiny = torch.finfo(size.dtype).tiny
    return ((x - wanted).flatten(1).square().sum(1) / size.clamp_min(tiny)).mean()


def features_apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean over the runs of a layer of the squared difference of features over the square of those wanted."""
    tiny = torch.finfo(wanted[0].dtype).tiny
    parts = [(f - w).square().sum() / w.square().sum().clamp_min(tiny) for f, w in zip(found, wanted, strict=True)]
    return torch.stack(parts).mean()


def _count(meter: Meter, examples: int) -> None:
    if torch.is_grad_enabled():
        meter.samples += examples
    else:
        meter.forward += examples


@contextmanager
def _seen(model: nn.Module, names: Sequence[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect what comes into layers, in the order in which they run."""
    found: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.append((name, inputs[0]))

        return hook

    handles = [layer(model, name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
