"""SEED (Fang et al., arXiv 2101.04731): a small student takes over the similarities that a frozen teacher sees.

t and s are the teacher's and the student's unit embeddings of the same view, D a queue of K embeddings of the teacher of
past batches. Both are compared with [t; D]: P_t = softmax([t.t; t.D] / tau_t), P_s = softmax([s.t; s.D] / tau_s), and
the loss is -sum P_t log P_s; then t is enqueued. Departures: docs/methods/seed.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse
from models.augment import random_view
from models.configs.seed import Seed
from models.losses.embeddings import cross_entropy, entropy, over_queue
from models.method import Batch, Loss, Method, Progress, Sweep
from models.methods.teacher_embedding import TeacherEmbedding, projected
from models.network import Network, seeded
from models.optim import make_optimizer
from models.queue import Queue


class SeedMethod(Method):
    """Student with a projection head of the teacher's width, and the queue.

    Args:
        config: the method's parameters.
        network: the student, without classifier.
        teacher: frozen, on the device; only asked.
        seed: of the projection head and of the queue's first rows.
    """

    def __init__(self, config: Seed, network: Network, teacher: Network, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.teacher = TeacherEmbedding(teacher)
        self.network = projected(network, self.teacher.dim, seed)
        with seeded(seed, "queue"):
            self.queue = Queue(config.queue, self.teacher.dim)
        self._t = torch.empty(0, self.teacher.dim)

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Before the first step: the mean of the teacher's features."""
        if progress.step == 0:
            self.teacher.measure(sweep)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Views (B, 3, S, S), seen by both."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Mean of -sum P_t log P_s.

        Terms: `divergence` of student from teacher, the loss less `entropy`, the least it can be; `cosine` of s and t;
        `agreement`, how often the student is nearest to what the teacher is nearest to; collapse signs of s.
        """
        s, self._t = self.network(batch.views), self.teacher(batch.views)
        queue = self.queue.contents()
        log_t = over_queue(self._t, self._t, queue, self.config.teacher_temperature)
        log_s = over_queue(s, self._t, queue, self.config.temperature)
        total, least = cross_entropy(log_s, log_t), entropy(log_t)
        agreement = (log_s.argmax(dim=1) == log_t.argmax(dim=1)).float().mean()
        terms: dict[str, Tensor | float] = {
            "divergence": total.detach() - least,
            "entropy": least,
            "cosine": torch.cosine_similarity(s.detach().float(), self._t).mean(),
            "agreement": agreement,
            **collapse.signs(s),
        }
        return Loss(total, terms)

    def after_update(self, progress: Progress) -> None:
        """The teacher's embeddings of this step enter the queue."""
        self.queue.push(self._t)

    def optimizers(self) -> dict[str, Optimizer]:
        """One for the student."""
        return {"main": make_optimizer(self.config, self.parameters())}
