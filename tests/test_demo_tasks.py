"""The demo of tasks: every task can be measured, the page stands alone, the table is of it."""

from __future__ import annotations

import json
import re

import pytest

from recon.cli import main
from recon.demo_tasks import TASKS, measured_picture, run_task_demo
from recon.measured_files import operator_of
from recon.physics.errors import OptionError, OutputError


@pytest.mark.parametrize("task", TASKS)
def test_every_task_measures_its_picture(task):
    data = measured_picture(task, size=40, seed=1)
    assert data.measurements.shape[1:] == operator_of(data).A(_reference(data)).shape[1:]
    again, other = measured_picture(task, size=40, seed=1), measured_picture(task, size=40, seed=2)
    assert (again.slice(0) == data.slice(0)).all()
    assert (other.slice(0) != data.slice(0)).any()


def _reference(data):
    import torch

    return torch.from_numpy(data.reference)


def test_table_and_page(tmp_path):
    told = []
    outcome = run_task_demo(
        tmp_path / "demo", ["inpainting", "demosaicing"], size=40, progress=lambda *step: told.append(step)
    )
    best = {row.task: row for row in reversed(outcome.rows)}
    assert set(best) == {"inpainting", "demosaicing"}
    assert best["inpainting"].method != "minimum-norm"
    assert best["inpainting"].psnr > 20
    assert [row.psnr for row in outcome.rows if row.task == "demosaicing"] == sorted(
        (row.psnr for row in outcome.rows if row.task == "demosaicing"), reverse=True
    )
    assert told[-1][0] == "done"
    page = outcome.report.read_text()
    assert page.count("<h2>") == 2
    assert page.count("data:image/png") == 4 + len(outcome.rows)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for row in outcome.rows:
        assert f"{row.psnr:.2f}" in page
    with pytest.raises(OutputError, match="--overwrite"):
        run_task_demo(tmp_path / "demo", ["inpainting"], size=40)


def test_tasks_that_are_not():
    with pytest.raises(OptionError, match="no such task"):
        run_task_demo("nowhere", ["holography"])
    with pytest.raises(OptionError, match="no such task"):
        run_task_demo("nowhere", [])


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recon.demo_tasks.SIZE", 40)
    assert main(["demo", "inpainting", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["task"] for row in told["rows"]} == {"inpainting"}
    assert (tmp_path / "report.html").exists()
    assert main(["demo", "holography", str(tmp_path)]) == 2
    assert "deblur" in capsys.readouterr().err
