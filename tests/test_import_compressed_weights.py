"""Published weights of ISTA-Net, ISTA-Net+, COAST and R-COAST: our networks give with them what the formulas do."""

from __future__ import annotations

from pathlib import Path

import compressed_reference as reference
import numpy as np
import pytest
import torch
from compressed_problems import measured, moment
from scipy.io import savemat

import recon
from recon.cli import main
from recon.foreign import converters
from recon.models.unrolled import UnrolledReconstructor, linear_estimate


def imported(folder: Path, content: dict[str, object], name: str, *options: str) -> UnrolledReconstructor:
    torch.save(content, folder / "net_params_200.pkl")
    out = folder / "ours.safetensors"
    words = ["import-weights", str(folder / "net_params_200.pkl"), "--model", name, "--out", str(out), "--overwrite"]
    assert main([*words, *options]) == 0
    model = recon.load_model(out)
    assert isinstance(model, UnrolledReconstructor)
    return model


def wrapped(state: reference.State) -> dict[str, object]:
    """As `torch.nn.DataParallel` saves."""
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("name", ["ista-net", "ista-net-plus"])
def test_published_ista_net(name: str, tmp_path: Path) -> None:
    x, y, physics = measured((70, 40), 109, side=33)
    blocks, second = moment(33, 1500)
    q = linear_estimate(physics.matrix, second)
    savemat(tmp_path / "phi_0_10_1089.mat", {"phi": physics.matrix.numpy(), "ratio": 10.0})
    savemat(tmp_path / "Initialization_Matrix_10.mat", {"Qinit": q.numpy()})
    savemat(tmp_path / "Training_Data.mat", {"labels": blocks.numpy()})
    state = reference.random_weights(name, 3, 8)
    formula = reference.ista_net if name == "ista-net" else reference.ista_net_plus
    rows = reference.cut(x, 33)
    for files in (("Initialization_Matrix_10.mat",), ("phi_0_10_1089.mat", "Training_Data.mat")):
        options = [word for file in files for word in ("--with", str(tmp_path / file))]
        model = imported(tmp_path, wrapped(state), name, *options)
        out, residuals = formula(state, rows @ physics.matrix.T, physics.matrix, q.float(), 3)
        with torch.no_grad():
            torch.testing.assert_close(
                model(y, physics), reference.stitched(out, 3, 2)[..., :70, :40], rtol=1e-3, atol=1e-3
            )
            _, told = model.with_losses(y, physics, ("symmetry",))
        expected = sum(e.square().mean() for e in residuals)
        torch.testing.assert_close(told["symmetry"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("published", ["COAST", "COAST of R-COAST's authors", "R-COAST"])
def test_published_coast(published: str, tmp_path: Path) -> None:
    x, y, physics = measured((70, 40), 109, side=33)
    recursive = published == "R-COAST"
    name = "recursive-coast" if recursive else "coast"
    state = reference.random_weights(name, 2, 8)
    content = wrapped(state) if published == "COAST" else {"model": state, "epoch": 388}
    model = imported(tmp_path, content, name)
    counts, crop = ([4, 4] if recursive else [1, 1]), (None if published == "COAST" else (70, 40))
    data = reference.cut(x, 33) @ physics.matrix.T
    expected = reference.coast(state, data, physics.matrix, 3, 2, counts, 4 if recursive else 1, crop)
    with torch.no_grad():
        torch.testing.assert_close(model(y, physics), expected[..., :70, :40], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["ista-net", "ista-net-plus", "coast", "recursive-coast"])
def test_every_foreign_weight_has_a_place(name: str) -> None:
    state = reference.random_weights(name, 2, features=4)
    before = converters[name](state).weights
    for key in state:
        if ".res_scale." in key and not key.startswith("fcs.0.ResidualBlocks.0."):
            continue
        shared = [
            k for k in state if ".res_scale." in key and k.split(".res_scale.")[1:] == key.split(".res_scale.")[1:]
        ]
        changed = {**state, **{k: state[k] + 1 for k in (shared or [key])}}
        after = converters[name](changed).weights
        difference = sum(float((after[k] - before[k]).abs().sum()) for k in before)
        assert difference == pytest.approx(state[key].numel(), rel=1e-3), key


def test_files_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plus, coast = reference.random_weights("ista-net-plus", 1, 4), reference.random_weights("coast", 1, 4)
    apart = {**coast, "fcs.0.ResidualBlocks.1.res_scale.bias": torch.ones(4)}
    savemat(tmp_path / "phi.mat", {"phi": np.ones((2, 9))})
    savemat(tmp_path / "q.mat", {"Qinit": np.ones((8, 2))})
    savemat(tmp_path / "blocks.mat", {"labels": np.ones((5, 8))})
    savemat(tmp_path / "words.mat", {"words": "nothing"})
    (tmp_path / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(120))
    (tmp_path / "cut.mat").write_bytes(b"nothing")
    cases = [
        ("ista-net", plus, (), "the weights of ISTA-Net+"),
        ("recursive-coast", coast, (), "the weights of COAST"),
        ("coast", reference.random_weights("recursive-coast", 1, 4), (), "the weights of R-COAST"),
        ("coast", plus, (), "does not hold"),
        ("coast", coast, ("phi.mat",), "needs no matrices"),
        ("coast", apart, (), "different layers"),
        ("ista-net-plus", {**plus, "fcs.0.more": torch.ones(1)}, (), "fcs.0.more"),
        ("ista-net-plus", plus, ("phi.mat", "q.mat"), "does not fit the matrix"),
        ("ista-net-plus", plus, ("phi.mat", "blocks.mat"), "do not fit the matrix"),
        ("ista-net-plus", plus, ("words.mat",), "no matrices"),
        ("ista-net-plus", plus, ("damaged.mat",), "damaged or truncated"),
        ("ista-net-plus", plus, ("cut.mat",), "damaged or truncated"),
        ("ista-net-plus", plus, ("absent.mat",), "no such file"),
    ]
    for name, state, files, says in cases:
        torch.save(state, tmp_path / "bad.pkl")
        out = tmp_path / "out.safetensors"
        options = [word for file in files for word in ("--with", str(tmp_path / file))]
        assert main(["import-weights", str(tmp_path / "bad.pkl"), "--model", name, "--out", str(out), *options]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line, (name, files, line)
        assert not out.exists()


def test_weights_without_their_matrices_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(tmp_path, dict(reference.random_weights("ista-net-plus", 1, 4)), "ista-net-plus")
    assert "starts from the adjoint" in " ".join(capsys.readouterr().err.split())
