"""Convolutional gated recurrent units, the regulariser of RecurrentVarNet."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

_PIXELS = 2048  # worked on at once where memory is slower than arithmetic

State = list[Tensor]
"""One ``(b, hidden, y, x)`` a layer."""


class ReplicatedConv(nn.Conv2d):
    """Convolution that repeats the image's edge, of any odd kernel and dilation; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, dilation=dilation)
        self.margin = dilation * (kernel // 2)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Convolve."""
        return conv2d(_replicated(x, self.margin), self.weight, self.bias, dilation=self.dilation)


def _replicated(x: Tensor, margin: int) -> Tensor:
    if not torch.compiler.is_compiling():
        return pad(x, (margin,) * 4, mode="replicate")
    for dim in (-2, -1):  # the compiler takes the gradient of replicated channels-last padding for another layout
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat((*[first] * margin, x, *[last] * margin), dim)
    return x


class GatedUnit(nn.Module):
    r"""Gated recurrent unit with 1x1 convolutions [Yiasemis et al. 2022, Fig. 3].

    .. math:: r, u = \sigma(W_{ru} [x, h]), \quad c = \tanh(W_c [x, r h]), \quad h \leftarrow (1 - u) h + u c

    The convolutions of ``x`` for all three are one, and so are those of ``h`` for the two gates.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.of_input = nn.Conv2d(hidden, 3 * hidden, 1)  # reset, update, candidate
        self.of_state = nn.Conv2d(hidden, 2 * hidden, 1, bias=False)  # reset, update
        self.of_reset_state = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.hidden = hidden
        self._start()

    def _start(self) -> None:
        """Orthogonal weights of each gate on [input, state]; the reset gates start closed."""
        assert self.of_input.bias is not None
        for gate in range(3):
            rows = slice(gate * self.hidden, (gate + 1) * self.hidden)
            both = nn.init.orthogonal_(torch.empty(self.hidden, 2 * self.hidden))
            of_input, of_state = both[..., None, None].split(self.hidden, dim=1)
            with torch.no_grad():
                self.of_input.weight[rows] = of_input
                (self.of_state.weight[rows] if gate < 2 else self.of_reset_state.weight).copy_(of_state)
                self.of_input.bias[rows] = -1.0 if gate == 0 else 0.0

    def forward(self, x: Float[Tensor, "b c y x"], h: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Return the next state."""
        if not torch.is_grad_enabled() and x.is_cpu:
            return self._in_pieces(x, h)
        from_input, candidate = self.of_input(x).split((2 * self.hidden, self.hidden), dim=1)
        reset, update = torch.sigmoid(from_input + self.of_state(h)).split(self.hidden, dim=1)
        # tanh, which costs a processor several times as much as the logistic function
        candidate = 2 * torch.sigmoid(2 * (candidate + self.of_reset_state(reset * h))) - 1
        return torch.lerp(h.to(candidate.dtype), candidate, update)  # states are kept in the precision of the gates

    def _in_pieces(self, x: Float[Tensor, "b c y x"], h: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Do the same for some pixels at a time, whose gates stay in the cache."""
        of_input, of_state, of_reset_state = (
            layer.weight.flatten(1) for layer in (self.of_input, self.of_state, self.of_reset_state)
        )
        pixels, states = (z.movedim(1, -1).flatten(0, 2) for z in (x, h))
        following = []
        for p, s in zip(pixels.split(_PIXELS), states.split(_PIXELS), strict=True):
            from_input, candidate = linear(p, of_input, self.of_input.bias).split((2 * self.hidden, self.hidden), 1)
            reset, update = (linear(s, of_state) + from_input).sigmoid_().split(self.hidden, 1)
            candidate = (linear(reset * s, of_reset_state) + candidate).mul_(2).sigmoid_().mul_(2).sub_(1)
            following.append(torch.lerp(s.to(candidate.dtype), candidate, update))
        return torch.cat(following).unflatten(0, (len(x), *x.shape[2:])).movedim(-1, 1)


class RecurrentRegulariser(nn.Module):
    """Pairs of a convolution and a gated unit, then a convolution back to the image's channels.

    The first convolution is 5x5, the second 3x3 with dilation 2, the others 3x3.

    Parameters
    ----------
    in_channels, out_channels
        Of the image.
    hidden
        Channels of the states.
    layers
        Number of gated units.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            ReplicatedConv(in_channels, hidden, 5)
            if layer == 0
            else ReplicatedConv(hidden, hidden, 3, dilation=2 if layer == 1 else 1)
            for layer in range(layers)
        )
        self.units = nn.ModuleList(GatedUnit(hidden) for _ in range(layers))
        self.last = ReplicatedConv(hidden, out_channels, 3, dilation=2 if layers == 1 else 1)

    def forward(self, x: Float[Tensor, "b c y x"], state: State) -> tuple[Float[Tensor, "b d y x"], State]:
        """Return the image's update and the next state."""
        following: State = []
        for convolution, unit, h in zip(self.convolutions, self.units, state, strict=True):
            following.append(unit(torch.relu_(convolution(x)), h))
            x = torch.relu(following[-1])
        return self.last(x), following


class StateInitialiser(nn.Module):
    """Makes the first states of an image: dilated 3x3 convolutions, their last scales put together, one 1x1 a layer.

    Parameters
    ----------
    in_channels
        Of the image.
    hidden, layers
        Of the regulariser.
    channels, dilations
        Of the convolutions.
    scales
        How many of the last ones are put together.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        layers: int,
        channels: tuple[int, ...] = (32, 32, 64, 64),
        dilations: tuple[int, ...] = (1, 1, 2, 4),
        scales: int = 3,
    ) -> None:
        super().__init__()
        widths = (in_channels, *channels)
        self.convolutions = nn.ModuleList(
            ReplicatedConv(a, b, 3, dilation=d) for a, b, d in zip(widths[:-1], channels, dilations, strict=True)
        )
        self.scales = scales
        self.outputs = nn.ModuleList(nn.Conv2d(sum(channels[-scales:]), hidden, 1) for _ in range(layers))

    def forward(self, x: Float[Tensor, "b c y x"]) -> State:
        """Return the state of each layer."""
        features = []
        for convolution in self.convolutions:
            x = torch.relu_(convolution(x))
            features.append(x)
        x = torch.cat(features[-self.scales :], dim=1)
        return [torch.relu_(output(x)) for output in self.outputs]
