"""Fine-tuning on the few labels: student, teacher, and the from-scratch baseline.

`Network.with_classifier` decides which layers stay, as in the papers. A SimCLR teacher is fine-tuned from the
first layer of its projection head (SimCLRv2, section 2.2). Any other network keeps its convolutional layers
and gets new fully connected layers if its architecture has any (Noroozi et al. 2018, section 4).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models.augment import random_view
from models.configs.finetune import Finetune
from models.method import Batch, Loss, Method, Progress
from models.mixup import partners
from models.network import Network
from models.optim import make_optimizer


class FinetuneMethod(Method):
    """Cross-entropy on classes.

    Args:
        config: the method's parameters. `freeze` trains only the new layers, and freezes the batch statistics
            of all other layers too. With `mixup`, images and their classes are blended.
        network: the network, with a new classifier and, unless `keep_fc` is set, new fully connected layers.
    """

    def __init__(self, config: Finetune, network: Network) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self._new = ("classifier.",) if config.keep_fc else ("classifier.", "fc.")
        if config.freeze:
            for parameter in self._split(new=False):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep frozen layers in evaluation mode, which freezes their batch statistics."""
        super().train(mode)
        if self.config.freeze:
            for name, module in self.network.named_children():
                module.train(mode and f"{name}." in self._new)
        return self

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image: (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the class, `batch.target` of shape (B,) and dtype int64. Logs `accuracy`.

        With `mixup`, each class counts as much as its image is visible. The accuracy is that of the class
        that is more visible.
        """
        assert batch.target is not None
        views, target = batch.views, batch.target
        share, other = 0.0, None
        if self.config.mixup:
            share, other = partners(len(views), self.config.mixup)
            views = torch.lerp(views, views[other], share)
        logits = self.network(views).float()
        loss = F.cross_entropy(logits, target)
        if other is not None:
            loss = loss.lerp(F.cross_entropy(logits, target[other]), share)
        return Loss(loss, {"accuracy": (logits.argmax(dim=1) == target).float().mean()})

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer; the new layers are a group with its own learning rate."""
        config = self.config
        return {
            "main": make_optimizer(
                config, self._split(new=False), self._split(new=True), config.head_learning_rate
            )
        }

    def _split(self, new: bool) -> list[nn.Parameter]:
        return [p for name, p in self.network.named_parameters() if name.startswith(self._new) == new]
