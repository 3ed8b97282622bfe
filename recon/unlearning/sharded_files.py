"""Sharded trainings in a file: the weights of all stages, what each slice was, and which network they belong to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from deepinv.models import Reconstructor
from torch import Tensor

from recon.physics.errors import CheckpointError, DataError
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.history import weights_sha256
from recon.unlearning.sharded import Cost, Plan, Sequenced, Sharded
from recon.unlearning.tensor_files import read_tensors, write_tensors

_FORMAT = "recon sharded"


def save_sharded(path: str | Path, trained: Sharded, *, overwrite: bool = False) -> None:
    """Write all stages there are: what was deactivated is in no file that is written after it.

    Parameters
    ----------
    path
        ``NAME.safetensors``.
    trained
        The training.
    overwrite
        Replace an existing file.

    Raises
    ------
    OutputError
        The file exists, or cannot be written.
    """
    tensors = {
        f"{i}/{j}/{k}/{name}": value
        for i, networks in enumerate(trained.networks)
        for j, network in enumerate(networks)
        for k, stage in enumerate(network.stages)
        for name, value in stage.items()
    }
    told = {
        "plan": asdict(trained.plan),
        "stages of all": trained.cost.of,
        "base": weights_sha256(trained.base),
        "orders": [[network.order for network in networks] for networks in trained.networks],
        "done": [[len(network.stages) for network in networks] for networks in trained.networks],
        "digests": _digests(trained.shards),
    }
    write_tensors(path, _FORMAT, tensors, {"training": json.dumps(told)}, overwrite=overwrite)


def load_sharded(
    path: str | Path, base: Reconstructor, shards: Sequence[Sequence[Examples]], budget: Budget
) -> Sharded:
    """Read a training, to delete examples from it or to go on.

    Parameters
    ----------
    path
        The file.
    base, shards, budget
        As it was trained; examples that were deleted are no longer in the shards.

    Raises
    ------
    CheckpointError
        No such file, another kind of file, or another base.
    DataError
        Shards that are not those of the training.
    """
    tensors, metadata = read_tensors(path, _FORMAT)
    told = json.loads(metadata["training"])
    if told["base"] != weights_sha256(base):
        raise CheckpointError("the stages are of another network than this base", file=path)
    if told["digests"] != _digests(shards):
        raise DataError("these are not the shards of the training, less what was deleted", file=path)
    device = next(base.parameters()).device
    networks = tuple(
        tuple(
            Sequenced(tuple(order), tuple(_stage(tensors, f"{i}/{j}/{k}/", device) for k in range(done)))
            for j, (order, done) in enumerate(zip(orders, counts, strict=True))
        )
        for i, (orders, counts) in enumerate(zip(told["orders"], told["done"], strict=True))
    )
    cost = Cost(of=told["stages of all"])
    return Sharded(base, tuple(tuple(s) for s in shards), networks, Plan(**told["plan"]), budget, cost)


def _stage(tensors: dict[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): v.to(device) for key, v in tensors.items() if key.startswith(prefix)}


def _digests(shards: Sequence[Sequence[Examples]]) -> list[list[list[str]]]:
    return [[[item.digest for item in part] for part in slices] for slices in shards]
