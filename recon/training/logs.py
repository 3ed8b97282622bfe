"""The log as a table, ``log.csv``, that a resumed run goes on with."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from recon.datasets.atomic import atomic_path


class TableLog(Logger):
    """Keeps all rows and writes them when asked to save.

    Rows of an earlier run stay up to the step at which this one goes on. (Lightning's own CSV logger deletes them.)

    Parameters
    ----------
    folder
        Where ``log.csv`` lies.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "log.csv"
        self._rows: dict[int, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.file.parent.name

    @property
    def version(self) -> str:
        """There is one a folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the run; Lightning's command line puts the configuration there."""
        return str(self.file.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is saved beside the log."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of a step."""
        if rank_zero_only.rank:
            return
        step = int(step or 0)
        if self._rows is None:
            self._rows = {n: row for n, row in self._earlier().items() if n < step}
        self._rows.setdefault(step, {"step": step}).update(metrics)

    def save(self) -> None:
        """Write the table."""
        if not self._rows:
            return
        rows = [self._rows[step] for step in sorted(self._rows)]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_path(self.file, overwrite=True) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def finalize(self, status: str) -> None:  # noqa: ARG002
        """Write the table."""
        self.save()

    def _earlier(self) -> dict[int, dict[str, Any]]:
        if not self.file.exists():
            return {}
        with self.file.open(newline="") as file:
            return {int(row["step"]): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}
