"""Multi-label fine-tuning with a sigmoid per class, as for VOC07 classification (Krähenbühl 2016).

Departures: docs/methods/downstream.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models.augment import random_view
from models.configs.evaluations import MultiLabel
from models.method import Batch, Loss, Method, Progress
from models.network import Network
from models.optim import make_optimizer


class MultiLabelMethod(Method):
    """Binary cross-entropy for every class.

    Args:
        config: the method's parameters.
        network: a network with a new classifier.
        labels: index -> (C,) float32: 1 present, 0 absent, -1 only difficult objects, which don't count.
    """

    def __init__(self, config: MultiLabel, network: Network, labels: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.config, self.network, self._labels = config, network, labels

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Make views (B, 3, S, S) and labels (B, C)."""
        x = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        batch.views = x, torch.stack([self._labels[index] for index in batch.index.tolist()]).to(x.device)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Mean over the labels that count."""
        x, labels = batch.views
        each = F.binary_cross_entropy_with_logits(
            self.network(x).float(), labels.clamp_min(0), reduction="none"
        )
        known = labels >= 0
        return Loss(each[known].mean())

    def collapsed(self, means: Mapping[str, float]) -> None:
        """No check, because labels determine the outputs."""

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the whole network."""
        return {"main": make_optimizer(self.config, list(self.network.parameters()))}
