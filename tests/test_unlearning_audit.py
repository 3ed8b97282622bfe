"""The audit of unlearning: score and bars, then the whole on two small organs."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from audit_problems import QUICK, linear, networks, sets
from unlearning_problems import Ridge, fitted, linear_examples

from recon.physics.errors import DataError, OptionError, OutputError
from recon.unlearning.audit import CHEAP, ROWS, Auditor, Effort, Thresholds, audit
from recon.unlearning.audit.checks import check_all
from recon.unlearning.audit.score import score
from recon.unlearning.audit.subjects import spread
from recon.unlearning.budget import Meter
from recon.unlearning.examples import Examples

# Score and bars


def _quality(psnr: float) -> dict:
    return {"psnr": psnr, "ssim": 0.9}


def test_score_is_one_for_the_oracle_and_zero_for_the_joint_network() -> None:
    def rows(unlearned: float) -> dict:
        models = {"unlearned": unlearned, "joint": 30.0, "oracle": 32.0}
        return {"quality": {"mean": {name: _quality(value) for name, value in models.items()}}}

    for value, expected in ((32.0, 1.0), (30.0, 0.0), (31.5, 0.75), (33.0, 0.5)):
        assert score(rows(value))[0]["gap closed"] == pytest.approx(expected)
    assert score(rows(20.0))[0] == {"gap closed": -1.0, "parts": {"quality": -5.0}}
    total, cannot = score({"quality": {"mean": {"unlearned": _quality(30), "joint": _quality(31)}}})
    assert "gap closed" not in total
    assert "oracle" in cannot["gap closed, quality"]
    alike = {"quality": {"mean": {name: _quality(30) for name in ("unlearned", "joint", "oracle")}}}
    assert "alike" in score(alike)[1]["gap closed, quality"]


def _rows(**changes) -> dict:
    rows = {
        "quality": {"mean": {"oracle": {}}, "gap to oracle": {"psnr": -0.05, "ssim": -0.001}},
        "hallucination": {"null-space energy": {"oracle": 0.1}, "share of the excess gone": 0.95},
        "forgetting": {"forget test": {"gap to oracle": {"psnr": -0.2}}},
        "membership": {"distance to oracle": 0.02},
        "cka": {"forget test": {"groups": {"to oracle": {"a": 0.9}, "to joint": {"a": 0.8}}}},
        "probe": {"balanced accuracy": {"unlearned": {"a": 0.8}, "joint": {"a": 1.0}, "oracle": {"a": 0.7}}},
        "relearning": {"as it is": {"area over the oracle's": 0.95}, "after 8 bits": {"area over the oracle's": 1.2}},
        "price": {"share": {"samples": 0.1, "seconds": 0.05}},
    }
    return rows | changes


def test_a_network_at_the_bars_passes_and_each_bar_can_be_missed() -> None:
    checks, cannot = check_all(_rows(), Thresholds())
    assert len(checks) == 11
    assert all(check.passed for check in checks)
    assert not cannot
    for row, figures, missed in (
        ("quality", {"mean": {"oracle": {}}, "gap to oracle": {"psnr": -0.11, "ssim": 0}}, "retain PSNR"),
        ("quality", {"mean": {"oracle": {}}, "gap to oracle": {"psnr": 0, "ssim": -0.003}}, "retain SSIM"),
        ("hallucination", {"null-space energy": {}, "share of the excess gone": 0.89}, "hallucination"),
        ("forgetting", {"forget test": {"gap to oracle": {"psnr": 0.21}}}, "forget side"),
        ("forgetting", {"forget test": {"gap to oracle": {"psnr": -0.51}}}, "forget side"),
        ("membership", {"distance to oracle": 0.04}, "membership"),
        ("cka", {"forget test": {"groups": {"to oracle": {"a": 0.9}, "to joint": {"a": 0.95}}}}, "CKA"),
        ("price", {"share": {"samples": 0.11, "seconds": 0.05}}, "samples"),
        ("price", {"share": {"samples": 0.1, "seconds": 0.2}}, "seconds"),
        ("relearning", {"as it is": {"area over the oracle's": 0.89}}, "relearning"),
        ("relearning", {"after 8 bits": {"area over the oracle's": 0.89}}, "relearning after 8 bits"),
        (
            "probe",
            {"balanced accuracy": {"unlearned": {"a": 1.0}, "joint": {"a": 1.0}, "oracle": {"a": 0.7}}},
            "probe",
        ),
    ):
        found, _ = check_all(_rows(**{row: figures}), Thresholds())
        assert [check.name for check in found if not check.passed] == [missed]
    loose = Thresholds(retain_psnr=0.3)
    row = {"mean": {"oracle": {}}, "gap to oracle": {"psnr": -0.29, "ssim": 0}}
    assert all(check.passed for check in check_all(_rows(quality=row), loose)[0])


# The whole


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    n = networks()
    return Auditor(n["joint"], n["oracle"], **sets(), effort=QUICK, oracle_cost=Meter(samples=480, seconds=10))


def test_the_oracle_passes_its_own_audit_and_the_joint_network_does_not(auditor: Auditor) -> None:
    n, rows = networks(), [row for row in ROWS if row not in ("restoration", "price")]
    told: list[tuple[int, int]] = []
    good = auditor.audit(n["oracle"], rows=rows, progress=lambda done, of: told.append((done, of)))
    assert good.passed
    assert not good.failed
    assert all(part == 1 for part in good.score["parts"].values())
    assert told[0] == (0, 10)
    assert told[-1] == (10, 10)
    bad = auditor.audit(n["joint"], rows=rows)
    assert not bad.passed
    assert {"forget side", "membership", "CKA"} <= set(bad.failed)
    assert all(part == pytest.approx(0, abs=1e-6) for part in bad.score["parts"].values())


def test_report_and_json(auditor: Auditor, tmp_path) -> None:
    n = networks()
    rows = [*CHEAP, "relearning"]
    found = auditor.audit(n["model"], rows=rows, cost=Meter(samples=48, forward=24, seconds=1))
    assert found.figures["price"]["share"] == {"samples": 0.15, "seconds": 0.1}
    assert "samples" in found.failed
    other = auditor.audit(n["oracle"], rows=("quality", "forgetting"))
    found.save(tmp_path / "audit.json")
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["figures"]["quality"] == found.figures["quality"]
    assert record["failed"] == list(found.failed)
    assert not record["passed"]
    assert record["settings"]["forgotten files"] == sets()["forget"].files
    found.report(tmp_path / "audit.html", others={"<copy>": other})
    page = (tmp_path / "audit.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count("data:image/png") == 3 * 4 + 3 * 3 + 2 * 4  # truth and networks, maps, what was forgotten
    assert page.count("<svg") == 7  # CKA twice, probe, ROC, relearning twice, the plane
    assert "&lt;copy&gt;" in page
    assert "<copy>" not in page
    for name in found.failed:
        assert name in page
    with pytest.raises(OutputError):
        found.report(tmp_path / "audit.html")


def test_what_is_known_of_the_others_is_found_once(auditor: Auditor) -> None:
    n = networks()
    first = auditor.audit(n["model"], rows=("quality", "membership"))
    calls: list[str] = []
    handle = auditor._subjects.models["oracle"].register_forward_hook(lambda *_: calls.append("oracle"))
    second = auditor.audit(n["joint"], rows=("quality", "membership"))
    handle.remove()
    assert not calls
    assert first.figures["membership"]["oracle"] == second.figures["membership"]["oracle"]
    assert first.figures["membership"]["unlearned"] != second.figures["membership"]["unlearned"]
    assert second.figures["membership"]["unlearned"] == second.figures["membership"]["joint"]


def test_without_an_oracle_the_audit_says_what_it_cannot_say() -> None:
    n = networks()
    found = audit(n["model"], n["joint"], **sets(), rows=[*CHEAP, "shadow"], effort=QUICK)
    for figure in ("hallucination: excess of null-space energy", "bar: membership", "bar: CKA", "bar: retain PSNR"):
        assert "oracle was not given" in found.cannot[figure]
    assert [check.name for check in found.checks] == ["retain PSNR, to the joint network", "membership, to chance"]
    assert "gap closed" not in found.score
    alone = audit(n["model"], n["joint"], forget=sets()["forget"], rows=CHEAP)
    assert not alone.checks
    assert not alone.passed
    assert alone.cannot["membership"] == "there are no examples of the forget test set"
    kept = audit(n["joint"], n["joint"], **sets(), rows=("quality",))
    assert not kept.failed
    assert not kept.passed


def test_a_forget_set_that_was_not_trained_on_is_told() -> None:
    subjects = linear()
    forget, test = subjects.sets["forget"], subjects.sets["forget test"]
    member, stranger = fitted(forget, 1e-6), fitted(subjects.sets["retain"])
    told = [
        audit(stranger, joint, forget=forget, forget_test=test, rows=("membership",), objective=Ridge()).notes
        for joint in (member, stranger)
    ]
    assert not told[0]
    assert "may not have been" in told[1][0]


def test_the_networks_are_not_changed() -> None:
    n = networks()
    joint = copy.deepcopy(n["joint"]).train()
    before = copy.deepcopy(joint.state_dict())
    audit(joint, joint, **sets(), rows=("relearning", "worst case"), effort=QUICK)
    assert joint.training
    assert all(torch.equal(value, before[name]) for name, value in joint.state_dict().items())


def test_spread() -> None:
    assert [item.name for item in spread(linear_examples(9), 3)] == [f"set 0, example {i}" for i in (1, 4, 7)]


def test_bad_input() -> None:
    n, s = networks(), sets()
    call = {"model": n["model"], "joint": n["joint"], **s}
    with pytest.raises(OptionError, match="no such row"):
        audit(**call, rows=("charm",))
    with pytest.raises(OptionError, match="nothing to forget"):
        audit(**{**call, "forget": Examples([])})
    with pytest.raises(DataError, match="overlap"):
        audit(**{**call, "retain": s["retain"] + s["forget"]})
    with pytest.raises(DataError, match="forget test set holds examples of the forget set"):
        audit(**{**call, "forget_test": s["forget_test"] + s["forget"][:1]})
    with pytest.raises(OptionError, match="two"):
        Effort(shadows=1)
    with pytest.raises(OptionError, match="rise"):
        Effort(relearn_steps=(5, 1))
