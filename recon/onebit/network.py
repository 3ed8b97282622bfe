"""Chosen weights of a network are quantised, all with one scale or each with its own; and the stages of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recon.onebit.quantiser import Gradient, Levels, Quantiser, Scale, least_squares_scale
from recon.physics.errors import OptionError

Sharing = Literal["network", "matrix"]


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Which weights of a network get few levels, how they are trained, and when.

    A training has two stages: to ``start`` with real weights and the structural zeros, then quantised, from the
    least-squares scale on. One that starts from trained weights may do with the second.

    Parameters
    ----------
    patterns
        Names of weights as `torch.nn.Module.named_parameters` has them, with ``*`` and ``?``: ``["layers.*.weight"]``.
    levels
        ``one-bit``, ``ternary``, ``8-bit``, or ``full``: real numbers with structural zeros.
    scale
        One for the ``network`` or one a ``matrix``.
    blocks
        The structural zeros: matrices, and kernels as matrices of (out, in), have this many blocks on their diagonal.
    gradient
        Of the sign: ``straight-through``, clipped, or of ``tanh`` that becomes steeper.
    beta, anneal
        Slope of tanh at the start of the second stage, and after ``anneal`` steps of it.
    start
        Step at which the weights are quantised.
    rate
        Factor of the learning rate from there on.
    freeze
        Step from which on the codes stay as they are and only what is real is trained; None: never.

    Raises
    ------
    OptionError
        Numbers that make no such training.
    """

    patterns: tuple[str, ...]
    levels: Levels = "one-bit"
    scale: Sharing = "network"
    blocks: int = 1
    gradient: Gradient = "straight-through"
    beta: tuple[float, float] = (1.0, 20.0)
    anneal: int = 1000
    start: int = 0
    rate: float = 1.0
    freeze: int | None = None

    def __post_init__(self) -> None:
        frozen = self.start if self.freeze is None else self.freeze
        if not self.patterns or self.blocks < 1 or self.start < 0 or frozen < self.start or not 0 < self.rate <= 1:
            raise OptionError(
                "no quantisation of weights",
                found=f"patterns {list(self.patterns)}, blocks {self.blocks}, start {self.start}, "
                f"freeze {self.freeze}, rate {self.rate:g}",
                expected="a pattern, 1 block or more, a freeze after the start, a rate above 0 and at most 1",
            )
        if not 0 < self.beta[0] <= self.beta[1] or self.anneal < 1:
            raise OptionError(
                "the slope of tanh grows over steps",
                found=f"beta {self.beta[0]:g} to {self.beta[1]:g}, anneal {self.anneal}",
            )

    def beta_at(self, step: int) -> float:
        """Slope of tanh, growing by the same factor each step."""
        done = min(max(step - self.start, 0) / self.anneal, 1.0)
        return self.beta[0] * (self.beta[1] / self.beta[0]) ** done


@dataclass(frozen=True, eq=False)
class QuantisedWeight:
    """A weight of a network that has a `Quantiser`."""

    name: str
    latent: nn.Parameter
    quantiser: Quantiser


def quantise(network: nn.Module, quantisation: Quantisation, *, active: bool = True) -> None:
    """Give the chosen weights of a network their quantisers, and the scale of least squares.

    Parameters
    ----------
    network
        Changed in place. A weight that several modules share through a module is quantised once.
    quantisation
        What, and how.
    active
        False: real weights with the structural zeros are used until `set_stage` or a `follow` changes that.

    Raises
    ------
    OptionError
        A pattern without a weight, a weight that is no matrix, blocks that do not divide it, or that is quantised.
    """
    if any(True for _ in quantised_weights(network)):
        raise OptionError("the weights of this network are quantised already")
    names = [name for name, p in network.named_parameters() if p.is_floating_point()]
    chosen = []
    for pattern in quantisation.patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise OptionError(
                f"no weight of the network is called {pattern!r}", expected=f"some of {', '.join(names[:12])}"
            )
        chosen += [name for name in found if name not in chosen]
    masks = {name: block_mask(network.get_parameter(name), quantisation.blocks, name) for name in chosen}
    shared = Scale()
    for name in chosen:
        place, _, attribute = name.rpartition(".")
        if not place:
            raise OptionError(f"the weight {name!r} lies on the network itself", cure="Put it into a module of its own")
        scale = shared if quantisation.scale == "network" else Scale()
        quantiser = Quantiser(
            scale,
            masks[name],
            blocks=quantisation.blocks,
            levels=quantisation.levels,
            gradient=quantisation.gradient,
        )
        quantiser.to(network.get_parameter(name).device)
        parametrize.register_parametrization(network.get_submodule(place), attribute, quantiser)
    set_stage(network, active=active, beta=quantisation.beta[0])
    follow(network)


def quantised_weights(network: nn.Module) -> Iterator[QuantisedWeight]:
    """Find the weights with a quantiser, each once, in the network's order."""
    for place, module in network.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        for attribute, parametrizations in _ours(module).items():
            yield QuantisedWeight(f"{place}.{attribute}", parametrizations.original, parametrizations[0])


@torch.no_grad()
def follow(network: nn.Module) -> None:
    """Set each scale to that of least squares, so that quantisation may begin at any time."""
    shared: dict[Scale, list[QuantisedWeight]] = {}
    for weight in quantised_weights(network):
        shared.setdefault(weight.quantiser.scale, []).append(weight)
    for scale, weights in shared.items():
        if weights[0].quantiser.levels != "full":
            scale.restart(least_squares_scale([w.latent for w in weights], [w.quantiser for w in weights]))


def set_stage(network: nn.Module, *, active: bool, beta: float) -> None:
    """Say whether the weights are quantised, and how steep the gradient of ``tanh`` is."""
    for weight in quantised_weights(network):
        weight.quantiser.active.fill_(active)
        weight.quantiser.beta.fill_(beta)


def remove(network: nn.Module) -> None:
    """Replace quantised weights by plain parameters of the same values."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            # A copy of a module has the class of the original, from which PyTorch would take the attribute away.
            module.__class__ = type(type(module).__name__, type(module).__bases__, _members(type(module)))
            for attribute in _ours(module):
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)


def _ours(module: nn.Module) -> dict[str, Any]:
    chains: Any = module.parametrizations
    return {name: chain for name, chain in chains.items() if isinstance(chain[0], Quantiser)}


def _members(cls: type) -> dict[str, Any]:
    return {name: member for name, member in vars(cls).items() if name not in ("__dict__", "__weakref__")}


def block_mask(weight: Tensor, blocks: int, name: str) -> Bool[Tensor, "..."] | None:
    """Mask of a matrix with blocks on its diagonal; None where all of it is one block.

    Raises
    ------
    OptionError
        No matrix, or blocks that do not divide it.
    """
    if weight.ndim < 2:
        raise OptionError(f"the weight {name!r} is no matrix and no kernel", found=f"shape {tuple(weight.shape)}")
    if blocks == 1:
        return None
    rows, columns = weight.shape[:2]
    if rows % blocks or columns % blocks:
        raise OptionError(
            f"{blocks} blocks do not divide the weight {name!r}", found=f"{rows} x {columns}", cure="Take fewer"
        )
    row = torch.arange(rows).div(rows // blocks, rounding_mode="floor")
    column = torch.arange(columns).div(columns // blocks, rounding_mode="floor")
    mask = row[:, None] == column
    return mask.reshape(rows, columns, *[1] * (weight.ndim - 2)).expand(weight.shape).contiguous()


def to_step(network: nn.Module, quantisation: Quantisation, step: int) -> None:
    """Bring the quantisers to a step of training, before it is taken; steps count from 0.

    At ``start`` the scales become those of least squares: no step before it uses them.
    """
    if step == quantisation.start:
        follow(network)
    set_stage(network, active=step >= quantisation.start, beta=quantisation.beta_at(step))


def drop_frozen_gradients(network: nn.Module, quantisation: Quantisation, step: int) -> None:
    """Keep an optimiser, whose momentum would go on, from changing weights whose codes are frozen."""
    if quantisation.freeze is not None and step >= quantisation.freeze:
        for weight in quantised_weights(network):
            weight.latent.grad = None
