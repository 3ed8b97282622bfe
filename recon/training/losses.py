"""What training minimises: a weighted sum of losses by name, each the mean over the batch.

A loss sees the network's output and the batch, so that one that compares k-space, with no target, has what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from recon.physics.errors import DataError, OptionError, ShapeError
from recon.training import galaxy_losses
from recon.training.batches import TrainingBatch, target_of
from recon.training.task_batches import TaskBatch

Images = Float[Tensor, "b channel y x"]
Loss = Callable[[Images, TrainingBatch], Float[Tensor, ""]]

_WINDOW = 7  # of the SSIM, as fastMRI has it


def l1(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean absolute difference of magnitudes."""
    return (_magnitude(x) - _magnitude(target_of(batch))).abs().mean()


def ssim(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """One minus the structural similarity of magnitudes: 7x7 windows, range up to each target's maximum."""
    target = _magnitude(target_of(batch))
    peak = target.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    value = structural_similarity_index_measure(
        (_magnitude(x) / peak)[:, None],
        (target / peak)[:, None],
        gaussian_kernel=False,
        kernel_size=_WINDOW,
        data_range=1.0,
    )
    assert isinstance(value, Tensor)
    return 1 - value


def nmse(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Energy of the difference of magnitudes over that of the target."""
    target = _magnitude(target_of(batch))
    return (_energy(_magnitude(x) - target) / _energy(target)).mean()


def l2(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Norm of the complex difference over that of the target."""
    target = _complex_target(x, batch)
    return (_energy(x - target) / _energy(target)).sqrt().mean()


def magnitude_l2(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Norm of the difference of magnitudes over that of the target."""
    target = _magnitude(target_of(batch))
    return (_energy(_magnitude(x) - target) / _energy(target)).sqrt().mean()


def complex_l1(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean modulus of the complex difference."""
    return _magnitude(x - _complex_target(x, batch)).mean()


def squared_error(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean square of the difference, in the units of the data."""
    return (x - _complex_target(x, batch)).square().mean()


def weighted_l1(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean absolute difference, each example with the weight that a batch of tasks gives it [Terris et al. 2025]."""
    if not isinstance(batch, TaskBatch):
        raise DataError("this loss weighs tasks, and the data have none", cure="Take complex_l1")
    difference = (x - _complex_target(x, batch)).abs().flatten(1).mean(1)
    return (batch.weight * difference).mean()


def weighted_squared_error(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean square of the difference, each example with the weight that a batch of tasks gives it."""
    if not isinstance(batch, TaskBatch):
        raise DataError("this loss weighs tasks, and the data have none", cure="Take squared_error")
    difference = (x - _complex_target(x, batch)).square().flatten(1).mean(1)
    return (batch.weight * difference).mean()


LOSSES: Mapping[str, Loss] = {
    "l1": l1,
    "ssim": ssim,
    "nmse": nmse,
    "l2": l2,
    "magnitude_l2": magnitude_l2,
    "complex_l1": complex_l1,
    "squared_error": squared_error,
    "weighted_l1": weighted_l1,
    "weighted_squared_error": weighted_squared_error,
    "multi_scale": galaxy_losses.multi_scale,
    "mse": galaxy_losses.mse,
    "shape": galaxy_losses.shape,
}


class WeightedLoss:
    """Weighted sum of losses.

    Parameters
    ----------
    weights
        Of each, by the names in `LOSSES`, or in ``own``.
    own
        Names of losses that the network tells itself (`recon.models.learned.LearnedReconstructor.own_losses`).

    Raises
    ------
    OptionError
        A loss that does not exist, or none at all.
    """

    def __init__(self, weights: Mapping[str, float], own: Sequence[str] = ()) -> None:
        unknown = [name for name in weights if name not in LOSSES and name not in own]
        if unknown or not weights:
            raise OptionError(
                "the loss is a weighted sum of losses by name",
                found=", ".join(unknown) or "none",
                expected=f"some of {', '.join([*LOSSES, *own])}",
            )
        self.weights = dict(weights)
        self.own = tuple(name for name in weights if name in own)

    def __call__(
        self, x: Images, batch: TrainingBatch, told: Mapping[str, Float[Tensor, ""]] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the sum and its parts, without weights; in float32 whatever the precision of training.

        Parameters
        ----------
        x, batch
            Output of the network for a batch.
        told
            What the network says of those in ``own``.
        """
        told = told or {}
        with torch.autocast(x.device.type, enabled=False):
            parts = {
                name: told[name].float() if name in self.own else LOSSES[name](x.float(), batch)
                for name in self.weights
            }
            total = torch.stack([weight * parts[name] for name, weight in self.weights.items()]).sum()
        return total, {name: part.detach() for name, part in parts.items()}


def _complex_target(x: Images, batch: TrainingBatch) -> Images:
    target = target_of(batch)
    if x.shape != target.shape:
        raise ShapeError(
            "the network's output does not fit the target",
            found=tuple(x.shape),
            expected=tuple(target.shape),
            cure="Compare magnitudes, with l1, ssim or nmse",
        )
    return target


def _magnitude(x: Images) -> Float[Tensor, "b y x"]:
    return torch.linalg.vector_norm(x, dim=1)


def _energy(x: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
    return x.flatten(1).square().sum(1)
