"""Shared fixtures; turns on the shape checks of every annotated signature."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from jaxtyping import install_import_hook

_hook = install_import_hook("recon", "typechecking.check")

import numpy as np
import pytest
import torch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would the processes to which the tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores

DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real measurements that do not belong to the project."""
    folder = Path(os.environ.get("RECON_DATA", DATA))
    if not folder.is_dir():
        pytest.skip("needs the real measurements in ../shared/data (or RECON_DATA)")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
