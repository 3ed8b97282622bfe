"""`model="auto"`: the learned network where it is at home and does better on this scan, else what it was before."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from deepinv.models import Reconstructor
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

import recon
from recon import cards, checkpoint, choice, scan_plan, slices, zoo
from recon.cards import Card, Covers
from recon.checkpoint import save_checkpoint
from recon.choice import CLASSICAL, LEARNED, Verdict, choose, compare, outside
from recon.datasets.masks import make_mask
from recon.datasets.simulate import simulate_mri
from recon.models import registry
from recon.physics import MultiCoilMRI
from recon.physics.layout import to_channels, to_complex
from recon.pipeline import Plan, execute
from recon.prepare import Preparation, prepare
from recon.slices import BASIC, Trust
from recon.spool import Spool
from recon.trust import HoldOut

COVERS = Covers(organs=("head",), coils=(2, 12), acceleration=(1.5, 8), matrix=(32, 64))


def simulate(n=1, **options):
    image = resize(shepp_logan_phantom(), (48, 40), anti_aliasing=True)
    options = {"coils": 4, "snr": 30, "mask": "poisson", "acceleration": 3, "center": 14} | options
    return simulate_mri(np.stack([image * (1 + 0.1 * i) for i in range(n)]).astype(np.float32), **options)


@pytest.fixture(scope="module")
def scan():
    return simulate().scan


class Knowing(Reconstructor):
    """Stands for a network that is better than any classical method: it knows the truth, up to its scale."""

    learned = True

    def __init__(self, truth, card):
        super().__init__()
        self.truth, self.card, self.calls = truth, card, 0

    def forward(self, y, physics):
        self.calls += 1
        x = torch.from_numpy(self.truth)[None, None]
        predicted = physics.A(to_channels(x))
        scale = (predicted.conj() * y).sum() / predicted.abs().square().sum()
        return to_channels(x * scale)


class Failing(Knowing):
    def forward(self, y, physics):
        return 2 * torch.view_as_real(physics.combine(y)).movedim(-1, 1)


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """Put weights of a tiny network where the package's own would be; ``model`` replaces the network then."""

    def ship(model=None, covers=COVERS):
        path = tmp_path / "recurrentvarnet.safetensors"
        torch.manual_seed(0)
        network = registry[LEARNED](steps=2, hidden=4, layers=1)
        card = save_checkpoint(path, network, Card(covers=covers), overwrite=True)
        for module in (cards, checkpoint, choice, zoo):
            monkeypatch.setattr(module, "shipped", lambda: {"recurrentvarnet": path})
        if model is not None:
            for module in (choice, slices, scan_plan):
                monkeypatch.setattr(module, "load_model", lambda n: model if n == LEARNED else zoo.load_model(n))
        return card

    return ship


@pytest.fixture
def unshipped(monkeypatch):
    for module in (cards, checkpoint, choice, zoo):
        monkeypatch.setattr(module, "shipped", dict)


def knowing(simulation, cls=Knowing):
    """The truth as the coils' maps, which ESPIRiT finds up to a phase, show it: from full data."""
    problem = prepare(simulation.scan, 0, Preparation())
    full = simulate(mask="full", acceleration=1, center=None, snr=math.inf)
    whitened = prepare(simulation.scan, 0, Preparation(whiten="none"))
    assert whitened.physics.spatial == problem.physics.spatial
    k = torch.from_numpy(full.scan.slice(0))[None]
    x = MultiCoilMRI(whitened.physics.coil_maps[:, :1]).combine(k)[0].numpy()
    return cls(x, Card(covers=COVERS))


# --- what the card covers ---------------------------------------------------------------------------------------


def test_inside_and_outside(scan):
    problem = prepare(scan, 0, Preparation())
    assert outside(COVERS, problem) is None
    assert outside(None, problem) == "anything that its card tells"
    assert "coils 4 (its card says 5 to 8)" in outside(replace(COVERS, coils=(5, 8)), problem)
    assert "acceleration" in outside(replace(COVERS, acceleration=(4, 8)), problem)
    assert "matrix 48 x 40" in outside(replace(COVERS, matrix=(44, 64)), problem)
    problem.sigma = None
    assert "noise" in outside(COVERS, problem)


# --- the choice of a slice --------------------------------------------------------------------------------------


def test_without_a_verdict_or_weights_it_is_classical(scan, unshipped):
    problem = prepare(scan, 0, Preparation())
    assert choose(problem) == (CLASSICAL, "undersampled")
    assert compare(problem) is None


@pytest.mark.parametrize(("accepted", "name"), [(True, LEARNED), (False, CLASSICAL)])
def test_the_verdict_is_followed_and_its_reason_told(scan, ship, accepted, name):
    ship()
    found, why = choose(prepare(scan, 0, Preparation()), Verdict(accepted=accepted, why="because"))
    assert (found, why) == (name, "undersampled; because")


def test_a_slice_that_the_card_does_not_cover_is_left_to_the_classical(scan, ship):
    ship(covers=replace(COVERS, acceleration=(4, 8)))
    name, why = choose(prepare(scan, 0, Preparation()), Verdict(accepted=True, why="because"))
    assert name == CLASSICAL
    assert "acceleration" in why


def test_full_data_need_no_network(ship):
    ship()
    problem = prepare(simulate(mask="full", acceleration=1, center=None).scan, 0, Preparation())
    assert compare(problem) is None
    assert choose(problem, Verdict(accepted=True, why=""))[0] == "zero-filled"


# --- the trial on a scan ----------------------------------------------------------------------------------------


def test_a_better_network_is_taken(ship):
    simulation = simulate()
    model = knowing(simulation)
    ship(model)
    verdict = compare(prepare(simulation.scan, 0, Preparation(whiten="none")))
    assert verdict.accepted, verdict
    assert "hold-out error" in verdict.why
    assert "against" in verdict.why


def test_an_untrained_network_is_not(scan, ship):
    ship()
    verdict = compare(prepare(scan, 0, Preparation()))
    assert not verdict.accepted
    assert "worse than l1-wavelet" in verdict.why


def test_outside_the_card_nothing_is_tried(scan, ship):
    model = knowing(simulate())
    ship(model, replace(COVERS, coils=(8, 16)))
    verdict = compare(prepare(scan, 0, Preparation()))
    assert not verdict.accepted
    assert "coils 4" in verdict.why
    assert model.calls == 0


@pytest.mark.parametrize(("cls", "accepted"), [(Knowing, True), (Failing, False)])
def test_the_residual_decides_where_nothing_can_be_left_out(ship, monkeypatch, cls, accepted):
    simulation = simulate()
    ship(knowing(simulation, cls))
    monkeypatch.setattr(choice, "hold_out_error", lambda *_, **__: HoldOut(math.nan, math.nan, 0))
    verdict = compare(prepare(simulation.scan, 0, Preparation(whiten="none")))
    assert verdict.accepted == accepted
    assert "times the noise" in verdict.why


def test_a_network_that_cannot_is_told(scan, ship, tmp_path):
    ship()
    weights = tmp_path / "recurrentvarnet.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    verdict = compare(prepare(scan, 0, Preparation()))
    assert not verdict.accepted
    assert "cannot reconstruct" in verdict.why


# --- a whole scan -----------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often, and on which slice's data, the two are compared."""
    seen = []

    def counting(problem, **options):
        seen.append(problem)
        return Verdict(accepted=False, why="as the test says")

    monkeypatch.setattr(scan_plan, "compare", counting)
    return seen


def test_is_decided_once_a_scan_on_its_middle_slice(ship, counted):
    ship()
    scan = simulate(3).scan
    result = recon.reconstruct(scan, trust=BASIC)
    assert result.provenance["model"]["name"] == CLASSICAL
    assert result.provenance["model"]["why"] == "undersampled; as the test says"
    assert len(counted) == 1
    torch.testing.assert_close(counted[0].y, prepare(scan, 1, Preparation()).y)


def test_processes_that_share_a_store_decide_once(ship, counted, tmp_path):
    ship()
    scan = simulate(2).scan
    plans = [Plan(scan, "auto", Preparation(), None, BASIC, 0) for _ in range(2)]
    store = Spool(tmp_path / "slices", plans[0].key())
    for plan in plans:
        plan.decide(store)
        plan.decide(store)
    assert len(counted) == 1
    result = execute(plans[1], spool=tmp_path / "slices")
    assert "as the test says" in result.provenance["model"]["why"]
    assert len(counted) == 1


def test_a_name_is_not_questioned(ship, counted):
    ship()
    recon.reconstruct(simulate().scan, model=CLASSICAL, trust=BASIC)
    assert not counted


def test_without_weights_nothing_is_different(scan, unshipped, counted):
    result = recon.reconstruct(scan, trust=BASIC)
    assert not counted
    assert (result.provenance["model"]["name"], result.provenance["model"]["why"]) == (CLASSICAL, "undersampled")
    assert "calibration" not in result.provenance["model"]


def test_the_learned_image_comes_out(ship):
    simulation = simulate()
    model = knowing(simulation)
    ship(model)
    result = recon.reconstruct(simulation.scan, whiten="none", trust=Trust(replicas=2))
    assert result.provenance["model"]["name"] == LEARNED
    assert "best" in result.provenance["model"]["why"]
    assert result.metrics["hold_out_error"][0] < 0.5
    assert "bootstrap" in result.maps
    assert to_complex(result.image).shape == (1, 1, 48, 40)


def test_weights_asked_for_outside_their_card_are_used_and_warned_about(scan, ship):
    ship(covers=replace(COVERS, coils=(8, 16)))
    result = recon.reconstruct(scan, model=LEARNED, trust=BASIC)
    assert result.provenance["model"]["name"] == LEARNED
    assert any("not trained for coils 4" in text for text in result.warnings)


def test_masks_of_lines_are_tried_too(ship):
    ship()
    simulation = simulate(mask=make_mask("random", (48, 40), 2.5, center=12).numpy())
    assert not compare(prepare(simulation.scan, 0, Preparation())).accepted
