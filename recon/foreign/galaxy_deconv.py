"""Galaxy-Deconv's unrolled ADMM, Tikhonet and ShapeNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recon.foreign import Foreign, Weights, converters
from recon.foreign.names import numbered, renamed, size, weights_with
from recon.physics.errors import CheckpointError

_TWO_VARIABLES = (32, 64, 128, 256)  # widths of the code of 2024, whose networks split two variables

_RESUNET = [
    (r"m_(head|tail)\.weight", r"\1.weight"),
    (r"m_body\.(\d+)\.res\.0\.weight", r"body.\1.first.weight"),
    (r"m_body\.(\d+)\.res\.2\.weight", r"body.\1.second.weight"),
]
for _level in range(3):
    for _theirs, _ours in ((f"m_down{_level + 1}", f"down.{_level}"), (f"m_up{3 - _level}", f"up.{_level}")):
        _RESUNET += [
            (rf"{_theirs}\.(\d+)\.res\.0\.weight", rf"{_ours}.\1.first.weight"),
            (rf"{_theirs}\.(\d+)\.res\.2\.weight", rf"{_ours}.\1.second.weight"),
            (rf"{_theirs}\.(\d+)\.weight", rf"{_ours}.\1.weight"),
        ]

_SUBNET = [(r"mlp\.(\d+)\.(weight|bias)", r"perceptron.\1.\2")] + [
    (rf"conv_layers\.(\d+)\.maxpool_conv\.1\.double_conv\.{layer}\.(\w+)", rf"stages.\1.{layer + 1}.\2")
    for layer in (0, 1, 3, 4)
]

_PLACES = {  # of dense blocks, and of what stands between them
    "dense": ("input.1", "down1.1", "down2.1", "up1.0", "up2.0", "output.0", "body.1"),
    "ours": ("down.0", "down.1", "down.2", "up.0", "up.1", "up.2", "body"),
    "shrink": ("down1.0", "down2.0", "body.0"),
    "grow": ("body.2", "up1.1", "up2.1"),
}
_XDENSE = [
    (r"input\.0\.weight", "head.weight"),
    (r"output\.1\.(weight|bias)", r"tail.\1"),
    *(
        rule
        for theirs, ours in zip(_PLACES["dense"], _PLACES["ours"], strict=True)
        for rule in (
            (rf"{theirs}\.net\.(\d+)\.0\.(\w+)", rf"{ours}.layers.\1.0.\2"),
            (rf"{theirs}\.net\.(\d+)\.2\.depthewise\.weight", rf"{ours}.layers.\1.2.weight"),
            (rf"{theirs}\.net\.(\d+)\.2\.pointwise\.weight", rf"{ours}.layers.\1.3.weight"),
        )
    ),
    *((rf"{theirs}\.net\.([02])\.(\w+)", rf"shrink.{i}.\1.\2") for i, theirs in enumerate(_PLACES["shrink"])),
    *((rf"{theirs}\.net\.0\.(\w+)", rf"grow.{i}.\1") for i, theirs in enumerate(_PLACES["grow"])),
]


@converters.register("galaxy-admm")
def galaxy_admm(content: Mapping[str, Any]) -> Foreign:
    """Convert the unrolled ADMM of Galaxy-Deconv, of two variables or three.

    Raises
    ------
    CheckpointError
        Other weights.
    """
    theirs = weights_with(content, "Z.net.m_head.weight", "an unrolled ADMM of Galaxy-Deconv")
    parts = {"Z.net.": ("denoisers.0.", _RESUNET), "init.": ("penalties.", _SUBNET)}
    ours: Weights = {}
    for name, value in theirs.items():
        part = next((part for part in parts if name.startswith(part)), None)
        if part is not None:
            prefix, rules = parts[part]
            ours |= {prefix + key: v for key, v in renamed({name.removeprefix(part): value}, rules).items()}
        elif name not in ("rho1_iters", "rho2_iters", "rho_iters"):
            raise CheckpointError("the file holds weights that the model does not have", found=name)
    widths = [size(ours, "denoisers.0.head.weight", 0)]
    widths += [size(ours, f"denoisers.0.down.{level}.{_blocks(ours)}.weight", 0) for level in range(3)]
    subnet = "penalties.perceptron.4.weight" in ours
    split = 2 if "rho_iters" in theirs or (subnet and tuple(widths) == _TWO_VARIABLES) else 3
    if subnet:
        count = size(ours, "penalties.perceptron.4.weight", 0)
    else:
        ours["log_rho"] = _log_rho(theirs, split)
        count = len(ours["log_rho"])
    if count % (split - 1):
        raise CheckpointError("penalties that do not come in pairs", found=count)
    return Foreign(
        arguments={
            "iterations": count // (split - 1),
            "widths": tuple(widths),
            "blocks": _blocks(ours),
            "split": split,
            "subnet": subnet,
            "as_published": True,
            "legacy_swap": split == 3,
        },
        weights=ours,
        notes=(
            f"taken for the split in {split} variables, Gaussian likelihood"
            + (", penalties swapped as in all code before August 2024" if split == 3 else "")
            + "; where that is wrong: --set legacy_swap=false, likelihood=poisson, or split and iterations",
            "PSFs are given to it as it was trained, with a sum of 1/16, and stamps are those of its own simulation",
        ),
    )


@converters.register("tikhonet")
def tikhonet(content: Mapping[str, Any]) -> Foreign:
    """Convert the Tikhonet of Galaxy-Deconv; its lambda was never saved, nor trained: it is 1.

    Raises
    ------
    CheckpointError
        Other weights.
    """
    theirs = weights_with(content, "denoiser.input.0.weight", "a Tikhonet of Galaxy-Deconv")
    inside = {name.removeprefix("denoiser."): value for name, value in theirs.items() if name.startswith("denoiser.")}
    ours = {f"network.{name}": value for name, value in renamed(inside, _XDENSE).items()}
    layers = [
        sum(1 for _ in numbered(ours, rf"network\.{place}\.layers\.(\d+)\.2\.weight"))
        for place in ("down.0", "down.1", "down.2", "body")
    ]
    return Foreign(
        arguments={
            "width": size(ours, "network.head.weight", 0),
            "growth": size(ours, "network.body.layers.0.3.weight", 0),
            "layers": tuple(layers),
            "as_published": True,
        },
        weights=ours | {"log_lambda": torch.tensor(0.0)},
        notes=("taken for the Laplacian filter; for the other one: --set filter=identity",),
    )


@converters.register("shapenet")
def shapenet(content: Mapping[str, Any]) -> Foreign:
    """Convert the ShapeNet of Galaxy-Deconv, which is a Tikhonet trained with another loss.

    Raises
    ------
    CheckpointError
        Other weights.
    """
    return tikhonet(content)


def _blocks(weights: Weights) -> int:
    return sum(1 for _ in numbered(weights, r"denoisers\.0\.body\.(\d+)\.first\.weight"))


def _log_rho(theirs: Weights, split: int) -> torch.Tensor:
    """Return the logarithms of the penalties of a network without subnetwork."""
    names = ("rho_iters",) if split == 2 else ("rho1_iters", "rho2_iters")
    if any(name not in theirs for name in names):
        if split == 3 and not any(name in theirs for name in names):
            raise CheckpointError(
                "the file holds no penalties: before 2024 those without subnetwork were not saved", expected=names[0]
            )
        raise CheckpointError("the file lacks penalties", expected=", ".join(names))
    rho = torch.cat([theirs[name].flatten() for name in names])
    if not bool((rho > 0).all()):
        raise CheckpointError("penalties that are not positive", found=float(rho.min()))
    return rho.log()
