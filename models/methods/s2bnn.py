"""S2-BNN (Shen et al., arXiv 2102.08946): a 1-bit student learns from a real-valued teacher without labels.

x_1 and x_2 are two views of B images. s = student(x_1) and t = teacher(x_1) are unit embeddings with d
coordinates. P_s = softmax(s / tau_d) and P_t = softmax(t / tau_d) are taken over the coordinates, with
tau_d = tau sqrt(128 / d). The distillation loss is -sum P_t log P_s. The contrastive loss is MoCo's InfoNCE
of s with the key of x_2. The method minimises one of them or their sum.

Binarisation takes two trainings; the second starts from the weights of the first. Phase `activations` has
binary activations and real-valued weights. In phase `weights`, both are binary. Departures:
docs/methods/s2bnn.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from data.errors import ConfigError
from models import collapse
from models.augment import random_view, two_views
from models.backbones.reactnet import binary_convolutions
from models.configs.s2bnn import S2BNN
from models.configs.shared import MomentumTeacher
from models.ema import advance, teach, teacher_of
from models.losses.contrastive import against_queue, info_nce
from models.losses.embeddings import at_width, cross_entropy, entropy, over_coordinates
from models.method import Batch, Loss, Method, Progress, Sweep
from models.methods.teacher_embedding import TeacherEmbedding, projected
from models.network import Network, seeded
from models.optim import make_optimizer
from models.queue import Queue
from models.two_sizes import for_both


class Contrast(nn.Module):
    """The key encoder and the queue of MoCo v2, for a query encoder that another module owns.

    The batch norm of the key encoder is split into groups, as on the authors' eight GPUs.

    Args:
        encoder: the query encoder, with a projection head.
        config: its momentum, temperature and queue are used.
        seed: seed of the queue's initial rows.
    """

    def __init__(self, encoder: Network, config: S2BNN, seed: int) -> None:
        super().__init__()
        self._tau = config.temperature
        self._following = MomentumTeacher(
            momentum=config.momentum, momentum_final=config.momentum, teacher_norm="split"
        )
        self.key = teacher_of(encoder, self._following)
        dim = encoder.projection_dim
        assert dim is not None
        with seeded(seed, "queue"):
            self.queue = Queue(config.queue, dim)
        self._k = torch.empty(0, dim)

    def loss(self, q: Tensor, x_k: Tensor, progress: Progress) -> Tensor:
        """InfoNCE of the queries q (B, d) with the keys of the other views x_k (B, 3, S, S) -> scalar."""
        self._k = F.normalize(teach(self.key, x_k, progress).float(), dim=1)
        return info_nce(against_queue(q, self._k, self.queue.contents(), self._tau))

    def after_update(self, encoder: Network, progress: Progress) -> None:
        """Move the key encoder towards the query encoder, then enqueue this step's keys."""
        advance(self.key, encoder, self._following, progress)
        self.queue.push(self._k)


class S2BNNMethod(Method):
    """The student with a projection head, the teacher, and keys for each network that learns by contrast.

    Args:
        config: the method's parameters.
        network: the student, without a classifier. In the second phase, the network that the first one
            published.
        teacher: the teacher, on the device. An `offline` teacher is frozen. If the teacher is `online`, a
            copy of it is trained.
        phase: `activations` or `weights`.
        seed: seed of the projection heads and of the queues' initial rows.

    Raises:
        ConfigError: the student is not a 1-bit network.
    """

    def __init__(
        self,
        config: S2BNN,
        network: Network,
        teacher: Network,
        phase: Literal["activations", "weights"] = "weights",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not binary_convolutions(network):
            raise ConfigError(
                "student.backbone: s2bnn trains 1-bit networks, but this one has no 1-bit convolution; "
                "choose student.backbone=reactnet, or transfer.method=seed for any student"
            )
        self.config = config
        self.teacher: TeacherEmbedding | None = None
        self.online: Network | None = None
        dim = config.projection
        if config.strategy != "contrastive" and config.teacher == "online":
            self.online = copy.deepcopy(projected(teacher, dim, seed)).requires_grad_(True)
        elif config.strategy != "contrastive":
            self.teacher = TeacherEmbedding(teacher)
            dim = self.teacher.dim
        self.network = projected(network, dim, seed).with_weights(real=phase == "activations")
        self.contrast = None if config.strategy == "distill" else Contrast(self.network, config, seed)
        self.contrast_online = None if self.online is None else Contrast(self.online, config, seed)

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Before the first step, measure the mean of a frozen teacher's features."""
        if progress.step == 0 and self.teacher is not None:
            self.teacher.measure(sweep)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw the views x_1, (B, 3, S, S), for both networks.

        With a contrastive loss, draw two views per image, (2B, 3, S, S): all x_1, then all x_2.
        """
        contrast = self.contrast is not None or self.contrast_online is not None

        def draw(config: S2BNN, size: int) -> Tensor:
            if contrast:
                return two_views(batch.images, draws, config, size)
            return random_view(batch.images, draws, "first view", config, size)

        teacher = self.online if self.teacher is None else self.teacher.network
        batch.views = for_both(self.network, teacher or self.network, self.config, draw)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """The sum of the strategy's losses, plus InfoNCE of an online teacher.

        Terms: `distillation` and `contrast`, if the strategy has them; `teacher_contrast` of an online
        teacher; `divergence` of the student from the teacher, which is distillation minus its smallest
        possible value, the teacher's entropy; `flatness`, this entropy as a share of ln d; `cosine` of s and
        t; collapse signs of s; `outside`, the share of latent weights outside -1 to 1, which receive no
        gradient.
        """
        seen, n = batch.views, len(batch.images)
        x_1, x_2 = (*seen.student.split(n), None)[:2]
        shown_1, shown_2 = (*seen.teacher.split(n), None)[:2]
        s = self.network(x_1)
        losses: dict[str, Tensor] = {}
        terms: dict[str, Tensor | float] = {**collapse.signs(s), "outside": self._outside()}
        t = None
        if self.teacher is not None:
            t = self.teacher(shown_1)
        elif self.online is not None and self.contrast_online is not None:
            t = self.online(shown_1)
            losses["teacher_contrast"] = self.contrast_online.loss(t, shown_2, progress)
        if t is not None:
            d = t.shape[1]
            tau = at_width(self.config.temperature, d)
            log_s, log_t = over_coordinates(s, tau), over_coordinates(t, tau)
            losses["distillation"] = cross_entropy(log_s, log_t)
            least = entropy(log_t)
            terms["divergence"] = losses["distillation"].detach() - least
            terms["flatness"] = least / log(d)
            terms["cosine"] = torch.cosine_similarity(s.detach().float(), t.detach().float()).mean()
        if self.contrast is not None:
            losses["contrast"] = self.contrast.loss(s, x_2, progress)
        total = torch.stack(list(losses.values())).sum()
        return Loss(total, terms | {name: value.detach() for name, value in losses.items()})

    def _outside(self) -> Tensor:
        weights = [convolution.weight.detach() for convolution in binary_convolutions(self.network)]
        beyond = torch.stack([(w.abs() > 1).sum() for w in weights]).sum()
        return beyond / sum(w.numel() for w in weights)

    def after_update(self, progress: Progress) -> None:
        """Move the key encoders towards their query encoders, and enqueue the keys."""
        if self.contrast is not None:
            self.contrast.after_update(self.network, progress)
        if self.contrast_online is not None and self.online is not None:
            self.contrast_online.after_update(self.online, progress)

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Judge by the collapse signs, unless the student learns only from a frozen teacher.

        The targets of a frozen teacher differ between images, and this keeps the student's embeddings apart.
        The student's embeddings are alike only at the start of training, when all of them are still near the
        mean of the teacher's embeddings.
        """
        return None if self.teacher is not None and self.contrast is None else super().collapsed(means)

    def passes(self) -> list[tuple[int, float]]:
        """One pass for the student's query, and a third more for its key if there is a contrastive loss.

        The key needs no gradient. The teacher is not counted, because it is a different network.
        """
        return [(self.config.side(self.network.image_size), 1 if self.contrast is None else 4 / 3)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for everything that is trained."""
        return {"main": make_optimizer(self.config, self.parameters())}
