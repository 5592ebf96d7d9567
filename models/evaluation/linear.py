"""Linear probe: multinomial logistic regression on frozen features.

It minimises 1/N sum_i CE(x_i W + b, y_i) + strength / 2 ‖W‖² by full-batch L-BFGS, which has no learning rate
to tune. In scikit-learn's terms, C = 1 / (N strength). A part of the training images chooses the strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import ArtifactError, DataError
from models.evaluation.validation import held_back

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""L2 penalties. On standardised features, they range from underfitting to hardly any penalty."""
_LOGITS = 2**24
"""Number of logits in memory at once."""
_COARSE, _FINE = 3e-4, 5e-5
"""Largest gradient at which a fit ends: while choosing the strength, and for the reported probe.

It is measured in the coordinates of `_fit`, where the curvature is about 1. So a fit's objective is within
D C / 2 times the square of this.
"""


Basis = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe.

    Attributes:
        accuracy: share of the test images classified as labelled.
        strength: the L2 penalty it was fitted with.
        validation: strength -> accuracy on the validation part; empty if nothing was chosen.
        weight: (D, C) float32, for features as given (not standardised).
        bias: (C,) float32.
        predicted: (M,) int64, the class of each test image.
    """

    accuracy: float
    strength: float
    validation: dict[float, float]
    weight: Tensor
    bias: Tensor
    predicted: Tensor


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    validation: float = 0.2,
    seed: int = 0,
    iterations: int = 200,
) -> LinearProbe:
    """Choose the strength on a stratified part of train, refit on all of train, and score on test.

    Features are standardised by train's mean and deviation. Dimensions without any spread are set to zero.
    The probe runs on the tensors' device. The same CPU gives the same bits.

    Args:
        train: (N, D) features.
        train_labels: (N,) int64, 0 to C - 1.
        test: (M, D) features, used only at the end.
        test_labels: (M,) int64.
        classes: C.
        strengths: penalties to choose from. Of equally good ones the strongest is taken.
        validation: share of each class that is held back for choosing. If this is less than one image in
            every class, or if there is only one strength, nothing is chosen and the middle strength is used.
        seed: for the validation part.
        iterations: maximum number of L-BFGS iterations per fit.

    Raises:
        DataError: there are no images to train or test on, or a label is out of range.
        ArtifactError: a feature is not finite.
    """
    for name, x, y in (("train", train, train_labels), ("test", test, test_labels)):
        if not len(x):
            raise DataError(f"linear probe: no labelled {name} images")
        if int(y.min()) < 0 or int(y.max()) >= classes:
            raise DataError(
                f"linear probe: {name} labels go from {y.min()} to {y.max()}, but there are {classes} classes"
            )
        if not torch.isfinite(x).all():
            raise ArtifactError(f"linear probe: the {name} features hold values that are not finite")
    x = train.float()
    mean = x.mean(dim=0)
    x = x - mean
    deviation = x.square().mean(dim=0).sqrt()
    # A constant dimension's deviation is rounding noise, at most a few units in the last place of its mean.
    spread = deviation > 1e-5 * mean.abs()
    scale = torch.where(spread, 1 / deviation.where(spread, torch.ones_like(deviation)), 0)
    x *= scale

    ordered = sorted(strengths, reverse=True)
    strength = ordered[len(ordered) // 2]
    scores: dict[float, float] = {}
    held = torch.zeros_like(train_labels).bool()
    if len(ordered) > 1:
        aside = held_back(train_labels.cpu().numpy(), validation, seed, "linear")
        held = torch.from_numpy(aside).to(train_labels.device)
    start, basis = x.new_zeros(x.shape[1] + 1, classes), _basis(x)
    if held.any():
        fit_x, fit_y = x[~held], train_labels[~held]
        path: dict[float, Tensor] = {}
        for s in ordered:  # from strong to weak: each fit starts from the one before
            path[s] = _fit(
                fit_x, fit_y, classes, s, iterations, path[min(path)] if path else start, _COARSE, basis
            )
            scores[s] = _accuracy(x[held], train_labels[held], path[s][:-1], path[s][-1])
        strength = max(ordered, key=lambda s: scores[s])
        start = path[strength]
    solution = _fit(x, train_labels, classes, strength, iterations, start, _FINE, basis)
    weight = solution[:-1] * scale[:, None]
    bias = solution[-1] - mean @ weight
    predicted = _classes((test.float() - mean) * scale, solution[:-1], solution[-1])
    accuracy = float((predicted == test_labels).double().mean())
    return LinearProbe(accuracy, strength, scores, weight, bias, predicted)


def _fit(
    x: Tensor,
    y: Tensor,
    classes: int,
    strength: float,
    iterations: int,
    start: Tensor,
    tolerance: float,
    basis: Basis,
) -> Tensor:
    """Fit (D + 1, C): weights, and the bias as the last row.

    The gradient is computed explicitly, so that logits can be computed in chunks.

    L-BFGS runs on V with W = T V. T T' is about the inverse of the objective's curvature at equal
    probabilities, (C - 1) / C² X'X / N + strength I. With correlated features this takes a fraction of the
    iterations.
    """
    values, vectors = basis
    curvature = (classes - 1) / classes**2
    inner = (curvature * values + strength).sqrt()
    T = vectors / inner
    point = torch.cat([inner[:, None] * (vectors.T @ start[:-1]), start[-1:]]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=iterations,
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    chunk = max(1, _LOGITS // classes)

    @torch.no_grad()
    def objective() -> Tensor:
        weight, bias = T @ point[:-1], point[-1]
        gradient = strength * weight
        of_bias = torch.zeros_like(bias)
        loss = 0.5 * strength * weight.square().sum()
        for start in range(0, len(x), chunk):
            part, target = x[start : start + chunk], y[start : start + chunk]
            log_p = F.log_softmax(torch.addmm(bias, part, weight), dim=1)
            loss += F.nll_loss(log_p, target, reduction="sum") / len(x)
            error = log_p.exp_()
            error[torch.arange(len(part), device=x.device), target] -= 1
            gradient.addmm_(part.T, error, alpha=1 / len(x))
            of_bias += error.sum(dim=0) / len(x)
        point.grad = torch.cat([T.T @ gradient, of_bias[None]])
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]  # torch leaves LBFGS unannotated
    found = point.detach()
    return torch.cat([T @ found[:-1], found[-1:]])


def _basis(x: Tensor) -> Basis:
    """Eigenvalues and eigenvectors of X'X / N."""
    values, vectors = torch.linalg.eigh((x.T @ x / len(x)).double())
    return values.clamp_min(0).to(x.dtype), vectors.to(x.dtype)


def _accuracy(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> float:
    return float((_classes(x, weight, bias) == y).double().mean())


def _classes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x, weight).argmax(dim=1)
