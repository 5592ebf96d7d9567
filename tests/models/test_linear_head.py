"""The linear classifier on frozen features: scikit-learn's own, for features as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from data.errors import ArtifactError
from models.evaluation.linear_head import fit_head, fit_soft_head, set_head
from models.network import build_network


def _features(n: int, classes: int, seed: int = 0, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    label = np.arange(n) % classes
    centre = 3 * draw.normal(size=(classes, 12))
    x = centre[label] + spread * draw.normal(size=(n, 12))
    return (x * np.logspace(-2, 2, 12) + 5).astype(np.float32), label


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_is_scikit_learns_on_standardised_features(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, label = _features(12 * classes, classes)
    head = fit_head(x, label, classes, seed=0)
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    theirs = LogisticRegression(C=head.penalty, max_iter=5000, tol=1e-8).fit(scaled, label)
    z = x @ head.weight.T + head.bias
    p = np.exp(z - z.max(1, keepdims=True))
    assert p / p.sum(1, keepdims=True) == pytest.approx(theirs.predict_proba(scaled), abs=2e-3)


def test_more_features_than_labels_give_scikit_learns_classifier() -> None:
    """It is fitted in the space of the labelled images, and is the same as in the space of all features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    draw = np.random.default_rng(2)
    x, label = draw.normal(size=(30, 200)) * np.logspace(-1, 1, 200), np.arange(30) % 3
    x[:, 0] += 30 * (label == 1)
    head = fit_head(x, label, 3, seed=0)
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=head.penalty, max_iter=5000, tol=1e-8).fit(scaler.transform(x), label)
    new = draw.normal(size=(50, 200)) * np.logspace(-1, 1, 200)
    p = softmax(new @ head.weight.T + head.bias, axis=1)
    assert p == pytest.approx(theirs.predict_proba(scaler.transform(new)), abs=2e-3)


def test_balanced_classes_are_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import StandardScaler

    x, label = _features(60, 3, spread=6.0)
    kept = np.concatenate([np.flatnonzero(label == c)[:n] for c, n in ((0, 20), (1, 5), (2, 4))])
    x, label = x[kept], label[kept]
    head = fit_head(x, label, 3, seed=0, balanced=True)
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    theirs = LogisticRegression(C=head.penalty, max_iter=5000, tol=1e-8, class_weight="balanced")
    p = softmax(x @ head.weight.T + head.bias, axis=1)
    assert p == pytest.approx(theirs.fit(scaled, label).predict_proba(scaled), abs=2e-3)
    assert head.out_of_fold.accuracy == pytest.approx(
        balanced_accuracy_score(head.out_of_fold.label, head.out_of_fold.logits.argmax(1))
    )


def test_out_of_fold_predictions_know_nothing_of_noise() -> None:
    """On labels that features say nothing of, fitted predictions are good, and those out of fold are not."""
    draw = np.random.default_rng(5)
    x, label = draw.normal(size=(200, 300)), draw.integers(0, 2, 200)
    head = fit_head(x, label, 2, seed=0)
    assert ((x @ head.weight.T + head.bias).argmax(1) == label).mean() > 0.9
    assert abs(head.out_of_fold.accuracy - 0.5) < 0.15
    assert head.out_of_fold.probabilities(head.out_of_fold.temperature).max() < 0.7


@pytest.mark.parametrize("each", [2, 5])
def test_noise_is_judged_like_chance_with_few_labels(each: int) -> None:
    """Not worse: a fold has taken a label from just the classes of its own images."""
    classes, right, likely = 10, list[float](), list[float]()
    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=(classes * each, 40))
        held = fit_head(x, np.repeat(np.arange(classes), each), classes, seed=seed).out_of_fold
        right.append(held.accuracy)
        likely.append(float(held.probabilities(1.0)[np.arange(len(held.label)), held.label].mean()))
    assert 0.6 / classes < np.mean(right) < 1.4 / classes
    assert 0.85 / classes < np.mean(likely) < 1.15 / classes


def test_a_class_with_one_label_is_learned_but_not_judged() -> None:
    x, label = _features(30, 3)
    x, label = x[:21], label[:21]
    x, label = np.concatenate([x, x[:1] + 100]), np.append(label, 3)
    head = fit_head(x, label, 5, seed=0)
    assert 21 not in head.position
    assert (x @ head.weight.T + head.bias).argmax(1)[21] == 3
    assert not ((x @ head.weight.T + head.bias).argmax(1) == 4).any()


def test_one_label_per_class_uses_the_usual_penalty() -> None:
    x, label = _features(4, 4)
    head = fit_head(x, label, 4, seed=0)
    assert head.penalty == 0.03
    assert len(head.position) == 0
    assert head.out_of_fold.temperature == 1.0


def test_a_network_gives_the_same_answers() -> None:
    network = build_network("smallconv", 16, seed=0, width=0.25, classes=3).eval()
    images = torch.rand(9, 3, 16, 16)
    with torch.no_grad():
        x = network.features(images, network.last_layer).numpy()
        head = fit_head(x, np.arange(9) % 3, 3, seed=0)
        set_head(network, head)
        assert network(images).numpy() == pytest.approx(x @ head.weight.T + head.bias, abs=1e-4)


def test_values_that_are_not_finite_are_refused() -> None:
    x, label = _features(6, 2)
    x[0, 0] = np.nan
    with pytest.raises(ArtifactError, match="not finite"):
        fit_head(x, label, 2, seed=0)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_head_for_probabilities_is_scikit_learns(classes: int) -> None:
    """An image with probabilities counts like one image of each class with these weights."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, label = _features(40 * classes, classes, spread=6.0)
    n = len(x)
    target = np.full((n, classes), 0.2 / (classes - 1))
    target[np.arange(n), label] = 0.8
    weight, bias = fit_soft_head(x, target, penalty=1e-2)
    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    theirs = LogisticRegression(C=1 / (1e-2 * n), max_iter=5000, tol=1e-8).fit(
        np.repeat(scaled, classes, axis=0), np.tile(np.arange(classes), n), sample_weight=target.ravel()
    )
    found = softmax(x @ weight.T + bias, axis=1)
    # For two classes scikit-learn penalises the difference of the weights, which is twice as strong here.
    atol = 2e-2 if classes == 2 else 2e-3
    assert found == pytest.approx(theirs.predict_proba(scaled), abs=atol)
    with pytest.raises(ArtifactError, match="not finite"):
        fit_soft_head(np.full((2, 3), np.nan), np.ones((2, 1)))


def test_a_fit_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_info, threadpool_limits

    seen: list[int] = []
    fit = LogisticRegression.fit

    def watched(model: LogisticRegression, *given: Any) -> LogisticRegression:
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        fitted: LogisticRegression = fit(model, *given)
        return fitted

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    random = np.random.default_rng(0)
    with threadpool_limits(2, user_api="blas"):
        fit_head(random.normal(size=(12, 3)), np.arange(12) % 3, 3, seed=0)
    assert set(seen) == {1}
