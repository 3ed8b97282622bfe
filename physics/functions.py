"""An operator made of a user's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise, NoiseModel, ZeroNoise
from jaxtyping import Num
from torch import Tensor

from recon.physics import operators


@operators.register("functions")
class FunctionPhysics(LinearPhysics):
    """``y = forward(x)`` and its adjoint, from any two functions of tensors.

    Nothing is checked here, because that takes a measurement: see `recon.physics.checks.check_operator`.

    Parameters
    ----------
    forward_function
        Linear, from images ``(b, c, y, x)`` to measurements ``(b, ...)``.
    adjoint_function
        Its adjoint; None: by automatic differentiation, which is exact, and needs a differentiable function.
    img_size
        (c, y, x) of the images.
    noise_model
        None: no noise.

    Examples
    --------
    >>> from recon.physics.checks import check_operator
    >>> physics = FunctionPhysics(lambda x: x.roll(1, -1), lambda y: y.roll(-1, -1), (1, 8, 8))
    >>> check_operator(physics)
    """

    def __init__(
        self,
        forward_function: Callable[[Tensor], Tensor],
        adjoint_function: Callable[[Tensor], Tensor] | None,
        img_size: tuple[int, int, int],
        *,
        noise_model: NoiseModel | None = None,
    ) -> None:
        super().__init__(noise_model=noise_model or ZeroNoise(), img_size=tuple(img_size))
        self._forward_function, self._adjoint_function = forward_function, adjoint_function

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[FunctionPhysics, Num[Tensor, "b c y x"]]:
        """Make an instance (a difference along x, its adjoint left out) and an image for the shared operator test."""
        x = torch.randn(batch, 1, 5, 6, dtype=dtype, generator=generator).to(device)
        return cls(lambda x: x.diff(dim=-1), None, (1, 5, 6), noise_model=GaussianNoise(0.1)), x

    def A(self, x: Num[Tensor, "b c y x"], **parameters: Any) -> Num[Tensor, "b ..."]:
        """Apply the user's function."""
        self.update_parameters(**parameters)
        return self._forward_function(x)

    def A_adjoint(self, y: Num[Tensor, "b ..."], **parameters: Any) -> Num[Tensor, "b c y x"]:
        """Apply the user's adjoint, or the one that automatic differentiation gives."""
        self.update_parameters(**parameters)
        if self._adjoint_function is not None:
            return self._adjoint_function(y)
        dtype = y.real.dtype if y.is_complex() else y.dtype
        zero = torch.zeros(len(y), *self.img_size, dtype=dtype, device=y.device)
        image: Tensor = _Adjoint.apply(y, self._forward_function, zero)
        return image


class _Adjoint(torch.autograd.Function):
    """The adjoint of a linear function by its vector-Jacobian product; its own gradient is the function.

    As deepinv's `adjoint_function`, but without `torch.func`, which refuses autograd functions of the older kind
    (``forward(ctx, ...)``): those of most projectors and gridding packages.
    """

    @staticmethod
    def forward(y: Tensor, function: Callable[[Tensor], Tensor], zero: Tensor) -> Tensor:
        with torch.enable_grad():
            x = zero.detach().requires_grad_()
            (image,) = torch.autograd.grad(function(x), x, y.detach())
        return image

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, ctx.function, _ = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.function(gradient), None, None
