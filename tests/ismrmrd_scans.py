"""Fully sampled slices as ISMRMRD readouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from samples import encoding, readout

import recon
from recon.datasets import Scan

FULL = encoding((16, 12, 1), (8, 12, 1), lines=(0, 11, 6))


def opened(path: Path, **options: str) -> Scan:
    scan = recon.datasets.open(path, **options)
    assert isinstance(scan, Scan)
    return scan


def lines(k: np.ndarray, **fields) -> list:
    """Readouts of one fully sampled slice (coil, y, x)."""
    return [readout(k[:, y], kspace_encode_step_1=y, **fields) for y in range(k.shape[1])]
