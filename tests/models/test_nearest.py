import subprocess
import sys

import faiss
import numpy as np
import pytest

from data.errors import ArtifactError, ConfigError
from models.clustering.nearest import BLOCK, CentroidIndex, nearest_in_blocks, nearest_two, searchers


def brute(y, c):
    from scipy.spatial.distance import cdist

    d = cdist(y.astype(np.float64), c.astype(np.float64), "sqeuclidean")
    order = np.argsort(d, axis=1, kind="stable")[:, :2]
    return order[:, 0], np.take_along_axis(d, order, axis=1)


@pytest.mark.parametrize(("n", "k", "d"), [(1, 2, 1), (700, 2, 3), (700, 3, 40), (3000, 100, 17)])
def test_equals_brute_force_in_float64(n, k, d):
    rng = np.random.default_rng(n + k)
    y, c = rng.standard_normal((n, d), dtype=np.float32), rng.standard_normal((k, d), dtype=np.float32)
    cluster, distance, runner_up = nearest_two(y, c, "cpu")
    expected, two = brute(y, c)
    assert (cluster.dtype, distance.dtype, runner_up.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_array_equal(cluster, expected)
    np.testing.assert_allclose(distance, two[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(runner_up, two[:, 1], rtol=1e-5, atol=1e-6)


def test_keeps_small_distances_between_large_vectors():
    rng = np.random.default_rng(0)
    c = (1000 + rng.standard_normal((20, 64))).astype(np.float32)
    y = (c[rng.integers(0, 20, 500)] + 1e-2 * rng.standard_normal((500, 64))).astype(np.float32)
    cluster, distance, _ = nearest_two(y, c, "cpu")
    expected, two = brute(y, c)
    np.testing.assert_array_equal(cluster, expected)
    np.testing.assert_allclose(distance, two[:, 0], rtol=1e-4)
    assert (nearest_two(c, c, "cpu")[1] == 0).all()


def test_the_search_alone_may_rank_a_near_tie_third():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((4000, 96), dtype=np.float32)
    direction = rng.standard_normal((3, 96))
    # three centroids whose distances to every point differ by a few units in the last place
    c = np.vstack([1e-4 * direction, 30 + rng.standard_normal((9, 96))]).astype(np.float32)
    index = faiss.IndexFlatL2(96)
    index.add(c - c.mean(axis=0))
    alone = index.search(y - c.mean(axis=0), 3)[1]
    expected, two = brute(y, c)
    assert (alone[:, 2] == expected).any()  # otherwise this tests nothing
    cluster, distance, runner_up = nearest_two(y, c, "cpu")
    decided = two[:, 1] - two[:, 0] > 1e-5 * two[:, 0]  # beyond the rounding of float32 distances
    assert decided.mean() > 0.5
    np.testing.assert_array_equal(cluster[decided], expected[decided])
    np.testing.assert_allclose(distance, two[:, 0], rtol=1e-5)
    np.testing.assert_allclose(runner_up, two[:, 1], rtol=1e-5)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("m", [1, 5, 40])
def test_the_nearest_of_neighbours_is_that_of_brute_force_among_them(offset, m):
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(m)
    c = (offset + rng.standard_normal((40, 12))).astype(np.float32)
    y = (offset + rng.standard_normal((6000, 12))).astype(np.float32)
    own = np.where(
        rng.random(len(y)) < 0.6, 3, rng.integers(0, 39, len(y))
    )  # 3 has more than a block, 39 none
    index = CentroidIndex(12, "cpu")
    index.place(c)
    with searchers("cpu") as threads:
        cluster, distance = index.nearest_of_neighbours(y, own, m, threads)
    between, far = (cdist(a.astype(np.float64), c.astype(np.float64), "sqeuclidean") for a in (c, y))
    allowed = np.argsort(between, axis=1, kind="stable")[:, :m]
    among = np.full(far.shape, np.inf)
    np.put_along_axis(among, allowed[own], np.take_along_axis(far, allowed[own], axis=1), axis=1)
    np.testing.assert_array_equal(cluster, among.argmin(axis=1))
    np.testing.assert_allclose(distance, among.min(axis=1), rtol=1e-3 if offset else 1e-5)


def test_a_point_keeps_its_centroid_among_many_equal_ones():
    c = np.repeat(np.float32([[0, 0], [9, 9]]), 20, axis=0)
    own = np.tile(np.arange(40), 30)
    index = CentroidIndex(2, "cpu")
    index.place(c)
    with searchers("cpu") as threads:
        cluster, distance = index.nearest_of_neighbours(c[own] + np.float32(0.1), own, 4, threads)
    assert (cluster // 20 == own // 20).all()
    np.testing.assert_allclose(distance, 0.02, rtol=1e-4)


def test_neither_threads_nor_blocks_change_a_bit():
    rng = np.random.default_rng(1)
    y, c = (
        rng.standard_normal((2 * BLOCK + 77, 24), dtype=np.float32),
        rng.standard_normal((50, 24), dtype=np.float32),
    )
    whole = nearest_two(2 * y, c, "cpu")
    usual = faiss.omp_get_max_threads()
    try:
        for threads in (1, 3):
            faiss.omp_set_num_threads(threads)
            for found, expected in zip(nearest_two(2 * y, c, "cpu"), whole, strict=True):
                np.testing.assert_array_equal(found, expected)
            at = range(0, len(y), BLOCK)
            blocks = (
                (np.arange(start, min(start + BLOCK, len(y))), y[start : start + BLOCK]) for start in at
            )
            parts = list(nearest_in_blocks(blocks, lambda x: 2 * x, c, "cpu"))
            index, *found = (np.concatenate(column) for column in zip(*parts, strict=True))
            np.testing.assert_array_equal(index, np.arange(len(y)))
            for got, expected in zip(found, whole, strict=True):
                np.testing.assert_array_equal(got, expected)
    finally:
        faiss.omp_set_num_threads(usual)


def test_ties_go_to_the_lower_id():
    axes = np.vstack([np.eye(6), -np.eye(6)]).astype(np.float32)
    cluster, distance, runner_up = nearest_two(np.zeros((50, 6), np.float32), axes, "cpu")
    assert (cluster == 0).all()
    assert (distance == 1).all()
    assert (runner_up == 1).all()
    copies = np.ones((7, 3), np.float32)
    assert (nearest_two(np.zeros((50, 3), np.float32), copies, "cpu")[0] == 0).all()


def test_a_single_centroid_has_no_runner_up():
    cluster, distance, runner_up = nearest_two(
        np.ones((4, 2), np.float32), np.zeros((1, 2), np.float32), "cpu"
    )
    assert cluster.tolist() == [0] * 4
    assert distance.tolist() == [2.0] * 4
    assert np.isposinf(runner_up).all()


def test_refuses_what_is_not_finite_and_what_does_not_fit():
    y = np.zeros((5, 2), np.float32)
    with pytest.raises(ArtifactError, match="2 columns, centroids 3"):
        nearest_two(y, np.zeros((2, 3), np.float32), "cpu")
    y[3, 1] = np.nan
    with pytest.raises(ArtifactError, match="row 3"):
        nearest_two(y, np.zeros((2, 2), np.float32), "cpu")


def test_cuda_without_a_gpu_is_the_users_mistake():
    if faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"compute\.device"):
        nearest_two(np.zeros((5, 2), np.float32), np.zeros((2, 2), np.float32), "cuda")


def test_none_of_this_imports_torch():
    names = [f"models.clustering.{name}" for name in ("kmeans", "nearest", "space", "propagation")]
    names += ["models.evaluation.clusters", "models.evaluation.health"]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
