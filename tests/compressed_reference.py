"""ISTA-Net, ISTA-Net+, COAST and R-COAST written down again from the papers' equations, block by block and naively.

Weights are in dictionaries of the published files' names. Nothing is shared with the package.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

State = dict[str, Tensor]


def soft(f: Tensor, theta: Tensor) -> Tensor:
    return torch.sign(f) * torch.clamp(f.abs() - theta, min=0)


def gradient(x: Tensor, phi: Tensor, y: Tensor, rho: Tensor) -> Tensor:
    """Rows are blocks."""
    return x - rho * (x @ phi.T @ phi) + rho * (y @ phi)


def image(x: Tensor) -> Tensor:
    side = round(x.shape[1] ** 0.5)
    return x.reshape(-1, 1, side, side)


def ista_net(w: State, y: Tensor, phi: Tensor, q: Tensor, phases: int) -> tuple[Tensor, list[Tensor]]:
    x, residuals = y @ q.T, []
    for k in range(phases):
        p = {name.removeprefix(f"fcs.{k}."): v for name, v in w.items() if name.startswith(f"fcs.{k}.")}
        r = image(gradient(x, phi, y, p["lambda_step"]))
        f = conv2d(conv2d(r, p["conv1_forward"], padding=1).relu(), p["conv2_forward"], padding=1)

        def back(f: Tensor, p: State = p) -> Tensor:
            return conv2d(conv2d(f, p["conv1_backward"], padding=1).relu(), p["conv2_backward"], padding=1)

        x = back(soft(f, p["soft_thr"])).flatten(1)
        residuals.append(back(f) - r)
    return x, residuals


def ista_net_plus(w: State, y: Tensor, phi: Tensor, q: Tensor, phases: int) -> tuple[Tensor, list[Tensor]]:
    x, residuals = y @ q.T, []
    for k in range(phases):
        p = {name.removeprefix(f"fcs.{k}."): v for name, v in w.items() if name.startswith(f"fcs.{k}.")}
        r = image(gradient(x, phi, y, p["lambda_step"]))
        d = conv2d(r, p["conv_D"], padding=1)
        f = conv2d(conv2d(d, p["conv1_forward"], padding=1).relu(), p["conv2_forward"], padding=1)

        def back(f: Tensor, p: State = p) -> Tensor:
            return conv2d(conv2d(f, p["conv1_backward"], padding=1).relu(), p["conv2_backward"], padding=1)

        x = (r + conv2d(back(soft(f, p["soft_thr"])), p["conv_G"], padding=1)).flatten(1)
        residuals.append(back(f) - d)
    return x, residuals


def stitched(x: Tensor, rows: int, columns: int) -> Tensor:
    side = round(x.shape[1] ** 0.5)
    out = torch.zeros(1, 1, rows * side, columns * side, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            out[0, 0, i * side : (i + 1) * side, j * side : (j + 1) * side] = x[i * columns + j].reshape(side, side)
    return out


def cut(x: Tensor, side: int) -> Tensor:
    """Blocks of an image filled up with zeros, as rows."""
    h, w = x.shape[2:]
    rows, columns = -(-h // side), -(-w // side)
    whole = torch.zeros(rows * side, columns * side, dtype=x.dtype)
    whole[:h, :w] = x[0, 0]
    return torch.stack(
        [
            whole[i * side : (i + 1) * side, j * side : (j + 1) * side].flatten()
            for i in range(rows)
            for j in range(columns)
        ]
    )


def coast(
    w: State,
    y: Tensor,
    phi: Tensor,
    rows: int,
    columns: int,
    counts: list[int],
    most: int,
    crop: tuple[int, int] | None,
) -> Tensor:
    """COAST where ``most`` is 1, else R-COAST; the stitched image comes back."""
    side = round(phi.shape[1] ** 0.5)
    x = y @ phi
    number, total = 0, sum(counts)
    for k, count in enumerate(counts):
        p = {name.removeprefix(f"fcs.{k}."): v for name, v in w.items() if name.startswith(f"fcs.{k}.")}
        for _ in range(count):
            number += 1
            unit = "ResidualBlocks.0.res_scale."
            ratio = phi.shape[0] / phi.shape[1]
            if most == 1:
                alpha = p[unit + "weight"] @ torch.tensor([ratio], dtype=x.dtype) + p[unit + "bias"]
            else:
                longest = most * len(counts)
                c = torch.tensor([2 * ratio, total / longest, number / longest], dtype=x.dtype)
                hidden = (p[unit + "0.weight"] @ c + p[unit + "0.bias"]).relu()
                alpha = p[unit + "2.weight"] @ hidden + p[unit + "2.bias"]
            r = stitched(gradient(x, phi, y, p["lambda_step"]), rows, columns)
            if crop is not None:
                r = r[..., : crop[0], : crop[1]]
            z = conv2d(r, p["head_conv.weight"], p["head_conv.bias"], padding=1)
            for b in range(3):
                v = f"ResidualBlocks.{b}."
                branch = conv2d(z, p[v + "conv1.weight"], p[v + "conv1.bias"], padding=1).relu()
                branch = conv2d(branch, p[v + "conv2.weight"], p[v + "conv2.bias"], padding=1)
                z = z + alpha[:, None, None] * branch
            out = r + conv2d(z, p["tail_conv.weight"], p["tail_conv.bias"], padding=1)
            x = cut(out, side)
    return out


def random_weights(kind: str, phases: int, features: int = 32, seed: int = 0) -> State:
    """A published file's names and shapes, numbers of a size that keeps iterations tame."""
    n = features
    if kind == "ista-net":
        shapes = {
            "lambda_step": (1,),
            "soft_thr": (1,),
            "conv1_forward": (n, 1, 3, 3),
            "conv2_forward": (n, n, 3, 3),
            "conv1_backward": (n, n, 3, 3),
            "conv2_backward": (1, n, 3, 3),
        }
    elif kind == "ista-net-plus":
        shapes = {"lambda_step": (1,), "soft_thr": (1,), "conv_D": (n, 1, 3, 3)}
        shapes |= {f"conv{i}_{way}": (n, n, 3, 3) for way in ("forward", "backward") for i in (1, 2)}
        shapes |= {"conv_G": (1, n, 3, 3)}
    else:
        shapes = {"lambda_step": (1,)}
        for part, out, into in (("head_conv", n, 1), ("tail_conv", 1, n)):
            shapes |= {f"{part}.weight": (out, into, 3, 3), f"{part}.bias": (out,)}
        for b in range(3):
            for i in (1, 2):
                shapes |= {
                    f"ResidualBlocks.{b}.conv{i}.weight": (n, n, 3, 3),
                    f"ResidualBlocks.{b}.conv{i}.bias": (n,),
                }
    rng = np.random.default_rng(seed)
    state: State = {}
    for k in range(phases):
        for name, shape in shapes.items():
            spread = 0.6 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.05
            centre = {"lambda_step": 0.6, "soft_thr": -0.005 if k == 1 else 0.02}.get(name, 0.0)
            spread = 0.0 if name == "soft_thr" else spread
            state[f"fcs.{k}.{name}"] = torch.from_numpy(centre + spread * rng.standard_normal(shape)).float()
    if kind in ("coast", "recursive-coast"):
        unit = (
            {"weight": (n, 1), "bias": (n,)}
            if kind == "coast"
            else {"0.weight": (n, 3), "0.bias": (n,), "2.weight": (n, n), "2.bias": (n,)}
        )
        values = {name: torch.from_numpy(0.4 * rng.standard_normal(shape)).float() for name, shape in unit.items()}
        for k in range(phases):
            for b in range(3):
                state |= {f"fcs.{k}.ResidualBlocks.{b}.res_scale.{name}": v for name, v in values.items()}
    return state
