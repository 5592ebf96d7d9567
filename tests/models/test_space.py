import numpy as np
import pytest

from data.errors import ArtifactError
from models.clustering.space import ClusterSpace, fit_space


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return (5 + rng.standard_normal((900, 12)) @ rng.standard_normal((12, 12))).astype(np.float32)


def in_blocks(x, n=250):
    return lambda: (x[i : i + n] for i in range(0, len(x), n))


def test_whitened_directions_are_those_of_scikit_learn(x):
    from sklearn.decomposition import PCA

    y = fit_space(in_blocks(x), 5, normalise=False).apply(x)
    oracle = PCA(5, whiten=True, svd_solver="full").fit_transform(x.astype(np.float64)) * np.sqrt(900 / 899)
    np.testing.assert_allclose(y, oracle * np.sign((y * oracle).sum(axis=0)), atol=2e-4)
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(5), atol=1e-4)


def test_all_directions_without_whitening_keep_distances(x):
    y = fit_space(in_blocks(x), 12, normalise=False, whitening=0).apply(x)
    np.testing.assert_allclose(np.linalg.norm(y[0] - y, axis=1), np.linalg.norm(x[0] - x, axis=1), rtol=1e-4)


def test_blocks_do_not_matter_and_the_form_is_the_contracts(x):
    space = fit_space(in_blocks(x, 100), 6, normalise=True)
    other = fit_space(in_blocks(x, 900), 6, normalise=True)
    np.testing.assert_allclose(space.matrix, other.matrix, rtol=1e-5, atol=1e-6)
    y = (x - space.mean) @ space.matrix
    np.testing.assert_allclose(
        space.apply(x), y / np.linalg.norm(y, axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    assert space.apply(x).dtype == np.float32


def test_arrays_are_the_whole_space(x):
    space = fit_space(in_blocks(x), 4, normalise=True)
    again = ClusterSpace.from_arrays(space.arrays(), normalise=True)
    np.testing.assert_array_equal(again.apply(x), space.apply(x))
    assert {name: (a.dtype, a.shape) for name, a in space.arrays().items()} == {
        "mean": (np.float32, (12,)),
        "matrix": (np.float32, (12, 4)),
    }


def test_without_pca_nothing_is_read():
    space = fit_space(lambda: pytest.fail("read"), None, normalise=True)
    assert space.arrays() == {}
    given = np.array([[3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(space.apply(given), [[0.6, 0.8], [0, 0]])
    assert given[0, 0] == 3
    np.testing.assert_array_equal(ClusterSpace(None, None, False).apply(given), given)


def test_keeps_no_more_directions_than_the_features_span():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((500, 3)) @ rng.standard_normal((3, 10)) + 7).astype(np.float32)
    space = fit_space(in_blocks(x), 8, normalise=False)
    spanned = space.matrix.shape[1]
    y = space.apply(x)
    assert spanned <= 8
    # Directions of rounding noise may remain, but are not scaled up to unit variance.
    assert (y[:, 3:].std(axis=0) < 1e-2).all()
    np.testing.assert_allclose(y[:, :3].std(axis=0), 1, atol=1e-3)
    exact = np.zeros((50, 10), np.float32)
    exact[:, 2] = np.arange(50)
    assert fit_space(in_blocks(exact), 8, normalise=False).matrix.shape == (10, 1)


def test_says_what_is_wrong(x):
    with pytest.raises(ArtifactError, match="collapsed"):
        fit_space(in_blocks(np.full((50, 3), 0.1, np.float32)), 2, normalise=True)
    with pytest.raises(ArtifactError, match="no features"):
        fit_space(lambda: iter(()), 2, normalise=True)
    x[3, 3] = np.inf
    with pytest.raises(ArtifactError, match="not finite"):
        fit_space(in_blocks(x), 2, normalise=True)
    with pytest.raises(ArtifactError, match="another network"):
        ClusterSpace(np.zeros(3, np.float32), None, False).apply(np.zeros((2, 4), np.float32))


def test_half_whitening_leaves_the_root_of_the_spread(x):
    plain = fit_space(in_blocks(x), 6, normalise=False, whitening=0).apply(x)
    half = fit_space(in_blocks(x), 6, normalise=False, whitening=0.5).apply(x)
    np.testing.assert_allclose(half.std(axis=0), np.sqrt(plain.std(axis=0)), rtol=1e-2)
