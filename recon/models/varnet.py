"""The end-to-end variational network: soft data consistency in k-space, refinement by U-Nets in image space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.models.recursion import Recursion
from recon.models.unet import NormUNet, check_cartesian
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError
from recon.physics.fft import ifft_centred
from recon.physics.layout import to_channels, to_complex


@registry.register("varnet")
class VarNet(LearnedReconstructor):
    r"""E2E-VarNet [1]_: cascades of soft data consistency and a U-Net, on the k-space of all coils.

    .. math:: k_{t+1} = k_t - \eta_t M (k_t - y) - E(U_t(R(k_t))), \quad k_0 = y,

    with :math:`R` the combination of the coils' images and :math:`E` its adjoint (eq. 8-10 in [1]_). The U-Nets
    normalise their images, so that scaling ``y`` scales the result.

    Parameters
    ----------
    cascades
        12 as published.
    features, pools
        Of each cascade's U-Net; 18 and 4 as published.
    recursions
        Most times that each cascade is applied in a row, with the same weights [2]_: all of them, but in training a
        number that is drawn. 1 as published.
    estimate_maps
        Estimate the coil maps from the fully sampled middle lines by a U-Net, trained with the rest, as published
        (eq. 11); else those of the physics are used.
    map_features, map_pools
        Of that U-Net.
    output
        ``combined``: the complex image that the maps of the physics give, :math:`R(k_T)`; ``rss``: root sum of
        squares of the coil images, one channel, as published.

    References
    ----------
    .. [1] Sriram et al., End-to-end variational networks for accelerated MRI reconstruction, MICCAI 2020.
    .. [2] Alhejaili et al., Recursions Are All You Need: Towards Efficient Deep Unfolding Networks, arXiv 2305.05505.
    """

    def __init__(
        self,
        cascades: int = 12,
        features: int = 18,
        pools: int = 4,
        *,
        recursions: int = 1,
        estimate_maps: bool = False,
        map_features: int = 8,
        map_pools: int = 4,
        output: Literal["combined", "rss"] = "combined",
    ) -> None:
        super().__init__()
        if cascades < 1 or output not in ("combined", "rss"):
            raise OptionError(
                "VarNet has at least one cascade, and gives 'combined' or 'rss'", found=(cascades, output)
            )
        self.output = output
        self.recursion = Recursion(cascades, recursions)
        self.cascades = nn.ModuleList(NormUNet(2, features, pools) for _ in range(cascades))
        self.step_sizes = nn.Parameter(torch.ones(cascades))
        self.maps = NormUNet(2, map_features, map_pools) if estimate_maps else None

    def forward(
        self, y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI, recursions: Sequence[int] | None = None
    ) -> Float[Tensor, "b channel y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            K-space, of any scale.
        physics
            Its operator; several sets of maps are refined each by itself.
        recursions
            How often each cascade is applied; None: drawn in training, else as often as it may be.

        Returns
        -------
        Tensor
            Two channels a set of maps; one of magnitudes with ``rss``.

        Raises
        ------
        OptionError
            Physics that are not Cartesian MRI in 2D, recursions that do not fit the cascades.
        ShapeError
            Measurements that do not fit the physics.
        """
        check_cartesian(y, physics)
        y = y * physics.mask
        coils = physics if self.maps is None else MultiCoilMRI(self._estimated_maps(y, physics.mask), physics.mask)
        k = y
        for turn in self.recursion.turns(recursions):
            x = coils.combine(k)
            sets = to_channels(x.reshape(-1, 1, *coils.spatial))
            update = to_complex(self.cascades[turn.block](sets)).reshape(x.shape)
            k = k - self.step_sizes[turn.block] * coils.mask * (k - y) - coils.expand(update)
        if self.output == "rss":
            return torch.linalg.vector_norm(ifft_centred(k, (-2, -1)), dim=1, keepdim=True)
        return to_channels(physics.combine(k).reshape(len(y), -1, *physics.spatial))

    def _estimated_maps(
        self, y: Complex[Tensor, "b coil y x"], mask: Bool[Tensor, "#b 1 y x"]
    ) -> Complex[Tensor, "b coil y x"]:
        """Refine the coils' images of low resolution one by one, and divide by their root sum of squares."""
        assert self.maps is not None
        images = ifft_centred(y * calibration_block(mask), (-2, -1))
        refined = self.maps(to_channels(images.reshape(-1, 1, *images.shape[2:])))
        maps = to_complex(refined).reshape(images.shape)
        norm = torch.linalg.vector_norm(torch.view_as_real(maps), dim=(1, -1)).unsqueeze(1)
        return maps / norm.clamp_min(torch.finfo(norm.dtype).tiny)


def calibration_block(mask: Bool[Tensor, "b 1 y x"]) -> Bool[Tensor, "b 1 y x"]:
    """Rows and columns around the middle of k-space that are sampled on both sides without a gap.

    For a mask of lines those of the authors' code. Masks in two dimensions have a block, of what the middle row and the
    middle column have.
    """
    h, w = mask.shape[-2:]
    rows, columns = _without_gap(mask[..., w // 2]), _without_gap(mask[..., h // 2, :])
    return rows[..., :, None] & columns[..., None, :]


def _without_gap(line: Bool[Tensor, "b 1 n"]) -> Bool[Tensor, "b 1 n"]:
    """As many samples on both sides of the middle as are there without a gap on either; the middle one at least."""
    n = line.shape[-1]
    c = n // 2
    above = line[..., c:].int().cumprod(-1).sum(-1, keepdim=True)
    below = line[..., :c].flip(-1).int().cumprod(-1).sum(-1, keepdim=True)
    count = (2 * torch.minimum(below, above)).clamp_min(1)
    first = (n - count + 1) // 2
    index = torch.arange(n, device=line.device)
    return line.all(-1, keepdim=True) | ((index >= first) & (index < first + count))
