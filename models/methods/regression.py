"""Regression: a student predicts the features that the teacher has of an image, from a view of this image.

t = (h - c) / |h - c|: h are the features of the image that the stage embed has stored, and c is their mean
over all images. g(s) is a unit vector: a head g on the student's features of a random view. The loss is
|g(s) - t|^2 = 2 - 2 g(s).t, as in SimReg (Navaneet et al., arXiv 2201.05131), whose authors' code can also
read stored features. The teacher itself is not needed, so a step takes as long as one that learns labels,
however large the teacher is. Features that another program has made can be learned, too.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse
from models.augment import random_view
from models.configs.regression import Regression
from models.heads import prediction
from models.method import Batch, Loss, Method, Progress
from models.network import Network, seeded
from models.optim import make_optimizer


class RegressionMethod(Method):
    """The student, and the head that predicts the teacher's features.

    Args:
        config: the method's parameters.
        network: the student, without a classifier.
        dim: d, the length of the features.
        seed: seed of the head.
    """

    def __init__(self, config: Regression, network: Network, *, dim: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.network = network
        with seeded(seed, "prediction"):
            self.head: nn.Module = prediction(network.output_dim, dim, config.layers)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image, (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Mean of |g(s) - t|^2, 0 to 4; `batch.target` is t, (B, d). Logs `cosine` and collapse signs."""
        assert batch.target is not None
        predicted = self.head(self.network(batch.views)).float()
        cosine = torch.cosine_similarity(predicted, batch.target).mean()
        return Loss(2 - 2 * cosine, {"cosine": cosine.detach(), **collapse.signs(predicted)})

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for student and head."""
        return {"main": make_optimizer(self.config, self.parameters())}
