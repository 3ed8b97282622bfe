"""The exact Hessian of a small network: what curvatures are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.datasets.random import child_generator
from recon.unlearning.attribution.blocks import Blocks, Layout
from recon.unlearning.attribution.curvature import Spectral
from recon.unlearning.examples import Examples
from recon.unlearning.layers import flat
from recon.unlearning.objectives import Objective


class ExactHessian:
    """The Hessian ``S H S`` of the mean objective over examples and networks, in units S of the weights."""

    def __init__(
        self,
        models: Sequence[Reconstructor],
        examples: Examples,
        objective: Objective,
        scale: Blocks | None,
    ) -> None:
        layout = Layout(models[0])
        found = [_hessian(model, layout, examples, i, objective) for model in models for i in range(len(examples))]
        hessian = torch.stack(found).mean(0)
        if scale is not None:
            hessian = hessian * flat(scale.values())[:, None] * flat(scale.values())
        self.eigenvalues, self.vectors = torch.linalg.eigh(hessian)

    def apply(self, function: Spectral, vector: Blocks) -> Blocks:
        """Multiply a vector by a function of the matrix."""
        product = self.vectors @ (function(self.eigenvalues) * (self.vectors.T @ flat(vector.values())))
        parts = product.split([x.numel() for x in vector.values()])
        return {name: part.view_as(vector[name]) for name, part in zip(vector, parts, strict=True)}


def _hessian(
    model: Reconstructor, layout: Layout, examples: Examples, index: int, objective: Objective
) -> Float[Tensor, "weight weight"]:
    weights = layout.weights(model)
    first = torch.autograd.grad(
        objective(model, examples.batch([index]), child_generator(0)),
        weights,
        create_graph=True,
        materialize_grads=True,
    )
    rows = flat(layout.matrices(dict(zip(layout.names, first, strict=True))).values())
    found = []
    for value in rows:
        second = torch.autograd.grad(value, weights, retain_graph=True, materialize_grads=True)
        found.append(flat(layout.matrices(dict(zip(layout.names, second, strict=True))).values()))
    return torch.stack(found)
