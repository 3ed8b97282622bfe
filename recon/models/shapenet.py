"""ShapeNet: Tikhonet trained to keep shapes."""

from __future__ import annotations

from recon.models import registry
from recon.models.tikhonet import Tikhonet


@registry.register("shapenet")
class ShapeNet(Tikhonet):
    """Tikhonet, trained with a loss that also compares shapes [1]_: ``{mse: 1, shape: gamma}`` in a configuration.

    Parameters are those of `recon.models.tikhonet.Tikhonet`.

    References
    ----------
    .. [1] Nammour et al., ShapeNet: shape constraint for galaxy image deconvolution, A&A 663, 2022.
    """
