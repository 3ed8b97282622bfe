"""Cartesian MRI: against deepinv, in closed form, and with bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mri_scans import of_deepinv, random_scan, relative

from recon.physics import MultiCoilMRI
from recon.physics.coils import CoilPhysics
from recon.physics.errors import DTypeError, MaskError, OptionError, ShapeError
from recon.physics.fft import centring_phases, fft_centred, ifft_centred
from recon.physics.layout import to_channels, to_complex
from recon.physics.mri import decouple_readout
from recon.physics.sense import chunks

# --- the transform ------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=1, max_size=3))
def test_phases_centre_the_fft_exactly_for_every_size(shape):
    x = torch.randn(*shape, dtype=torch.complex128)
    dims = tuple(range(len(shape)))
    phase_m, phase_k = centring_phases(shape, torch.complex128)
    centred = fft_centred(x, dims)
    torch.testing.assert_close(phase_k * torch.fft.fftn(x * phase_m, norm="ortho"), centred, atol=1e-12, rtol=0)
    torch.testing.assert_close(ifft_centred(centred, dims), x)


def test_constant_image_is_a_peak_in_the_centre():
    k = fft_centred(torch.ones(5, 8, dtype=torch.complex128), (-2, -1))
    assert torch.argmax(k.abs()) == 2 * 8 + 4
    torch.testing.assert_close(k[2, 4].real, torch.tensor(40.0, dtype=torch.float64).sqrt())


def test_phases_stay_exact_for_large_sizes():
    phase_m, _ = centring_phases([4096], torch.complex64)
    assert torch.equal(phase_m.real, torch.tensor([1.0, -1.0]).repeat(2048))


# --- agreement with deepinv ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    spatial=st.one_of(st.tuples(*[st.integers(2, 12)] * 2), st.tuples(*[st.integers(2, 6)] * 3)),
    coils=st.integers(1, 5),
    batch=st.integers(1, 3),
    mask=st.sampled_from(["2d", "x", "y", "full"]),
    chunk=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 99),
)
def test_agrees_with_deepinv(spatial, coils, batch, mask, chunk, seed):
    maps, sampled, x = random_scan(seed, spatial, coils, batch, mask=mask)
    physics = MultiCoilMRI(maps[:, 0], sampled, three_d=len(spatial) == 3, coil_chunk=chunk)
    peer = of_deepinv(physics)
    y, y_peer = physics.A(x), peer.A(x)
    torch.testing.assert_close(torch.view_as_real(y).movedim(-1, 1), y_peer)
    torch.testing.assert_close(physics.A_adjoint(y), peer.A_adjoint(y_peer))
    torch.testing.assert_close(physics.A_adjoint(y_peer), peer.A_adjoint(y_peer))
    torch.testing.assert_close(physics.A_adjoint_A(x), peer.A_adjoint_A(x))


@pytest.mark.parametrize("mask", ["2d", "x", "y", "full"])
def test_agrees_with_deepinv_to_1e6_in_single_precision(mask):
    maps, sampled, x = random_scan(0, (63, 80), coils=8, mask=mask, dtype=torch.float32)
    physics = MultiCoilMRI(maps[:, 0], sampled)
    peer = of_deepinv(physics)
    y, y_peer = physics.A(x), peer.A(x)
    assert relative(torch.view_as_real(y).movedim(-1, 1), y_peer) < 1e-6
    assert relative(physics.A_adjoint(y), peer.A_adjoint(y_peer)) < 1e-6
    assert relative(physics.A_adjoint_A(x), peer.A_adjoint_A(x)) < 1e-6


@settings(max_examples=20, deadline=None)
@given(
    spatial=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    batch=st.integers(1, 3),
    coils=st.integers(1, 4),
    mask=st.sampled_from(["2d", "x", "y", "full"]),
    chunk=st.integers(1, 13),
    seed=st.integers(0, 99),
)
def test_two_sets_of_maps_add_up(spatial, batch, coils, mask, chunk, seed):
    maps, sampled, x = random_scan(seed, spatial, coils, batch, sets=2, mask=mask)
    both = MultiCoilMRI(maps, sampled, coil_chunk=chunk)
    single = [MultiCoilMRI(maps[:, s], sampled) for s in range(2)]
    y = single[0].A(x[:, :2]) + single[1].A(x[:, 2:])
    torch.testing.assert_close(both.A(x), y)
    torch.testing.assert_close(both.A_adjoint(y), torch.cat([p.A_adjoint(y) for p in single], 1))
    torch.testing.assert_close(both.A_adjoint_A(x), both.A_adjoint(y))
    z = to_complex(x)
    torch.testing.assert_close(both.normal(z), to_complex(both.A_adjoint(y)))
    torch.testing.assert_close(
        both.combine(both.expand(z)), (maps.conj() * (maps * z[:, :, None]).sum(1)[:, None]).sum(2)
    )


def test_one_set_of_maps_serves_a_batch_and_masks_of_a_batch_serve_one_set_of_maps():
    maps, _, _ = random_scan(1, (8, 6))
    _, sampled, x = random_scan(2, (8, 6), batch=3)
    physics = MultiCoilMRI(maps, sampled, coil_chunk=2)
    each = [MultiCoilMRI(maps, sampled[i]).A_adjoint_A(x[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(physics.A_adjoint_A(x), torch.cat(each))


def test_complex_images_keep_their_shape():
    maps, sampled, x = random_scan(3, (8, 6), batch=2)
    physics = MultiCoilMRI(maps, sampled)
    z = to_complex(x)
    assert physics.normal(z[:, 0]).shape == (2, 8, 6)
    assert physics.normal(z).shape == (2, 1, 8, 6)
    assert torch.equal(physics.normal(z)[:, 0], physics.normal(z[:, 0]))
    assert torch.equal(physics.expand(z), physics.expand(z[:, 0]))


def test_channels_are_a_view_of_the_complex_image():
    z = torch.randn(2, 1, 5, 4, dtype=torch.complex64)
    x = to_channels(z)
    assert x.data_ptr() == z.data_ptr()
    assert to_complex(x).data_ptr() == z.data_ptr()
    torch.testing.assert_close(x[:, 1], z[:, 0].imag)


def test_transforms_only_the_axes_along_which_the_mask_varies(monkeypatch):
    lengths = []
    plain = torch.fft.fftn
    monkeypatch.setattr(torch.fft, "fftn", lambda x, **k: lengths.append(tuple(k["dim"])) or plain(x, **k))
    for mask, dims in (("x", (-1,)), ("y", (-2,)), ("2d", (-2, -1))):
        maps, sampled, x = random_scan(4, (6, 8), mask=mask)
        lengths.clear()
        MultiCoilMRI(maps, sampled).A_adjoint_A(x)
        assert set(lengths) == {dims}
    lengths.clear()
    MultiCoilMRI(maps).A_adjoint_A(x)
    assert not lengths


def test_a_batch_element_without_samples_gives_zero():
    maps, _, x = random_scan(14, (6, 5), batch=2)
    mask = torch.tensor([True, False])[:, None, None, None]
    physics = MultiCoilMRI(maps, mask)
    found = physics.A_adjoint_A(x)
    torch.testing.assert_close(found[0], x[0])
    assert not found[1].any()
    assert not physics.A(x)[1].any()


@pytest.mark.parametrize(("b", "coil", "chunk"), [(1, 16, 3), (5, 4, 9), (3, 4, 100), (2, 1, 1)])
def test_chunks_cover_everything_once_and_keep_the_bound(b, coil, chunk):
    seen = np.zeros((b, coil), int)
    for rows, groups in chunks(b, coil, chunk):
        for columns in groups:
            seen[rows, columns] += 1
            assert np.prod(seen[rows, columns].shape) <= chunk
    assert (seen == 1).all()


# --- readout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_decoupled_readout_solves_the_volume(axis):
    spatial = (5, 6, 7)
    maps, _, x = random_scan(13, spatial, coils=3)
    lines = [n for i, n in enumerate(spatial) if i != 3 + axis]
    plane = torch.rand(*lines, generator=torch.Generator().manual_seed(0)) < 0.6
    volume = MultiCoilMRI(maps[:, 0], plane.unsqueeze(axis).expand(spatial), three_d=True)
    y = volume.A(x)
    slices = decouple_readout(y, axis)
    slice_maps = maps[:, 0].movedim(axis, 1).flatten(0, 1)
    planar = MultiCoilMRI(slice_maps, plane)
    torch.testing.assert_close(planar.A(x.movedim(axis, 1).flatten(0, 1)), slices)
    torch.testing.assert_close(
        planar.A_adjoint(slices).unflatten(0, (1, -1)).movedim(1, axis), volume.A_adjoint(y), atol=1e-9, rtol=1e-9
    )


def test_readout_axis_is_spatial():
    with pytest.raises(OptionError, match="spatial"):
        decouple_readout(torch.zeros(1, 1, 2, 2, 2, dtype=torch.complex64), 0)


# --- bad input ----------------------------------------------------------------------------------------------------

MAPS = torch.ones(2, 3, 6, 5, dtype=torch.complex64)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2, 6, 5), (2, 0, 6, 5)])
def test_maps_of_a_wrong_shape(shape):
    with pytest.raises(ShapeError, match="coil maps"):
        MultiCoilMRI(torch.ones(shape, dtype=torch.complex64))


def test_maps_are_complex():
    with pytest.raises(DTypeError, match="complex"):
        MultiCoilMRI(MAPS, torch.ones(6, 5)).update(coil_maps=MAPS.real)


@pytest.mark.parametrize("shape", [(6, 6), (2, 6, 5), (3, 1, 6, 5), (2, 3, 6, 5), (1, 1, 1, 6, 5)])
def test_masks_of_a_wrong_shape(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    with pytest.raises(MaskError, match="does not fit"):
        MultiCoilMRI(MAPS, mask)


@pytest.mark.parametrize("mask", [torch.zeros(6, 5), torch.full((6, 5), 0.5)])
def test_masks_of_wrong_values(mask):
    with pytest.raises(MaskError):
        MultiCoilMRI(MAPS, mask)


def test_a_bad_update_changes_nothing():
    physics = MultiCoilMRI(MAPS)
    x = torch.randn(2, 2, 6, 5)
    before = physics.A_adjoint_A(x)
    for bad in ({"mask": torch.ones(4, 4)}, {"coil_maps": torch.ones(1, 3, 8, 8, dtype=torch.complex64)}):
        with pytest.raises(MaskError):
            physics.update(**bad)
    assert torch.equal(physics.A_adjoint_A(x), before)


def test_images_and_kspace_that_do_not_fit():
    physics = MultiCoilMRI(MAPS)
    for x in (torch.ones(2, 2, 5, 5), torch.ones(2, 3, 6, 5), torch.ones(2, 4, 6, 5), torch.ones(3, 2, 6, 5)):
        with pytest.raises(ShapeError):
            physics.A(x)
    for y in (torch.ones(2, 4, 6, 5, dtype=torch.complex64), torch.ones(2, 1, 3, 6, 5)):
        with pytest.raises(ShapeError):
            physics.A_adjoint(y)
    with pytest.raises(OptionError, match="coil"):
        MultiCoilMRI(MAPS, coil_chunk=0)


def test_operators_of_coils_say_how_coils_see():
    """A child without `expand` and `combine` cannot be made, rather than fail when it is used."""
    with pytest.raises(TypeError, match=r"abstract methods.*combine.*expand"):
        CoilPhysics(torch.ones(1, 2, 4, 4).cfloat(), n_axes=2, noise_model=None, coil_chunk=None, max_iter=1, tol=0.0)
