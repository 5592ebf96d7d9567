"""Linear probes of every layer at once (Zhang et al. 2016; the protocol of Noroozi et al. 2018, table 4).

Each map is averaged down to about 9,000 values, standardised, and classified by softmax regression. All layers share the
forward passes; of each, several learning rates are trained side by side and the best is chosen on a validation part. Test
labels are looked at last.
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
"""Of a pooled map, at most: 6 x 6 x 256, as of AlexNet's conv5."""
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""On vectors of about unit length these reach from slow to unstable."""
VALIDATION = 0.1
"""Share of each class by which the rate is chosen."""
_BATCH = 256
_CALIBRATION = 2048
"""Images by which values are standardised."""
_MOMENTUM = 0.9

Index = NDArray[np.int64]
Read = Callable[[Index], NDArray[np.uint8]]


@dataclass(frozen=True)
class LayerScore:
    """A layer's probe.

    Attributes:
        layer: its name.
        values: length of the pooled vector.
        rate: the learning rate that was chosen.
        validation: accuracy by which it was.
        right: (M,) bool, which test images it is right about.
        at_rates: each rate -> test accuracy with it, in [0, 1]; for looking at, nothing is chosen by it.
    """

    layer: str
    values: int
    rate: float
    validation: float
    right: NDArray[np.bool_]
    at_rates: dict[float, float]


def pooled_map(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C s²), s the largest side with C s² <= 9216, at least 1 and at most the map's."""
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
    autocast: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
    interrupted: Callable[[], None] = lambda: None,
) -> list[LayerScore]:
    """Probe each map of the backbone.

    Args:
        network: left as it is, weights and statistics, to the bit.
        read: index -> (B, S, S, 3) uint8.
        train: index and label (N,) of labelled training images; a tenth of each class chooses the rates.
        test: index and label (M,).
        classes: C.
        size: side of what the network sees, px: the centre of each image.
        epochs: over the training part.
        rates: learning rates, tried side by side; half a cosine to 0.
        standardise: bring each value to mean 0 and equal variance, vectors to about unit length; else as they are.
        seed: of order and validation part.
        device: where to compute; None: where the network is.
        autocast: forward passes in bf16.
        report: steps done, and all.
        interrupted: called each step; may raise.

    Raises:
        DataError: fewer than two training images of a class, so that none can be set aside.
    """
    device = device or next(network.parameters()).device
    mode = network.training
    network.eval()
    index, labels = train
    held = held_back(labels.numpy(), VALIDATION, seed, "layers")
    if not held.any():
        raise DataError("probes of layers: no class has the ten training images it takes to set one aside")
    fit, chosen_by = np.flatnonzero(~held), np.flatnonzero(held)

    def maps(rows: Index) -> dict[str, Tensor]:
        x = centre(torch.from_numpy(read(rows)).to(device), size)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            return {name: pooled_map(y) for name, y in network.maps(x)}

    some = fit[draws.permutation(draws.key(seed, "layers", "calibration"), len(fit))[:_CALIBRATION]]
    blocks = [maps(index[np.sort(some)[s : s + _BATCH]]) for s in range(0, len(some), _BATCH)]
    probes = {
        name: _Probe(torch.cat([block[name] for block in blocks]), classes, rates, standardise) for name in blocks[0]
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
            yield {name: probes[name].classes(x) == y for name, x in maps(rows[start : start + _BATCH]).items()}

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
    """Softmax regressions of one layer, one a rate: momentum SGD, gradients written out."""

    def __init__(self, some: Tensor, classes: int, rates: Sequence[float], standardise: bool) -> None:
        self.values = some.shape[1]
        self.mean = some.mean(dim=0)
        self.standardise = standardise
        deviation = (some - self.mean).square().mean(dim=0).sqrt()
        known = deviation > 1e-5 * (1 + self.mean.abs())
        # Of unit length on average, so that rates mean the same for every layer.
        self.scale = torch.where(known, 1 / deviation.where(known, torch.ones_like(deviation)), 0) / self.values**0.5
        self.rates = some.new_tensor(rates).view(-1, 1, 1)
        R = len(rates)
        self.weight, self.bias = some.new_zeros(R, self.values, classes), some.new_zeros(R, 1, classes)
        self.velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def _placed(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale if self.standardise else x

    def step(self, x: Tensor, y: Tensor, factor: float) -> None:
        """One update of all on (B, values), (B,)."""
        x = self._placed(x)
        p = torch.baddbmm(self.bias, x.expand(len(self.rates), -1, -1), self.weight).softmax(dim=2)
        p[:, torch.arange(len(y), device=y.device), y] -= 1
        p /= len(y)
        gradients = (x.T.expand(len(self.rates), -1, -1) @ p, p.sum(dim=1, keepdim=True))
        for parameter, velocity, gradient in zip((self.weight, self.bias), self.velocity, gradients, strict=True):
            velocity.mul_(_MOMENTUM).add_(gradient)
            parameter.sub_(self.rates * factor * velocity)

    def classes(self, x: Tensor) -> Tensor:
        """(B, values) -> (R, B) int64."""
        x = self._placed(x)
        return torch.baddbmm(self.bias, x.expand(len(self.rates), -1, -1), self.weight).argmax(dim=2)
