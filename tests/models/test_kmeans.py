import numpy as np
import pytest

from data.errors import ArtifactError, DataError
from models.clustering.kmeans import _accumulate, _lloyd, _Selection, _update, kmeans
from models.clustering.nearest import CentroidIndex, nearest_two, searchers


def blobs(n=1200, k=12, d=8, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    return (rng.standard_normal((k, d))[label] * 4 + spread * rng.standard_normal((n, d))).astype(
        np.float32
    ), label


@pytest.mark.parametrize("seed", range(4))
def test_invariants(seed):
    x = np.random.default_rng(seed).standard_normal((3000, 10)).astype(np.float32)
    calls = []
    found = kmeans(x, 40, iterations=15, seed=seed, device="cpu", report=lambda *call: calls.append(call))
    cluster, distance, _ = nearest_two(x, found.centroids, "cpu")
    assert np.isfinite(found.centroids).all()
    np.testing.assert_array_equal(found.sizes, np.bincount(cluster, minlength=40))
    assert found.sizes.sum() == found.trained_on == 3000
    assert found.empty == (found.sizes == 0).sum()
    assert len(found.objective) <= 15
    assert (np.diff(found.objective) < 0).all()
    assert found.objective[-1] == pytest.approx(distance.mean(dtype=np.float64), rel=1e-5)
    assert calls == list(enumerate(found.objective, 1))


def test_converges_where_lloyd_of_scikit_learn_does():
    from sklearn.cluster import KMeans as Oracle

    x, _ = blobs(spread=2.0)
    found = kmeans(x, 12, iterations=300, seed=1, device="cpu")
    oracle = Oracle(12, init=found.centroids, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x)
    assert found.objective[-1] == pytest.approx(oracle.inertia_ / len(x), rel=1e-5)
    np.testing.assert_allclose(found.centroids, oracle.cluster_centers_, atol=1e-4)


def test_one_iteration_moves_centroids_to_the_means_of_their_points():
    x, _ = blobs(n=200, k=4)
    one, two = (kmeans(x, 4, iterations=i, seed=5, device="cpu") for i in (1, 2))
    assert two.objective[0] == one.objective[0]
    if len(two.objective) == 2:
        cluster, _, _ = nearest_two(x, one.centroids, "cpu")
        means = np.stack([x[cluster == c].mean(axis=0, dtype=np.float64) for c in range(4)])
        np.testing.assert_allclose(two.centroids, means, rtol=1e-6)


def test_finds_well_separated_blobs():
    x, label = blobs()
    found = kmeans(x, 12, restarts=5, seed=0, device="cpu")
    cluster, _, _ = nearest_two(x, found.centroids, "cpu")
    assert len(np.unique(np.stack([cluster, label]), axis=1).T) == 12


def test_same_seed_same_bits_and_another_seed_not():
    x = np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32)
    a, b, c = (kmeans(x, 30, seed=s, device="cpu") for s in (3, 3, 4))
    assert a.centroids.tobytes() == b.centroids.tobytes()
    assert a.objective == b.objective
    assert a.centroids.tobytes() != c.centroids.tobytes()


def test_of_several_restarts_the_best_is_kept():
    x = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
    last = []
    found = kmeans(x, 20, restarts=4, seed=0, device="cpu", report=lambda i, value: last.append((i, value)))
    ends = [value for (i, value), (j, _) in zip(last, [*last[1:], (1, 0.0)], strict=True) if j == 1]
    assert len(ends) == 4
    assert found.objective[-1] == min(ends)
    assert found.restart == int(np.argmin(ends))


def test_fewer_distinct_points_than_clusters_leaves_finite_empty_ones():
    x = np.repeat(np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32), 20, axis=0)
    found = kmeans(x, 8, seed=0, device="cpu")
    assert (np.sort(found.sizes) == [0, 0, 0, 20, 20, 20, 20, 20]).all()
    assert found.empty == 3
    assert found.objective[-1] == pytest.approx(0, abs=1e-12)
    assert np.isfinite(found.centroids).all()


def test_an_empty_cluster_is_filled_while_there_is_something_to_gain(monkeypatch):
    x, _ = blobs(n=600, k=6)
    start = np.vstack([x[:1], np.full((5, x.shape[1]), 1e3)]).astype(np.float32)
    monkeypatch.setattr("models.clustering.kmeans._start", lambda x, k, key: start)
    found = kmeans(x, 6, seed=0, device="cpu")
    assert found.empty == 0
    assert (np.diff(found.objective) < 0).all()


def test_every_point_its_own_cluster():
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    found = kmeans(x, 50, seed=0, device="cpu")
    assert (found.sizes == 1).all()
    assert found.objective == pytest.approx([0], abs=1e-12)


def test_trains_on_all_points_or_on_the_sample_asked_for():
    x = np.random.default_rng(0).standard_normal((4000, 4)).astype(np.float32)
    assert kmeans(x, 2, device="cpu").sizes.sum() == 4000  # 2000 per centroid
    found = kmeans(x, 2, sample=500, device="cpu")
    assert (found.trained_on, found.sizes.sum()) == (500, 500)
    assert kmeans(x, 2, sample=9000, device="cpu").trained_on == 4000


def many(n=40_000, k=60, d=6, seed=0):
    """Enough points for samples of 64 k and 128 k points, each at most a quarter of all points."""
    assert n >= 4 * 128 * k
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_many_points_start_from_growing_samples():
    x, calls = many(), []
    found = kmeans(x, 60, iterations=4, seed=0, device="cpu", report=lambda *call: calls.append(call))
    assert [sample.points for sample in found.grown] == [64 * 60, 128 * 60]
    assert all(1 <= sample.iterations <= 10 for sample in found.grown)
    assert calls == list(enumerate(found.objective, 1))  # over all points only
    assert found.trained_on == found.sizes.sum() == len(x)
    assert (np.diff(found.objective) < 0).all()
    assert kmeans(x[: 4 * 64 * 60 - 1], 60, iterations=1, device="cpu").grown == []
    again = kmeans(x, 60, iterations=4, seed=0, device="cpu")
    assert (again.centroids.tobytes(), again.grown) == (found.centroids.tobytes(), found.grown)


@pytest.mark.parametrize("seed", range(3))
def test_iterations_after_the_samples_get_further_than_those_from_scikit_learn_s_start(seed):
    from sklearn.cluster import KMeans as Oracle

    x = many(seed=seed)

    def oracle(iterations):
        return (
            Oracle(60, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd", random_state=seed)
            .fit(x)
            .inertia_
        )

    objective = len(x) * np.array(kmeans(x, 60, iterations=10, seed=seed, device="cpu").objective)
    assert objective[4] < oracle(5)
    assert objective[9] < 1.005 * oracle(20)


def test_tolerance_ends_where_the_objective_falls_by_less():
    x = many()
    full = kmeans(x, 60, iterations=30, seed=0, device="cpu").objective
    found = kmeans(x, 60, iterations=30, seed=0, tolerance=1e-3, device="cpu").objective
    assert 1 < len(found) < len(full)
    assert found == full[: len(found)]
    fall = 1 - np.array(full[1:]) / full[:-1]
    assert len(found) == 2 + int(np.flatnonzero(fall <= 1e-3)[0])


def mixture(n=24_000, k=600, d=64, seed=0):
    """Unit vectors around twice as many centres as clusters. The centres' sizes follow a power law."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, 2 * k + 1) ** 0.8
    x = rng.standard_normal((2 * k, d))[
        rng.choice(2 * k, n, p=share / share.sum())
    ] + 0.5 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def searches(monkeypatch):
    """Record how many centroids each search of many points considers. None means all."""
    made = []
    nearest, nearest_of_neighbours = CentroidIndex.nearest, CentroidIndex.nearest_of_neighbours

    def among_all(index, y, threads):
        made.append(None)
        return nearest(index, y, threads)

    def among_neighbours(index, y, own, m, threads):
        made.append(m)
        return nearest_of_neighbours(index, y, own, m, threads)

    monkeypatch.setattr(CentroidIndex, "nearest", among_all)
    monkeypatch.setattr(CentroidIndex, "nearest_of_neighbours", among_neighbours)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_many_clusters_look_among_neighbours_and_lose_nothing(seed, searches, monkeypatch):
    x = mixture(seed=seed)
    found = kmeans(x, 600, iterations=20, seed=seed, device="cpu")
    assert searches[:2] == [None, None]  # the start's, and one at least until the clusters have settled
    assert searches.count(64) >= 10
    cluster, distance, _ = nearest_two(x, found.centroids, "cpu")
    np.testing.assert_array_equal(found.sizes, np.bincount(cluster, minlength=600))
    assert found.objective[-1] == pytest.approx(distance.mean(dtype=np.float64), rel=1e-6)
    assert (np.diff(found.objective) < 0).all()
    again = kmeans(x, 600, iterations=20, seed=seed, device="cpu")
    assert (again.centroids.tobytes(), again.objective) == (found.centroids.tobytes(), found.objective)

    monkeypatch.setattr("models.clustering.kmeans._neighbours", lambda k, n: 0)
    whole = kmeans(x, 600, iterations=20, seed=seed, device="cpu")
    assert found.objective[-1] < 1.003 * whole.objective[-1]


def test_ends_where_no_point_changes_among_all_centroids(searches):
    from sklearn.cluster import KMeans as Oracle

    x = mixture()
    found = kmeans(x, 600, iterations=1000, seed=0, device="cpu")
    assert len(found.objective) < 1000
    assert 64 in searches
    assert searches[-1] is None
    oracle = Oracle(600, init=found.centroids, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x)
    assert found.objective[-1] == pytest.approx(oracle.inertia_ / len(x), rel=1e-5)


def test_centroids_that_fill_empty_clusters_are_found_among_all(searches):
    x, index = mixture(), CentroidIndex(64, "cpu")
    start = np.vstack([x[:590], np.full((10, 64), 1e3)]).astype(np.float32)
    with searchers("cpu") as threads:
        found = _lloyd(_Selection(x), start, 6, 0.0, 0, index, threads, settled=True)
    assert searches[:3] == [
        None,
        None,
        64,
    ]  # the start, ten centroids put elsewhere, and from then on neighbours
    assert found.empty == 0
    assert (np.diff(found.objective) < 0).all()


def test_sums_follow_the_points_that_change_their_cluster():
    rng = np.random.default_rng(0)
    x = _Selection(rng.standard_normal((20_000, 7)).astype(np.float32))
    before = rng.integers(0, 9, len(x))
    with searchers("cpu") as threads:
        for share in (0.0, 0.01, 0.4, 0.9):
            cluster = np.where(rng.random(len(x)) < share, rng.integers(0, 10, len(x)), before)
            sums, sizes = _accumulate(x, before, 10, threads)
            found, counted = _update(x, before, cluster, sums, sizes, threads)
            np.testing.assert_allclose(
                found, [x.x[cluster == c].sum(0, dtype=np.float64) for c in range(10)], atol=1e-9
            )
            np.testing.assert_array_equal(counted, np.bincount(cluster, minlength=10))


def test_prints_nothing(capfd):
    kmeans(np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32), 30, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_large_offset_does_not_spoil_the_result():
    x, label = blobs(n=600, k=5)
    cluster, _, _ = nearest_two(
        x + 500, kmeans(x + 500, 5, restarts=5, seed=0, device="cpu").centroids, "cpu"
    )
    assert len(np.unique(np.stack([cluster, label]), axis=1).T) == 5


def test_refuses_more_clusters_than_points_and_nan():
    x = np.zeros((10, 2), np.float32)
    with pytest.raises(DataError, match=r"cluster\.k is 11.*10 vectors"):
        kmeans(x, 11, device="cpu")
    with pytest.raises(DataError, match="5 vectors"):
        kmeans(x, 6, sample=5, device="cpu")
    x[7, 0] = np.nan
    with pytest.raises(ArtifactError, match="row 7"):
        kmeans(x, 2, device="cpu")
