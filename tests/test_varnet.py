"""E2E-VarNet: its equations, coil maps of its own, and scans that are no ordinary ones."""

from __future__ import annotations

import pytest
import torch
from networks import BAD_SCANS, problem, tiny, without_gradient

from recon.models import registry
from recon.models.varnet import calibration_block
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError, ShapeError
from recon.physics.fft import ifft_centred
from recon.physics.layout import to_channels, to_complex

OWN_MAPS = {"estimate_maps": True, "map_features": 4, "map_pools": 2}


def lines(columns: str) -> torch.Tensor:
    """Mask of columns, as a text of 0 and 1."""
    row = torch.tensor([c == "1" for c in columns])
    return row.expand(1, 1, 6, -1)


def test_published_size():
    """The authors' network of 12 cascades has 29.9 million weights, the maps' network 0.5 million among them."""
    model = registry["varnet"](estimate_maps=True)
    assert sum(p.numel() for p in model.parameters()) == 29_936_966


def test_cascades_are_those_of_the_paper():
    y, physics = problem()
    model = tiny("varnet")
    k = y
    for t in range(2):
        x = physics.combine(k)[:, None]
        refined = to_complex(model.cascades[t](to_channels(x)))[:, 0]
        k = k - model.step_sizes[t] * physics.mask * (k - y) - physics.expand(refined)
    torch.testing.assert_close(model(y, physics), to_channels(physics.combine(k)[:, None]))
    rss = tiny("varnet", output="rss")(y, physics)
    torch.testing.assert_close(rss[:, 0], ifft_centred(k, (2, 3)).abs().square().sum(1).sqrt())


def test_without_refinement_the_data_stay():
    """Where the U-Nets give zero the zero-filled image comes out, of any number of cascades."""
    y, physics = problem()
    model = tiny("varnet")
    for cascade in model.cascades:
        cascade.forward = torch.zeros_like
    torch.testing.assert_close(model(y, physics), physics.A_adjoint(y))


@pytest.mark.parametrize("options", [{}, {"output": "rss"}, OWN_MAPS, {**OWN_MAPS, "output": "rss"}], ids=str)
def test_scales_with_the_data_and_reaches_every_weight(options):
    y, physics = problem(batch=2)
    model = tiny("varnet", **options)
    x = model(y, physics)
    x.square().sum().backward()
    assert without_gradient(model) == []
    factors = torch.tensor([1e-6, 1e6])[:, None, None, None]
    with torch.no_grad():
        torch.testing.assert_close(model(factors * y, physics) / factors, x, rtol=1e-3, atol=1e-4)


def test_own_maps_have_unit_norm_and_do_not_look_at_those_of_the_physics():
    y, physics = problem()
    model = tiny("varnet", **OWN_MAPS, output="rss")
    maps = model._estimated_maps(y, physics.mask)
    torch.testing.assert_close(torch.linalg.vector_norm(maps, dim=1), torch.ones(1, 24, 24))
    other = MultiCoilMRI(physics.coil_maps.roll(1, 2), physics.mask)
    torch.testing.assert_close(model(y, physics), model(y, other))


@pytest.mark.parametrize(
    ("columns", "block"),
    [
        ("10011001", "00011000"),
        ("1001110010", "0000110000"),  # symmetric: as many on both sides
        ("0011110", "0001100"),  # odd: the authors' rounding
        ("1111111", "1111111"),
    ],
)
def test_calibration_lines(columns, block):
    assert torch.equal(calibration_block(lines(columns)), lines(block))
    turned = calibration_block(lines(columns).mT)
    assert torch.equal(turned, lines(block).mT)


def test_calibration_block_of_a_mask_in_two_dimensions():
    mask = torch.zeros(1, 1, 12, 10, dtype=torch.bool)
    mask[..., ::3, ::3] = True
    mask[..., 3:9, 3:7] = True
    expected = torch.zeros_like(mask)
    expected[..., 3:9, 3:7] = True
    assert torch.equal(calibration_block(mask), expected)


@BAD_SCANS
@pytest.mark.parametrize("options", [{}, {**OWN_MAPS, "output": "rss"}], ids=["", "own maps"])
def test_unusual_scans(scan, options):
    y, physics = problem(**scan)
    x = tiny("varnet", **options)(y, physics)
    assert x.shape == (len(y), 1 if options else 2 * physics.n_sets, *physics.spatial)
    assert torch.isfinite(x).all()


def test_nothing_measured_gives_an_image_without_nan():
    y, physics = problem()
    for options in ({}, OWN_MAPS):
        assert torch.isfinite(tiny("varnet", **options)(0 * y, physics)).all()


def test_what_does_not_fit_is_told():
    y, physics = problem()
    with pytest.raises(ShapeError, match="do not fit"):
        tiny("varnet")(y[..., :20], physics)
    with pytest.raises(OptionError, match="one cascade"):
        tiny("varnet", cascades=0)
