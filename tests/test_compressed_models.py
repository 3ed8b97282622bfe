"""Classical reconstruction of compressed measurements, the automatic choice, and operators on real images."""

from __future__ import annotations

import deepinv
import numpy as np
import pytest
import torch
from deepinv.models import Reconstructor
from deepinv.physics import GaussianNoise

from recon import reconstruct
from recon.compressed import choose_compressed, hold_out_error, prepare_compressed, reconstruct_compressed
from recon.datasets import Image, Source
from recon.datasets.simulate_compressed import simulate_compressed
from recon.models import takes
from recon.models.l1_wavelet import L1Wavelet
from recon.models.minimum_norm import MinimumNorm
from recon.models.tv import TotalVariation
from recon.models.zero_filled import ZeroFilled
from recon.physics import BlockCompressedSensing, MultiCoilMRI
from recon.physics.errors import DataError, OptionError
from recon.physics.measurement_matrices import gaussian_matrix
from recon.proximal import total_variation
from recon.regularisation import leave_out

SIZE, BLOCK = (44, 52), (8, 8)


def ellipses() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE[0]), torch.linspace(-1, 1, SIZE[1]), indexing="ij")
    head = (x**2 / 0.7 + y**2 / 0.9 < 1).float()
    return (0.4 * head + 0.3 * ((x - 0.2) ** 2 + y**2 < 0.15) + 0.2 * (x.abs() < 0.1))[None, None]


def operator(generator, m=28, sigma=0.0, scale=1.0):
    noise = GaussianNoise(sigma) if sigma else None
    return BlockCompressedSensing(scale * gaussian_matrix(m, 64, generator), SIZE, BLOCK, noise_model=noise)


def error(x, truth):
    return float((x - truth).square().mean().sqrt())


def scan_of(pixels, generator, **options):
    image = Image(pixels=pixels, source=Source("array"))
    return simulate_compressed(image, gaussian_matrix(28, 64, generator), BLOCK, **options)


def test_sparse_models_are_far_better_than_the_least_norm(generator):
    x, physics = ellipses(), operator(generator)
    y = physics.A(x)
    least = error(MinimumNorm()(y, physics), x)
    assert error(TotalVariation(max_iter=60)(y, physics), x) < 0.12 * least
    assert error(L1Wavelet()(y, physics), x) < 0.2 * least


@pytest.mark.parametrize("make", [lambda: TotalVariation(0.01, max_iter=20), lambda: L1Wavelet(iterations=10)])
def test_scale_of_matrix_and_image_do_not_matter(make, generator):
    x, physics = ellipses(), operator(generator)
    y = physics.A(x)
    expected = make()(y, physics)
    larger = BlockCompressedSensing(5 * physics.matrix, SIZE, BLOCK)
    torch.testing.assert_close(make()(larger.A(x), larger), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(make()(1000 * y, physics) / 1000, expected, rtol=0, atol=2e-3)


def test_total_variation_of_a_given_strength_minimises_its_objective(generator):
    x, physics = ellipses(), operator(generator)
    y = physics.A(x) + 0.02 * torch.randn(physics.A(x).shape, generator=generator)
    model = TotalVariation(0.02, max_iter=150, tol=0)
    solution = model(y, physics)
    scale = float(physics.A_adjoint(y).abs().flatten().kthvalue(round(0.999 * x.numel())).values)

    def objective(image):
        return float(0.5 * (physics.A(image) - y).square().sum() + 0.02 * scale * total_variation(image))

    best = objective(solution)
    for _ in range(20):
        assert objective(solution + 1e-2 * torch.randn(x.shape, generator=generator)) > best
    assert objective(0.99 * solution) > best
    assert objective(x) > best


def test_a_stated_noise_level_sets_the_strength(generator):
    x, physics = ellipses(), operator(generator, sigma=0.05)
    y = physics(x)
    model = TotalVariation(max_iter=40)
    noisy = error(model(y, physics), x)
    weak = error(TotalVariation(1e-4, max_iter=40)(y, physics), x)
    assert noisy < 0.8 * weak
    strong = model.details["regularisation"]
    physics.noise_model.update_parameters(sigma=0.01)
    model(y, physics)
    assert model.details["regularisation"] == pytest.approx(strong / 5 ** (4 / 3), rel=1e-3)


def test_channels_and_batch_are_reconstructed_by_themselves(generator):
    physics = operator(generator)
    x = ellipses()
    batch = torch.cat((x, 0.5 * x.flip(-1)))
    model = L1Wavelet(1e-3, iterations=10, cycle_spinning=False)
    together = model(physics.A(batch), physics)
    torch.testing.assert_close(together[1:], model(physics.A(batch[1:]), physics))
    colours = model(physics.A(batch[:, 0][None]), physics)
    torch.testing.assert_close(colours[0, 1], together[1, 0], rtol=0, atol=1e-4)


def test_zero_filled_and_least_norm(generator):
    x, physics = ellipses(), operator(generator, scale=2.0)
    y = physics.A(x)
    assert torch.equal(ZeroFilled()(y, physics), physics.A_adjoint(y))
    least = MinimumNorm()(y, physics)
    torch.testing.assert_close(physics.A(least), y, rtol=0, atol=1e-4)
    assert torch.linalg.vector_norm(least) < torch.linalg.vector_norm(x)


def test_left_out_rows_are_told_apart(generator):
    x, physics = ellipses(), operator(generator)
    y = physics.A(x)
    split = leave_out(y, physics, fraction=0.2, seed=3)
    assert split.y.shape[2] == split.physics.matrix.shape[0] < 28
    torch.testing.assert_close(split.physics.A(x), split.y)
    assert split.error(x) < 1e-10
    assert split.error(torch.zeros_like(x)) > 1e-4
    strongest = y.square().mean((0, 1, 3, 4)).argmax()
    assert (split.physics.matrix == physics.matrix[strongest]).all(1).any()
    small = BlockCompressedSensing(physics.matrix[:2], SIZE, BLOCK)
    assert leave_out(y[:, :, :2], small) is None


@pytest.mark.parametrize("model", ["tv", "l1-wavelet", "minimum-norm"])
def test_other_operators_on_real_images(model, generator):
    """An operator of deepinv's that knows nothing of us."""
    x = ellipses()
    mask = torch.rand(x.shape[1:], generator=generator) < 0.5
    physics = deepinv.physics.Inpainting(img_size=tuple(x.shape[1:]), mask=mask.float())
    y = physics.A(x)
    image = reconstruct(y, physics=physics, model=model)
    assert image.shape == x.shape
    before = error(y, x)
    assert error(image, x) < (1.01 if model == "minimum-norm" else 0.6) * before


def test_which_models_take_compressed_measurements():
    class Annotated(Reconstructor):
        def forward(self, y, physics: MultiCoilMRI): ...

    class Silent(Reconstructor):
        def forward(self, y, physics): ...

    assert takes("tv", BlockCompressedSensing)
    assert takes("tv", MultiCoilMRI)
    assert not takes("unet", BlockCompressedSensing)
    assert not takes("wiener", BlockCompressedSensing)
    assert not takes("cg-sense", BlockCompressedSensing)
    assert not takes(Annotated(), BlockCompressedSensing)
    assert takes(Silent, BlockCompressedSensing)


# --- scans ----------------------------------------------------------------------------------------------------


def test_image_comes_back_in_the_units_of_the_file(generator):
    pixels = (60000 * ellipses()[0].numpy()).astype(np.uint16)
    made = scan_of(pixels, generator)
    result = reconstruct(made.scan, model="l1-wavelet")
    assert result.levels == "uint16"
    assert np.abs(result.image[0, 0].numpy() - pixels[0]).mean() < 0.02 * 60000
    assert result.provenance["model"]["name"] == "l1-wavelet"
    assert 0 < result.metrics["hold_out_error"][0] < 0.3
    assert "data_residual" not in result.metrics


def test_values_below_zero_stay_below_zero(generator):
    pixels = (1000 * (ellipses()[0] - 0.5)).numpy()
    result = reconstruct_compressed(scan_of(pixels, generator).scan, "l1-wavelet", hold_out=False)
    assert np.asarray(result.to_image().pixels).min() < -400


def test_noise_is_told_by_the_residual(generator):
    pixels = (200 * ellipses()[0]).numpy().round().astype(np.uint8)
    result = reconstruct_compressed(scan_of(pixels, generator, sigma=8.0).scan, "tv", hold_out=False)
    assert 0.4 < result.metrics["data_residual"][0] < 1.2
    assert "hold_out_error" not in result.metrics


def test_an_unknown_white_is_estimated(generator):
    from dataclasses import replace

    scan = scan_of((7.0 * ellipses()[0]).numpy(), generator).scan
    problem = prepare_compressed(replace(scan, peak=None), 0)
    assert 2 < problem.peak < 14
    assert prepare_compressed(scan, 0).peak == pytest.approx(6.3)


class Constant(Reconstructor):
    """Gives the same image whatever it is given."""

    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, y, physics):
        return self.image.expand(y.shape[0], -1, -1, -1)


def test_left_out_rows_judge_a_model(generator):
    scan = scan_of((255 * ellipses()[0]).numpy().astype(np.uint8), generator).scan
    problem = prepare_compressed(scan, 0)
    truth = (255 * ellipses()).byte().float() / 255
    assert hold_out_error(Constant(truth), problem) < 1e-4
    assert hold_out_error(Constant(torch.zeros_like(truth)), problem) == pytest.approx(1)
    tv, least = (hold_out_error(model, problem) for model in (TotalVariation(0.01, max_iter=40), MinimumNorm()))
    assert tv < 0.5 * least


class _Fixed(Constant):
    """Made for one matrix."""

    def forward(self, y, physics):
        if physics.matrix.shape[0] != 28:
            raise OptionError("another matrix")
        return super().forward(y, physics)


@pytest.mark.parametrize("kind", ["good", "bad", "fixed", "broken"])
def test_the_automatic_choice_asks_the_data(kind, generator, monkeypatch):
    scan = scan_of((255 * ellipses()[0]).numpy().astype(np.uint8), generator).scan
    problem = prepare_compressed(scan, 0)
    truth = (255 * ellipses()).byte().float() / 255
    known = {"l1-wavelet": L1Wavelet(), "good": Constant(truth), "bad": Constant(0 * truth), "fixed": _Fixed(truth)}

    def load(name):
        if name == "broken":
            raise OptionError("cannot be used")
        return known[name]

    monkeypatch.setattr("recon.compressed.ready", lambda: [kind, "l1-wavelet"])
    monkeypatch.setattr("recon.compressed.takes", lambda *_: True)
    monkeypatch.setattr("recon.compressed._is_learned", lambda name: name == kind)
    monkeypatch.setattr("recon.compressed.load_model", load)
    name, why = choose_compressed(problem)
    assert name == (kind if kind in ("good", "fixed") else "l1-wavelet")
    assert ("this measurement matrix" in why) == (kind == "fixed")


def test_tensors_have_their_model_chosen_too(generator, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "recon.pipeline.choose_compressed", lambda problem: seen.append(problem) or ("minimum-norm", "")
    )
    physics = operator(generator)
    y = physics.A(torch.cat((ellipses(), ellipses())))
    torch.testing.assert_close(reconstruct(y, physics=physics), physics.A_dagger(y))
    assert torch.equal(seen[0].y, y[:1])


def test_bad_scans_and_models(generator):
    scan = scan_of((255 * ellipses()[0]).numpy().astype(np.uint8), generator).scan
    with pytest.raises(OptionError, match="not for compressed measurements"):
        reconstruct_compressed(scan, "cg-sense")
    with pytest.raises(OptionError, match="no such slice"):
        reconstruct_compressed(scan, "tv", slices=[1])
    with pytest.raises(OptionError, match="have no coils"):
        reconstruct(scan, coils=3)
    scan.measurements[0, 0, 3] = np.nan
    with pytest.raises(DataError, match="not finite"):
        reconstruct_compressed(scan, "tv")
    scan.measurements[:] = 0
    with pytest.raises(DataError, match="all zero"):
        reconstruct_compressed(scan, "tv")
