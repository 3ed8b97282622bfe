"""A training run from a configuration: Lightning's command line with our module, callbacks and folder."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console

from recon.physics.errors import OptionError, OutputError
from recon.training.callbacks import BestWeights, Lines, Pictures, SeedEpochs, StopAfter
from recon.training.checkpointing import AtomicCheckpointIO, read_state
from recon.training.ema import ExponentialAverage
from recon.training.logs import TableLog
from recon.training.module import ReconstructionModule

_STATES = "checkpoints"
_LONGEST = 300  # letters of an error of the parser


class TrainingCLI(LightningCLI):
    """Adds the run's folder, its average of weights and its time to Lightning's command line.

    Parameters
    ----------
    config, options
        As for `train`.
    """

    trainer_defaults: dict[str, Any]

    def __init__(self, config: Path, options: list[str]) -> None:
        self.command = shlex.join(["recon", "train", str(config), *options])
        super().__init__(
            ReconstructionModule,
            LightningDataModule,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "log_every_n_steps": 10,
                "max_epochs": -1,
            },
            parser_kwargs={"exit_on_error": False, "prog": "recon train CONFIG.yaml"},
            args=["--name", config.stem, "--config", str(config), *options],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a run needs beside trainer, model and data."""
        parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
        parser.add_argument("--name", type=str, default="run", help="folder of this run (default: the CONFIG's name)")
        parser.add_argument("--ema", type=float, default=0.999, help="decay of the average of weights; 0: no average")
        parser.add_argument(
            "--minutes", type=float | None, default=None, help="stop at the end of the epoch after this time"
        )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="training state to go on from, or last")
        parser.add_argument("--overwrite", type=bool, default=False, help="begin anew where a run of this name exists")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; Lightning's own warns of what the test suite and we do on purpose."""
        self.config = parser.parse_args(args)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.runs) / self.config.name

    def before_instantiate_classes(self) -> None:
        """Find the training state to go on from, and keep an earlier run from being written over."""
        last = self.folder / _STATES / "last.ckpt"
        if self.config.ckpt_path == "last":
            self.config.ckpt_path = str(last)
        if self.config.ckpt_path is not None:
            read_state(self.config.ckpt_path)  # before anything is made
        elif rank_zero_only.rank == 0 and last.exists() and not self.config.overwrite:
            raise OutputError(
                "a run of this name exists",
                file=self.folder,
                cure="Go on with it: --ckpt_path last; or give --name NAME, or --overwrite true",
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, which writes into the run's folder."""
        console = Console(stderr=True)
        given = self.config.trainer
        steps = given.max_steps if given.max_steps >= 0 else None
        callbacks: list[Callback] = [
            SeedEpochs(),
            BestWeights(self.folder, self.command),
            Pictures(),
            Lines(console, steps),
            ModelCheckpoint(
                self.folder / _STATES, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
            ),
        ]
        if self.config.ema:
            callbacks.insert(0, ExponentialAverage(self.config.ema))
        if steps is not None:
            callbacks.append(StopAfter(steps))
        if self.config.minutes is not None:
            callbacks.append(Timer(timedelta(minutes=self.config.minutes), interval="epoch", verbose=False))
        if console.is_terminal and given.enable_progress_bar is not False:
            callbacks.append(RichProgressBar(leave=False))
        else:
            kwargs["enable_progress_bar"] = False
        if given.logger in (None, True):
            board = TensorBoardLogger(self.folder, name="tensorboard", version="", default_hp_metric=False)
            kwargs["logger"] = [TableLog(self.folder), board]
        plugins = [*(given.plugins if isinstance(given.plugins, list) else []), AtomicCheckpointIO()]
        self.trainer_defaults = self.trainer_defaults | {"callbacks": callbacks}
        kwargs |= {"default_root_dir": str(self.folder), "plugins": plugins, "max_steps": -1}
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError) as error:
            raise OptionError(f"Lightning has no such trainer: {error}") from error


def train(config: Path, options: list[str]) -> Path:
    """Train as a configuration and further options say; return the run's folder.

    Parameters
    ----------
    config
        YAML file.
    options
        As on the command line: ``["--trainer.max_steps", "10"]``.

    Raises
    ------
    OptionError
        A key or value that does not exist.
    OutputError
        A run of this name exists, a disk is full.
    DataError
        There is no data, or the loss is not finite.
    """
    _quieten()
    try:
        cli = TrainingCLI(config, options)
    except (ArgumentError, argparse.ArgumentError) as error:
        raise OptionError(
            f"this cannot be trained: {_in_short(str(error))}",
            file=config,
            cure="`recon train CONFIG.yaml --help` lists all keys",
        ) from error
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True)
    except MisconfigurationException as error:
        raise OptionError(f"Lightning cannot train like this: {error}", file=config) from error
    except SystemExit:  # how Lightning answers Ctrl-C
        if cli.trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    return cli.folder


def _in_short(message: str) -> str:
    """Return the part of a parser's message that says what is wrong."""
    text = " ".join(message.split())
    unknown = re.search(r"(Option|Group) '\S+' (is not accepted|does not accept option '\S+')", text)
    return unknown[0] if unknown else text[:_LONGEST]


def _quieten() -> None:
    """Keep Lightning from telling what it found and advertising."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in ("does not have many workers", "Checkpoint directory", "smaller than the logging interval", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{text}")
