"""A linear classifier on frozen features, from few labels: logistic regression with cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from data.errors import ArtifactError
from models.evaluation.contenders import OutOfFold, folds_of, like_all

if TYPE_CHECKING:
    from models.network import Network

PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Values of scikit-learn's C to choose from, on standardised features. C is the inverse of the penalty's
strength. Few labels need a small C."""
USUAL = 0.03
"""C if no label is in a fold, because then the values can't be compared."""
FOLDS, FEWER, MANY = 10, 3, 500
"""Number of folds, and their number with more than `MANY` labels, where fewer folds are as certain."""
SOFT_STEPS = 100
"""Iterations of the fit to probabilities, at most."""


@dataclass(frozen=True)
class LinearHead:
    """A fitted classifier.

    Attributes:
        weight: (C, D) float64, for features that are not standardised.
        bias: (C,) float64.
        penalty: the chosen C of scikit-learn.
        position: (h,) int64, the rows that are in a fold.
        out_of_fold: predictions for these rows.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    penalty: float
    position: NDArray[np.int64]
    out_of_fold: OutOfFold


def fit_head(
    x: NDArray[np.floating],
    label: NDArray[np.integer],
    classes: int,
    *,
    seed: int,
    balanced: bool = False,
) -> LinearHead:
    """Choose the penalty by cross-validation, then fit to all labels.

    The out-of-fold predictions of each penalty get the temperature that suits them. The penalty under which
    the labels are then likeliest is chosen. With few labels, the likelihood tells penalties apart that have
    the same accuracy.

    Args:
        x: (n, D) features of the labelled images.
        label: (n,) classes of these images.
        classes: C, at least 2.
        seed: seed of the folds.
        balanced: whether each class counts the same, however many labels it has. If not, each label does.

    Raises:
        ArtifactError: a value of the features is not finite.
    """
    scaling = _scaling(x)
    z = scaling.apply(x)
    axes = _axes(z)
    z = z @ axes.T
    fold = folds_of(label, FOLDS if len(label) <= MANY else FEWER, seed)
    position = np.flatnonzero(fold >= 0)
    found: dict[float, tuple[float, OutOfFold]] = {}
    for penalty in PENALTIES if len(position) else (USUAL,):
        logits = np.zeros((len(label), classes))
        for number in np.unique(fold[position]):
            kept = fold != number
            weight, bias = _fit(z[kept], label[kept], classes, penalty, balanced)
            logits[~kept] = z[~kept] @ weight.T + bias
            if not balanced:
                logits[~kept] = like_all(logits[~kept], label[kept], label)
        held = OutOfFold(np.asarray(label, np.int64)[position], logits[position], balanced)
        found[penalty] = (held.loss, held)
    penalty = min(found, key=lambda c: (found[c][0], c))
    weight, bias = _fit(z, label, classes, penalty, balanced)
    weight, bias = scaling.undo(weight @ axes, bias)
    return LinearHead(weight, bias, penalty, position, found[penalty][1])


def fit_soft_head(
    x: NDArray[np.floating], target: NDArray[np.floating], penalty: float = 1e-3
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a linear classifier to probabilities: the least mean cross-entropy plus `penalty` / 2 |w|².

    The features are standardised, and |w| is that of their weights.

    Args:
        x: (N, D) features.
        target: (N, C) probabilities; each row sums to 1.
        penalty: at least 0.

    Returns:
        Weight (C, D) and bias (C,), for features that are not standardised.

    Raises:
        ArtifactError: a value of the features is not finite.
    """
    import torch

    scaling = _scaling(x)
    z, p = (torch.from_numpy(np.asarray(a, np.float32)) for a in (scaling.apply(x), target))
    weight = torch.zeros(p.shape[1], z.shape[1], requires_grad=True)
    bias = p.mean(dim=0).clamp_min(1e-6).log().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=SOFT_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = -(p * torch.log_softmax(z @ weight.T + bias, dim=1)).sum(dim=1).mean()
        total = total + penalty / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch has no type for it
    fitted = (each.detach().numpy().astype(np.float64) for each in (weight, bias))
    return scaling.undo(*fitted)


def set_head(network: Network, head: LinearHead) -> None:
    """Copy a fitted classifier into a network that has a classifier of this shape."""
    import torch

    assert network.classifier is not None
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(head.weight))
        network.classifier.bias.copy_(torch.from_numpy(head.bias))


def logistic_regression(
    x: NDArray[np.floating], label: NDArray[np.integer], penalty: float, balanced: bool = False
) -> LogisticRegression:
    """Fit scikit-learn's logistic regression.

    One thread computes. A fit is a thousand small products, and threads of NumPy's BLAS spend their time
    waiting for each other (`benchmarks/speed/linear_head.py`).

    Args:
        x: (n, D) standardised features.
        label: (n,) classes, at least two different ones.
        penalty: scikit-learn's C.
        balanced: see `fit_head`.
    """
    model = LogisticRegression(C=penalty, max_iter=1000, class_weight="balanced" if balanced else None)
    with threadpool_limits(1, user_api="blas"):
        fitted: LogisticRegression = model.fit(x, label)
    return fitted


class _Scaling(NamedTuple):
    """How features are standardised: (x - mean) * scale, both (D,) float64. A constant feature becomes 0."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def apply(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features (n, D) -> standardised ones (n, D)."""
        z: NDArray[np.float64] = (x - self.mean) * self.scale
        return z

    def undo(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight (C, D) and bias (C,) for standardised features -> the same for features as they come."""
        weight = weight * self.scale
        return weight, bias - weight @ self.mean


def _scaling(x: NDArray[np.floating]) -> _Scaling:
    if not np.isfinite(x).all():
        raise ArtifactError("linear head: the features hold values that are not finite")
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6 * np.abs(mean))
    return _Scaling(mean, scale)


def _axes(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal axes (r, D) of the space that holds all rows of z (n, D), or the identity if n >= D.

    With a penalty on |w|² the solution lies in this space, and no rotation changes it. So a fit to n features
    gives the same classifier as a fit to D, in less time.
    """
    n, d = z.shape
    if n >= d:
        return np.eye(d)
    _, singular, axes = np.linalg.svd(z, full_matrices=False)
    found: NDArray[np.float64] = axes[singular > 1e-10 * singular[0]] if singular[0] > 0 else axes[:1]
    return found


def _fit(
    x: NDArray[np.float64], label: NDArray[np.integer], classes: int, penalty: float, balanced: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (C, D) and bias (C,). A class without a label gets weights of 0, and a bias below all others."""
    known = np.unique(label)
    weight, bias = np.zeros((classes, x.shape[1])), np.zeros(classes)
    if len(known) == 1:
        bias[known] = 1.0
        return weight, bias
    fitted = logistic_regression(x, label, penalty, balanced)
    if len(known) == 2:  # for two classes, scikit-learn gives one row, the difference of the two
        weight[known], bias[known] = (
            np.stack([-fitted.coef_[0], fitted.coef_[0]]) / 2,
            np.array([-fitted.intercept_[0], fitted.intercept_[0]]) / 2,
        )
    else:
        weight[known], bias[known] = fitted.coef_, fitted.intercept_
    absent = np.setdiff1d(np.arange(classes), known)
    bias[absent] = bias[known].min() - 10
    return weight, bias
