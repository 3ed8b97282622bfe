"""fastMRI's U-Net: its parts, the reconstruction, and scans that are no ordinary ones."""

from __future__ import annotations

import pytest
import torch
from networks import BAD_SCANS, problem, tiny, without_gradient
from torch.nn.functional import avg_pool2d, conv2d, instance_norm, leaky_relu

from recon.models.unet import NormUNet, UNet, check_cartesian, margins
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import OptionError, ShapeError


def test_published_size():
    """fastMRI's paper has 214 million weights with 256 features; 32 of them, and 4 poolings, make 7,756,097."""
    assert sum(p.numel() for p in UNet(1, 1, 32, 4).parameters()) == 7_756_097


def test_one_scale_by_hand(generator):
    net = UNet(2, 2, 3, 1)
    x = torch.randn(1, 2, 6, 6, generator=generator)

    def block(x, layers):
        for layer in (layers[0], layers[3]):
            x = leaky_relu(instance_norm(conv2d(x, layer.weight, padding=1)), 0.2)
        return x

    first = block(x, net.down[0])
    low = block(avg_pool2d(first, 2), net.bottom)
    up = torch.nn.functional.conv_transpose2d(low, net.up[0][0].weight, stride=2)
    up = leaky_relu(instance_norm(up), 0.2)
    merged = block(torch.cat((up, first), 1), net.merge[0])
    expected = conv2d(merged, net.last.weight, net.last.bias)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("shape", [(20, 21), (9, 11), (13, 16)])
def test_odd_sides_come_back(shape, generator):
    assert UNet(1, 1, 4, 2)(torch.randn(1, 1, *shape, generator=generator)).shape == (1, 1, *shape)


@pytest.mark.parametrize(
    ("size", "pools", "padded"),
    [((24, 20), 4, (32, 32)), ((32, 48), 4, (32, 48)), ((5, 7), 4, (32, 32)), ((5, 100), 5, (32, 112))],
)
def test_margins(size, pools, padded):
    above, below, left, right = margins(*size, 16, pools)
    assert (size[0] + above + below, size[1] + left + right) == padded
    assert 0 <= below - above <= 1
    assert 0 <= right - left <= 1


def test_normalised_network_follows_shift_and_scale_of_each_channel(generator):
    net = NormUNet(2, 4, 2)
    x = torch.randn(2, 2, 16, 16, generator=generator)
    scale, shift = torch.tensor([3.0, 100.0])[:, None, None], torch.tensor([5.0, -2.0])[:, None, None]
    torch.testing.assert_close(net(x * scale + shift), net(x) * scale + shift, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("magnitude", [False, True])
def test_reconstruction_scales_with_the_data(magnitude):
    y, physics = problem(batch=2)
    model = tiny("unet", magnitude=magnitude)
    with torch.no_grad():
        x = model(y, physics)
        factors = torch.tensor([1e-6, 1e6])[:, None, None, None]
        torch.testing.assert_close(model(factors * y, physics) / factors, x, rtol=1e-4, atol=1e-5)
    assert x.shape == (2, 1 if magnitude else 2, 24, 24)


def test_sets_of_maps_are_images_of_their_own():
    y, physics = problem(sets=2)
    model = tiny("unet")
    one = [model(y, MultiCoilMRI(physics.coil_maps[:, [s]], physics.mask)) for s in (0, 1)]
    torch.testing.assert_close(model(y, physics), torch.cat(one, 1))


def test_samples_that_the_mask_leaves_out_do_not_matter(generator):
    y, physics = problem()
    model = tiny("unet")
    noise = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    torch.testing.assert_close(model(y + noise * ~physics.mask, physics), model(y, physics))


@BAD_SCANS
@pytest.mark.parametrize("magnitude", [False, True])
def test_unusual_scans(scan, magnitude):
    y, physics = problem(**scan)
    x = tiny("unet", magnitude=magnitude)(y, physics)
    assert x.shape == (len(y), 1 if magnitude else 2 * physics.n_sets, *physics.spatial)
    assert torch.isfinite(x).all()


def test_nothing_measured_gives_an_image_without_nan():
    y, physics = problem()
    assert torch.isfinite(tiny("unet")(0 * y, physics)).all()


def test_gradients_reach_every_weight():
    y, physics = problem()
    model = tiny("unet")
    model(y, physics).square().sum().backward()
    assert without_gradient(model) == []


def test_what_does_not_fit_is_told():
    y, physics = problem()
    model = tiny("unet")
    with pytest.raises(ShapeError, match="do not fit"):
        model(y[:, :3], physics)
    spiral = NonCartesianMRI(physics.coil_maps, torch.zeros(5, 2))
    with pytest.raises(OptionError, match="2D Cartesian"):
        check_cartesian(torch.zeros(1, 4, 5, dtype=torch.complex64), spiral)
    with pytest.raises(OptionError, match="at least one"):
        tiny("unet", pools=0)
