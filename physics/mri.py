"""Cartesian multi-coil MRI: coil maps, Fourier transform, sampling."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics.noise import GaussianNoise, NoiseModel
from jaxtyping import Complex, Float, Num
from torch import Tensor

from recon.physics import operators
from recon.physics.coils import CoilPhysics
from recon.physics.errors import MaskError, OptionError, ShapeError
from recon.physics.fft import centring_phases, ifft_centred
from recon.physics.layout import to_channels, to_complex
from recon.physics.sense import coil_images, combined, gram_mask


@operators.register("multicoil-mri")
class MultiCoilMRI(CoilPhysics):
    r"""Sampled Fourier transform of coil images, :math:`y_c = M F \sum_s S_{s,c}\, x_s` [1]_ [2]_.

    :math:`F` is the centred orthonormal FFT. Its shifts are two phases (`recon.physics.fft.centring_phases`); in
    :math:`A^H A` even these cancel, because a convolution commutes with a shift:

    .. math:: A^H A x = \sum_c \bar S_c\, F_0^H M_0 F_0\, (S_c x),

    with the plain FFT :math:`F_0` and the mask :math:`M_0` whose centre is at index 0. Along an axis on which the
    mask is constant the two transforms cancel too, and are left out.

    Parameters
    ----------
    coil_maps
        ``(b, coil, y, x)``, or ``(b, set, coil, y, x)`` for soft SENSE; a ``z`` more with ``three_d``. A batch of 1
        serves any batch; ``(coil, *spatial)`` is taken as one.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``; None: everything is sampled. Numbers 0 and 1, and
        the two equal channels of deepinv's masks, are understood.
    three_d
        Images have three spatial axes. Tells ``(b, coil, z, y, x)`` from ``(b, set, coil, y, x)``.
    noise_model
        Its sigma is the standard deviation of the real and of the imaginary part of a sample.
    coil_chunk
        Coil images that `A_adjoint_A` and `A_adjoint` work on at once; by default as many as fit the cache.
    max_iter, tol
        Of the conjugate gradients in `A_dagger` and of deepinv's solvers in `prox_l2`.

    Attributes
    ----------
    coil_maps
        ``(b | 1, set, coil, *spatial)``; in memory the axes along which the mask varies come last.
    mask
        ``(b | 1, 1, *spatial)``, bool.

    Raises
    ------
    ShapeError, DTypeError, MaskError
        Maps or mask do not fit.

    References
    ----------
    .. [1] Pruessmann et al., SENSE: sensitivity encoding for fast MRI, MRM 1999.
    .. [2] Uecker et al., ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI, MRM 2014 (two sets).
    """

    mask: Tensor
    _phase_m: Tensor
    _phase_k: Tensor

    def __init__(
        self,
        coil_maps: Complex[Tensor, "*b coil y x"],
        mask: Tensor | None = None,
        *,
        three_d: bool = False,
        noise_model: NoiseModel | None = None,
        coil_chunk: int | None = None,
        max_iter: int = 50,
        tol: float = 1e-4,
    ) -> None:
        super().__init__(
            coil_maps,
            n_axes=3 if three_d else 2,
            noise_model=noise_model,
            coil_chunk=coil_chunk,
            max_iter=max_iter,
            tol=tol,
        )
        self.three_d = three_d
        if mask is None:
            mask = torch.ones(self.spatial, dtype=torch.bool, device=coil_maps.device)
        self.register_buffer("mask", self._checked_mask(mask, self.coil_maps))
        phase_m, phase_k = centring_phases(self.spatial, coil_maps.dtype, coil_maps.device)
        self.register_buffer("_phase_m", phase_m, persistent=False)
        self.register_buffer("_phase_k", phase_k, persistent=False)
        self._prepare()

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[MultiCoilMRI, Float[Tensor, "b channel y x"]]:
        """Make a random instance and an image for the shared operator test."""
        maps = torch.randn(batch, 3, 12, 9, dtype=dtype.to_complex(), generator=generator).to(device)
        mask = (torch.rand(batch, 1, 12, 9, generator=generator) < 0.5).to(device)
        x = torch.randn(batch, 2, 12, 9, dtype=dtype, generator=generator).to(device)
        return cls(maps, mask, noise_model=GaussianNoise(0.1)), x

    def update_parameters(
        self,
        mask: Tensor | None = None,
        coil_maps: Tensor | None = None,
        **_noise_parameters: object,
    ) -> None:
        """Replace the mask, the maps or both; the noise model's parameters, which deepinv hands on too, are left."""
        if mask is None and coil_maps is None:
            return
        maps = self.coil_maps if coil_maps is None else self._checked_maps(coil_maps).to(self.coil_maps.device)
        self.mask = self._checked_mask(self.mask if mask is None else mask, maps)  # nothing changes where one is bad
        self.coil_maps = maps
        self._prepare()

    def A(self, x: Float[Tensor, "b channel *spatial"], **parameters: Any) -> Complex[Tensor, "b coil *spatial"]:
        """Measure images of ``2 * set`` real channels; what `update_parameters` takes can be given here, and stays."""
        self.update_parameters(**parameters)
        return self.expand(to_complex(x)).mul_(self.mask)

    def A_adjoint(self, y: Num[Tensor, "b ..."], **parameters: Any) -> Float[Tensor, "b channel *spatial"]:
        """Apply the adjoint to complex ``(b, coil, *spatial)`` or to deepinv's real ``(b, 2, coil, *spatial)``."""
        self.update_parameters(**parameters)
        if not y.is_complex():
            if y.ndim != len(self._dims) + 3 or y.shape[1] != 2:
                raise ShapeError(
                    "k-space that cannot be used", found=tuple(y.shape), expected="complex, or two channels"
                )
            y = torch.view_as_complex(y.movedim(1, -1).contiguous())
        return to_channels(self._with_sets(self.combine(y * self.mask)))

    def noise(self, x: Complex[Tensor, "b coil *spatial"], **parameters: Any) -> Complex[Tensor, "b coil *spatial"]:
        """Apply the noise model to the real and to the imaginary part of the sampled entries."""
        return super().noise(x, **parameters) * self.mask

    def expand(self, x: Complex[Tensor, "b *set_and_spatial"]) -> Complex[Tensor, "b coil *spatial"]:
        """Compute the k-space of all coils, unmasked, of an image ``(b, *spatial)`` or ``(b, set, *spatial)``."""
        images = coil_images(self.coil_maps, self._with_sets(x) * self._phase_m)
        return torch.fft.fftn(images, dim=self._dims, norm="ortho").mul_(self._phase_k)

    def combine(self, k: Complex[Tensor, "b coil *spatial"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """Adjoint of `expand`: ``(b, *spatial)`` for one set of maps, else ``(b, set, *spatial)``."""
        if tuple(k.shape[1:]) != tuple(self.coil_maps.shape[2:]):
            raise ShapeError(
                "k-space that does not fit the coil maps", found=tuple(k.shape), expected=tuple(self.coil_maps.shape)
            )
        x = combined(self.coil_maps, k, self._phase_k, self._dims, self._chunk)
        return self._without_sets(x * self._phase_m.conj())

    def _checked_mask(self, mask: Tensor, maps: Tensor) -> Tensor:
        spatial = tuple(maps.shape[3:])
        found, ndim = tuple(mask.shape), len(spatial) + 2
        mask = mask.to(maps.device).reshape((1,) * (ndim - mask.ndim) + found)
        if mask.dtype != torch.bool:
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise MaskError("a mask says sampled or not", expected="True and False, or 1 and 0")
            mask = mask != 0
        if mask.ndim == ndim and mask.shape[1] == 2 and torch.equal(mask[:, 0], mask[:, 1]):
            mask = mask[:, :1]
        fits = mask.ndim == ndim and mask.shape[1] == 1
        fits = fits and all(m in (1, n) for m, n in zip(mask.shape[2:], spatial, strict=True))
        if not fits or (mask.shape[0] > 1 and maps.shape[0] > 1 and mask.shape[0] != maps.shape[0]):
            batch = "b" if maps.shape[0] == 1 else maps.shape[0]
            raise MaskError(
                "the mask does not fit the coil maps",
                found=found,
                expected=f"a shape that broadcasts to ({batch}, 1, {', '.join(map(str, spatial))})",
            )
        if not bool(mask.any()):
            raise MaskError("the mask samples nothing")
        return mask.expand(-1, -1, *spatial).contiguous()

    def _prepare(self) -> None:
        """Precompute what depends on maps and mask: the phases, and the axes and the factor of `normal`."""
        maps, mask = self.coil_maps, self.mask
        if self._phase_m.shape != maps.shape[3:] or self._phase_m.dtype != maps.dtype:
            self._phase_m, self._phase_k = centring_phases(self.spatial, maps.dtype, maps.device)
        varies = [not torch.equal(mask, mask.narrow(dim, 0, 1).expand_as(mask)) for dim in self._dims]
        dims = tuple(dim for dim, v in zip(self._dims, varies, strict=True) if v)
        if not dims and not bool(mask.all()):
            dims = self._dims[-1:]  # constant, but not sampled in some batch element
        for dim in set(self._dims) - set(dims):
            mask = mask.narrow(dim, 0, 1)
        self._set_gram(gram_mask(mask.to(maps.real.dtype), dims) if dims else None, dims)


def decouple_readout(
    kspace: Complex[Tensor, "b coil z y x"], axis: int
) -> Complex[Tensor, "b_readout coil first second"]:
    """Turn 3D k-space with a fully sampled readout into independent 2D problems by one inverse centred FFT.

    Parameters
    ----------
    axis
        The readout: -1 (x), -2 (y) or -3 (z).

    Returns
    -------
    Tensor
        ``(b * readout, coil, *other axes)``: 2D k-space of each position along the readout.
    """
    if axis not in (-3, -2, -1):
        raise OptionError("the readout is a spatial axis", found=axis, expected="-3, -2 or -1")
    return ifft_centred(kspace, (axis,)).movedim(axis, 1).flatten(0, 1)
