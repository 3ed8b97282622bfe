"""Published networks of compressed sensing: ISTA-Net, ISTA-Net+, COAST and R-COAST.

Their files hold the weights; where ISTA-Net starts from, and with which matrix, is in MATLAB files beside them, whose
matrices the importer gets together with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recon.foreign import MATRICES, Foreign, Weights, converters
from recon.foreign.names import numbered, renamed, size, weights_with
from recon.physics.errors import CheckpointError

_STEP = (r"fcs\.(\d+)\.lambda_step", r"blocks.\1.step")
_ISTA = [
    _STEP,
    (r"fcs\.(\d+)\.soft_thr", r"blocks.\1.threshold"),
    (r"fcs\.(\d+)\.conv1_backward", r"blocks.\1.inverse.0.weight"),
    (r"fcs\.(\d+)\.conv2_backward", r"blocks.\1.inverse.2.weight"),
]
_PLAIN = [
    *_ISTA,
    (r"fcs\.(\d+)\.conv1_forward", r"blocks.\1.transform.0.weight"),
    (r"fcs\.(\d+)\.conv2_forward", r"blocks.\1.transform.2.weight"),
]
_PLUS = [
    *_ISTA,
    (r"fcs\.(\d+)\.conv_([DG])", r"blocks.\1.\2.weight"),
    (r"fcs\.(\d+)\.conv1_forward", r"blocks.\1.H.0.weight"),
    (r"fcs\.(\d+)\.conv2_forward", r"blocks.\1.H.2.weight"),
]
_COAST = [
    _STEP,
    (r"fcs\.(\d+)\.(head|tail)_conv\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"fcs\.(\d+)\.ResidualBlocks\.(\d)\.conv1\.(weight|bias)", r"blocks.\1.residual.\2.first.\3"),
    (r"fcs\.(\d+)\.ResidualBlocks\.(\d)\.conv2\.(weight|bias)", r"blocks.\1.residual.\2.second.\3"),
    (r"fcs\.0\.ResidualBlocks\.0\.res_scale\.(.*)", r"control.\1"),
]
_UNIT = ".res_scale."
_FIRST_UNIT = f"fcs.0.ResidualBlocks.0{_UNIT}"
_MATRIX, _START, _BLOCKS = "phi", "Qinit", "labels"
_NO_START = (
    "without Initialization_Matrix_*.mat or Training_Data.mat (give them with --with) the network starts from the "
    "adjoint, and its figures are below the published ones"
)


@converters.register("ista-net")
def ista_net(content: Mapping[str, Any]) -> Foreign:
    """Convert ``ISTANet`` of ISTA-Net-PyTorch; ``Qinit``, or ``phi`` and ``labels``, give the linear estimate.

    Raises
    ------
    CheckpointError
        Other weights, or matrices that do not fit each other.
    """
    theirs = weights_with(content, "fcs.0.conv1_forward", "an ISTA-Net")
    if any(name.endswith("conv_D") for name in theirs):
        raise CheckpointError("the weights of ISTA-Net+", cure="Give --model ista-net-plus")
    return _ista(content, theirs, _PLAIN, size(theirs, "fcs.0.conv1_forward", 1))


@converters.register("ista-net-plus")
def ista_net_plus(content: Mapping[str, Any]) -> Foreign:
    """Convert ``ISTANetplus`` of ISTA-Net-PyTorch, for blocks or MRI; matrices as for `ista_net`.

    Raises
    ------
    CheckpointError
        Other weights, or matrices that do not fit each other.
    """
    theirs = weights_with(content, "fcs.0.conv_D", "an ISTA-Net+")
    return _ista(content, theirs, _PLUS, size(theirs, "fcs.0.conv_D", 1))


@converters.register("coast")
def coast(content: Mapping[str, Any]) -> Foreign:
    """Convert ``COAST`` of COAST's authors, or of those of R-COAST, whose convolutions see no padding.

    Raises
    ------
    CheckpointError
        Other weights.
    """
    theirs = weights_with(content, "fcs.0.head_conv.weight", "a COAST")
    if f"{_FIRST_UNIT}weight" not in theirs:
        raise CheckpointError("the weights of R-COAST", cure="Give --model recursive-coast")
    return _coast(theirs, crop=isinstance(content.get("model"), Mapping), most=None)


@converters.register("recursive-coast")
def recursive_coast(content: Mapping[str, Any]) -> Foreign:
    """Convert ``R_COAST``; its four turns of each block are not in the file (``--set recursions=...`` for others).

    Raises
    ------
    CheckpointError
        Other weights.
    """
    theirs = weights_with(content, "fcs.0.head_conv.weight", "an R-COAST")
    if f"{_FIRST_UNIT}2.weight" not in theirs:
        raise CheckpointError("the weights of COAST", cure="Give --model coast")
    return _coast(theirs, crop=True, most=4)


def _ista(content: Mapping[str, Any], theirs: Weights, rules: list[tuple[str, str]], channels: int) -> Foreign:
    features = size(theirs, "fcs.0.conv2_forward", 0)
    arguments: dict[str, Any] = {"phases": _phases(theirs), "features": features, "channels": channels}
    ours = _scalars(renamed(theirs, rules))
    start = _linear_estimate(content.get(MATRICES, {}))
    if start is None:
        return Foreign(arguments=arguments, weights=ours, notes=(_NO_START,))
    arguments |= {"measurements": start.shape[1], "pixels": start.shape[0]}
    return Foreign(arguments=arguments, weights=ours | {"initial": start})


def _coast(theirs: Weights, *, crop: bool, most: int | None) -> Foreign:
    kept: Weights = {}
    for name, value in theirs.items():
        if _UNIT in name and not name.startswith(_FIRST_UNIT):  # the same layers under the name of each block
            if not torch.equal(value, theirs.get(_FIRST_UNIT + name.split(_UNIT)[1], value.new_empty(0))):
                raise CheckpointError("blocks whose gains come from different layers", found=name)
        else:
            kept[name] = value
    arguments: dict[str, Any] = {
        "phases": _phases(theirs),
        "features": size(theirs, "fcs.0.head_conv.weight", 0),
        "channels": size(theirs, "fcs.0.head_conv.weight", 1),
        "crop": crop,
    }
    if most is not None:
        arguments["recursions"] = most
    return Foreign(arguments=arguments, weights=_scalars(renamed(kept, _COAST)))


def _phases(theirs: Weights) -> int:
    return sum(1 for _ in numbered(theirs, r"fcs\.(\d+)\.lambda_step"))


def _scalars(ours: Weights) -> Weights:
    """Step sizes and thresholds, which the files hold as vectors of one number."""
    return {
        name: value.reshape(()) if name.endswith((".step", ".threshold")) and value.numel() == 1 else value
        for name, value in ours.items()
    }


def _linear_estimate(matrices: Mapping[str, Tensor]) -> Tensor | None:
    """Q, as stored or from training blocks, one a row."""
    from recon.models.unrolled import linear_estimate

    phi, start, blocks = (matrices.get(name) for name in (_MATRIX, _START, _BLOCKS))
    if start is None and phi is not None and blocks is not None:
        if phi.shape[1] != blocks.shape[1]:
            raise CheckpointError(
                "training blocks that do not fit the matrix", found=tuple(blocks.shape), expected=f"(n, {phi.shape[1]})"
            )
        start = linear_estimate(phi, blocks.mT.float() @ blocks.float())
    if start is not None and phi is not None and start.shape != phi.mT.shape:
        raise CheckpointError(
            "an initialisation that does not fit the matrix", found=tuple(start.shape), expected=tuple(phi.mT.shape)
        )
    return start
