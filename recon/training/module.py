"""The Lightning module: any registered network, trained on batches of measurements with targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from recon import metrics
from recon.checkpoint import distinct, load_checkpoint, load_weights
from recon.datasets.atomic import atomic_path
from recon.models.learned import LearnedReconstructor
from recon.onebit import Quantisation, drop_frozen_gradients, quantise, to_step
from recon.physics.errors import DataError, OptionError
from recon.training.batches import TrainingBatch
from recon.training.losses import WeightedLoss
from recon.training.muon import Muon
from recon.training.network import build
from recon.training.schedule import Schedule
from recon.training.task_batches import TaskBatch

_PUBLISHED = Schedule()
METRICS = {"psnr": metrics.psnr, "ssim": metrics.ssim, "nmse": metrics.nmse}


class ReconstructionModule(LightningModule):
    """Trains a network ``x = network(y, physics)`` with Adam, or Muon.

    Parameters
    ----------
    network
        Registered name of the network.
    arguments
        Of its constructor.
    weights
        File of weights (``.safetensors``) to start from, those of the same network.
    loss
        Weight of each loss, by the names in `recon.training.losses.LOSSES` and those of the network's own
        (``own_losses``); L1 + (1 - SSIM) by default.
    lr, betas
        Highest learning rate, and the decays of Adam's averages.
    matrix_lr
        Highest learning rate of matrices, which are then trained by `recon.training.muon.Muon`; 0: Adam for all.
    schedule
        How it changes.
    quantisation
        Weights that are made of few levels, and from which step on (`recon.onebit`); None: no.
    channels_last
        Keep the weights in the memory format in which some convolutions are faster.
    compile
        Compile the parts of the network, which see real images, with `torch.compile`. What is done to complex k-space
        between them is left as it is.

    Raises
    ------
    OptionError
        A network, argument or loss that does not exist.
    CheckpointError
        Weights that cannot be used, or of another network.
    """

    def __init__(
        self,
        network: str,
        arguments: dict[str, Any] | None = None,
        *,
        weights: Path | None = None,
        loss: dict[str, float] | None = None,
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        matrix_lr: float = 0.0,
        schedule: Schedule = _PUBLISHED,
        quantisation: Quantisation | None = None,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 - what everybody calls it
    ) -> None:
        super().__init__()
        if not (lr > 0 and matrix_lr >= 0 and all(0 <= beta < 1 for beta in betas)):
            raise OptionError(
                "a learning rate is positive, and averages decay",
                found=f"lr {lr:g}, betas {betas}, matrix_lr {matrix_lr:g}",
            )
        self.name, self.arguments = network, dict(arguments or {})
        self.network = build(self.name, self.arguments)
        if weights is not None:
            load_weights(self.network, distinct(load_checkpoint(weights)[0]), weights)
        self.quantisation = quantisation
        if quantisation is not None:
            quantise(self.network, quantisation, active=quantisation.start == 0)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        own = self.network.own_losses if isinstance(self.network, LearnedReconstructor) else ()
        self.loss = WeightedLoss({"l1": 1.0, "ssim": 1.0} if loss is None else loss, own)
        self.lr, self.betas, self.matrix_lr, self.schedule = lr, betas, matrix_lr, schedule
        self._compile = compile

    def setup(self, stage: str) -> None:
        """Compile, after callbacks have copied the network."""
        if self._compile and stage == "fit":
            for part in _parts(self.network):
                part.compile()

    @property
    def final_stage(self) -> bool:
        """Whether the weights are what they shall be in the end, quantised where asked for."""
        return self.quantisation is None or self.global_step > self.quantisation.start

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Bring quantised weights to the stage of this step."""
        if self.quantisation is not None:
            to_step(self.network, self.quantisation, self.global_step)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002
        """Hold frozen weights."""
        if self.quantisation is not None:
            drop_frozen_gradients(self.network, self.quantisation, self.global_step)

    def forward(self, batch: TrainingBatch) -> Float[Tensor, "b channel y x"]:
        """Reconstruct a batch."""
        return self.network(batch.y, batch.physics())

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Return the loss.

        Raises
        ------
        DataError
            The loss is not finite; the batch is saved.
        """
        x, told = self._reconstruct(batch)
        loss, parts = self.loss(x, batch, told)
        if not torch.isfinite(loss):
            self._stop_at(batch, loss.item(), batch_idx)
        logged = {"train/loss": loss} | {f"train/{name}": part for name, part in parts.items() if len(parts) > 1}
        self.log_dict(logged, batch_size=len(batch))
        return loss

    def validation_step(self, batch: TrainingBatch, batch_idx: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Log loss and figures of merit of the magnitudes, the PSNR also task by task; return the images."""
        x, told = self._reconstruct(batch)
        loss, _ = self.loss(x, batch, told)
        logged = {"val/loss": loss}
        if batch.target is not None:
            pairs = [(_magnitude(a), _magnitude(b)) for a, b in zip(x, batch.target, strict=True)]
            for name, metric in METRICS.items():
                values = [metric(image, reference) for image, reference in pairs]
                logged[f"val/{name}"] = torch.tensor(values, device=x.device).mean()  # float32: no device lacks it
            if isinstance(batch, TaskBatch):
                logged[f"val/psnr/{batch.task}"] = logged["val/psnr"]
        self.log_dict(logged, batch_size=len(batch), sync_dist=True)
        return {"x": x}

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimiser and the schedule, which goes by steps."""
        optimizer: torch.optim.Optimizer = (
            Muon(self.parameters(), lr=self.lr, betas=self.betas, matrix_lr=self.matrix_lr)
            if self.matrix_lr
            else torch.optim.Adam(self.parameters(), lr=self.lr, betas=self.betas)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self) -> Callable[[int], float]:
        """Return how the learning rate changes; what quantisation does to it is no state of a training to be stored."""
        schedule, quantisation = self.schedule, self.quantisation
        if quantisation is None:
            return schedule
        return lambda step: schedule(step) * (quantisation.rate if step >= quantisation.start else 1.0)

    def _reconstruct(self, batch: TrainingBatch) -> tuple[Float[Tensor, "b channel y x"], dict[str, Tensor]]:
        """Reconstruct a batch, and return what the network says of its own losses."""
        if not self.loss.own:
            return self(batch), {}
        return self.network.with_losses(batch.y, batch.physics(), self.loss.own)

    def _stop_at(self, batch: TrainingBatch, loss: float, batch_idx: int) -> None:
        weights = all(bool(torch.isfinite(p).all()) for p in self.network.parameters())
        file = Path(self.trainer.default_root_dir) / f"bad-batch-rank{self.global_rank}.pt"
        content = {name: v.cpu() if isinstance(v, Tensor) else v for name, v in vars(batch).items()}
        with atomic_path(file, overwrite=True) as temporary:
            torch.save(content, temporary)
        raise DataError(
            f"the loss is not finite at step {self.global_step}, batch {batch_idx}; the batch was saved here",
            file=file,
            found=f"{loss} with {'finite weights' if weights else 'weights that are not finite'}, "
            f"examples {', '.join(batch.names)}",
            cure="Look at the batch, or lower model.lr or set trainer.gradient_clip_val",
        )


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """Children of a network, those in lists each by itself."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield child


def _magnitude(x: Float[Tensor, "channel y x"]) -> Float[Tensor, "y x"]:
    return torch.linalg.vector_norm(x.float(), dim=0)
