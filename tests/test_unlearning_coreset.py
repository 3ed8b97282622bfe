"""The core of what is forgotten, without outliers."""

from __future__ import annotations

import numpy as np
import pytest
from unlearning_problems import (
    budget,
    hidden,
    linear_examples,
    with_inputs,
)

from recon.physics.errors import OptionError
from recon.unlearning.coreset import core_set, isolation, mean_length


def test_an_isolation_forest_finds_what_lies_apart() -> None:
    points = np.random.default_rng(0).normal(size=(60, 4))
    points[[7, 23, 41]] += 9.0
    scores = isolation(points, seed=1)
    assert set(np.argsort(scores)[-3:]) == {7, 23, 41}
    assert scores[[7, 23, 41]].min() > 0.6 > np.median(scores)
    np.testing.assert_array_equal(scores, isolation(points, seed=1))
    np.testing.assert_allclose(isolation(np.zeros((8, 2))), 0.5)  # nothing to cut: all are as the mean


def test_mean_length_of_paths() -> None:
    """2 H(n - 1) - 2 (n - 1) / n with the asymptotic harmonic number, and 1 for two points."""
    assert mean_length(1) == 0
    assert mean_length(2) == 1
    harmonic = sum(1 / i for i in range(1, 256))
    assert mean_length(256) == pytest.approx(2 * harmonic - 2 * 255 / 256, rel=1e-3)


def test_the_core_set_is_without_outliers_in_the_same_order() -> None:
    examples = linear_examples(20, seed=1)
    odd = [3, 11]
    apart = with_inputs(examples, lambda y, i: y + 30.0 * (i in odd))
    core = core_set(hidden(), apart, budget(), outliers=0.1)
    assert core.names == tuple(name for i, name in enumerate(examples.names) if i not in odd)
    assert len(core_set(hidden(), examples, budget(), outliers=0.0)) == 20
    with pytest.raises(OptionError, match="share"):
        core_set(hidden(), examples, budget(), outliers=1.0)
