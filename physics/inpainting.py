"""Images with missing pixels, and the masks that say which: random, blocks, coded."""

from __future__ import annotations

import torch
from deepinv.physics import Inpainting as DeepinvInpainting
from deepinv.physics.noise import GaussianNoise, NoiseModel
from jaxtyping import Float, Shaped
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import MaskError, OptionError


@operators.register("inpainting")
class Inpainting(DeepinvInpainting):
    r"""Keeps the pixels where the mask is 1, :math:`y = m \odot x`; deepinv's, with the mask checked.

    Its singular value decomposition is known, so ``A_dagger`` and ``prox_l2`` cost one product.

    Parameters
    ----------
    mask
        0 and 1 (or bool), broadcastable to ``(b, c, y, x)``: ``(y, x)``, ``(c, y, x)`` or ``(b, c, y, x)``.
    img_size
        (c, y, x) of the images; None: that of the mask, with its channels.
    noise_model
        None: no noise.

    Raises
    ------
    MaskError
        A mask that is empty, of other values than 0 and 1, or that does not fit ``img_size``.
    """

    def __init__(
        self,
        mask: Shaped[Tensor, "*shape"],
        img_size: tuple[int, int, int] | None = None,
        *,
        noise_model: NoiseModel | None = None,
    ) -> None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape)) if mask.ndim < 4 else mask
        size = tuple(mask.shape[1:]) if img_size is None else tuple(img_size)
        if mask.ndim != 4 or any(m not in (1, n) for m, n in zip(mask.shape[1:], size, strict=True)):
            raise MaskError("a mask that does not fit the image", found=tuple(mask.shape), expected=f"(b, *{size})")
        if not mask.is_meta:
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise MaskError("a mask says kept or not", expected="1 and 0")
            if not bool(mask.any()):
                raise MaskError("the mask keeps no pixel")
        mask = mask if mask.is_floating_point() else mask.to(torch.get_default_dtype())
        super().__init__(img_size=size, mask=mask, noise_model=noise_model, device=mask.device)

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[Inpainting, Float[Tensor, "b c y x"]]:
        """Make a random instance and an image for the shared operator test."""
        mask = torch.stack([random_mask((9, 11), 0.6, generator) for _ in range(batch)])[:, None]
        x = torch.randn(batch, 2, 9, 11, dtype=dtype, generator=generator).to(device)
        return cls(mask.to(device, dtype), (2, 9, 11), noise_model=GaussianNoise(0.1)), x


def random_mask(shape: tuple[int, int], keep: float, generator: torch.Generator) -> Float[Tensor, "y x"]:
    """Keep each pixel with probability ``keep``; at least one is kept.

    Raises
    ------
    OptionError
        ``keep`` not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise OptionError("the share of pixels kept lies above 0 and not above 1", found=keep)
    draw = torch.rand(shape, generator=generator)
    return (draw <= max(keep, float(draw.min()))).float()


def block_mask(
    shape: tuple[int, int], size: tuple[int, int], count: int, generator: torch.Generator
) -> Float[Tensor, "y x"]:
    """Take ``count`` blocks of ``size`` (y, x) out, at random places wholly inside; they may overlap.

    Raises
    ------
    OptionError
        A block that is empty or does not leave a pixel; no block.
    """
    if count < 1 or not all(1 <= s <= n for s, n in zip(size, shape, strict=True)) or size == shape:
        raise OptionError(
            "blocks that cannot be taken out", found=f"{count} of {size}", expected=f"smaller than {shape}"
        )
    mask = torch.ones(shape)
    for _ in range(count):
        top, left = (int(torch.randint(n - s + 1, (), generator=generator)) for n, s in zip(shape, size, strict=True))
        mask[top : top + size[0], left : left + size[1]] = 0
    if not bool(mask.any()):
        raise OptionError("the blocks leave no pixel", found=f"{count} of {size}")
    return mask


def coded_mask(shape: tuple[int, int], prime: int = 13) -> Float[Tensor, "y x"]:
    r"""Tile the plane with a modified uniformly redundant array, about half open [1]_.

    With :math:`C_i = 1` where :math:`i` is a quadratic residue modulo the prime and -1 elsewhere, the array is 0 in
    its first row, 1 in the rest of its first column, and 1 elsewhere where :math:`C_i C_j = 1`.

    Raises
    ------
    OptionError
        ``prime`` is not an odd prime.

    References
    ----------
    .. [1] Gottesman, Fenimore, New family of binary arrays for coded aperture imaging, Applied Optics 1989.
    """
    if prime < 3 or any(prime % divisor == 0 for divisor in range(2, int(prime**0.5) + 1)):
        raise OptionError("a coded mask needs an odd prime", found=prime)
    residue = torch.full((prime,), -1)
    residue[torch.arange(1, prime) ** 2 % prime] = 1
    tile = (residue[:, None] * residue == 1).float()
    tile[:, 0] = 1
    tile[0] = 0
    repeats = [-(-n // prime) for n in shape]
    return tile.repeat(*repeats)[: shape[0], : shape[1]].contiguous()
