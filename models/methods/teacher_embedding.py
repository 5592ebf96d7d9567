"""The teacher's embedding for students that learn from the teacher itself: one unit vector per view."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.draws import Draws
from models.augment import random_view
from models.configs.shared import Views
from models.method import Batch, Method, Progress, Sweep
from models.network import Network
from models.two_sizes import centre_for, for_both


class TeacherEmbedding(nn.Module):
    """t = h / |h| if the teacher still has its projection head, otherwise t = (h - c) / |h - c|.

    h is the teacher's last output: that of its projection head, of the first layer of a SimCLR head, or the
    pooled features. The last two follow a ReLU, so no coordinate is negative and all images point in similar
    directions. Little of the sphere would be left to tell them apart. Their mean c over all images is
    therefore subtracted first (`measure`). A head that is trained by contrast removes this mean itself.

    Args:
        teacher: the teacher. It is put into evaluation mode and its gradients are turned off. It is held in a
            tuple, which keeps it out of `state_dict`.

    Attributes:
        dim: d, the length of t.
        projected: whether h comes from a projection head.
    """

    mean: Tensor

    def __init__(self, teacher: Network) -> None:
        super().__init__()
        self._frozen = (teacher.eval().requires_grad_(False),)
        self._layer = teacher.last_layer
        self.projected = self._layer == "projection"
        self.dim = teacher.layer_dim(self._layer)
        self.register_buffer("mean", torch.zeros(self.dim))

    @property
    def network(self) -> Network:
        """The teacher."""
        return self._frozen[0]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float32 in [0, 1] -> (B, d) float32 unit rows, without gradient."""
        return F.normalize(self._frozen[0].features(x, self._layer) - self.mean, dim=1)

    @torch.no_grad()
    def with_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the backbone's last map (B, c, h, w), in one pass."""
        h, last = self._frozen[0].features_and_map(x, self._layer)
        return F.normalize(h - self.mean, dim=1), last

    @torch.no_grad()
    def measure(self, sweep: Sweep) -> None:
        """Measure c in one pass of the teacher over all images. Call it before the first epoch.

        If the teacher has its projection head, c stays 0 and there is no pass.
        """
        if self.projected:
            return
        total, n = torch.zeros_like(self.mean, dtype=torch.float64), 0
        for batch in sweep():
            x = centre_for(self._frozen[0], batch.images)
            total += self._frozen[0].features(x, self._layer).sum(dim=0, dtype=torch.float64)
            n += len(x)
        self.mean.copy_(total / max(n, 1))


class OneView(Method):
    """A student and a frozen teacher see the same view of each image, each in its size.

    A subclass sets the attributes.

    Attributes:
        config: how views are drawn.
        network: the student.
        teacher: what it learns from.
    """

    config: Views
    network: Network
    teacher: TeacherEmbedding

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Before the first step, measure the mean of the teacher's features."""
        if progress.step == 0:
            self.teacher.measure(sweep)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image, (B, 3, S, S)."""
        batch.views = for_both(
            self.network,
            self.teacher.network,
            self.config,
            lambda config, size: random_view(batch.images, draws, "view", config, size),
        )
        return batch


def projected(student: Network, dim: int, seed: int) -> Network:
    """The student with a projection head as wide as the teacher's embeddings.

    If an earlier training left the student such a head, the student keeps it.

    Args:
        student: the student, without a classifier.
        dim: d, the length of the embeddings.
        seed: seed of the weights of a new head.
    """
    return student if student.projection_dim == dim else student.with_projection(dim, seed=seed)
