import numpy as np
import pytest

from data.errors import ArtifactError
from models.evaluation.health import health


def test_features_on_the_whole_sphere_are_healthy():
    x = np.random.default_rng(0).standard_normal((20_000, 32)).astype(np.float32)
    assert health(x) == pytest.approx({"spread": 1, "effective_rank": 32}, rel=0.01)


def test_effective_rank_is_that_of_the_singular_values():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((5000, 12)) * np.logspace(0, -3, 12)).astype(np.float32)
    p = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    p /= p.sum()
    assert health(x)["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_collapse_shows():
    rng = np.random.default_rng(0)
    one = np.outer(rng.random(500) + 1, rng.standard_normal(16)).astype(np.float32)
    assert health(one) == pytest.approx({"spread": 0, "effective_rank": 1}, abs=1e-3)
    plane = (rng.standard_normal((500, 2)) @ rng.standard_normal((2, 16))).astype(np.float32)
    assert health(plane)["effective_rank"] < 2.01


def test_refuses_what_it_can_not_measure():
    with pytest.raises(ArtifactError, match="two vectors"):
        health(np.zeros((1, 3), np.float32))
    with pytest.raises(ArtifactError, match="not finite"):
        health(np.full((3, 3), np.nan, np.float32))
