"""SimReg (Navaneet et al., arXiv 2201.05131): a student predicts a frozen teacher's embedding, by regression.

t and g(s) are unit vectors: the teacher's embedding, and a head g on the student's features of the same view.
The loss is |g(s) - t|^2 = 2 - 2 g(s).t. The head is deeper than it has to be, which spares the features from
being a copy of the teacher's, and is dropped afterwards. Departures: docs/methods/simreg.md.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from models import collapse
from models.configs.simreg import SimReg
from models.heads import prediction
from models.method import Batch, Loss, Progress
from models.methods.teacher_embedding import OneView, TeacherEmbedding
from models.network import Network, seeded
from models.optim import make_optimizer
from models.two_sizes import blended


class SimRegMethod(OneView):
    """The student, and the head that predicts the teacher's embedding.

    Args:
        config: the method's parameters.
        network: the student, without a classifier.
        teacher: the teacher, frozen and on the device.
        seed: seed of the head.
    """

    def __init__(self, config: SimReg, network: Network, teacher: Network, seed: int = 0) -> None:
        super().__init__()
        self.config: SimReg = config
        self.teacher = TeacherEmbedding(teacher)
        self.network = network
        with seeded(seed, "prediction"):
            self.head = prediction(network.output_dim, self.teacher.dim, config.layers)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Mean of |g(s) - t|^2, 0 to 4. Terms: `cosine` of g(s) and t; collapse signs of g(s)."""
        seen = blended(batch.views, self.config.mixup)
        predicted = self.head(self.network(seen.student)).float()
        cosine = torch.cosine_similarity(predicted, self.teacher(seen.teacher)).mean()
        return Loss(2 - 2 * cosine, {"cosine": cosine.detach(), **collapse.signs(predicted)})

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for student and head."""
        return {"main": make_optimizer(self.config, self.parameters())}
