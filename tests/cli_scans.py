"""Small scans on disk, and commands that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.cli import main
from recon.datasets.simulate import simulate_mri

MODEL = ("--model", "cg-sense", "--trust", "none")


def phantom(n: int = 1, shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    """A volume of ellipses, each slice a little different."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, s) for s in shape), indexing="ij")
    head = (x**2 / 0.6 + y**2 / 0.8 < 1).astype(np.float32)
    return np.stack([head * (1 + 0.5 * ((x - 0.2) ** 2 + y**2 < 0.1 + 0.01 * i)) for i in range(n)])


def kspace(n: int = 1, coils: int = 4, shape: tuple[int, int] = (48, 40), **options) -> np.ndarray:
    options = {"mask": "poisson", "acceleration": 2.0, "center": 16, **options}
    scan = simulate_mri(phantom(n, shape), coils=coils, **options).scan
    return np.stack([scan.slice(i) for i in range(n)])


def save(path: Path, data: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(path, kspace=data, **more)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run, expect exit status 2 and one line on standard error, and return it."""
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("recon: ")
    assert "Traceback" not in lines[0]
    return lines[0]


def left_behind(folder: Path, *expected: str) -> bool:
    """Whether a folder holds more than what is expected, hidden files included."""
    return {p.name for p in folder.iterdir()} - set(expected) != set()
