"""What every benchmark shares: interleaved timing, ratios with their spread, a line of JSON in `results/`."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def time_side_by_side(
    tasks: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time the tasks in turns (a b c, a b c, ...), so that a slow spell of the machine hits all alike.

    With `time.process_time` for a clock it is the time of the processor, which other programs disturb less.

    Returns
    -------
    dict
        Seconds of each repeat, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(warmup):
        for task in tasks.values():
            task()
    for _ in range(repeats):
        for name, task in tasks.items():
            start = clock()
            task()
            seconds[name].append(clock() - start)
    return seconds


def ratio(peer: list[float], ours: list[float]) -> tuple[float, float, float]:
    """Return how many times faster than a peer: the median of the paired ratios, their least and greatest."""
    ratios = np.asarray(peer) / np.asarray(ours)
    return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, threads and versions that a figure depends on."""
    versions = {}
    for package in ("torch", "numpy", "deepinv", "sigpy", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def record(name: str, figures: Mapping[str, Any], *packages: str) -> None:
    """Append one line of JSON to ``results/<name>.jsonl``."""
    RESULTS.mkdir(exist_ok=True)
    line = {
        "benchmark": name,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(*packages),
        **figures,
    }
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
