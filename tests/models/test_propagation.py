import numpy as np
import pytest
from scipy import sparse

from data.errors import ArtifactError, ConfigError, DataError
from models.clustering.propagation import knn_graph, propagate


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 300)
    x = 3 * rng.standard_normal((4, 6))[label] + rng.standard_normal((300, 6))
    return x.astype(np.float32), label


def closed_form(graph, y, alpha):
    w = graph.toarray().astype(np.float64)
    d = w.sum(axis=1)
    scale = np.where(d > 0, 1 / np.sqrt(np.where(d > 0, d, 1)), 0)
    s = scale[:, None] * w * scale
    return (1 - alpha) * np.linalg.solve(np.eye(len(w)) - alpha * s, y)


@pytest.mark.parametrize("symmetric", ["max", "mean"])
def test_graph_against_scikit_learn(blobs, symmetric):
    from sklearn.neighbors import NearestNeighbors

    x, _ = blobs
    graph = knn_graph(x, 7, centre=False, temperature=0.2, symmetric=symmetric, device="cpu")
    distance, column = (
        NearestNeighbors(n_neighbors=8, metric="cosine", algorithm="brute").fit(x).kneighbors(x)
    )
    w = np.zeros((300, 300))
    for i in range(300):
        assert column[i, 0] == i
        w[i, column[i, 1:]] = np.exp(-distance[i, 1:] / 0.2)
    w = np.maximum(w, w.T) if symmetric == "max" else (w + w.T) / 2
    np.testing.assert_allclose(graph.toarray(), w, atol=1e-4)


def test_graph_kernels(blobs):
    x, _ = blobs
    x = x - x.mean(axis=0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = unit @ unit.T
    edges = knn_graph(x, 5, gamma=0, device="cpu").toarray() > 0
    assert (edges.sum(axis=1) >= 5).all()
    np.testing.assert_allclose(
        knn_graph(x, 5, gamma=3, device="cpu").toarray(), np.where(edges, s**3, 0), atol=1e-4
    )
    nearest = np.sort(np.where(np.eye(300), -2, s), axis=1)[:, -5:]
    scale = (1 - nearest).mean()
    default = knn_graph(x, 5, device="cpu").toarray()
    np.testing.assert_allclose(default, np.where(edges, np.exp((s - 1) / scale), 0), atol=1e-3)


def test_graph_of_copies_has_no_loops_and_ignores_lengths(blobs):
    x, _ = blobs
    copies = np.repeat(x[:10], 6, axis=0)
    graph = knn_graph(copies, 3, device="cpu")
    assert (graph.diagonal() == 0).all()
    assert (graph - graph.T).nnz == 0
    lengths = np.linspace(1, 9, 300, dtype=np.float32)[:, None]
    scaled, plain = (knn_graph(v, 5, centre=False, device="cpu").toarray() for v in (x * lengths, x))
    np.testing.assert_allclose(scaled, plain, atol=1e-4)
    moved, centred = (knn_graph(v, 5, device="cpu").toarray() for v in (x + 10, x))
    np.testing.assert_allclose(moved, centred, atol=1e-3)


@pytest.mark.parametrize("alpha", [0, 0.5, 0.99])
def test_equals_the_closed_form(blobs, alpha):
    x, label = blobs
    graph = knn_graph(x, 8, device="cpu")
    prior = np.random.default_rng(1).dirichlet(np.ones(4), 300)
    index = np.arange(0, 300, 20)
    y = 0.3 * prior
    y[index] = np.eye(4)[label[index]]
    f = closed_form(graph, y, alpha)
    result = propagate(graph, prior, index, label[index], alpha=alpha, prior_weight=0.3)
    np.testing.assert_allclose(result, f / f.sum(axis=1, keepdims=True), atol=1e-5)
    assert result.dtype == np.float32


def test_equals_label_spreading_of_scikit_learn(blobs):
    from sklearn.semi_supervised import LabelSpreading

    x, label = blobs
    graph = knn_graph(x, 15, gamma=0, device="cpu")
    given = np.full(300, -1)
    given[:40] = label[:40]
    oracle = LabelSpreading(kernel=lambda a, b: graph.toarray(), alpha=0.8, max_iter=5000, tol=1e-10).fit(
        x, given
    )
    result = propagate(graph, None, np.arange(40), label[:40], classes=4, alpha=0.8)
    reached = result.max(axis=1) != result.min(axis=1)
    np.testing.assert_allclose(result[reached], oracle.label_distributions_[reached], atol=1e-4)
    assert reached.mean() > 0.9
    assert (result.argmax(axis=1) == label)[40:].mean() > 0.8


def test_clamped_labels_stay_and_the_rest_is_the_fixed_point_given_them(blobs):
    x, label = blobs
    graph = knn_graph(x, 8, device="cpu")
    index, alpha = np.arange(30), 0.9
    prior = np.random.default_rng(1).dirichlet(np.ones(4), 300)
    result = propagate(graph, prior, index, label[:30], alpha=alpha, clamp=True)
    np.testing.assert_array_equal(result[:30], np.eye(4)[label[:30]])
    w = graph.toarray().astype(np.float64)
    s = w / np.sqrt(np.outer(w.sum(axis=1), w.sum(axis=1)))
    f = prior.copy()
    f[:30] = np.eye(4)[label[:30]]
    for _ in range(400):
        f[30:] = (alpha * s @ f + (1 - alpha) * prior)[30:]
    np.testing.assert_allclose(result, f / f.sum(axis=1, keepdims=True), atol=1e-5)


def test_an_isolated_image_keeps_its_prior_or_knows_nothing():
    w = sparse.csr_matrix(np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32))
    prior = np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])
    for weight in (0.0, 0.5):
        f = propagate(w, prior, np.array([0]), np.array([1]), prior_weight=weight)
        np.testing.assert_allclose(f[2:], prior[2:], rtol=1e-6)
        assert f[1, 1] > 0.5
    f = propagate(w, None, np.array([0]), np.array([1]), classes=2)
    np.testing.assert_allclose(f, [[0, 1], [0, 1], [0.5, 0.5], [0.5, 0.5]])


def test_shares_are_met_and_rows_sum_to_one(blobs):
    x, label = blobs
    graph = knn_graph(x, 8, device="cpu")
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    prior = np.random.default_rng(1).dirichlet(np.ones(4), 300)
    free = propagate(graph, prior, np.arange(9), label[:9], alpha=0.5)
    balanced = propagate(graph, prior, np.arange(9), label[:9], alpha=0.5, shares=shares)
    np.testing.assert_allclose(balanced.mean(axis=0), shares, atol=1e-3)
    assert abs(free.mean(axis=0) - shares).max() > 0.05
    for f in (free, balanced):
        assert (f >= 0).all()
        np.testing.assert_allclose(f.sum(axis=1), 1, atol=1e-6)


def test_refuses_what_does_not_fit(blobs):
    x, _ = blobs
    with pytest.raises(ConfigError, match="1 to 299"):
        knn_graph(x, 300, device="cpu")
    graph = knn_graph(x, 5, device="cpu")
    some = np.arange(3)
    with pytest.raises(ConfigError, match="alpha"):
        propagate(graph, None, some, some, classes=3, alpha=1.0)
    with pytest.raises(ConfigError, match="classes"):
        propagate(graph, None, some, some)
    with pytest.raises(DataError, match="2 classes"):
        propagate(graph, None, some, some, classes=2)
    with pytest.raises(ArtifactError, match="prior"):
        propagate(graph, np.full((5, 3), 1 / 3), some, some)
