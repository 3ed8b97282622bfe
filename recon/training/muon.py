"""Muon: momentum whose matrices are made orthogonal, with Adam for everything that is no matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as published
_ITERATIONS = 5
_SMALLEST = 8  # rows or columns of a matrix that is worth it
_EPSILON = 1e-8


class Muon(torch.optim.Optimizer):
    """Muon [1]_ for convolutions and linear layers, seen as matrices (out, in x kernel), and Adam for the rest.

    Every direction of a matrix moves at the same rate, so that the weak ones learn too.

    Parameters
    ----------
    parameters
        What is trained.
    lr, betas
        Of Adam.
    matrix_lr, momentum
        Of Muon.

    References
    ----------
    .. [1] Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        matrix_lr: float = 0.02,
        momentum: float = 0.95,
    ) -> None:
        every = list(parameters)
        matrices = [p for p in every if _is_matrix(p)]
        rest = [p for p in every if not _is_matrix(p)]
        groups = [
            {"params": matrices, "lr": matrix_lr, "momentum": momentum},
            {"params": rest, "lr": lr, "betas": betas},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = _muon if "momentum" in group else _adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, self.state[parameter], group)
        return loss


def orthogonalised(g: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """Nearest matrix whose singular values are all about 1 (0.7 to 1.2), by Newton and Schulz's iteration."""
    a, b, c = _COEFFICIENTS
    x = g / (torch.linalg.vector_norm(g) + _EPSILON)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


def _is_matrix(p: nn.Parameter) -> bool:
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= _SMALLEST


def _muon(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(average, group["momentum"]).flatten(1)  # Nesterov
    rows, columns = ahead.shape
    update = orthogonalised(ahead).mul_(max(1.0, rows / columns) ** 0.5)
    parameter.sub_(update.view_as(parameter), alpha=group["lr"])


def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    first, second = group["betas"]
    if not state:
        state["step"] = 0
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    state["step"] += 1
    mean = state["mean"].lerp_(gradient, 1 - first)
    square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    size = (square / (1 - second ** state["step"])).sqrt_().add_(_EPSILON)
    parameter.addcdiv_(mean, size, value=-group["lr"] / (1 - first ** state["step"]))
