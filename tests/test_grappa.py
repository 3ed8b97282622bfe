"""GRAPPA: the lattice, the kernel, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from deepinv.physics import GaussianNoise
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recon.models import registry
from recon.models.grappa import GRAPPA, find_lattice, grappa
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import CalibrationError, MaskError, OptionError, ShapeError
from recon.physics.layout import to_complex


def lines(h: int, w: int, step: int, offset: int = 0, acs: int = 24) -> torch.Tensor:
    mask = torch.zeros(h, w, dtype=torch.bool)
    mask[:, offset::step] = True
    mask[:, w // 2 - acs // 2 : w // 2 + (acs + 1) // 2] = True
    return mask


def harmonic_scan(h: int = 64, w: int = 60, coils: int = 8, seed: int = 0, dtype=torch.complex128):
    """K-space of coils whose maps are sums of nine harmonics: its samples are exact sums of their neighbours."""
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(h, w, generator=g, dtype=dtype)
    y = torch.arange(h) / h * 2 * math.pi
    x = torch.arange(w) / w * 2 * math.pi
    weights = torch.randn(coils, 3, 3, generator=g, dtype=dtype)
    waves_y = torch.stack([torch.exp(1j * n * y.double()) for n in (-1, 0, 1)]).to(dtype)
    waves_x = torch.stack([torch.exp(1j * n * x.double()) for n in (-1, 0, 1)]).to(dtype)
    maps = torch.einsum("cmn,my,nx->cyx", weights, waves_y, waves_x)
    maps = maps[None]
    return MultiCoilMRI(maps).expand(image[None]), maps, image


# --- the lattice ----------------------------------------------------------------------------------------------


@given(
    step=st.integers(2, 6),
    offset=st.integers(0, 5),
    acs=st.integers(5, 20),
    shift=st.integers(-3, 3),
    axis=st.integers(0, 1),
)
@settings(deadline=None, max_examples=60)
def test_lines_are_recognised(step, offset, acs, shift, axis):
    assume(offset < step < acs)
    n = 61
    line = torch.zeros(n, dtype=torch.bool)
    line[offset::step] = True
    start = n // 2 - acs // 2 + shift
    line[start : start + acs] = True
    mask = line[:, None].expand(n, 40) if axis == 0 else line.expand(40, n)
    lattice = find_lattice(mask)
    assert lattice.step[axis] == step
    assert lattice.step[1 - axis] == 1
    assert lattice.offset[axis] == offset
    first, last = lattice.calibration[axis]
    assert start <= first < start + step
    assert start + acs - step < last <= start + acs
    assert mask[tuple(slice(*ends) for ends in lattice.calibration)].all()


def test_grid_and_zero_padding_are_recognised():
    mask = torch.zeros(50, 47, dtype=torch.bool)
    mask[5:45:2, 7:40:3] = True
    mask[15:35, 14:33] = True
    lattice = find_lattice(mask)
    assert lattice.step == (2, 3)
    assert lattice.offset == (1, 1)


def test_other_masks_are_refused(generator):
    h, w = 40, 48
    random_lines = (torch.rand(w, generator=generator) < 0.3).expand(h, w).clone()
    random_lines[:, 18:30] = True
    two_blocks = lines(h, w, 4, acs=12)
    two_blocks[:, 5:8] = True
    scattered = torch.rand(h, w, generator=generator) < 0.3
    for mask in (random_lines, two_blocks, scattered):
        with pytest.raises(MaskError, match="cg-sense or l1-wavelet"):
            grappa(torch.ones(1, 4, h, w, dtype=torch.complex64), mask)


# --- the kernel -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "offset"), [(2, 0), (2, 1), (3, 0), (3, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_exact_where_neighbours_determine_the_samples(step, offset, axis):
    k, _, _ = harmonic_scan()
    if axis == 0:
        k = k.transpose(2, 3)
    mask = lines(64, 60, step, offset)
    mask = mask.T if axis == 0 else mask
    full = grappa(k * mask, mask, regularisation=1e-13)
    assert torch.equal(full[..., mask], k[..., mask])
    inside = full[..., 12:-12, 12:-12] - k[..., 12:-12, 12:-12]  # at the edge sources are missing
    assert inside.abs().max() < 1e-4 * k.abs().max()


def test_grid_is_exact_too():
    k, _, _ = harmonic_scan()
    mask = torch.zeros(64, 60, dtype=torch.bool)
    mask[1::2, ::2] = True
    mask[16:48, 14:46] = True
    full = grappa(k * mask, mask, regularisation=1e-13)
    error = (full - k)[..., 8:-8, 8:-8]
    assert error.abs().max() < 1e-4 * k.abs().max()


def test_calibration_measured_apart_gives_the_same():
    k, _, _ = harmonic_scan(dtype=torch.complex128)
    mask = lines(64, 60, 3)
    lattice = find_lattice(mask)
    block = k[(..., *(slice(*ends) for ends in lattice.calibration))]
    bare = torch.zeros(64, 60, dtype=torch.bool)
    bare[:, ::3] = True
    with_block, without = grappa(k * mask, mask), grappa(k * bare, bare, block)
    torch.testing.assert_close(without[..., ~mask], with_block[..., ~mask])


def test_full_sampling_is_returned():
    k, _, _ = harmonic_scan()
    assert torch.equal(grappa(k, torch.ones(64, 60, dtype=torch.bool)), k)


def test_nothing_is_made_up_beyond_the_sampled_part():
    k, _, _ = harmonic_scan()
    mask = lines(64, 60, 3)
    mask[:, :9] = False
    full = grappa(k * mask, mask)
    assert full[..., :7].abs().max() == 0
    assert full[..., 7:].abs().min() > 0


def test_images_of_a_batch_are_independent():
    k = torch.cat([harmonic_scan(seed=seed)[0] for seed in (0, 1)])
    mask = lines(64, 60, 3)
    both = grappa(k, mask)
    apart = torch.cat([grappa(k[:1], mask), grappa(k[1:], mask)])
    torch.testing.assert_close(both, apart)
    masks = torch.stack([mask, lines(64, 60, 2, 1)])[:, None]
    torch.testing.assert_close(grappa(k, masks)[1:], grappa(k[1:], masks[1]))


# --- the model ------------------------------------------------------------------------------------------------


def test_model_finds_the_image():
    k, maps, image = harmonic_scan(128, 96, dtype=torch.complex64)
    mask = lines(128, 96, 2)
    model = registry["grappa"](regularisation=0.01)  # the noise of a white image cannot be told from it
    x = to_complex(model(k * mask, MultiCoilMRI(maps, mask)))[0, 0]
    assert model.details["acceleration"] == 2
    whole = to_complex(model(k, MultiCoilMRI(maps)))[0, 0]
    assert (x - whole).norm() < 0.1 * image.norm()
    assert (whole - image).norm() < 0.1 * image.norm()


def test_result_scales_with_the_data():
    k, maps, _ = harmonic_scan()
    mask = lines(64, 60, 3)
    x = GRAPPA()(k * mask, MultiCoilMRI(maps, mask, noise_model=GaussianNoise(0.5)))
    z = GRAPPA()(100 * k * mask, MultiCoilMRI(maps, mask, noise_model=GaussianNoise(50.0)))
    torch.testing.assert_close(z, 100 * x)


def test_regularisation_helps_on_a_real_scan(shared_data):
    k = np.fromfile(shared_data / "mri/kspace/brain-full-8ch.cfl", np.complex64).reshape(8, 180, 230)
    k = torch.from_numpy(k).transpose(1, 2)[None]
    for step, bound in ((2, 1.2), (3, 1.5), (4, 2.0)):
        mask = lines(230, 180, step)
        full = grappa(k * mask, mask, sigma=1.2)
        fitted = grappa(k * mask, mask, regularisation=1e-6)
        norm = k[..., ~mask].norm()
        error, fitted_error = ((x - k)[..., ~mask].norm() / norm for x in (full, fitted))
        assert error < fitted_error
        noise = 1.2 * math.sqrt(2 * k[..., ~mask].numel())
        assert (full - k).norm() < bound * noise


# --- bad input ------------------------------------------------------------------------------------------------


def test_no_calibration_block():
    mask = torch.zeros(40, 48, dtype=torch.bool)
    mask[:, ::3] = True
    with pytest.raises(CalibrationError, match=r"no calibration block.*cg-sense"):
        grappa(torch.ones(1, 4, 40, 48, dtype=torch.complex64), mask)


def test_calibration_block_too_small():
    mask = lines(40, 48, 4, acs=9)
    with pytest.raises(CalibrationError, match=r"too small .* at least \(5, 13\)"):
        grappa(torch.ones(1, 4, 40, 48, dtype=torch.complex64), mask)


@pytest.mark.parametrize("kernel", [(3, 5), (4, 4), (0, 5), (4, -1)])
def test_kernels_that_cannot_be(kernel):
    with pytest.raises(OptionError, match="kernel"):
        grappa(torch.ones(1, 4, 40, 48, dtype=torch.complex64), lines(40, 48, 2), kernel=kernel)


def test_mask_that_does_not_fit():
    with pytest.raises(MaskError, match="does not fit"):
        grappa(torch.ones(1, 4, 40, 48, dtype=torch.complex64), lines(48, 40, 2))


def test_volumes_and_trajectories_are_refused():
    radial = NonCartesianMRI(torch.ones(1, 2, 8, 8, dtype=torch.complex64), torch.rand(30, 2) * 8 - 4)
    with pytest.raises(ShapeError, match="cg-sense"):
        GRAPPA()(torch.ones(1, 2, 30, dtype=torch.complex64), radial)
    maps = torch.ones(1, 2, 4, 8, 8, dtype=torch.complex64)
    physics = MultiCoilMRI(maps, three_d=True)
    with pytest.raises(ShapeError, match="cg-sense"):
        GRAPPA()(torch.ones(1, 2, 4, 8, 8, dtype=torch.complex64), physics)


def test_silence_gives_silence():
    mask = lines(40, 48, 3)
    assert torch.equal(grappa(torch.zeros(1, 4, 40, 48, dtype=torch.complex64), mask), torch.zeros(1, 4, 40, 48) * 0j)
