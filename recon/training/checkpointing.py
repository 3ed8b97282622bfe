"""Training states on disk: whole or not at all, and read without running what is in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from recon.datasets.atomic import atomic_path
from recon.physics.errors import CheckpointError, OutputError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: a full disk or a kill leaves the previous state as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write a training state.

        Raises
        ------
        OutputError
            It cannot be written; what was there before stays.
        """
        buffer = io.BytesIO()  # PyTorch's own writer hides why a write failed
        torch.save(checkpoint, buffer)
        try:
            with atomic_path(path, overwrite=True) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OutputError as error:
            cure = "Free some space, then go on with --ckpt_path last" if Path(path).exists() else None
            raise OutputError(error.problem, file=path, cure=cure or error.cure) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = "cpu",
        weights_only: bool | None = None,  # noqa: ARG002 - nothing else is ever read
    ) -> dict[str, Any]:
        """Read a training state, tensors and plain values only.

        Raises
        ------
        CheckpointError
            It is absent, damaged, or holds anything else.
        """
        return read_state(path, map_location)


def read_state(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a training state, tensors and plain values only.

    Raises
    ------
    CheckpointError
        It is absent, damaged, or holds anything else.
    """
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError("no such training state", file=path) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"not a training state that can be read safely: {reason[0]}", file=path) from error
    if not isinstance(state, dict) or "loops" not in state:
        raise CheckpointError(
            "not a training state", file=path, expected="checkpoints/last.ckpt of a run", cure="Weights do not resume"
        )
    return state
