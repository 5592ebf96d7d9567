"""SEED (Fang et al., arXiv 2101.04731): a small student learns the similarities that a frozen teacher sees.

t and s are the teacher's and the student's unit embeddings of the same view. D is a queue of the teacher's K
embeddings of past batches. Both t and s are compared with [t; D]: P_t = softmax([t.t; t.D] / tau_t) and P_s =
softmax([s.t; s.D] / tau_s). The loss is -sum P_t log P_s. Afterwards, t is enqueued. Not in the paper: images
can be blended for both networks, and the student can also learn which places of an image the teacher finds
alike. Departures: docs/methods/seed.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.errors import ConfigError
from models import collapse
from models.configs.seed import Seed
from models.losses.embeddings import cross_entropy, entropy, over_places, over_queue
from models.method import Batch, Loss, Progress
from models.methods.teacher_embedding import OneView, TeacherEmbedding, projected
from models.network import Network, seeded
from models.optim import make_optimizer
from models.queue import Queue
from models.two_sizes import Seen, blended, sides


class SeedMethod(OneView):
    """The student with a projection head as wide as the teacher's embeddings, and the queue.

    Args:
        config: the method's parameters.
        network: the student, without a classifier.
        teacher: the teacher, frozen and on the device.
        seed: seed of the projection head and of the queue's initial rows.

    Raises:
        ConfigError: `dense` has a weight, but a network's last map has one place only.
    """

    def __init__(self, config: Seed, network: Network, teacher: Network, seed: int = 0) -> None:
        super().__init__()
        self.config: Seed = config
        self.teacher = TeacherEmbedding(teacher)
        self.network = projected(network, self.teacher.dim, seed)
        with seeded(seed, "queue"):
            self.queue = Queue(config.queue, self.teacher.dim)
        self._t = torch.empty(0, self.teacher.dim)
        if config.dense:
            own, shown = (each.places(side) for each, side in sides(network, teacher, config))
            if min(own, shown) < 2:
                raise ConfigError(
                    f"transfer.dense: last maps of {own} x {own} (student) and {shown} x {shown} (teacher) "
                    "places can't be compared; set transfer.dense=0, or larger images"
                )

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Mean of -sum P_t log P_s, plus `dense` times the divergence over places.

        Terms: `entropy` of P_t, the smallest possible loss; `divergence` of the student from the teacher,
        which is the first loss minus `entropy`; `cosine` of s and t; `agreement`, how often student and
        teacher have the same nearest neighbour in [t; D]; collapse signs of s; `dense`, the divergence over
        places, if it has a weight.
        """
        seen, dense = blended(batch.views, self.config.mixup), None
        if self.config.dense:
            s, self._t, dense = self._both(seen)
        else:
            s, self._t = self.network(seen.student), self.teacher(seen.teacher)
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
        if dense is not None:
            total = total + self.config.dense * dense
            terms["dense"] = dense.detach()
        return Loss(total, terms)

    def _both(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """s, t, and the mean divergence of the similarities between places, on the teacher's grid."""
        s, own = self.network.features_and_map(seen.student, "last")
        t, shown = self.teacher.with_map(seen.teacher)
        own = F.interpolate(own.float(), shown.shape[2:], mode="bilinear", antialias=True)
        tau = self.config.dense_temperature
        log_t = over_places(shown, tau)
        return s, t, cross_entropy(over_places(own, tau), log_t) - entropy(log_t)

    def after_update(self, progress: Progress) -> None:
        """Enqueue the teacher's embeddings of this step."""
        self.queue.push(self._t)

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the student."""
        return {"main": make_optimizer(self.config, self.parameters())}
