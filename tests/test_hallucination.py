from __future__ import annotations

import pytest
import torch

from recon.datasets.masks import make_mask
from recon.hallucination import as_seen_by, hallucination_map, null_part, unsure_null_part
from recon.physics import MultiCoilMRI
from recon.physics.errors import ShapeError
from recon.physics.fft import fft_centred, ifft_centred
from recon.physics.layout import to_channels, to_complex


@pytest.fixture
def one_coil():
    mask = make_mask("poisson", (40, 36), 4, center=8)
    return MultiCoilMRI(torch.ones(1, 1, 40, 36, dtype=torch.complex64), mask)


def unmeasured(x, physics):
    """Closed form for one coil: what the mask leaves out of k-space."""
    k = fft_centred(to_complex(x), (-2, -1))
    return to_channels(ifft_centred(k * ~physics.mask, (-2, -1)))


def test_of_one_coil_the_null_space_is_what_is_not_sampled(one_coil, generator):
    x = torch.randn(3, 2, 40, 36, generator=generator)
    expected = unmeasured(x, one_coil)
    found = null_part(x, one_coil)
    assert (found - expected).norm() < 0.03 * x.norm()
    assert null_part(expected, one_coil).sub(expected).norm() < 1e-3 * expected.norm()
    assert null_part(x - expected, one_coil).norm() < 0.03 * x.norm()


def test_of_several_coils_it_is_tikhonovs_projection(generator):
    shape, n = (10, 8), 80
    maps = torch.randn(1, 3, *shape, dtype=torch.complex64, generator=generator)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = make_mask("poisson", shape, 3, center=2)
    physics = MultiCoilMRI(maps, mask)
    basis = torch.eye(n, dtype=torch.complex64).reshape(n, *shape)
    normal = torch.stack([physics.normal(e[None])[0].flatten() for e in basis], dim=1).to(torch.complex128)
    epsilon = 0.1 * float(normal.diagonal().real.mean())
    projection = torch.eye(n) - torch.linalg.solve(normal + epsilon * torch.eye(n), normal)
    x = torch.randn(1, 2, *shape, generator=generator)
    expected = (projection @ to_complex(x).flatten().to(torch.complex128)).reshape(1, 1, *shape)
    torch.testing.assert_close(to_complex(null_part(x, physics)).to(torch.complex128), expected, rtol=0, atol=0.03)


def test_full_data_leave_nothing_unseen(generator):
    maps = torch.randn(1, 4, 20, 20, dtype=torch.complex64, generator=generator)
    physics = MultiCoilMRI(maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True))
    x = torch.randn(1, 2, 20, 20, generator=generator)
    assert null_part(x, physics).norm() < 0.1 * x.norm()


def test_the_strength_of_the_maps_does_not_matter(one_coil, generator):
    x = torch.randn(1, 2, 40, 36, generator=generator)
    loud = MultiCoilMRI(100 * one_coil.coil_maps, one_coil.mask)
    torch.testing.assert_close(null_part(x, loud), null_part(x, one_coil), rtol=0, atol=1e-2)


def test_map_shows_what_the_data_did_not_ask_for(one_coil, generator):
    """Two errors of one size: the one that the samples contradict is not a hallucination."""
    truth = torch.randn(1, 2, 40, 36, generator=generator)
    change = torch.zeros_like(truth)
    change[:, 0, 20:24, 10:14] = 1.0
    invented = unmeasured(change, one_coil)
    contradicted = change - invented
    contradicted *= invented.norm() / contradicted.norm()
    made_up = hallucination_map(truth + invented, truth, one_coil)
    wrong = hallucination_map(truth + contradicted, truth, one_coil)
    torch.testing.assert_close(made_up, torch.linalg.vector_norm(invented, dim=1), rtol=0, atol=0.03)
    assert wrong.norm() < 0.05 * made_up.norm()
    assert hallucination_map(truth, truth, one_coil).max() == 0


def test_without_reference_it_is_what_changes_unseen(one_coil, generator):
    x = torch.randn(1, 2, 40, 36, generator=generator)
    detail = unmeasured(torch.randn(1, 2, 40, 36, generator=generator), one_coil)
    seen = torch.randn(1, 2, 40, 36, generator=generator)
    seen = seen - unmeasured(seen, one_coil)
    found = torch.stack([x + detail, x - detail, x + 3 * detail, x + seen])
    rms = torch.linalg.vector_norm(detail, dim=1) * (11 / 4) ** 0.5
    torch.testing.assert_close(unsure_null_part(found, x, one_coil), rms, rtol=0, atol=0.1)
    assert unsure_null_part(torch.stack([x, x]), x, one_coil).max() == 0


def test_pixels_without_coil_maps_are_not_seen(generator):
    maps = torch.ones(1, 1, 16, 16, dtype=torch.complex64)
    maps[..., :4, :] = 0
    x = torch.randn(1, 2, 16, 16, generator=generator)
    part = null_part(x, MultiCoilMRI(maps))
    torch.testing.assert_close(part[..., :4, :], x[..., :4, :])
    assert part[..., 4:, :].abs().max() < 0.2 * x.abs().max()


def test_a_magnitude_reference_takes_the_images_phase(generator):
    x = torch.randn(1, 4, 6, 5, generator=generator)
    x[..., 0, 0] = 0
    truth = 1 + torch.rand(1, 6, 5, generator=generator)
    seen = as_seen_by(truth, x)
    torch.testing.assert_close(torch.linalg.vector_norm(seen, dim=1), truth)
    torch.testing.assert_close(as_seen_by(torch.linalg.vector_norm(x, dim=1), x), x)


def test_a_reference_of_another_matrix(one_coil):
    with pytest.raises(ShapeError):
        hallucination_map(torch.zeros(1, 2, 40, 36), torch.zeros(1, 2, 36, 40), one_coil)
