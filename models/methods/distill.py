"""Distillation (SimCLRv2, section 2.3): the student learns the teacher's probabilities for all images.

P_T(y | x; tau) and P_S(y | x; tau) are the teacher's and the student's softmax at temperature tau for an
image x. The loss is alpha times the mean of -sum_y P_T log P_S over all images (eq. 2), plus (1 - alpha)
times the mean cross-entropy over the labelled images of the batch (eq. 3). Eq. 3 has sums. We take means, so
that the effect of alpha does not depend on the number of labels.

Departure: the teacher's probabilities are computed once, on centre views, rather than on the student's random
views. This costs one pass over the images instead of one per epoch.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models.augment import random_view
from models.configs.distill import Distill
from models.ema import average
from models.losses.distill import labelled_cross_entropy, soft_cross_entropy
from models.method import Batch, Loss, Method, Progress
from models.mixup import partners
from models.network import Network
from models.optim import make_optimizer

USUAL = 0.1
"""Time constant of the average if `consistency` needs one and `ema` is not set, as a share of the steps."""


class DistillMethod(Method):
    """Soft cross-entropy with the teacher, plus cross-entropy on labels if alpha is below 1.

    Args:
        config: the method's parameters. With `ema`, the network has the average of its weights in the end.
            With `mixup`, images and their targets are blended. With `consistency`, the average of its weights
            also teaches it.
        network: the student, with a classifier.
        labels: (N,) int64, the class of each row of the manifest; -1 if it is unknown or must not be used.
            Only read if alpha is below 1.

    Raises:
        ValueError: alpha is below 1 and there are no labels.
    """

    labels: Tensor

    def __init__(self, config: Distill, network: Network, labels: Tensor | None = None) -> None:
        super().__init__()
        if config.alpha < 1 and labels is None:
            raise ValueError(
                f"alpha = {config.alpha} adds the labelled loss, which needs labels;"
                " pass labels, or set alpha to 1"
            )
        self.config = config
        self.network = network
        unlabelled = torch.empty(0, dtype=torch.int64)
        self.register_buffer("labels", unlabelled if labels is None else labels, persistent=False)
        self.average: Network | None = None
        if config.ema or config.consistency:
            self.average = copy.deepcopy(network).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep the averaged student in evaluation mode."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image, (B, 3, S, S), and with `consistency` a second, mild one."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        if self.config.consistency:
            mild = random_view(batch.images, draws, "mild", self.config.mild(), self.network.image_size)
            batch.views = batch.views, mild
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Eq. 3 with `batch.target` = P_T(y | x; 1), (B, C).

        Terms: `agreement`, how often teacher and student predict the same class; if alpha is below 1, the two
        losses `distillation` and `labelled`; with `consistency`, the share `sure` of the targets it moves.
        """
        assert batch.target is not None
        alpha, tau, views, target = self.config.alpha, self.config.temperature, batch.views, batch.target
        terms: dict[str, Tensor | float] = {}
        if self.config.consistency:
            views, mild = views
            target, terms["sure"] = self._agreed(target, mild, progress)
        blend = partners(len(views), self.config.mixup) if self.config.mixup else None
        if blend is not None:
            share, other = blend
            views = torch.lerp(views, views[other], share)
        logits = self.network(views)
        distillation = soft_cross_entropy(logits, target, tau)
        if blend is not None:  # the loss is linear in its target
            distillation = distillation.lerp(soft_cross_entropy(logits, target[other], tau), share)
        terms["agreement"] = (logits.argmax(dim=1) == target.argmax(dim=1)).float().mean()
        if alpha == 1:
            return Loss(distillation, terms)
        labelled = labelled_cross_entropy(logits, self.labels[batch.index])
        terms |= {"distillation": distillation.detach(), "labelled": labelled.detach()}
        return Loss(alpha * distillation + (1 - alpha) * labelled, terms)

    @torch.no_grad()
    def _agreed(self, target: Tensor, mild: Tensor, progress: Progress) -> tuple[Tensor, Tensor]:
        """Move the targets towards what the averaged student says of mild views, where it is sure.

        Its classes are taken for certain, as in FixMatch (Sohn et al. 2020, arXiv 2001.07685). Targets of
        few labels are rarely certain, and so is a student that learns them. So by default an image counts if
        its confidence is at least the batch's mean, as in FreeMatch (Wang et al. 2023, arXiv 2205.07246).

        Returns:
            The targets (B, C), and the share of the images whose target was moved.
        """
        assert self.average is not None
        confidence, best = torch.softmax(self.average(mild).float(), dim=1).max(dim=1)
        least = self.config.consistency_threshold
        sure = confidence >= (confidence.mean() if least is None else least)
        weight = self.config.consistency * min(1.0, 2 * progress.step / progress.steps) * sure
        own = F.one_hot(best, target.shape[1]).to(target.dtype)
        return torch.lerp(target, own, weight[:, None].to(target.dtype)), sure.float().mean()

    def after_update(self, progress: Progress) -> None:
        """Average the student's weights over the steps. With `ema`, the student ends with the average."""
        if self.average is None:
            return
        horizon = (self.config.ema or USUAL) * progress.steps
        average(self.average, self.network, progress.step, horizon)
        if self.config.ema and progress.step + 1 == progress.steps:
            self.network.load_state_dict(self.average.state_dict())

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the whole network; the classifier is its head group."""
        named = list(self.network.named_parameters())
        body = [p for name, p in named if not name.startswith("classifier.")]
        head = [p for name, p in named if name.startswith("classifier.")]
        return {"main": make_optimizer(self.config, body, head)}
