"""Linear probes of all layers at once (Zhang et al. 2016; the protocol of Noroozi et al. 2018, table 4).

Each map is averaged down to about 9,000 values, standardised, and classified by softmax regression. All
layers share the forward passes. For each layer, several learning rates are trained side by side, and a
validation part chooses the best one. Test labels are used only at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, isqrt, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data import draws
from data.errors import DataError
from models.augment import centre
from models.evaluation.validation import held_back
from models.network import Network

VALUES = 9216
"""Maximum number of values in a pooled map: 6 x 6 x 256, as in AlexNet's conv5."""
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Learning rates. For vectors of about unit length they range from slow to unstable."""
VALIDATION = 0.1
"""Share of each class that chooses the rate."""
_BATCH = 256
_CALIBRATION = 2048
"""Number of images from which means and deviations for standardising are computed."""
_MOMENTUM = 0.9

Index = NDArray[np.int64]
Read = Callable[[Index], NDArray[np.uint8]]


@dataclass(frozen=True)
class LayerScore:
    """The result of a layer's probe.

    Attributes:
        layer: name of the layer.
        values: length of the pooled vector.
        rate: the chosen learning rate.
        validation: accuracy of that rate on the validation part.
        right: (M,) bool, which test images are classified correctly.
        at_rates: rate -> test accuracy in [0, 1]. For information only; it chooses nothing.
    """

    layer: str
    values: int
    rate: float
    validation: float
    right: NDArray[np.bool_]
    at_rates: dict[float, float]


def pooled_map(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C s²), with the largest side s with C s² <= 9216.

    s is at least 1 and at most the side of the map.
    """
    side = max(1, min(isqrt(VALUES // x.shape[1]), *x.shape[2:]))
    return F.adaptive_avg_pool2d(x.float(), side).flatten(1)


@torch.no_grad()
def layer_probes(
    network: Network,
    read: Read,
    train: tuple[Index, Tensor],
    test: tuple[Index, Tensor],
    classes: int,
    *,
    size: int,
    epochs: int = 10,
    rates: Sequence[float] = RATES,
    standardise: bool = True,
    seed: int = 0,
    device: torch.device | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    interrupted: Callable[[], None] = lambda: None,
) -> list[LayerScore]:
    """Probe each map of the backbone, in float32, like all features (`models.device.OF_FEATURES`).

    Args:
        network: its weights and statistics are not changed.
        read: index -> (B, S, S, 3) uint8.
        train: index and label (N,) of labelled training images. A tenth of each class chooses the rates.
        test: index and label (M,).
        classes: C.
        size: side of the central square that the network sees of each image, px.
        epochs: over the training part.
        rates: learning rates, tried side by side. Each falls to 0 along half a cosine.
        standardise: whether to scale each value to mean 0 and equal variance, and vectors to about unit
            length.
        seed: for the order and the validation part.
        device: where to compute; None: where the network is.
        report: called with the number of steps done and the number of all steps.
        interrupted: called in each step. It may raise.

    Raises:
        DataError: no class has ten training images, so none can be set aside.
    """
    device = device or next(network.parameters()).device
    mode = network.training
    network.eval()
    index, labels = train
    held = held_back(labels.numpy(), VALIDATION, seed, "layers")
    if not held.any():
        raise DataError(
            "probes of layers: no class has ten training images, "
            "which it takes to set one aside for choosing the rate"
        )
    fit, chosen_by = np.flatnonzero(~held), np.flatnonzero(held)

    def maps(rows: Index) -> dict[str, Tensor]:
        x = centre(torch.from_numpy(read(rows)).to(device), size)
        return {name: pooled_map(y) for name, y in network.maps(x)}

    some = fit[draws.permutation(draws.key(seed, "layers", "calibration"), len(fit))[:_CALIBRATION]]
    blocks = [maps(index[np.sort(some)[s : s + _BATCH]]) for s in range(0, len(some), _BATCH)]
    probes = {
        name: _Probe(torch.cat([block[name] for block in blocks]), classes, rates, standardise)
        for name in blocks[0]
    }
    del blocks
    batch, per_epoch = min(_BATCH, len(fit)), max(1, len(fit) // _BATCH)
    steps = epochs * per_epoch
    for step in range(steps):
        interrupted()
        epoch, at = divmod(step, per_epoch)
        order = draws.permutation(draws.key(seed, "layers", epoch), len(fit))
        rows = np.sort(fit[order[at * batch : (at + 1) * batch]])
        y, factor = labels[rows].to(device), 0.5 * (1 + cos(pi * step / steps))
        for name, x in maps(index[rows]).items():
            probes[name].step(x, y, factor)
        report(step + 1, steps)

    def right(rows: Index, truth: Tensor) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(rows), _BATCH):
            interrupted()
            y = truth[start : start + _BATCH].to(device)
            yield {
                name: probes[name].classes(x) == y for name, x in maps(rows[start : start + _BATCH]).items()
            }

    judged = list(right(index[chosen_by], labels[chosen_by]))
    tested = list(right(test[0], test[1]))
    found = []
    for name, probe in probes.items():
        accuracy = torch.cat([block[name] for block in judged], dim=1).double().mean(dim=1)
        best = int(accuracy.argmax())
        hits = torch.cat([block[name] for block in tested], dim=1).cpu().numpy()
        at_rates = dict(zip(rates, hits.mean(axis=1).tolist(), strict=True))
        found.append(LayerScore(name, probe.values, rates[best], float(accuracy[best]), hits[best], at_rates))
    network.train(mode)
    return found


class _Probe:
    """Softmax regressions of one layer, one per rate: momentum SGD with explicit gradients."""

    def __init__(self, some: Tensor, classes: int, rates: Sequence[float], standardise: bool) -> None:
        self.values = some.shape[1]
        self.mean = some.mean(dim=0)
        self.standardise = standardise
        deviation = (some - self.mean).square().mean(dim=0).sqrt()
        known = deviation > 1e-5 * (1 + self.mean.abs())
        # Vectors have unit length on average, so that rates mean the same for every layer.
        self.scale = (
            torch.where(known, 1 / deviation.where(known, torch.ones_like(deviation)), 0) / self.values**0.5
        )
        self.rates = some.new_tensor(rates).view(-1, 1, 1)
        R = len(rates)
        self.weight, self.bias = some.new_zeros(R, self.values, classes), some.new_zeros(R, 1, classes)
        self.velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def _placed(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale if self.standardise else x

    def step(self, x: Tensor, y: Tensor, factor: float) -> None:
        """Update all regressions on (B, values) inputs and (B,) labels."""
        x = self._placed(x)
        p = torch.baddbmm(self.bias, x.expand(len(self.rates), -1, -1), self.weight).softmax(dim=2)
        p[:, torch.arange(len(y), device=y.device), y] -= 1
        p /= len(y)
        gradients = (x.T.expand(len(self.rates), -1, -1) @ p, p.sum(dim=1, keepdim=True))
        for parameter, velocity, gradient in zip(
            (self.weight, self.bias), self.velocity, gradients, strict=True
        ):
            velocity.mul_(_MOMENTUM).add_(gradient)
            parameter.sub_(self.rates * factor * velocity)

    def classes(self, x: Tensor) -> Tensor:
        """(B, values) -> (R, B) int64."""
        x = self._placed(x)
        return torch.baddbmm(self.bias, x.expand(len(self.rates), -1, -1), self.weight).argmax(dim=2)
