"""Methods that change features: noise, contraction to a point, centroids; and which layer's features they are."""

from __future__ import annotations

import pytest
import torch
from networks import tiny
from torch import Tensor
from unlearning_problems import (
    A,
    B,
    Ridge,
    budget,
    fitted,
    hidden,
    inputs,
    linear_examples,
    only,
    ridge_solution,
    with_inputs,
)

from recon.physics.errors import OptionError
from recon.unlearning.examples import Examples
from recon.unlearning.features import feature_layer, features
from recon.unlearning.methods.duck import centroids_of
from recon.unlearning.objectives import Supervised
from recon.unlearning.registry import methods


def test_i2i_leaves_the_features_of_a_and_makes_those_of_b_noise(retain: Examples, forget: Examples) -> None:
    """A and B are of inputs that are orthogonal: the encoder's columns of A must not move, those of B go to 0."""
    for noise in ("features", "measurements"):
        model = hidden()
        first, last = (p.detach().clone() for p in model.parameters())
        methods["i2i"].function(model, forget, retain, budget(120, 0.1, Supervised()), alpha=1.0, noise=noise)
        now, decoder = model.parameters()
        assert torch.equal(decoder, last)
        assert torch.equal(now[:, A], first[:, A])
        assert now[:, B].norm() < 0.25 * first[:, B].norm()


def test_opc_contracts_the_features_of_b_and_fits_a(retain: Examples, forget: Examples) -> None:
    model = hidden()
    before = torch.linalg.vector_norm(inputs(forget) @ model.layers[0].weight.T, dim=1)
    methods["opc"].function(model, forget, retain, budget(150, 0.1, Ridge(1e-6)), weight=3.0)
    after = torch.linalg.vector_norm(inputs(forget) @ model.layers[0].weight.T, dim=1)
    assert bool((after < 0.05 * before).all())
    product = model.layers[1].weight @ model.layers[0].weight
    torch.testing.assert_close(product[:, A], ridge_solution(retain, 1e-6)[:, A], rtol=0.02, atol=0.02)


def test_opc_contracts_to_the_point_of_the_features_that_are_kept(retain: Examples, forget: Examples) -> None:
    """All B at one point of A's: with inputs in a line that point can be met; its features are the mean of A's."""
    line = forget.subset([0])
    model = hidden()
    mean = (inputs(retain) @ model.layers[0].weight.T).mean(0).detach()
    methods["opc"].function(model, line, retain, budget(150, 0.1, Ridge(1e-6)), weight=3.0, point="retain")
    after = inputs(line)[0] @ model.layers[0].weight.T
    assert (after - mean).norm() < 0.05 * mean.norm()


def test_duck_turns_features_towards_the_nearest_centroid(retain: Examples, forget: Examples) -> None:
    """Seen from half way between the means, features of B point away from A's centroid, and then towards it."""
    model = hidden()
    # inputs of one sign along a line: features of one sign, so that one column can turn all of them
    forget = only(with_inputs(forget.subset([0, 1, 2, 3]), lambda y, _: y.abs()), slice(3, 4))
    centroid, middle = ((inputs(e) @ model.layers[0].weight.T).mean(0).detach() for e in (retain, forget))
    origin = (centroid + middle) / 2

    def cosines() -> Tensor:
        moved = inputs(forget) @ model.layers[0].weight.T - origin
        return torch.nn.functional.cosine_similarity(moved, (centroid - origin)[None], dim=1)

    assert float(cosines().detach().mean()) < -0.5
    methods["duck"].function(model, forget, retain, budget(150, 0.1, Ridge(1e-6)), weight=1.0)
    assert float(cosines().detach().min()) > 0.9
    product = model.layers[1].weight @ model.layers[0].weight
    torch.testing.assert_close(product[:, A], ridge_solution(retain, 1e-6)[:, A], rtol=0.03, atol=0.03)


def test_ducks_centroids_are_those_of_clusters(retain: Examples) -> None:
    far = with_inputs(retain, lambda y, i: y + 50.0 * (i % 2))
    model = hidden()
    found = centroids_of(model, far, "layers.1", 2, budget())
    values = inputs(far) @ model.layers[0].weight.T
    wanted = torch.stack([values[0::2].mean(0), values[1::2].mean(0)])
    order = torch.cdist(wanted, found).argmin(1)
    torch.testing.assert_close(found[order], wanted.detach())


def test_feature_layers() -> None:
    batch = linear_examples(3).batch([0, 1])
    model = hidden()
    assert [feature_layer(model, batch, which, budget().meter) for which in ("deepest", "last", "output")] == [
        "layers.1",
        "layers.1",
        "output",
    ]
    with pytest.raises(OptionError, match="do not change what this layer sees"):
        feature_layer(model, batch, "layers.0", budget().meter)
    with pytest.raises(OptionError, match="no such layer"):
        feature_layer(model, batch, "encoder", budget().meter)
    with pytest.raises(OptionError, match="no layer"):
        feature_layer(fitted(linear_examples(4)), batch, "deepest", budget().meter)


def test_the_deepest_layer_of_a_u_net_is_where_its_encoder_ends(scans: Examples) -> None:
    model = tiny("unet")
    name = feature_layer(model, scans.batch([0]), "deepest", budget().meter)
    assert name == "network.unet.up.0.0"
    (value,) = features(model, scans.batch([0]).y, scans.batch([0]).physics(), name, budget().meter)
    assert value.shape[1] == 32
    assert value.shape[-1] == 8
