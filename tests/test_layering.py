"""Imports never point up the list of layers, and the package list matches the tree."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recon
from recon.datasets.stamp_batch import StampBatch

ROOT = Path(__file__).parent.parent
LAYERS = {"physics": ("physics",), "datasets": ("physics", "datasets")}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py")), ids=str)
def test_imports_never_point_up(path: Path) -> None:
    allowed = LAYERS[path.relative_to(ROOT).parts[0]]
    for name in imported(path):
        top, *rest = name.split(".")
        assert top not in ("physics", "datasets", "checkpoints"), f"{path}: write recon.{name}"
        if top == "recon":
            assert rest[0] in allowed, f"{path} imports {name}, which is a layer above"


def test_every_subpackage_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for top, prefix in (
        ("recon", ""),
        ("physics", "recon."),
        ("datasets", "recon."),
        ("checkpoints", "recon."),
    ):
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(prefix + ".".join(init.parent.relative_to(ROOT).parts))
    assert listed == found, f"edit packages in pyproject.toml: add {found - listed}, remove {listed - found}"


def test_readers_and_writers_come_without_torch() -> None:
    """Opening a header takes no seconds of imports; tensors are made where they are asked for."""
    code = "import sys, recon.datasets; assert not {'torch', 'astropy', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_of_stamps_are_found_where_stamps_are() -> None:
    assert recon.datasets.StampBatch is StampBatch
    with pytest.raises(AttributeError, match="no attribute 'StampBach'"):
        _ = recon.datasets.StampBach
