"""The weights of a network as matrices, one a layer, and what a layer's gradient is a sum of products of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

from recon.models.convgru import ReplicatedConv
from recon.physics.errors import OptionError
from recon.unlearning.layers import weighted_layers

_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, ReplicatedConv)

Blocks = dict[str, Tensor]
"""A matrix for each block of weights: a gradient, a direction, or what each entry is multiplied by."""


@dataclass(frozen=True)
class Block:
    """Weights that are treated together.

    Parameters
    ----------
    name
        Of the layer, or of the weight where it is none of a layer's.
    weight
        Name of the weight.
    bias
        Name of the bias, the last column of the matrix.
    layer
        Whether gradients are sums of products of what goes in and what comes back; else entries stand for themselves.
    """

    name: str
    weight: str
    bias: str | None = None
    layer: bool = True


class Layout:
    """How the weights of a network that can be trained are parted into matrices.

    A convolution or linear layer is a matrix of outputs by inputs (times the kernel), the bias its last column; a
    transposed convolution is one of inputs by outputs times kernel. All other weights, such as step sizes and those of
    grouped convolutions, are one row each.

    Raises
    ------
    OptionError
        Nothing can be trained.
    """

    def __init__(self, model: nn.Module) -> None:
        left = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not left:
            raise OptionError("a network without weights that can be trained", found=type(model).__name__)
        self.names = tuple(left)
        self.blocks: list[Block] = []
        for name, module in weighted_layers(model).items():
            prefix = f"{name}." if name else ""
            if not _factored(module) or f"{prefix}weight" not in left:
                continue
            del left[f"{prefix}weight"]
            bias = f"{prefix}bias"
            if isinstance(module, nn.ConvTranspose2d) or bias not in left:
                self.blocks.append(Block(name, f"{prefix}weight"))
            else:
                del left[bias]
                self.blocks.append(Block(name, f"{prefix}weight", bias))
        self.blocks += [Block(name, name, layer=False) for name in left]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the blocks that are layers."""
        return tuple(block.name for block in self.blocks if block.layer)

    def weights(self, model: nn.Module) -> list[nn.Parameter]:
        """Weights of a network of this structure, in the order of `names`."""
        known = dict(model.named_parameters())
        return [known[name] for name in self.names]

    def matrices(self, gradients: Mapping[str, Tensor]) -> Blocks:
        """Arrange what there is for each weight, by its name."""
        return {block.name: _matrix(block, gradients) for block in self.blocks}

    def gradient(self, model: nn.Module, value: Float[Tensor, ""], *, retain: bool = False) -> Blocks:
        """Differentiate a value by all weights."""
        found = torch.autograd.grad(
            value, self.weights(model), retain_graph=retain, allow_unused=True, materialize_grads=True
        )
        return self.matrices(dict(zip(self.names, found, strict=True)))


def _factored(module: nn.Module) -> bool:
    if type(module) not in _LAYERS:  # a subclass may do something else
        return False
    return isinstance(module, nn.Linear) or bool(module.groups == 1 and not isinstance(module.padding, str))


def _matrix(block: Block, values: Mapping[str, Tensor]) -> Tensor:
    weight = values[block.weight]
    if not block.layer:
        return weight.reshape(1, -1)
    matrix = weight.flatten(1)
    return matrix if block.bias is None else torch.cat((matrix, values[block.bias][:, None]), 1)


def factors(
    module: nn.Module, given: Tensor, back: Tensor, *, bias: bool
) -> tuple[Float[Tensor, "place row"], Float[Tensor, "place column"]]:
    """Return (l, r) such that the gradient's matrix is the sum of their outer products over all places.

    Parameters
    ----------
    module
        A convolution or linear layer that `Layout` takes for a layer.
    given, back
        What went into it, and the derivative by what came out.
    bias
        Whether the matrix has a column for it.
    """
    if isinstance(module, nn.Linear):
        left, right = back.reshape(-1, back.shape[-1]), given.reshape(-1, given.shape[-1])
    elif isinstance(module, nn.ConvTranspose2d):
        left, right = _pixels(given), _patches(back, module)
    else:
        assert isinstance(module, nn.Conv2d)
        left, right = _pixels(back), _patches(given, module)
    return left, torch.cat((right, right.new_ones(len(right), 1)), 1) if bias else right


def _pixels(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).flatten(0, 1)


def _patches(x: Tensor, module: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    height, width = (int(n) for n in module.padding)
    mode = module.padding_mode
    if isinstance(module, ReplicatedConv):
        height = width = module.margin
        mode = "replicate"
    if mode != "zeros":
        x, height, width = pad(x, (width, width, height, height), mode=mode), 0, 0
    columns = unfold(x, module.kernel_size, module.dilation, (height, width), module.stride)
    return columns.transpose(1, 2).flatten(0, 1)


def scaled(vector: Blocks, scale: Blocks | None, power: float = 1.0) -> Blocks:
    """Multiply entry by entry by a power of a scale; None stands for 1."""
    return vector if scale is None else {name: x * scale[name] ** power for name, x in vector.items()}
