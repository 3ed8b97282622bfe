r"""Machine unlearning for image-to-image generative models [Li 2024]: the encoder sees noise where B is.

.. math:: \|E_\theta(y_A) - E_0(y_A)\|^2 + \alpha \|E_\theta(y_B) - E_0(n)\|^2, \quad n \sim N(0, \Sigma)

of the encoder E, at first :math:`E_0`; only weights before the features are changed. Neither term looks at a target, so
that the retain set may be replaced by other scans of the same kind (proxies).

References
----------
Li et al., Machine Unlearning for Image-to-Image Generative Models, ICLR 2024.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.features import feature_layer, features, features_apart, frozen
from recon.unlearning.registry import register

_NOISES = ("measurements", "features")


@register("i2i", search={"alpha": (0.05, 0.25, 1.0), "rate": (1.0, 3.0), "noise": _NOISES})
def i2i(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    alpha: float = 0.25,
    rate: float = 1.0,
    layer: str = "deepest",
    noise: str = "measurements",
) -> Reconstructor:
    """Make the encoder's features of what is forgotten those of noise, and keep the others by distillation.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods; targets are never looked at.
    alpha
        Weight of forgetting.
    rate
        Learning rate, over the budget's.
    layer
        Where the encoder ends; see `recon.unlearning.features.feature_layer`.
    noise
        ``measurements``: the first encoder's features of measurements of white noise of the variance of each
        zero-filled image, as published; ``features``: noise of the variance of the features of each channel.

    Raises
    ------
    OptionError
        A layer or a kind of noise that there is not.
    """
    if noise not in _NOISES:
        raise OptionError("no such noise", found=noise, expected=", ".join(_NOISES))
    teacher = frozen(model)
    name = feature_layer(model, forget.batch([0]), layer, budget.meter)
    kept = retain.endless(budget.batch_size, budget.rng(0))
    gone = forget.endless(budget.batch_size, budget.rng(3))

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        a, b = next(kept), next(gone)
        physics_a, physics_b = a.physics(), b.physics()
        with torch.no_grad():
            stay = features(teacher, a.y, physics_a, name, budget.meter)
            seen = b.y if noise == "features" else noise_measured(b.y, physics_b, rng)
            go = features(teacher, seen, physics_b, name, budget.meter)
            if noise == "features":
                go = [noise_like(value, rng) for value in go]
        keeping = features_apart(features(model, a.y, physics_a, name, budget.meter), stay)
        return keeping + alpha * features_apart(features(model, b.y, physics_b, name, budget.meter), go)

    return descend(model, budget, loss, lr=rate * budget.lr)


def noise_measured(y: Tensor, physics: LinearPhysics, rng: torch.Generator) -> Tensor:
    """Measure white noise of the variance of each image's adjoint."""
    image = physics.A_adjoint(y)
    size = image.abs().square().flatten(1).mean(1).sqrt().reshape(-1, *(1,) * (image.ndim - 1))
    return physics.A(size * torch.randn(image.shape, generator=rng, dtype=image.dtype).to(image.device))


def noise_like(values: Float[Tensor, "n channel ..."], rng: torch.Generator) -> Float[Tensor, "n channel ..."]:
    """Draw noise of mean 0 and the variance of each channel."""
    others = [d for d in range(values.ndim) if d != 1]
    deviation = values.std(others, keepdim=True, correction=0)
    return deviation * torch.randn(values.shape, generator=rng, dtype=values.dtype).to(values.device)
