import numpy as np
import pytest

from data.errors import DataError
from models.evaluation.clusters import agreement, balance, cluster_scores


@pytest.mark.parametrize(
    ("n", "k", "classes", "noise"),
    [(1, 1, 1, 0), (30, 4, 3, 0.5), (2000, 40, 7, 0.3), (3000, 900, 30, 1.0), (5000, 3, 2, 0.9)],
)
def test_equals_scikit_learn(n, k, classes, noise):
    from sklearn import metrics

    rng = np.random.default_rng(n)
    labels = rng.integers(0, classes, n) ** 2 // classes  # uneven
    clusters = np.where(rng.random(n) < noise, rng.integers(0, k, n), labels % k)
    found = agreement(clusters, labels)
    assert found["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(labels, clusters), abs=1e-9)
    assert found["ami"] == pytest.approx(metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-9)
    assert found["ari"] == pytest.approx(metrics.adjusted_rand_score(labels, clusters), abs=1e-9)
    purity = metrics.cluster.contingency_matrix(labels, clusters).max(axis=0).sum() / n
    assert found["purity"] == pytest.approx(purity)


def test_perfect_whatever_the_names_and_chance_is_about_zero():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 4000)
    assert agreement(rng.permutation(20)[labels], labels) == pytest.approx(
        dict.fromkeys(("nmi", "ami", "ari", "purity"), 1)
    )
    chance = agreement(rng.integers(0, 500, 4000), labels)
    assert abs(chance["ami"]) < 0.02
    assert abs(chance["ari"]) < 0.01
    assert chance["nmi"] > 0.1  # this is why the adjusted one is reported


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_trivial_partitions_follow_scikit_learn(labels):
    from sklearn import metrics

    for clusters in ([0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1]):
        found = agreement(np.array(clusters), np.array(labels))
        assert found["ari"] == pytest.approx(metrics.adjusted_rand_score(labels, clusters))
        assert found["ami"] == pytest.approx(metrics.adjusted_mutual_info_score(labels, clusters))


def test_balance():
    assert balance(np.array([0, 1, 2, 3] * 5), 4) == pytest.approx(
        {"used": 4, "largest_share": 0.25, "perplexity": 4, "normalized_entropy": 1}
    )
    assert balance(np.zeros(9, int), 10) == pytest.approx(
        {"used": 1, "largest_share": 1, "perplexity": 1, "normalized_entropy": 0}
    )
    assert balance(np.zeros(9, int), 1)["normalized_entropy"] == 1
    with pytest.raises(DataError, match="0 to 3"):
        balance(np.array([4]), 4)


def test_scores_leave_unknown_labels_out():
    clusters, labels = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, -1, -1])
    found = {metric: (value, n) for metric, value, n in cluster_scores(clusters, labels, 3)}
    assert found["used"] == (3, 5)
    assert found["purity"] == (1, 3)
    assert [metric for metric, *_ in cluster_scores(clusters, np.full(5, -1), 3)] == list(
        balance(clusters, 3)
    )
    with pytest.raises(DataError, match="2 labels"):
        agreement(clusters, labels[:2])
