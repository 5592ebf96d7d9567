"""Projections to the plane: PCA against its closed form, and t-SNE's promises."""

from __future__ import annotations

import numpy as np
import pytest

from models.evaluation.projection import PERPLEXITY, project, unit


def features(n: int = 200, d: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, d)) * 2
    return (centres[rng.integers(0, 4, n)] + rng.normal(size=(n, d))).astype(np.float32)


def test_pca_is_the_singular_value_decomposition_of_centred_unit_vectors() -> None:
    x = features()
    plane = project(x, "pca", seed=0)
    wide = x.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    u, s, _ = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    expected = u[:, :2] * s[:2]
    signs = np.sign((plane.xy * expected).sum(axis=0))
    assert np.allclose(plane.xy, expected * signs, atol=1e-5)
    assert plane.explained == pytest.approx(s[:2] ** 2 / (s**2).sum(), rel=1e-4)


def test_pca_keeps_the_distances_of_points_in_a_plane() -> None:
    angle = np.random.default_rng(1).uniform(0, 2 * np.pi, 50)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    turned, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(9, 2)))
    plane = project((3 * circle @ turned.T).astype(np.float32), "pca", seed=0)
    expected = np.linalg.norm(circle[:, None] - circle[None], axis=-1)
    found = np.linalg.norm(plane.xy[:, None] - plane.xy[None], axis=-1)
    assert np.allclose(found, expected, atol=1e-5)
    assert plane.explained is not None
    assert sum(plane.explained) == pytest.approx(1)


def test_pca_draws_nothing_and_follows_the_order_of_the_images() -> None:
    x, order = features(), np.random.default_rng(3).permutation(200)
    plane = project(x, "pca", seed=0)
    assert np.array_equal(project(x, "pca", seed=9).xy, plane.xy)
    assert np.allclose(project(x[order], "pca", seed=0).xy, plane.xy[order], atol=1e-5)


@pytest.mark.parametrize(
    "x",
    [np.ones((1, 5)), np.ones((7, 5)), np.zeros((3, 4)), np.array([[1.0], [-1.0], [2.0]]), np.eye(2)],
    ids=["one image", "equal images", "zeros", "one dimension", "two images"],
)
def test_what_has_no_plane_is_still_placed(x: np.ndarray) -> None:
    plane = project(x.astype(np.float32), "pca", seed=0)
    assert plane.xy.shape == (len(x), 2)
    assert np.isfinite(plane.xy).all()
    assert plane.explained is not None
    assert plane.explained[1] == pytest.approx(0)
    differ = len(np.unique(unit(x.astype(np.float32)), axis=0)) > 1
    assert plane.explained[0] == pytest.approx(float(differ))


def test_tsne_keeps_neighbours_and_repeats_itself() -> None:
    pytest.importorskip("openTSNE")
    from sklearn.manifold import trustworthiness

    x = features(n=150)
    first, second = (project(x, "tsne", seed=5) for _ in range(2))
    assert np.array_equal(first.xy, second.xy)
    assert first.explained is None
    close = trustworthiness(unit(x), first.xy, n_neighbors=10)
    assert close > trustworthiness(unit(x), project(x, "pca", seed=5).xy, n_neighbors=10)
    assert close > 0.8
    few = project(x[:3], "tsne", seed=5)  # too few for neighbours: the principal components
    assert np.array_equal(few.xy, project(x[:3], "pca", seed=5).xy)


def affinities(x: np.ndarray, perplexity: float) -> np.ndarray:
    """t-SNE's P of all pairs (N, N), by bisection (van der Maaten and Hinton 2008, section 2)."""
    squares = ((x[:, None].astype(np.float64) - x[None]) ** 2).sum(axis=-1)
    p = np.zeros_like(squares)
    for i, row in enumerate(squares):
        low, high = 1e-6, 1e6
        for _ in range(100):
            beta = np.sqrt(low * high)
            weight = np.exp(-beta * (row - np.delete(row, i).min()))
            weight[i] = 0
            p[i] = weight / weight.sum()
            some = p[i][p[i] > 0]
            low, high = (beta, high) if -(some * np.log(some)).sum() > np.log(perplexity) else (low, beta)
    return (p + p.T) / (2 * len(x))


def divergence(p: np.ndarray, y: np.ndarray) -> float:
    """What t-SNE minimises: the Kullback-Leibler divergence of places y (N, 2) from P (N, N)."""
    q = 1 / (1 + ((y[:, None].astype(np.float64) - y[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(q, 0)
    some = p > 0
    return float((p[some] * np.log(p[some] / (q / q.sum())[some])).sum())


def test_tsne_is_as_good_as_scikit_learn_s() -> None:
    pytest.importorskip("openTSNE")
    from sklearn.manifold import TSNE, trustworthiness

    x = features(n=300)
    start = project(x, "pca", seed=0).xy
    theirs = TSNE(
        perplexity=PERPLEXITY, init=start / start[:, 0].std() * 1e-4, method="exact", random_state=0
    )
    their_places = theirs.fit_transform(unit(x))
    ours = project(x, "tsne", seed=0).xy
    p = affinities(unit(x), PERPLEXITY)
    assert divergence(p, their_places) == pytest.approx(theirs.kl_divergence_, rel=0.01)
    # Ours looks at 90 neighbours of each image and sums far ones up; theirs takes all pairs as they are.
    assert divergence(p, ours) < 1.05 * theirs.kl_divergence_
    assert divergence(p, start) > 1.5 * theirs.kl_divergence_
    close, closest = (trustworthiness(unit(x), y, n_neighbors=10) for y in (ours, their_places))
    assert close == pytest.approx(closest, abs=0.02)


def test_tsne_places_rows_of_zeros_and_copies() -> None:
    pytest.importorskip("openTSNE")
    x = features(n=60)
    x[7] = 0
    x[20:30] = x[20]
    plane = project(x, "tsne", seed=1)
    assert plane.xy.shape == (60, 2)
    assert np.isfinite(plane.xy).all()
