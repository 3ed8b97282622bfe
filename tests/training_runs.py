"""A tiny training run for the tests."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

CONFIG = """
trainer: {max_steps: 4, log_every_n_steps: 1, accelerator: cpu}
model:
  network: recurrentvarnet
  arguments: {steps: 1, hidden: 4, layers: 1, initialiser: image}
  lr: 1.0e-2
  schedule: {warmup: 2}
data:
  class_path: recon.training.data.sample.SimulatedData
  init_args: {matrix: [32, 32], examples: 4, validation: 1, batch_size: 2, acquisition: {coils: [2, 3]}}
"""


def write_config(folder: Path, name: str = "tiny", text: str = CONFIG) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))
