"""Weights of the reference of unrolled ADMM and Tikhonet: our networks give with them what its formulas do."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import galaxy_deconv_reference as reference
import pytest
import torch
from galaxies import observation, relative
from torch import Tensor

import recon
from recon.cli import main
from recon.foreign import converters
from recon.models import registry
from recon.physics import PSFConvolution

SMALL, PUBLISHED = (4, 6, 8, 10), (32, 64, 128, 256)


def imported(folder: Path, state: dict[str, Tensor], name: str, *options: str) -> torch.nn.Module:
    torch.save(state, folder / "foreign.pth")
    out = folder / "ours.safetensors"
    assert main(["import-weights", str(folder / "foreign.pth"), "--model", name, "--out", str(out), *options]) == 0
    return recon.load_model(out)


def assert_parity(
    model: torch.nn.Module, state: dict[str, Tensor], formula: Callable[..., Tensor], **how: bool
) -> None:
    _, y, physics = observation(2, 48, snr=40.0)
    psf = torch.nn.functional.pad(physics.psf, (12, 11, 12, 11))  # 48 pixels, the centre still on n // 2
    with torch.no_grad():
        expected = formula(state, y, psf / 16, **how)
        assert torch.isfinite(expected).all()
        assert relative(model(y, PSFConvolution(psf)), expected) < 1e-5


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ((), {}),
        (("legacy_swap=false",), {"swapped": False}),
        (("likelihood=poisson",), {"poisson": True}),
    ],
    ids=["letter", "mended penalties", "Poisson"],
)
def test_three_variables_as_published(options: tuple[str, ...], how: dict[str, bool], tmp_path: Path) -> None:
    state = reference.random_state(reference.admm_shapes(SMALL, 4))
    model = imported(tmp_path, state, "galaxy-admm", *(word for option in options for word in ("--set", option)))
    assert model.iterations == 2
    assert_parity(model, state, reference.letter, **how)


def test_two_variables_as_published(tmp_path: Path) -> None:
    state = reference.random_state(reference.admm_shapes(PUBLISHED, 2))
    model = imported(tmp_path, state, "galaxy-admm")
    assert sum(p.numel() for p in model.parameters()) == 4_331_940 - 6 * 65
    assert_parity(model, state, reference.head)


def test_penalties_that_are_numbers(tmp_path: Path) -> None:
    shapes = reference.admm_shapes(SMALL, None)
    three = reference.random_state(shapes) | {f"rho{i}_iters": torch.tensor([0.4, 1.2]) * i for i in (1, 2)}
    assert_parity(imported(tmp_path, three, "galaxy-admm"), three, reference.letter)
    two = reference.random_state(shapes) | {"rho_iters": torch.tensor([0.4, 1.2])}
    assert_parity(imported(tmp_path, two, "galaxy-admm", "--overwrite"), two, reference.head)


@pytest.mark.parametrize("name", ["tikhonet", "shapenet"])
@pytest.mark.parametrize("filter_", ["laplacian", "identity"])
def test_tikhonet_as_published(name: str, filter_: str, tmp_path: Path) -> None:
    state = reference.random_state(reference.tikhonet_shapes(4, 3, (1, 2, 1, 2)))
    model = imported(tmp_path, state, name, "--set", f"filter={filter_}")
    assert isinstance(model, registry[name])
    assert_parity(model, state, reference.tikhonet, laplacian=filter_ == "laplacian")


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("galaxy-admm", reference.random_state(reference.admm_shapes(SMALL, 4))),
        ("tikhonet", reference.random_state(reference.tikhonet_shapes(4, 3, (1, 2, 1, 2)))),
    ],
)
def test_every_foreign_weight_has_a_place(name: str, state: dict[str, Tensor]) -> None:
    before = converters[name](state).weights
    for key, value in state.items():
        after = converters[name]({**state, key: value + 1}).weights
        difference = sum(float((after[k] - before[k]).abs().sum()) for k in before)
        assert difference == pytest.approx(value.numel(), rel=1e-3), key


def test_published_width_of_tikhonet() -> None:
    with torch.device("meta"):
        model = registry["tikhonet"]()
    shapes = reference.tikhonet_shapes()
    assert sum(p.numel() for p in model.parameters()) == 1 + sum(
        math.prod(shape) for name, shape in shapes.items() if "running" not in name
    )


def test_foreign_files_that_are_not_such_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = reference.random_state(reference.admm_shapes(SMALL, 4))
    without = {name: value for name, value in state.items() if not name.startswith("init")}
    more = state | {"Z.net.m_more.weight": torch.ones(1)}
    negative = without | {"rho_iters": torch.tensor([0.1, -1.0])}
    for content, says in (
        (without, "before 2024"),
        (more, "m_more"),
        (negative, "not positive"),
        ({"a": torch.ones(1)}, "do not hold|does not hold"),
    ):
        torch.save(content, tmp_path / "bad.pth")
        out = tmp_path / "out.safetensors"
        assert main(["import-weights", str(tmp_path / "bad.pth"), "--model", "galaxy-admm", "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert any(part in line for part in says.split("|")), line
        assert not out.exists()
