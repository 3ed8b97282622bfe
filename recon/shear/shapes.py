"""Ellipticities and how they turn into each other.

``e`` is the distortion, ``(a^2 - b^2) / (a^2 + b^2)``; ``g`` the reduced shear, ``(a - b) / (a + b)``. Component 1 is
positive along x, component 2 along the diagonal x = y; x to the right, y (the row) up, as galsim has it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Shapes(Protocol):
    """What every shape measurement gives, one row an object, none left out.

    Attributes
    ----------
    e1, e2
        The ellipticity that is averaged over many objects.
    g1, g2
        Reduced shear of each object; NaN where it was not measured.
    flags
        0 where measured.
    """

    @property
    def e1(self) -> Float[Tensor, " b"]: ...  # noqa: D102

    @property
    def e2(self) -> Float[Tensor, " b"]: ...  # noqa: D102

    @property
    def g1(self) -> Float[Tensor, " b"]: ...  # noqa: D102

    @property
    def g2(self) -> Float[Tensor, " b"]: ...  # noqa: D102

    @property
    def flags(self) -> Int[Tensor, " b"]: ...  # noqa: D102


class Distorted:
    """Gives shapes known by their distortion the reduced shear."""

    e1: Float[Tensor, " b"]
    e2: Float[Tensor, " b"]

    @property
    def g1(self) -> Float[Tensor, " b"]:
        """Reduced shear of each object, first component; NaN where noise took the distortion beyond 1."""
        return g_of_e(self.e1, self.e2)[0]

    @property
    def g2(self) -> Float[Tensor, " b"]:
        """Reduced shear of each object, second component."""
        return g_of_e(self.e1, self.e2)[1]


def g_of_e(e1: Float[Tensor, "*b"], e2: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """Return the reduced shear of a distortion; NaN where it is 1 or more [Bernstein & Jarvis 2002, eq. 2-7]."""
    scale = 1 / (1 + (1 - e1.square() - e2.square()).sqrt())
    return e1 * scale, e2 * scale


def e_of_g(g1: Float[Tensor, "*b"], g2: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """Return the distortion of a reduced shear."""
    scale = 2 / (1 + g1.square() + g2.square())
    return g1 * scale, g2 * scale
