"""RecurrentVarNet: unrolled gradient descent in k-space with a recurrent regulariser in image space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon.models import registry
from recon.models.convgru import RecurrentRegulariser, State, StateInitialiser
from recon.models.learned import LearnedReconstructor
from recon.models.recurrent_steps import (
    MAP_POOLS,
    as_features,
    combined,
    consistent,
    expanded,
    gradient_step,
    proximal_step,
    refined,
)
from recon.models.recursion import Recursion, Turn
from recon.models.scaling import unit_scale
from recon.models.unet import UNet, check_cartesian
from recon.models.warm_start import cg_sense_image, filled_in, noise_levels, sparse_image
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError
from recon.physics.fft import fft_centred, ifft_centred
from recon.physics.layout import to_channels, to_complex

Initialiser = Literal["image", "kspace", "kspace-corner", "none"]
_COMPLEX = 2  # real channels of a complex image
_QUIET = 0.1  # size of the first updates after a warm start
_WEIGHT = 0.3  # of the prior in proximal problems, at first
_CONDITIONS = 2  # noise level and acceleration, in their logarithms, of about this mean and spread:
_NOISE, _RATE = (-4.8, 0.8), (1.75, 0.45)
_LEAST_NOISE, _LEAST_SHARE = 1e-4, 1e-3
_ITERATIONS = 10  # of the conjugate gradients of the ending data consistency


@registry.register("recurrentvarnet")
class RecurrentVarNet(LearnedReconstructor):
    r"""RecurrentVarNet [1]_: gradient steps in k-space, a convolutional recurrent regulariser in image space.

    .. math:: k_{t+1} = k_t - \alpha_t M (k_t - y) + E(w_t), \quad w_t, h_{t+1} = H_t(R(k_t), h_t)

    from :math:`k_0 = y`, with :math:`R` the combination of the coils' images and :math:`E` its adjoint. The state is
    kept as coil images, :math:`F^H k_t`, in which the gradient step is the same and the transforms need no shifts.

    Parameters
    ----------
    steps
        T; 8 as published, 12 in the challenge entry.
    hidden
        Channels of the recurrent states.
    layers
        Convolutions with a gated unit in each step.
    share_weights
        One regulariser for all steps, T times fewer parameters; each step keeps its own step size.
    recursions
        Most times that each step is applied in a row, with the same weights [4]_: all of them, but in training a
        number that is drawn. Regularisers then see how long the pass is and where it is. 1 as published.
    initialiser
        What the first state is made of: the combined ``image``, its k-space with DC in the middle (``kspace``) or at
        index 0 (``kspace-corner``: the authors' code and its published weights), or nothing (``none``).
    initialiser_scales
        How many scales of the initialiser's features are put together.
    noise_input
        Show the regulariser the noise level as a further channel (0 where it is not known).
    adaptive
        Show it noise level and acceleration, in their logarithms, and let them change step sizes and the weight of
        the ending data consistency. A noise level that is not known is estimated.
    block
        Side of the blocks of pixels that the regulariser sees as one pixel of ``block**2`` times as many channels
        [2]_: 1 as published; 2 sees twice as far for a quarter of the time.
    warm_start
        Iterations of CG-SENSE that fill in the samples that are missing in :math:`k_0`; 0 as published.
    sparse_start
        Iterations of L1-wavelet that do so instead, at a strength that the noise level gives: what is learned is what
        compressed sensing leaves.
    proximal
        Iterations of conjugate gradients by which each step solves the proximal problem of the data, with a learned
        weight, in place of the gradient step [3]_; 0: gradient steps, as published.
    data_consistency
        End with :math:`\arg\min_x \|A x - y\|^2 + \lambda \|x - x_T\|^2`, :math:`\lambda` learned.
    refine_maps
        Features of a U-Net that refines the coil maps, one by one, before anything else; 0: they are used as they are.
    output
        ``combined``: :math:`R(k_T)`, complex; ``rss``: root sum of squares of the coil images, one channel.
    scale
        What the network's data are divided by, and its image multiplied: the 99.9th percentile of the zero-filled
        ``image``, the largest magnitude in ``kspace`` (the authors' weights), or ``none``.
    save_memory
        Keep only the coil images and states between steps for the backward pass, and compute the rest again.

    References
    ----------
    .. [1] Yiasemis et al., Recurrent Variational Network: A Deep Learning Inverse Problem Solver applied to the task of
        Accelerated MRI Reconstruction, CVPR 2022.
    .. [2] Zhang, Zuo and Zhang, FFDNet: Toward a fast and flexible solution for CNN based image denoising, TIP 2018.
    .. [3] Aggarwal, Mani and Jacob, MoDL: Model-based deep learning architecture for inverse problems, TMI 2019.
    .. [4] Alhejaili et al., Recursions Are All You Need: Towards Efficient Deep Unfolding Networks, arXiv 2305.05505.
    """

    def __init__(
        self,
        steps: int = 8,
        hidden: int = 128,
        layers: int = 4,
        *,
        share_weights: bool = False,
        recursions: int = 1,
        initialiser: Initialiser = "kspace-corner",
        initialiser_scales: int = 3,
        noise_input: bool = False,
        adaptive: bool = False,
        block: int = 1,
        warm_start: int = 0,
        sparse_start: int = 0,
        proximal: int = 0,
        data_consistency: bool = False,
        refine_maps: int = 0,
        output: Literal["combined", "rss"] = "combined",
        scale: Literal["image", "kspace", "none"] = "image",
        save_memory: bool = False,
    ) -> None:
        super().__init__()
        if min(steps, hidden, layers, block) < 1 or min(warm_start, sparse_start, proximal, refine_maps) < 0:
            raise OptionError(
                "RecurrentVarNet has at least one step, layer and channel",
                found=f"steps {steps}, hidden {hidden}, layers {layers}, block {block}, "
                f"warm_start {warm_start}, sparse_start {sparse_start}",
            )
        if initialiser not in _INITIAL_IMAGE or scale not in _SCALES or output not in ("combined", "rss"):
            raise OptionError(
                "no such initialiser, scale or output",
                found=f"{initialiser}, {scale}, {output}",
                expected=f"{', '.join(_INITIAL_IMAGE)}; {', '.join(_SCALES)}; combined, rss",
            )
        self._initial_image = _INITIAL_IMAGE[initialiser]
        self.hidden, self.layers, self.block = hidden, layers, block
        self.warm_start, self.sparse_start = warm_start, sparse_start
        self.noise_input, self.output, self.scale, self.save_memory = noise_input, output, scale, save_memory
        self.recursion = Recursion(steps, recursions)
        in_channels = block**2 * _COMPLEX + int(noise_input) + _CONDITIONS * (int(adaptive) + int(recursions > 1))
        self.initialiser = (
            None
            if self._initial_image is None
            else StateInitialiser(block**2 * _COMPLEX, hidden, layers, scales=initialiser_scales)
        )
        regularisers = [
            RecurrentRegulariser(in_channels, block**2 * _COMPLEX, hidden, layers)
            for _ in range(1 if share_weights else steps)
        ]
        if warm_start or sparse_start:  # random updates would throw away what it gives
            with torch.no_grad():
                for parameter in (p for regulariser in regularisers for p in regulariser.last.parameters()):
                    parameter.mul_(_QUIET)
        self.regularisers = nn.ModuleList(regularisers)
        self.proximal = proximal
        if proximal:
            self.log_weights = nn.Parameter(torch.full((steps,), math.log(_WEIGHT)))
        else:
            self.step_sizes = nn.Parameter(torch.ones(steps))
        self.adaptation = _adaptation(steps + int(data_consistency)) if adaptive else None
        self.log_consistency = nn.Parameter(torch.zeros(())) if data_consistency else None
        self.maps = UNet(_COMPLEX, _COMPLEX, refine_maps, MAP_POOLS) if refine_maps else None

    def forward(
        self,
        y: Complex[Tensor, "b coil y x"],
        physics: MultiCoilMRI,
        recursions: Sequence[int] | None = None,
    ) -> Float[Tensor, "b channel y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            K-space, zero where it is not sampled.
        physics
            Its operator; several sets of maps are regularised each by itself.
        recursions
            How often each step is applied; None: drawn in training, else as often as it may be.

        Raises
        ------
        OptionError
            Physics that are not Cartesian MRI, recursions that do not fit the steps.
        ShapeError
            Measurements that do not fit the physics.
        """
        check_cartesian(y, physics)
        if self.maps is not None:
            physics = MultiCoilMRI(refined(self.maps, physics.coil_maps), physics.mask, noise_model=physics.noise_model)
        unit = _SCALES[self.scale](y, physics)
        scaled = y / unit
        estimated = self.sparse_start > 0 or self.adaptation is not None
        levels = noise_levels(scaled, physics, unit).expand(len(y)) if estimated else unit.new_zeros(len(y))
        seen, changes = self._conditions(physics, unit, levels)
        turns = self.recursion.turns(recursions)
        if self.proximal:
            x = self._images(scaled, physics, levels, seen, changes, turns)
            z = expanded(physics.coil_maps, x) if self.output == "rss" else None
        else:
            z = self._coil_images(scaled, physics, levels, seen, changes, turns)
            x = combined(physics.coil_maps, z)
        if self.output == "rss":
            return torch.linalg.vector_norm(z, dim=1, keepdim=True) * unit
        if self.log_consistency is not None:
            right = to_complex(physics.A_adjoint(scaled))
            x = consistent(x, right, physics, (self.log_consistency + changes[-1]).exp(), _ITERATIONS)
        return to_channels(x) * unit

    def _conditions(self, physics: MultiCoilMRI, unit: Tensor, levels: Tensor) -> tuple[Tensor | None, Tensor]:
        """Channels that the regulariser sees beside the image, (b, c, 1, 1), and what is added to each weight."""
        channels = []
        if self.noise_input:
            sigma = torch.as_tensor(getattr(physics.noise_model, "sigma", 0.0), dtype=unit.dtype, device=unit.device)
            channels.append((sigma.reshape(-1, 1, 1, 1) / unit).expand(len(levels), 1, 1, 1))
        changes = unit.new_zeros(1, 1, 1, 1, 1)
        if self.adaptation is not None:
            level = levels.clamp_min(_LEAST_NOISE).log()
            rate = -physics.mask.to(unit.dtype).mean((1, 2, 3)).clamp_min(_LEAST_SHARE).log()
            seen = [(v.expand(len(levels)) - mean) / spread for v, (mean, spread) in ((level, _NOISE), (rate, _RATE))]
            conditions = torch.stack(seen, 1)
            channels.append(conditions[..., None, None])
            changes = self.adaptation(conditions).float().T[..., None, None, None]
        return torch.cat(channels, 1) if channels else None, changes

    def _start(self, y: Tensor, physics: MultiCoilMRI, levels: Tensor) -> Complex[Tensor, "b set y x"] | None:
        if self.sparse_start:
            return sparse_image(y, physics, levels, self.sparse_start)
        return cg_sense_image(y, physics, self.warm_start) if self.warm_start else None

    def _coil_images(
        self,
        y: Tensor,
        physics: MultiCoilMRI,
        levels: Tensor,
        seen: Tensor | None,
        changes: Tensor,
        turns: Sequence[Turn],
    ) -> Complex[Tensor, "b coil y x"]:
        """Run all steps; images of coils come back."""
        maps = physics.coil_maps
        z0 = ifft_centred(y * physics.mask, (-2, -1))
        mask = torch.fft.ifftshift(physics.mask, (-2, -1))
        start = self._start(y, physics, levels)
        z = z0 if start is None else filled_in(start, z0, physics, mask)
        state = self._first_state(combined(maps, z if self.sparse_start else z0))
        for turn in turns:
            size = self.step_sizes[turn.block] + changes[turn.block % len(changes)]
            z, state = self._run(gradient_step, turn, size, z, state, z0, maps, mask, self._at(turn, seen, y))
        return z

    def _images(
        self,
        y: Tensor,
        physics: MultiCoilMRI,
        levels: Tensor,
        seen: Tensor | None,
        changes: Tensor,
        turns: Sequence[Turn],
    ) -> Complex[Tensor, "b set y x"]:
        """Run all steps, each of which solves its proximal problem."""
        right = to_complex(physics.A_adjoint(y))
        start = self._start(y, physics, levels)
        x = right if start is None else start
        state = self._first_state(x)
        for turn in turns:
            weight = (self.log_weights[turn.block] + changes[turn.block % len(changes)]).exp()
            seen_now = self._at(turn, seen, y)
            x, state = self._run(proximal_step, turn, weight, x, state, right, physics, self.proximal, seen_now)
        return x

    def _at(self, turn: Turn, seen: Tensor | None, y: Tensor) -> Tensor | None:
        """Add where a recursive pass is to what the regulariser sees beside the image."""
        if self.recursion.most == 1:
            return seen
        where = y.real.new_tensor(turn.condition)[None, :, None, None].expand(len(y), -1, 1, 1)
        return where if seen is None else torch.cat((seen, where), 1)

    def _run(self, step: Callable[..., tuple[Tensor, State]], turn: Turn, *arguments: Any) -> tuple[Tensor, State]:
        """Do one step, without keeping what its backward pass needs if memory is to be saved."""
        regulariser = self.regularisers[turn.block % len(self.regularisers)]
        if self.save_memory and torch.is_grad_enabled():
            return checkpoint(step, regulariser, self.block, *arguments, use_reentrant=False)
        return step(regulariser, self.block, *arguments)

    def _first_state(self, image: Complex[Tensor, "b set y x"]) -> State:
        b, sets, *size = image.shape
        if self.initialiser is None or self._initial_image is None:
            zero = image.real.new_zeros(b * sets, self.hidden, *(-(-n // self.block) for n in size))
            return [zero] * self.layers
        return self.initialiser(as_features(self._initial_image(image), self.block))


def _adaptation(outputs: int) -> nn.Module:
    """From the conditions to what is added to each step size or weight; next to nothing, at first."""
    last = nn.Linear(16, outputs)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(_CONDITIONS, 16), nn.SiLU(), last)


def _largest(y: Tensor, physics: MultiCoilMRI) -> Tensor:
    largest = (y * physics.mask).abs().amax((1, 2, 3), keepdim=True)
    return torch.where(largest > 0, largest, 1)


def _one(y: Tensor, physics: MultiCoilMRI) -> Tensor:  # noqa: ARG001 - as the others
    return y.real.new_ones(1, 1, 1, 1)


_SCALES = {"image": unit_scale, "kspace": _largest, "none": _one}


def _kspace_corner(image: Tensor) -> Tensor:
    return torch.fft.fftn(image, dim=(-2, -1), norm="ortho")


def _kspace(image: Tensor) -> Tensor:
    return fft_centred(image, (-2, -1))


def _image(image: Tensor) -> Tensor:
    return image


_INITIAL_IMAGE: dict[str, Callable[[Tensor], Tensor] | None] = {
    "image": _image,
    "kspace": _kspace,
    "kspace-corner": _kspace_corner,
    "none": None,
}
