"""Non-linear probes of frozen layers: an MLP on the last features, and the layers above a given one.

The second is the protocol of Noroozi et al. 2018 (after Noroozi and Favaro 2016, table 2): conv1 to convL are
frozen, and the layers above are initialised again and trained on all labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models.augment import random_view
from models.configs.evaluations import NonLinear
from models.heads import classifier
from models.method import Batch, Loss, Method, Progress
from models.network import Network, seeded
from models.optim import make_optimizer


class AboveLayer(Method):
    """A classifier that is frozen up to a given layer and trained from scratch above it.

    Args:
        config: the training's parameters.
        given: the trained network.
        layer: name of the last frozen layer of its backbone.
        classes: C.
        seed: for the weights above that layer.

    Raises:
        ConfigError: the backbone has no such layer.
    """

    def __init__(self, config: NonLinear, given: Network, layer: str, classes: int, seed: int) -> None:
        super().__init__()
        given.layer_dim(layer)
        self.config = config
        with seeded(seed, "above"):
            self.network = Network.from_description(
                given.description() | {"fc": False, "head": 0, "projection": None, "classes": None}
            )
        self.network = self.network.with_classifier(classes, keep_head=0, seed=seed)
        names = list(self.network.backbone.stages)
        self._frozen = names[: names.index(layer) + 1]
        for name in self._frozen:
            stage = self.network.backbone.stages[name]
            stage.load_state_dict(given.backbone.stages[name].state_dict())
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as usual, but keep the frozen layers in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.network.backbone.stages[name].eval()
        return self

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Make views (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the labels."""
        assert batch.target is not None
        return Loss(F.cross_entropy(self.network(batch.views).float(), batch.target))

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the layers above."""
        return {
            "main": make_optimizer(self.config, [p for p in self.network.parameters() if p.requires_grad])
        }


def middle_layer(network: Network) -> str:
    """Name of the backbone's middle layer, which is below the last if there are several layers."""
    names = list(network.backbone.stages)
    return names[max(0, (len(names) - 1) // 2)]


@torch.no_grad()
def _standardised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (x - mean) * scale


def mlp_probe(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    classes: int,
    *,
    hidden: int,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Train an MLP with one hidden layer, batch norm and ReLU on frozen features.

    Features are standardised by train's mean and deviation. The optimizer is AdamW with rate 1e-3, which
    falls to 0 along half a cosine.

    Args:
        train: (N, D) features.
        labels: (N,) int64.
        test: (M, D) features.
        classes: C.
        hidden: width of the hidden layer.
        epochs: passes over train.
        batch_size: rows per step, at least 2.
        seed: for weights and order.

    Returns:
        (M,) int64, the class of each test row.
    """
    mean, deviation = train.mean(dim=0), train.std(dim=0)
    scale = torch.where(deviation > 1e-5 * (1 + mean.abs()), 1 / deviation.clamp_min(1e-12), 0)
    x, t = _standardised(train, mean, scale), _standardised(test, mean, scale)
    with seeded(seed, "mlp"):
        body = nn.Sequential(
            nn.Linear(x.shape[1], hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            classifier(hidden, classes),
        )
        steps = max(1, epochs * (len(x) // batch_size))
        optimizer = torch.optim.AdamW(body.to(x.device).parameters(), lr=1e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for rows in _batches(len(x), batch_size, steps):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(body(x[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
            schedule.step()
    body.eval()
    with torch.no_grad():
        return torch.cat([body(rows).argmax(dim=1) for rows in torch.split(t, 8192)])


def _batches(n: int, size: int, steps: int) -> Iterator[Tensor]:
    """`steps` batches of row numbers. Within an epoch no row comes twice."""
    while steps > 0:
        order = torch.randperm(n)
        for rows in torch.split(order, size)[: max(1, n // size)]:
            if steps == 0:
                return
            steps -= 1
            yield rows
