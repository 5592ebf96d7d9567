import numpy as np
import pytest

from data.errors import ArtifactError
from models.evaluation.health import alignment, health, uniformity


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


def test_uniformity_is_the_definition_on_all_pairs() -> None:
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [np.exp(-2 * np.square(z[i] - z[j]).sum()) for i in range(40) for j in range(40) if i != j]
    assert uniformity(x) == pytest.approx(np.log(np.mean(pairs)), rel=1e-5)
    assert uniformity(np.ones((10, 3), np.float32)) == pytest.approx(0, abs=1e-9)
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    assert uniformity(opposite) == pytest.approx(-8)
    even = np.random.default_rng(1).normal(size=(5000, 512)).astype(np.float32)
    assert uniformity(even) == pytest.approx(-4, abs=0.05)  # nearly orthogonal: ‖z - z'‖² = 2
    with pytest.raises(ArtifactError, match="two vectors"):
        uniformity(x[:1])


def test_alignment() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    y = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert alignment(x, y) == pytest.approx((2 - 2 * cosine).mean(), rel=1e-5)
