r"""The curvature of a network's training loss, as something that functions can be taken of.

EK-FAC [1]_ takes the Gauss-Newton matrix :math:`G = \mathrm E[J^T B J]`, J the derivative of an example's output by the
weights and B the loss's second derivative by the output, for block diagonal, each block with the eigenvectors of a
Kronecker product of two covariances, and with the eigenvalues that are best for these vectors: the mean square of the
gradient's coefficients. Gradients are those of J^T b with random b whose covariance is B, as for Fisher's matrix the
targets are drawn by the model [2]_. Of B the blocks of one pixel's channels are taken; where outputs are few all of it,
and nothing is drawn.

References
----------
.. [1] George, Laurent, Bouthillier, Ballas, Vincent, Fast approximate natural gradient descent in a Kronecker-factored
   eigenbasis, NeurIPS 2018.
.. [2] Grosse et al., Studying large language model generalization with influence functions, arXiv 2308.03296, 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.datasets.random import child_generator
from recon.physics.errors import OptionError
from recon.unlearning.attribution.blocks import Block, Blocks, Layout, factors, scaled
from recon.unlearning.examples import Examples
from recon.unlearning.layers import layer
from recon.unlearning.objectives import Objective

Spectral = Callable[[Tensor], Tensor]
"""A function of eigenvalues; it is given all of a block at once."""
Told = Callable[[], None]
"""Called after each example that was looked at."""
_SIGNS = 4  # random signs of pixels


@runtime_checkable
class Curvature(Protocol):
    """A symmetric matrix over the weights."""

    def apply(self, function: Spectral, vector: Blocks) -> Blocks:
        """Multiply a vector by a function of the matrix."""
        ...


class EKFAC:
    """The Gauss-Newton matrix with Kronecker-factored eigenvectors; see the module.

    Parameters
    ----------
    models
        Networks of one structure; the covariances, and then the eigenvalues, are means over them [Bae 2024, app. D].
    examples, objective
        Of the training. The objective must be curved in the network's output, as squares and norms are.
    probes
        Random vectors b an example. At least as many as there are outputs: the matrix is exact up to its structure.
    scale
        The weights are measured in these units, so that the matrix is ``S G S``.
    seed
        Of the vectors and the objective's random choices.
    tell
        Called after each look at an example: twice for each network and example.

    Raises
    ------
    OptionError
        A loss without curvature.
    """

    def __init__(
        self,
        models: Sequence[Reconstructor],
        examples: Examples,
        objective: Objective,
        *,
        probes: int = 1,
        scale: Blocks | None = None,
        seed: int = 0,
        tell: Told = lambda: None,
    ) -> None:
        layout = Layout(models[0])
        sums: dict[str, list[Tensor]] = {}
        total: Blocks = {}
        for model in models:
            for i in range(len(examples)):
                with _covariances(model, layout, sums) as forward_done:
                    for _ in _looks(model, layout, examples, i, objective, probes, seed, forward_done):
                        pass
                tell()
        self.bases = {
            name: (_eigenvectors(left, _mean(scale, name, 1)), _eigenvectors(right, _mean(scale, name, 0)))
            for name, (left, right) in sums.items()
        }
        for model in models:
            for i in range(len(examples)):
                for look in _looks(model, layout, examples, i, objective, probes, seed):
                    for name, x in self._coefficients(scaled(look, scale)).items():
                        total[name] = total.get(name, 0) + x.square()
                tell()
        if not any(bool(x.any()) for x in total.values()):
            raise OptionError(
                "the loss is not curved in the network's output", cure="Judge the examples by squares or norms"
            )
        self.eigenvalues = {name: x / (len(models) * len(examples)) for name, x in total.items()}

    def apply(self, function: Spectral, vector: Blocks) -> Blocks:
        """Multiply a vector by a function of the matrix."""
        found = {name: function(self.eigenvalues[name]) * x for name, x in self._coefficients(vector).items()}
        for name, (left, right) in self.bases.items():
            found[name] = left @ found[name] @ right.T
        return found

    def _coefficients(self, vector: Blocks) -> Blocks:
        found = dict(vector)
        for name, (left, right) in self.bases.items():
            found[name] = left.T @ vector[name] @ right
        return found


def roots(
    value: Float[Tensor, ""], output: Float[Tensor, "b channel *spatial"], probes: int, rng: torch.Generator
) -> Iterator[Tensor]:
    r"""Yield vectors b with :math:`\sum b b^T` the second derivative of a loss by a network's output, in the mean.

    Of no more than ``probes`` outputs the second derivative is what it is; of more its blocks of one pixel's channels
    are taken. What is negative is left out, as the Gauss-Newton matrix does: the loss of a magnitude, say, seen as
    one of the channels.
    """
    (first,) = torch.autograd.grad(value, output, create_graph=True, materialize_grads=True)
    if not first.requires_grad:
        return

    def second(direction: Tensor) -> Tensor:
        return torch.autograd.grad(first, output, direction, retain_graph=True, materialize_grads=True)[0]

    count = output.numel()
    if count <= probes:
        units = torch.eye(count, dtype=output.dtype, device=output.device)
        matrix = torch.stack([second(unit.view_as(output)).flatten() for unit in units])
        for row in _positive_root(matrix):
            yield row.view_as(output)
        return
    root = _positive_root(_pixel_blocks(second, output, rng))
    for _ in range(probes):
        noise = torch.randn(output.shape, generator=rng, dtype=output.dtype).to(output.device)
        yield torch.einsum("b...cd,bc...->bd...", root, noise) / probes**0.5


def _pixel_blocks(
    second: Callable[[Tensor], Tensor], output: Tensor, rng: torch.Generator
) -> Float[Tensor, "b *spatial channel channel"]:
    """Find the second derivative's block of each pixel: random signs cancel the rest of it [Hutchinson 1990]."""
    found = []
    for _ in range(_SIGNS):
        bits = torch.randint(2, (output.shape[0], *output.shape[2:]), generator=rng)
        signs = (2 * bits - 1).to(output)[:, None]
        rows = []
        for channel in range(output.shape[1]):
            direction = torch.zeros_like(output)
            direction[:, channel : channel + 1] = signs
            rows.append(second(direction) * signs)
        found.append(torch.stack(rows, -1).movedim(1, -2))
    return torch.stack(found).mean(0)


def _positive_root(matrix: Float[Tensor, "*n k k"]) -> Float[Tensor, "*n k k"]:
    """Return a matrix whose rows' outer products sum up to a symmetric matrix, less what is negative."""
    eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return eigenvalues.clamp_min(0).sqrt()[..., None] * vectors.mT


def _looks(
    model: Reconstructor,
    layout: Layout,
    examples: Examples,
    index: int,
    objective: Objective,
    probes: int,
    seed: int,
    forward_done: Callable[[], None] = lambda: None,
) -> Iterator[Blocks]:
    """Yield J^T b for all b of an example."""
    outputs: list[Tensor] = []
    handle = model.register_forward_hook(lambda _model, _given, x: outputs.append(x))
    try:
        value = objective(model, examples.batch([index]), child_generator(seed, 0, index))
    finally:
        handle.remove()
    forward_done()
    if len(outputs) != 1:
        raise OptionError("an objective that does not run the network once", found=f"{len(outputs)} times")
    weights = layout.weights(model)
    for vector in roots(value, outputs[0], probes, child_generator(seed, 1, index)):
        found = torch.autograd.grad(outputs, weights, vector, retain_graph=True, materialize_grads=True)
        yield layout.matrices(dict(zip(layout.names, found, strict=True)))


@contextmanager
def _covariances(model: Reconstructor, layout: Layout, sums: dict[str, list[Tensor]]) -> Iterator[Callable[[], None]]:
    """Add up, for each layer, the outer products of both factors of whatever is differentiated inside.

    What is yielded is called when the forward pass is done: layers that are run again later, to save memory, do not
    count a second time.
    """
    forward = [True]

    def watched(block: Block) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if not forward or not output.requires_grad:
                return
            inside = given[0].detach()

            def back(derivative: Tensor) -> None:
                both = factors(module, inside, derivative.detach(), bias=block.bias is not None)
                products = [x.T @ x for x in both]
                if block.name in sums:
                    products = [a + b for a, b in zip(sums[block.name], products, strict=True)]
                sums[block.name] = products

            output.register_hook(back)

        return hook

    chosen = [block for block in layout.blocks if block.layer]
    handles = [layer(model, block.name).register_forward_hook(watched(block)) for block in chosen]
    try:
        yield forward.clear
    finally:
        for handle in handles:
            handle.remove()


def _eigenvectors(covariance: Tensor, scale: Tensor | None) -> Tensor:
    if scale is not None:
        covariance = covariance * scale[:, None] * scale
    return torch.linalg.eigh(covariance.double())[1].to(covariance.dtype)


def _mean(scale: Blocks | None, name: str, dim: int) -> Tensor | None:
    """Rows' or columns' share of a scale."""
    return None if scale is None else scale[name].mean(dim)
