r"""The read-out of a network, and exact least squares in it.

A read-out is the last layer, where the image is an affine function of its weights w while all others stay as they are:
:math:`x(w) = x_0 + J w`. So is any residual that is linear in the image: its difference from the target, or of the
measurements that were left out from their prediction, where there is no target. Sums of :math:`J^T J` and
:math:`J^T (b - x_0)` over examples are all that ridge regression needs, and an example is taken out of them again by
subtraction: after any number of requests what is left is what training without those examples gives, to rounding
[Tang 2025]. (Its recursion updates the inverse; a read-out is small enough to solve for anew, without its drift.)

Features before the read-out have seen what they were trained on. Exact deletion is of the read-out alone, unless all
that comes before it never saw what is deleted.

References
----------
Tang et al., ACU: Analytic Continual Unlearning for Efficient and Exact Forgetting with Privacy Preservation, arXiv
2505.12239, section 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.datasets.random import child_generator
from recon.finetuning.losses import SPLIT
from recon.finetuning.measurements import Measurement
from recon.finetuning.splitting import split
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.training.batches import TrainingBatch, target_of
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.features import evaluating
from recon.unlearning.gradients import parted
from recon.unlearning.layers import flat, layer, restored, weighted_layers

_MOST = 4096  # weights of a read-out
_ROWS, _COLUMNS = 64, 65_536  # of derivatives, at a time
_FAR = 10.0  # steps that find curvature, in the size of the weights
_SEEN, _ROUNDING = 1e3, 32.0  # changes that count, and errors of an image, in units of the machine's precision


@dataclass(frozen=True, eq=False)
class Statistics:
    """What ridge regression of a read-out needs to know of examples.

    Parameters
    ----------
    gram
        Sum of :math:`J^T J`, double precision.
    moment
        Sum of :math:`J^T (b - x_0)`.
    digests
        Identities of the examples.
    """

    gram: Float[Tensor, "p p"]
    moment: Float[Tensor, " p"]
    digests: frozenset[str]

    def __add__(self, other: Statistics) -> Statistics:
        """Take in further examples.

        Raises
        ------
        DataError
            One that is in already.
        """
        shared = self.digests & other.digests
        if shared:
            raise DataError("examples are learned once", found=f"{len(shared)} that are in already")
        return Statistics(self.gram + other.gram, self.moment + other.moment, self.digests | other.digests)

    def __sub__(self, other: Statistics) -> Statistics:
        """Take examples out.

        Raises
        ------
        DataError
            One that is not in, or nothing would be left.
        """
        strange = other.digests - self.digests
        if strange:
            raise DataError(
                "only what was learned can be forgotten",
                found=f"{len(strange)} of {len(other.digests)} examples that are not in, or not any more",
            )
        if self.digests == other.digests:
            raise DataError("nothing would be left to know", found=f"all {len(self.digests)} examples")
        return Statistics(self.gram - other.gram, self.moment - other.moment, self.digests - other.digests)

    def quadratic(self, penalty: float) -> tuple[Float[Tensor, "p p"], Float[Tensor, " p"]]:
        r"""Return H and b of the objective :math:`\frac12 w^T H w - b^T w`: half the mean square, half the penalty.

        Raises
        ------
        OptionError
            A penalty that is not above 0.
        """
        if not penalty > 0:
            raise OptionError("the penalty of ridge regression is above 0", found=penalty)
        count = len(self.digests)
        return self.gram / count + penalty * torch.eye(len(self.gram)).to(self.gram), self.moment / count

    def solve(self, penalty: float) -> Float[Tensor, " p"]:
        """Return the weights of the least sum of half the mean square residual and half the penalty."""
        gram, moment = self.quadratic(penalty)
        return torch.cholesky_solve(moment[:, None], torch.linalg.cholesky(gram))[:, 0]


def find_readout(model: Reconstructor, batch: TrainingBatch) -> str:
    """Return the last layer of which the image is an affine function.

    Raises
    ------
    OptionError
        There is none, as where all steps share their weights, or it has too many weights.
    """
    for name, module in reversed(weighted_layers(model).items()):
        if _weights(module) and _affine(model, batch, _weights(module)):
            size = sum(p.numel() for p in _weights(module))
            if size > _MOST:
                raise OptionError("the read-out is too large to be solved for", found=f"{name}: {size} weights")
            return name
    raise OptionError(
        "this network has no read-out: the image is an affine function of no layer's weights",
        found=type(model).__name__,
        cure="Take a method that changes all weights",
    )


def readout_weights(model: Reconstructor, name: str) -> Float[Tensor, " p"]:
    """Return the weights of a read-out, in double precision."""
    return flat(_weights(layer(model, name))).detach().double()


def set_readout(model: Reconstructor, name: str, values: Float[Tensor, " p"]) -> None:
    """Set the weights of a read-out."""
    write_weights(_weights(layer(model, name)), values)


@torch.no_grad()
def write_weights(weights: Sequence[nn.Parameter], values: Float[Tensor, " p"]) -> None:
    """Copy a vector into weights, which keep their own storage and precision."""
    for p, part in zip(weights, parted(values, weights), strict=True):
        p.copy_(part)


def statistics(model: Reconstructor, examples: Examples, name: str, budget: Budget) -> Statistics:
    """Sum up what ridge regression of a read-out needs, with one pass of each example.

    The residual is from the target, or, where the budget's objective needs no truth, of a part of the measurements
    that is predicted from the others: the same part of an example each time, whatever it is summed up with.

    Raises
    ------
    DataError
        An example twice.
    ShapeError
        Targets that are not of the images' shape.
    """
    weights = _weights(layer(model, name))
    size = sum(p.numel() for p in weights)
    gram = torch.zeros(size, size, dtype=torch.float64, device=weights[0].device)
    moment = gram.new_zeros(size)
    with _only(model, weights), evaluating(model), torch.enable_grad():
        now = flat(weights).detach().double()
        for i, item in enumerate(examples):
            batch = examples.batch([i])
            budget.meter.samples += 1
            residual = (
                _of_target(model, batch)
                if budget.objective.needs_truth
                else _of_measurements(model, batch, _split_of(item.digest, budget.seed))
            )
            slope = _jacobian(residual, weights)
            for part, left in zip(slope.split(_COLUMNS, 1), residual.detach().split(_COLUMNS), strict=True):
                columns = part.double()  # few at a time: all in double precision would take most of the memory
                gram += columns @ columns.T
                moment += columns @ (columns.T @ now - left.double())
    digests = examples.digests
    if len(digests) != len(examples):
        raise DataError("examples are learned once", found=f"{len(examples) - len(digests)} of them twice")
    return Statistics(gram, moment, digests)


def _of_target(model: Reconstructor, batch: TrainingBatch) -> Float[Tensor, " d"]:
    target = target_of(batch)
    x = model(batch.y, batch.physics())
    if x.shape != target.shape:
        raise ShapeError(
            "least squares compare images with targets of their shape",
            found=tuple(x.shape),
            expected=tuple(target.shape),
        )
    return (x - target).reshape(-1)


def _of_measurements(model: Reconstructor, batch: TrainingBatch, rng: torch.Generator) -> Float[Tensor, " d"]:
    whole = Measurement(y=batch.y, physics=batch.physics(), name=batch.names[0])
    kept, left_out = split(whole, SPLIT, rng)
    missed = (whole.physics.A(model(kept.y, kept.physics)) - whole.y) * left_out
    return (torch.view_as_real(missed) if missed.is_complex() else missed).reshape(-1)


def _split_of(digest: str, seed: int) -> torch.Generator:
    return child_generator(seed, 9, int.from_bytes(hashlib.sha256(digest.encode()).digest()[:8], "big"))


def _jacobian(values: Float[Tensor, " d"], weights: Sequence[nn.Parameter]) -> Float[Tensor, "p d"]:
    """Differentiate many values by few weights: backward twice, for the first is linear in what it starts from."""
    start = torch.zeros_like(values, requires_grad=True)
    back = torch.autograd.grad(values, list(weights), grad_outputs=start, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in back])
    rows = torch.eye(len(flat), dtype=flat.dtype, device=flat.device).split(_ROWS)
    parts = [
        torch.autograd.grad(flat, start, grad_outputs=part, is_grads_batched=True, retain_graph=True)[0]
        for part in rows
    ]
    return torch.cat(parts)


def _affine(model: Reconstructor, batch: TrainingBatch, weights: Sequence[nn.Parameter]) -> bool:
    """Whether images change with weights, and by as much on both sides of where they are."""
    physics = batch.physics()
    rng = torch.Generator().manual_seed(0)
    steps = [
        _FAR
        * (float(p.detach().norm()) / p.numel() ** 0.5 or 1.0)
        * torch.randn(p.shape, generator=rng, dtype=p.dtype).to(p.device)
        for p in weights
    ]
    images = []
    with torch.no_grad(), evaluating(model), restored(weights) as before:
        for sign in (-1, 0, 1):
            for p, old, step in zip(weights, before, steps, strict=True):
                p.copy_(old + sign * step)
            images.append(model(batch.y, physics))
    low, middle, high = images
    change, scale, bend = float((high - low).norm()), float(middle.norm()), float((high - 2 * middle + low).norm())
    eps = torch.finfo(low.dtype).eps
    return change > _SEEN * eps * scale and bend < eps * (_SEEN * change + _ROUNDING * scale)


def _weights(module: nn.Module) -> list[nn.Parameter]:
    return list(islice(module.parameters(recurse=False), 2))


@contextmanager
def _only(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let nothing else require a gradient, so that only what comes after is recorded."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(False)
    for p in weights:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
