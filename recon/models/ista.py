"""Iterative thresholding with the step sizes of theory: ISTA, FISTA and iterative hard thresholding."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon.models import registry
from recon.models.thresholding import IterativeThresholding
from recon.sparse_problem import Sparsity


class _Classical(IterativeThresholding):
    def __init__(
        self,
        iterations: int = 100,
        *,
        regularisation: float | None = None,
        relative: float | None = None,
        sparsity: Sparsity = "auto",
    ) -> None:
        super().__init__(iterations, regularisation=regularisation, relative=relative, sparsity=sparsity)

    def schedule(self) -> tuple[Float[Tensor, " t"], None]:
        """Return steps of 1 / ||A||^2."""
        return torch.ones(self.iterations), None


@registry.register("ista")
class ISTA(_Classical):
    r"""Iterative soft thresholding for :math:`\tfrac12 \|Ax - y\|^2 + \lambda \|\Psi x\|_1` [1]_.

    .. math:: x \leftarrow \Psi^T \mathrm{soft}_{\lambda a}\bigl(\Psi (x - a A^T(Ax - y))\bigr),
        \quad a = 1 / \|A\|^2, \quad x_0 = 0

    Parameters
    ----------
    iterations
        T.
    regularisation
        :math:`\lambda`, in the unit of ``y``. None: by ``relative``.
    relative
        :math:`\lambda` over the least one of which the solution is zero, :math:`\|\Psi A^T y\|_\infty`; 0.01 by
        default.
    sparsity
        :math:`\Psi`: ``pixels`` (none) or ``wavelets`` (db4, the low-pass part not shrunk); ``auto``: wavelets for
        what has at least 16 pixels along two axes.

    References
    ----------
    .. [1] Daubechies, Defrise, De Mol, An iterative thresholding algorithm for linear inverse problems with a
       sparsity constraint, CPAM 57, 2004.
    """


@registry.register("fista")
class FISTA(_Classical):
    """ISTA with Nesterov's momentum [1]_: the same minimum in fewer iterations. Parameters as those of `ISTA`.

    References
    ----------
    .. [1] Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse problems, SIIMS 2,
       2009.
    """

    momentum = True


@registry.register("iht")
class IHT(_Classical):
    r"""Iterative hard thresholding for :math:`\tfrac12 \|Ax - y\|^2 + \lambda \|\Psi x\|_0` [1]_.

    .. math:: x \leftarrow \Psi^T \mathrm{hard}_{\sqrt{2 \lambda a}}\bigl(\Psi (x - a A^T(Ax - y))\bigr)

    The objective falls with each iteration, to a local minimum. Parameters as those of `ISTA`, except that
    :math:`\lambda` is in the unit of ``y`` squared, and by ``relative``, 0.05 by default, such that the first threshold
    is so much of the largest coefficient.

    References
    ----------
    .. [1] Blumensath, Davies, Iterative thresholding for sparse approximations, J Fourier Anal Appl 14, 2008.
    """

    penalty = "l0"
