"""The sharing matrix of organs: splits, comparisons, budget, and ``recon audit-data``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from cli_scans import kspace, refused, save
from test_attribution import mri_examples

from recon.cli import main
from recon.physics.errors import DataError, OptionError
from recon.unlearning import data_audit
from recon.unlearning.data_audit import _compared, _reading, _split, audit_data, subject_of
from recon.unlearning.examples import Examples
from recon.unlearning.sharing import Plan
from recon.unlearning.sources import Reading, examples_of

FEW = Plan(accelerations=(4.0,), steps=2, seeds=1, train=8, test=2, matrix=(32, 32), batch_size=2)
SMALL = ("--acceleration", "4", "--steps", "2", "--seeds", "1", "--slices", "8", "--matrix", "32")


def several(count: int, files: int, folder: str = "") -> Examples:
    items = [
        dataclasses.replace(item, origin=f"{folder}{i * files // count}.h5", name=f"{i}")
        for i, item in enumerate(mri_examples(count))
    ]
    return Examples(items)


def test_subjects_are_kept_apart() -> None:
    notes: list[str] = []
    organ = _split("brain", several(40, 5), dataclasses.replace(FEW, train=30, test=30), notes)
    assert {item.origin for item in organ.test} == {"4.h5"}
    assert len(organ.train) == 32 - 2  # evenly spread
    assert {item.origin for item in organ.train} == {f"{i}.h5" for i in range(4)}
    assert notes == []
    item = dataclasses.replace(mri_examples(1)[0], origin="ann/t1.nii")
    assert subject_of(item) == subject_of(dataclasses.replace(item, origin="ann/t2.nii")) == "ann"
    assert _split("knee", several(16, 2, "one/"), FEW, notes).test
    assert "one subject only" in notes[0]


def test_the_only_subject_is_parted_with_a_gap() -> None:
    organ = _split("neck", several(20, 1), dataclasses.replace(FEW, train=30, test=30), [])
    assert organ.train.names == tuple(map(str, range(13)))
    assert organ.test.names == tuple(map(str, range(15, 20)))
    across = several(20, 1)
    turned = [dataclasses.replace(item, name=item.name + " across y" * (i % 2)) for i, item in enumerate(across)]
    turned = _split("neck", Examples(turned * 2), dataclasses.replace(FEW, train=30, test=30), [])
    assert not any("across" in name for name in turned.train.names + turned.test.names)
    with pytest.raises(DataError, match="too few slices"):
        _split("neck", several(9, 1), FEW, [])


def test_a_gain_is_clear_where_slices_and_seeds_agree() -> None:
    ones = np.ones((2, 5))
    rising = np.linspace(0.5, 1.5, 5) * ones
    clear = _compared(rising, 2 * ones, ones, 0, (4.0, "a", "b"))
    assert clear.gain == pytest.approx(1)
    assert 0.5 <= clear.low < 1 < clear.high <= 1.5
    assert clear.hallucination == pytest.approx(0.5)
    assert clear.verdict == "helps"
    assert _compared(-rising, ones, ones, 0, (4.0, "a", "b")).verdict == "harms"
    apart = rising * np.array([[2.0], [-0.1]])
    assert apart.mean() > 0
    assert _compared(apart, ones, ones, 0, (4.0, "a", "b")).verdict == "no clear difference"
    mixed = np.array([[-1.0, 1, -1, 1, 0.1]])
    assert _compared(mixed, ones[:1], ones[:1], 0, (4.0, "a", "b")).verdict == "no clear difference"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Two organs of volumes and raw k-space that look unlike."""
    root = tmp_path_factory.mktemp("organs")
    found = {}
    rng = np.random.default_rng(0)
    for name in ("discs", "stripes"):
        found[name] = root / name
        found[name].mkdir()
        y, x = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 56), indexing="ij")
        for number in range(2):
            phase = rng.uniform(0, 6, size=(9, 1, 1))
            inside = x**2 + y**2 < 0.7
            pattern = np.sin(9 * x + phase) > 0 if name == "stripes" else (x - 0.1 * phase) ** 2 + y**2 < 0.2
            image = nibabel.Nifti1Image((inside * (1 + pattern)).astype(np.float32).T, np.diag([1.0, 1, 5, 1]))
            nibabel.save(image, found[name] / f"{number}.nii")
    return found


@pytest.fixture(scope="module")
def organs(folders) -> dict[str, Examples]:
    """The same, whose scans are simulated once."""
    return {name: examples_of(folder, how=_reading(Reading(), FEW, 4.0)) for name, folder in folders.items()}


def test_two_organs(organs, tmp_path) -> None:
    told = []
    audit = audit_data(organs, plan=FEW, progress=lambda *both: told.append(both))
    assert told == [(i, 6) for i in range(1, 7)]  # three trainings of two steps
    assert audit.complete
    assert audit.organs == {"discs": (8, 2), "stripes": (8, 2)}
    assert [(s.tested, s.beside) for s in audit.sharing] == [("discs", "stripes"), ("stripes", "discs")]
    assert len(audit.psnr) == 4
    again = audit_data(organs, plan=FEW)
    assert again.sharing == audit.sharing
    assert again.psnr == audit.psnr
    assert any("one seed" in note for note in audit.notes)
    audit.report(tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text()
    assert html.count("<img") == 2
    assert f"{audit.sharing[0].gain:+.2f} dB" in html
    audit.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["sharing"][1]["tested"] == "stripes"
    unsure = dataclasses.replace(audit.sharing[0], low=-np.inf, high=np.inf)  # as of one test slice
    dataclasses.replace(audit, sharing=(unsure,)).save(tmp_path / "b.json")
    stored = json.loads((tmp_path / "b.json").read_text(), parse_constant=pytest.fail)
    assert stored["sharing"][0]["low"] is None


def test_steps_follow_from_the_time(organs, monkeypatch) -> None:
    monkeypatch.setattr(data_audit, "_FEWEST_STEPS", 2)
    monkeypatch.setattr(data_audit, "_MOST_STEPS", 3)
    audit = audit_data(organs, plan=dataclasses.replace(FEW, steps=None, seconds=3000.0))
    assert audit.plan.steps == 3
    with pytest.raises(OptionError, match=r"too short for 3 trainings.*at least"):
        audit_data(organs, plan=dataclasses.replace(FEW, steps=None, seconds=0.1))


def test_what_is_finished_is_kept(organs, monkeypatch) -> None:
    def progress(step: int, _steps: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    audit = audit_data(organs, plan=FEW, progress=progress)
    assert not audit.complete
    assert audit.sharing == ()
    assert len(audit.psnr) == 4
    assert any("after 2 of 3" in note for note in audit.notes)
    json.dumps(audit.as_dict())


def test_from_folders_to_a_page(folders, tmp_path, capsys) -> None:
    out = tmp_path / "a.html"
    command = ["audit-data", str(folders["discs"]), f"bars={folders['stripes']}", *SMALL]
    assert main([*command, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "with bars" in told
    assert "gain in dB at 4x, 2 steps" in told
    assert "Sharing at 4x" in out.read_text()
    assert "exists already" in refused(capsys, *command, "--out", out)


def test_bad_input(folders, tmp_path, capsys) -> None:
    one = str(folders["discs"])
    assert "two organs or more" in refused(capsys, "audit-data", one, *SMALL)
    assert "of one name" in refused(capsys, "audit-data", one, one, *SMALL)
    assert "the same slices" in refused(capsys, "audit-data", one, f"again={one}", *SMALL)
    assert "no such folder" in refused(capsys, "audit-data", one, tmp_path / "nowhere", *SMALL)
    assert "accelerations" in refused(capsys, "audit-data", one, folders["stripes"], "--acceleration", "0.5")
    assert "FILE.html" in refused(capsys, "audit-data", one, one, "--out", "a.pdf")
    blind = tmp_path / "blind"
    blind.mkdir()
    save(blind / "scan.npz", kspace(14))
    assert "compares with a target" in refused(capsys, "audit-data", one, blind, *SMALL)
    with pytest.raises(OptionError, match="no such small network"):
        Plan(network="huge")
    with pytest.raises(OptionError, match="are positive"):
        Plan(seconds=0)


def test_matrices_that_differ(folders) -> None:
    """Images as they are: a batch holds one matrix."""
    audit = audit_data(folders, plan=dataclasses.replace(FEW, matrix=None))
    assert all(torch.isfinite(torch.tensor(value)) for value in audit.psnr.values())
