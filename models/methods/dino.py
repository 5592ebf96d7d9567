"""DINO (Caron et al., arXiv 2104.14294): self-distillation with no labels.

N images have V = 2 + L crops each; the first two are large. The student g_s sees all crops, the teacher g_t
only the large ones. Both output K scores, and P_s = softmax(g_s / tau_s), P_t = softmax((g_t - c) / tau_t).
For each crop, the student predicts the teacher's output for every other large crop. The loss is the mean
of -sum P_t log P_s over these 2 (1 + L) pairs (eq. 3). After each step, the teacher follows the student:
theta_t <- m theta_t + (1 - m) theta_s. The centre follows the teacher's scores:
c <- m_c c + (1 - m_c) mean g_t (eq. 4). Departures: docs/methods/dino.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse, heads
from models.augment import multi_crop
from models.configs.dino import DINO
from models.ema import advance, teach, teacher_of
from models.losses.centring import centred_softmax, entropies
from models.losses.codes import swapped_prediction
from models.method import Batch, Loss, Method, Progress
from models.network import Network, build_network, seeded
from models.optim import make_optimizer
from models.prototypes import frozen
from models.schedules import between

_LARGE = 2
_UNIFORM = 0.01
_ONE = 0.1
"""Limits in nats. If the mean entropy of P_t is within `_UNIFORM` of ln K, the teacher's output is uniform.

If the entropy of the mean P_t is below `_ONE`, the output is the same for all images.
"""


class DINOMethod(Method):
    """Student and teacher, each a network with a head. The published network is the teacher's.

    Args:
        config: the method's parameters.
        image_size: side of the images in px.
        seed: seed of the weights.
    """

    centre: Tensor

    def __init__(self, config: DINO, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        f = build_network(config.backbone, image_size, seed=seed, width=config.width)
        with seeded(seed, "head"):
            head = heads.DINOHead(
                f.output_dim, config.hidden, config.bottleneck, config.outputs, norm=config.head_norm
            )
        self.student = nn.Sequential(f, head)
        self.teacher = teacher_of(self.student, config)
        self.network = cast(Network, self.teacher[0])
        self.register_buffer("centre", torch.zeros(config.outputs))
        self._mean = torch.empty(0)  # (K,) mean of this step's g_t, until the centre takes it
        self._optimizer: Optimizer | None = None

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw (2N, 3, S, S) large crops and (L N, 3, s, s) small crops, ordered by crop, then by image."""
        batch.views = multi_crop(batch.images, draws, self.config, self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Eq. 3.

        Terms: `entropy`, the mean entropy of P_t; `entropy_of_mean`, the entropy of the batch's mean P_t;
        collapse signs of the student's embeddings.
        """
        N = len(batch.index)
        g_t = teach(self.teacher, batch.views[0], progress)
        self._mean = g_t.mean(dim=0)
        P_t = centred_softmax(g_t, self.centre, self.teacher_temperature(progress))
        f, head = cast(Network, self.student[0]), cast(heads.DINOHead, self.student[1])
        z = head.embed(torch.cat([f(crops) for crops in batch.views]))
        shape = (-1, N, self.config.outputs)
        total = swapped_prediction(head.scores(z).view(shape), P_t.view(shape), self.config.temperature)
        entropy, entropy_of_mean = entropies(P_t)
        return Loss(
            total, {"entropy": entropy, "entropy_of_mean": entropy_of_mean, **collapse.signs(z[: _LARGE * N])}
        )

    def teacher_temperature(self, progress: Progress) -> float:
        """tau_t, which changes linearly from its first to its last value and then stays constant."""
        first, last = self.config.teacher_temperature, self.config.teacher_temperature_final
        rising = self.config.teacher_warmup * progress.steps
        return first + (last - first) * min(1.0, progress.step / max(rising, 1e-9))

    def before_update(self, progress: Progress) -> None:
        """Clip each gradient, freeze the last layer at the start, and set this step's weight decay."""
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        norms = torch.stack(list(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, list((self.config.clip / (norms + 1e-6)).clamp(max=1).unbind()))
        if frozen(progress, self.config.freeze_epochs):
            cast(heads.DINOHead, self.student[1]).last.grad = None
        if self._optimizer is not None:
            decay = between(
                progress.step, progress.steps, self.config.weight_decay, self.config.weight_decay_final
            )
            for group in self._optimizer.param_groups:
                if group["params"][0].ndim > 1:
                    group["weight_decay"] = decay

    def after_update(self, progress: Progress) -> None:
        """Move the teacher towards the student, and the centre towards the teacher's scores."""
        advance(self.teacher, self.student, self.config, progress)
        self.centre.lerp_(self._mean, 1 - self.config.centre_momentum)

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Check for both ways to collapse.

        If sharpening fails, P_t becomes uniform. If centring fails, the output becomes the same for all
        images.
        """
        most = math.log(self.config.outputs)
        if most - means.get("entropy", 0.0) < _UNIFORM:
            return f"the teacher's outputs are uniform, entropy {means['entropy']:.3f} of {most:.3f}"
        if means.get("entropy_of_mean", most) < _ONE:
            return (
                f"the teacher's output is always the same, entropy of its mean {means['entropy_of_mean']:.3f}"
            )
        return super().collapsed(means)

    def passes(self) -> list[tuple[int, float]]:
        """The large crops, which the teacher sees too, and the small crops of each image."""
        size = self.config.side(self.network.image_size)
        small = self.config.small_crops
        return [
            (size, _LARGE * (1 + 1 / 3)),
            *([(self.config.small_side(size), float(small))] if small else []),
        ]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the student's network and head."""
        self._optimizer = make_optimizer(self.config, self.student.parameters())
        return {"main": self._optimizer}
