"""Distillation (SimCLRv2, section 2.3): the student learns the teacher's probabilities for all images.

P_T(y | x; tau) and P_S(y | x; tau) are the teacher's and the student's softmax at temperature tau for an
image x. The loss is alpha times the mean of -sum_y P_T log P_S over all images (eq. 2), plus (1 - alpha)
times the mean cross-entropy over the labelled images of the batch (eq. 3). Eq. 3 has sums. We take means, so
that the effect of alpha does not depend on the number of labels.

Departure: the teacher's probabilities are computed once, on centre views, rather than on the student's random
views. This costs one pass over the images instead of one per epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from data.draws import Draws
from models.augment import random_view
from models.configs.distill import Distill
from models.losses.distill import labelled_cross_entropy, soft_cross_entropy
from models.method import Batch, Loss, Method, Progress
from models.mixup import partners
from models.network import Network
from models.optim import make_optimizer


class DistillMethod(Method):
    """Soft cross-entropy with the teacher, plus cross-entropy on labels if alpha is below 1.

    Args:
        config: the method's parameters.
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

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image: (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Eq. 3 with `batch.target` = P_T(y | x; 1), (B, C).

        With `mixup`, images are blended, and their probabilities alike.

        Terms: `agreement`, how often teacher and student predict the same class; if alpha is below 1, the two
        losses `distillation` and `labelled`.
        """
        assert batch.target is not None
        alpha, views, target = self.config.alpha, batch.views, batch.target
        if self.config.mixup:
            share, other = partners(len(views), self.config.mixup)
            views, target = torch.lerp(views, views[other], share), torch.lerp(target, target[other], share)
        logits = self.network(views)
        distillation = soft_cross_entropy(logits, target, self.config.temperature)
        agreement = (logits.argmax(dim=1) == target.argmax(dim=1)).float().mean()
        if alpha == 1:
            return Loss(distillation, {"agreement": agreement})
        labelled = labelled_cross_entropy(logits, self.labels[batch.index])
        terms = {"agreement": agreement, "distillation": distillation.detach(), "labelled": labelled.detach()}
        return Loss(alpha * distillation + (1 - alpha) * labelled, {**terms})

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the whole network; the classifier is its head group."""
        named = list(self.network.named_parameters())
        body = [p for name, p in named if not name.startswith("classifier.")]
        head = [p for name, p in named if name.startswith("classifier.")]
        return {"main": make_optimizer(self.config, body, head)}
