"""The U-Net of fastMRI, and the reconstruction that is one pass through it."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError
from recon.physics.fft import ifft_centred
from recon.physics.layout import to_channels
from recon.regularisation import check_measurements

_LEAK = 0.2
_MULTIPLE = 16  # images of complex data are padded to a multiple of it
_MOST_DEVIATIONS = 6.0  # magnitudes are clipped to so many standard deviations


class UNet(nn.Module):
    """U-Net [1]_ as in fastMRI [2]_: 3x3 convolutions, instance normalisation, average pooling, no dropout.

    Parameters
    ----------
    in_channels, out_channels
        Of the images.
    features
        Channels of the first scale; each further one has twice as many.
    pools
        Number of times that the size is halved.

    References
    ----------
    .. [1] Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015.
    .. [2] Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, arXiv 1811.08839.
    """

    def __init__(self, in_channels: int, out_channels: int, features: int = 32, pools: int = 4) -> None:
        super().__init__()
        if min(features, pools) < 1:
            raise OptionError("a U-Net has at least one feature and one scale", found=f"{features}, {pools}")
        widths = [features * 2**scale for scale in range(pools)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([in_channels, *widths[:-1]], widths, strict=True))
        self.bottom = _block(widths[-1], 2 * widths[-1])
        self.up = nn.ModuleList(_upsampling(2 * width) for width in reversed(widths))
        self.merge = nn.ModuleList(_block(2 * width, width) for width in reversed(widths))
        self.last = nn.Conv2d(features, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Return images of the same size; the smallest scale must have two pixels at least."""
        scales = []
        for block in self.down:
            x = block(x)
            scales.append(x)
            x = avg_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x, beside = up(x), scales.pop()
            # A side that was odd lost a row in the pooling.
            lost = (0, beside.shape[-1] - x.shape[-1], 0, beside.shape[-2] - x.shape[-2])
            x = merge(torch.cat((pad(x, lost, mode="reflect") if any(lost) else x, beside), 1))
        return self.last(x)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), *_activation(out_channels)]
    return nn.Sequential(*layers)


def _upsampling(channels: int) -> nn.Sequential:
    half = channels // 2
    return nn.Sequential(nn.ConvTranspose2d(channels, half, 2, stride=2, bias=False), *_activation(half))


def _activation(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(channels), nn.LeakyReLU(_LEAK, inplace=True)


class NormUNet(nn.Module):
    """U-Net on images that are brought to mean 0 and standard deviation 1, each channel by itself, and back.

    So it takes data of any scale: ``f(c x) = c f(x)`` for c > 0. Images are padded with zeros for the U-Net.

    Parameters
    ----------
    channels
        2: the real and imaginary part of complex images; 1: magnitudes.
    features, pools
        As in `UNet`.
    multiple
        Pad to a multiple of it.
    most
        Clip normalised values to plus or minus this.
    """

    def __init__(
        self,
        channels: int = 2,
        features: int = 32,
        pools: int = 4,
        *,
        multiple: int = _MULTIPLE,
        most: float = float("inf"),
    ) -> None:
        super().__init__()
        self.unet = UNet(channels, channels, features, pools)
        self.pools, self.multiple, self.most = pools, multiple, most

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Return images of the same size."""
        h, w = x.shape[-2:]
        deviation, mean = torch.std_mean(x, dim=(-2, -1), keepdim=True, correction=min(1, h * w - 1))
        deviation = torch.where(deviation > 0, deviation, 1)  # an image without contrast
        top, bottom, left, right = margins(h, w, self.multiple, self.pools)
        normalised = ((x - mean) / deviation).clamp(-self.most, self.most)
        z = self.unet(pad(normalised, (left, right, top, bottom)))
        return z[..., top : top + h, left : left + w] * deviation + mean


def margins(h: int, w: int, multiple: int, pools: int) -> tuple[int, int, int, int]:
    """Rows above and below, columns left and right, that make sides a multiple and the smallest scale two pixels."""
    least = 2**pools
    sides = [max(-(-n // multiple) * multiple, least) for n in (h, w)]
    if max(sides) < 2 * least:
        sides = [2 * least] * 2  # normalisation needs more than one pixel
    above, left = (sides[0] - h) // 2, (sides[1] - w) // 2
    return above, sides[0] - h - above, left, sides[1] - w - left


@registry.register("unet")
class UNetReconstructor(LearnedReconstructor):
    """U-Net on the zero-filled image [Zbontar et al. 2018, section 7.2], with fastMRI's topology and normalisation.

    Nothing holds the image to the data: it is what a network without physics can do.

    Parameters
    ----------
    features
        Channels of the first scale.
    pools
        Number of times that the size is halved.
    magnitude
        False: the coil-combined complex image, a set of maps at a time, becomes one. True: fastMRI's published
        networks, where a root-sum-of-squares image becomes a magnitude; coil maps are not used.
    """

    def __init__(self, features: int = 32, pools: int = 4, *, magnitude: bool = False) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.network = (
            NormUNet(1, features, pools, multiple=1, most=_MOST_DEVIATIONS)
            if magnitude
            else NormUNet(2, features, pools)
        )

    def forward(self, y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI) -> Float[Tensor, "b channel y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            K-space, of any scale.
        physics
            Its operator.

        Returns
        -------
        Tensor
            Two channels a set of maps; one of magnitudes.

        Raises
        ------
        OptionError
            Physics that are not Cartesian MRI in 2D.
        ShapeError
            Measurements that do not fit the physics.
        """
        check_cartesian(y, physics)
        if self.magnitude:
            images = ifft_centred(y * physics.mask, (-2, -1))
            return self.network(torch.linalg.vector_norm(images, dim=1, keepdim=True))
        sets = physics.combine(y * physics.mask).reshape(-1, 1, *physics.spatial)
        return self.network(to_channels(sets)).reshape(len(y), -1, *physics.spatial)


def check_cartesian(y: Tensor, physics: object) -> None:
    """Raise where physics are not 2D Cartesian MRI, or measurements do not fit them."""
    if not isinstance(physics, MultiCoilMRI) or physics.three_d:
        raise OptionError(
            "this network reconstructs 2D Cartesian k-space",
            found=type(physics).__name__,
            cure="Take cg-sense or l1-wavelet",
        )
    check_measurements(y, physics)
