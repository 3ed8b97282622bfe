"""Accelerated proximal gradient descent on complex images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Complex
from torch import Tensor

Image = Complex[Tensor, "b set *spatial"]


def fista(
    normal: Callable[[Image], Image],
    b: Image,
    prox: Callable[[Image], Image],
    step: float,
    *,
    x0: Image | None = None,
    max_iter: int = 50,
    tol: float = 0.0,
    average: int = 1,
) -> Image:
    r"""Minimise :math:`\tfrac12 \|Ax - y\|^2 + R(x)` [Beck, Teboulle 2009, eq. 4.1-4.3].

    The momentum starts anew where it points uphill [O'Donoghue, Candès 2015].

    Parameters
    ----------
    normal
        :math:`A^H A`.
    b
        :math:`A^H y`.
    prox
        Proximal map of ``step * R``.
    step
        At most one over the largest eigenvalue of :math:`A^H A`.
    x0
        Start; ``step * b`` by default.
    max_iter, tol
        Stop after so many iterations, or once the image changes by less than ``tol`` of itself.
    average
        Return the mean of so many last images: where ``prox`` is random, its mean has fewer artefacts.
    """
    x = z = step * b if x0 is None else x0
    t = 1.0
    last_images: deque[Image] = deque([x], maxlen=average)
    for _ in range(max_iter):
        previous = x
        x = prox(z - step * (normal(z) - b))
        change = x - previous
        last_images.append(x)
        with torch.no_grad():
            uphill = torch.linalg.vecdot((z - x).flatten(), change.flatten()).real > 0
            if tol and bool(torch.linalg.vector_norm(change) <= tol * torch.linalg.vector_norm(x)):
                break
        t, last = (1.0, 1.0) if uphill else ((1 + (1 + 4 * t * t) ** 0.5) / 2, t)
        z = x + ((last - 1) / t) * change
    return x if average == 1 else torch.stack(list(last_images)).mean(0)
