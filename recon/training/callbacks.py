"""What happens beside the steps of training: reproducible epochs, the best weights, pictures, lines of progress."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor

from recon.cards import Card
from recon.checkpoint import save_checkpoint
from recon.datasets.random import child_generator
from recon.models.recursion import Recursion
from recon.training.batches import TrainingBatch
from recon.training.ema import ExponentialAverage
from recon.training.module import METRICS, ReconstructionModule

BEST = "val/psnr"
_ERROR_GAIN = 5  # by which errors are shown brighter than images


class SeedEpochs(Callback):
    """Seeds PyTorch's generator anew each epoch, so that a resumed run draws what an unbroken one draws."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed by epoch and process; what networks draw of recursions, by epoch only."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        for part in pl_module.modules():
            if isinstance(part, Recursion):
                part.reseed(child_generator(seed, trainer.current_epoch).initial_seed())
        torch.manual_seed(child_generator(seed, trainer.current_epoch, trainer.global_rank).initial_seed())


class StopAfter(Callback):
    """Ends training after a number of steps, validated once more.

    Lightning's own ``max_steps`` counts an epoch twice when such a run is resumed, so that its data would differ.

    Parameters
    ----------
    steps
        From the very start.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Stop a resumed run that has all its steps."""
        self._check(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: TrainingBatch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Stop after the last step."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.steps


class BestWeights(Callback):
    """Writes ``best.safetensors`` with its card whenever validation finds better weights, the averaged ones.

    Where nothing was validated, the last weights are written at the end.

    Parameters
    ----------
    folder
        Of the run.
    command
        How the run was started, for the card.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self.file, self.command = folder / "best.safetensors", command
        self.best = float("-inf")

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best figure so far."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights where they are the best so far."""
        value = float(trainer.callback_metrics.get(BEST, torch.tensor(float("-inf"))))
        assert isinstance(pl_module, ReconstructionModule)
        if not trainer.sanity_checking and pl_module.final_stage and value > self.best:
            self.best = value
            figures = {name: float(trainer.callback_metrics[f"val/{name}"]) for name in METRICS}
            self._write(trainer, pl_module, {"validation": figures, "steps": trainer.global_step})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last weights where none were validated."""
        if self.best == float("-inf"):
            self._write(trainer, pl_module, {"steps": trainer.global_step})

    def _write(self, trainer: Trainer, pl_module: LightningModule, figures: dict[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        averages = [callback for callback in trainer.callbacks if isinstance(callback, ExponentialAverage)]
        module = averages[0].averaged() if averages else pl_module
        assert isinstance(module, ReconstructionModule)
        data_card = getattr(trainer.datamodule, "card", Card)()
        card = replace(data_card, command=self.command, figures=figures)
        save_checkpoint(self.file, module.network, card, overwrite=True)


class Pictures(Callback):
    """Shows the first validation example in TensorBoard: backprojection, reconstruction, target, error five times."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: TrainingBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log one picture."""
        if batch_idx or dataloader_idx or trainer.sanity_checking or batch.target is None:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/example", _picture(outputs["x"], batch)[None], trainer.global_step)


class Lines(Callback):
    """Prints a line of progress an epoch.

    Parameters
    ----------
    console
        Where to.
    steps
        Of the whole training, where known.
    """

    def __init__(self, console: Console, steps: int | None) -> None:
        self.console, self.steps = console, steps
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained and where the results will be."""
        self._start = time.monotonic()
        assert isinstance(pl_module, ReconstructionModule)
        weights = sum(p.numel() for p in pl_module.network.parameters())
        self._print(trainer, f"{pl_module.name}: {weights:,} weights, output in {trainer.default_root_dir}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Print step, time, losses and figures."""
        names = {"train/loss": "loss", "val/loss": "val loss", "val/psnr": "PSNR", "val/ssim": "SSIM"}
        shown = [
            f"{text} {trainer.callback_metrics[n]:.4g}" for n, text in names.items() if n in trainer.callback_metrics
        ]
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        step = f"step {trainer.global_step}" + ("" if self.steps is None else f" of {self.steps}")
        self._print(trainer, "  ".join([f"{minutes}:{seconds:02d}", step, *shown]))

    def _print(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero:
            self.console.print(text, highlight=False)


def _picture(x: Float[Tensor, "b channel y x"], batch: TrainingBatch) -> Float[Tensor, "y x4"]:
    assert batch.target is not None
    backprojected = batch.physics().A_adjoint(batch.y)
    start, image, target = (torch.linalg.vector_norm(a[0].float(), dim=0) for a in (backprojected, x, batch.target))
    panels = torch.cat((start, image, target, _ERROR_GAIN * (image - target).abs()), dim=1)
    return (panels / target.max()).clamp(0, 1)
