"""The published forward passes of Galaxy-Deconv, written from its formulae on plain state dictionaries.

They share nothing with the package: full complex FFTs, functional convolutions, the reference's names of weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    state: State = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape) * (0.7 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1)
        if name.endswith("running_var"):
            value = np.abs(value) + 0.5
        elif len(shape) == 1 and name.endswith("weight"):
            value = value + 0.8  # of a normalisation
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(3)
    return state


def _norm(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{what}": (channels,) for what in ("weight", "bias", "running_mean", "running_var")}


def admm_shapes(widths: tuple[int, ...], outputs: int | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an unrolled ADMM; without subnetwork where ``outputs`` is None."""
    net = {"m_head.weight": (widths[0], 1, 3, 3), "m_tail.weight": (1, widths[0], 3, 3)}
    for k in (1, 2, 3):
        a, b = widths[k - 1], widths[k]
        for j in (0, 1):
            net |= {f"m_down{k}.{j}.res.{i}.weight": (a, a, 3, 3) for i in (0, 2)}
            net |= {f"m_up{k}.{j + 1}.res.{i}.weight": (a, a, 3, 3) for i in (0, 2)}
        net |= {f"m_down{k}.2.weight": (b, a, 2, 2), f"m_up{k}.0.weight": (b, a, 2, 2)}
    for j in (0, 1):
        net |= {f"m_body.{j}.res.{i}.weight": (widths[3], widths[3], 3, 3) for i in (0, 2)}
    shapes = {f"Z.net.{name}": shape for name, shape in net.items()}
    if outputs is not None:
        for stage, (a, b) in enumerate(((1, 4), (4, 8), (8, 16), (16, 16))):
            prefix = f"init.conv_layers.{stage}.maxpool_conv.1.double_conv"
            for layer, inputs in ((0, a), (3, b)):
                shapes |= {f"{prefix}.{layer}.weight": (b, inputs, 3, 3), f"{prefix}.{layer}.bias": (b,)}
                shapes |= _norm(f"{prefix}.{layer + 1}", b)
        for layer, (a, b) in ((0, (1025, 64)), (2, (64, 64)), (4, (64, outputs))):
            shapes |= {f"init.mlp.{layer}.weight": (b, a), f"init.mlp.{layer}.bias": (b,)}
    return shapes


def tikhonet_shapes(
    width: int = 32, growth: int = 12, layers: tuple[int, ...] = (4, 5, 6, 7)
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"input.0.weight": (width, 1, 3, 3)}

    def dense(prefix: str, channels: int, count: int) -> int:
        for i in range(count):
            shapes.update(_norm(f"{prefix}.net.{i}.0", channels))
            shapes[f"{prefix}.net.{i}.2.depthewise.weight"] = (channels, 1, 3, 3)
            shapes[f"{prefix}.net.{i}.2.pointwise.weight"] = (growth, channels, 1, 1)
            channels += growth
        return channels

    channels, beside = width, []
    for place, below, count in zip(
        ("input.1", "down1.1", "down2.1"), ("down1.0", "down2.0", "body.0"), layers, strict=False
    ):
        out = dense(place, channels, count)
        beside.append(channels + out)
        shapes |= _norm(f"{below}.net.0", beside[-1])
        shapes[f"{below}.net.2.weight"] = (out, beside[-1], 1, 1)
        channels = out
    channels = dense("body.1", channels, layers[3])
    for place, above, count, previous in (
        ("up1.0", "body.2", layers[2], layers[3]),
        ("up2.0", "up1.1", layers[1], layers[2]),
        ("output.0", "up2.1", layers[0], layers[1]),
    ):
        shapes[f"{above}.net.0.weight"] = (growth * previous, channels, 1, 1)
        shapes[f"{above}.net.0.bias"] = (growth * previous,)
        channels = dense(place, beside.pop() + growth * previous, count)
    shapes |= {"output.1.weight": (1, channels, 1, 1), "output.1.bias": (1,)}
    return {f"denoiser.{name}": shape for name, shape in shapes.items()}


def resunet(state: State, x: Tensor) -> Tensor:
    def res(name: str, x: Tensor) -> Tensor:
        inner = F.relu(F.conv2d(x, state[f"Z.net.{name}.res.0.weight"], padding=1))
        return x + F.conv2d(inner, state[f"Z.net.{name}.res.2.weight"], padding=1)

    h, w = x.shape[-2:]
    x = F.pad(x, (0, -w % 8, 0, -h % 8), mode="replicate")
    levels = [F.conv2d(x, state["Z.net.m_head.weight"], padding=1)]
    for k in (1, 2, 3):
        x = res(f"m_down{k}.1", res(f"m_down{k}.0", levels[-1]))
        levels.append(F.conv2d(x, state[f"Z.net.m_down{k}.2.weight"], stride=2))
    x = res("m_body.1", res("m_body.0", levels[3]))
    for k in (3, 2, 1):
        x = F.conv_transpose2d(x + levels[k], state[f"Z.net.m_up{k}.0.weight"], stride=2)
        x = res(f"m_up{k}.2", res(f"m_up{k}.1", x))
    return F.conv2d(x + levels[0], state["Z.net.m_tail.weight"], padding=1)[..., :h, :w]


def _batch_norm(state: State, prefix: str, x: Tensor) -> Tensor:
    parts = (state[f"{prefix}.{what}"] for what in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def subnet(state: State, kernel: Tensor, alpha: Tensor) -> Tensor:
    h = kernel.shape[-1]
    before, after = (128 - h) // 2, -((h - 128) // 2)
    x = torch.fft.fftn(F.pad(kernel, (before, after, before, after)), dim=(2, 3)).abs() ** 2
    for stage in range(4):
        x = F.max_pool2d(x, 2)
        for layer in (0, 3):
            prefix = f"init.conv_layers.{stage}.maxpool_conv.1.double_conv"
            weight, bias = state[f"{prefix}.{layer}.weight"], state[f"{prefix}.{layer}.bias"]
            x = F.relu(_batch_norm(state, f"{prefix}.{layer + 1}", F.conv2d(x, weight, bias, padding=1)))
    x = torch.cat((x.flatten(1), alpha.flatten(1)), 1)
    for layer in (0, 2, 4):
        x = F.linear(x, state[f"init.mlp.{layer}.weight"], state[f"init.mlp.{layer}.bias"])
        x = F.softplus(x) if layer == 4 else F.relu(x)
    return x + 1e-6


def _fft(x: Tensor) -> Tensor:
    return torch.fft.fftn(x, dim=(2, 3))


def _ifft(x: Tensor) -> Tensor:
    return torch.fft.ifftn(x, dim=(2, 3)).real


def letter(
    state: State, y: Tensor, kernel: Tensor, *, poisson: bool = False, swapped: bool = True, n: int = 2
) -> Tensor:
    """Three variables: the code of 2023."""
    alpha = y.mean((1, 2, 3), keepdim=True)
    y = y.clamp_min(0)
    H = _fft(torch.fft.ifftshift(kernel, dim=(2, 3)))
    HtH = H.abs() ** 2
    if "rho1_iters" in state:
        rho = torch.cat((state["rho1_iters"], state["rho2_iters"]))[None].expand(len(y), -1)
    else:
        rho = subnet(state, kernel, alpha)
    x = _ifft(H.conj() * _fft(y / alpha) / (HtH + 1 / alpha)).clamp(0, 1)
    u1 = u2 = torch.zeros_like(y)
    for k in range(n):
        rho1, rho2 = rho[:, k, None, None, None], rho[:, n + k, None, None, None]
        vt = _ifft(H * _fft(x)) + u2
        if poisson:
            t = rho2 * vt - alpha
            v = 0.5 / rho2 * (-t + torch.sqrt(t**2 + 4 * y * rho2))
        else:
            v = (rho2 * vt + y / alpha) / (1 + rho2)
        z = resunet(state, x + u1)
        top = _fft(rho1 * (z - u1) + rho2 * _ifft(H.conj() * _fft(v - u2)))
        x = _ifft(top / (rho1 * HtH + rho2 if swapped else rho1 + rho2 * HtH))
        u1 = u1 + x - z
        u2 = u2 + _ifft(H * _fft(x)) - v
    return alpha * x


def head(state: State, y: Tensor, kernel: Tensor, *, n: int = 2) -> Tensor:
    """Two variables: the code of 2024."""

    def double(x: Tensor) -> Tensor:
        w, h = x.shape[-1] // 2, x.shape[-2] // 2
        return torch.fft.ifftshift(F.pad(x, (w, w, h, h)), dim=(2, 3))

    def half(X: Tensor) -> Tensor:
        x = torch.fft.fftshift(_ifft(X), dim=(2, 3))
        h, w = x.shape[-2:]
        return x[..., h // 4 : 3 * h // 4, w // 4 : 3 * w // 4]

    alpha = y.mean((1, 2, 3), keepdim=True)
    Y, H = _fft(double(y.clamp_min(0))), _fft(double(kernel))
    HtH = H.abs() ** 2
    rho = state["rho_iters"][None].expand(len(y), -1) if "rho_iters" in state else subnet(state, kernel, alpha)
    z, u = half(H.conj() * Y / (HtH + 1 / alpha)), torch.zeros_like(y)
    for k in range(n):
        r = rho[:, k, None, None, None]
        x = half((H.conj() * Y + _fft(double(r * z - u))) / (HtH + r))
        z = resunet(state, r * x + u)
        u = u + r * (x - z)
    return z


def tikhonet(state: State, y: Tensor, kernel: Tensor, *, laplacian: bool = True) -> Tensor:
    """Tikhonet and ShapeNet."""
    alpha = y.mean((1, 2, 3), keepdim=True)
    y = y.clamp_min(0)
    H = _fft(torch.fft.ifftshift(kernel, dim=(2, 3)))
    penalty: Tensor | float = 1.0
    if laplacian:
        h, w = y.shape[-2:]
        lap = torch.zeros(1, 1, h, w)
        lap[0, 0, 0, 0], lap[0, 0, 0, 1], lap[0, 0, 1, 0], lap[0, 0, -1, 0], lap[0, 0, 0, -1] = -4, 1, 1, 1, 1
        penalty = _fft(lap).abs() ** 2
    x = _ifft(H.conj() * _fft(y / alpha) / (H.abs() ** 2 + penalty))
    return alpha * _xdense(state, x)


def _xdense(state: State, x: Tensor) -> Tensor:
    def dense(name: str, x: Tensor, *, skip: bool) -> Tensor:
        y, i = x, 0
        while f"denoiser.{name}.net.{i}.0.weight" in state:
            prefix = f"denoiser.{name}.net.{i}"
            z = F.relu(_batch_norm(state, f"{prefix}.0", y))
            z = F.conv2d(z, state[f"{prefix}.2.depthewise.weight"], padding=1, groups=z.shape[1])
            y = torch.cat((F.conv2d(z, state[f"{prefix}.2.pointwise.weight"]), y), 1)
            i += 1
        return torch.cat((x, y), 1) if skip else y

    def down(name: str, x: Tensor) -> Tensor:
        x = F.relu(_batch_norm(state, f"denoiser.{name}.net.0", x))
        return F.max_pool2d(F.conv2d(x, state[f"denoiser.{name}.net.2.weight"]), 2)

    def up(name: str, x: Tensor) -> Tensor:
        x = F.conv2d(x, state[f"denoiser.{name}.net.0.weight"], state[f"denoiser.{name}.net.0.bias"])
        return F.interpolate(x, scale_factor=2, mode="nearest")

    x1 = dense("input.1", F.conv2d(x, state["denoiser.input.0.weight"], padding=1), skip=True)
    x2 = dense("down1.1", down("down1.0", x1), skip=True)
    x3 = dense("down2.1", down("down2.0", x2), skip=True)
    x4 = up("body.2", dense("body.1", down("body.0", x3), skip=False))
    x5 = up("up1.1", dense("up1.0", torch.cat((x3, x4), 1), skip=False))
    x6 = up("up2.1", dense("up2.0", torch.cat((x2, x5), 1), skip=False))
    x7 = dense("output.0", torch.cat((x1, x6), 1), skip=False)
    return F.conv2d(x7, state["denoiser.output.1.weight"], state["denoiser.output.1.bias"])


Reference = Callable[..., Tensor]
