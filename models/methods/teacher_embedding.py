"""What a student that learns from the teacher itself is shown of it: one unit vector a view."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.augment import centre
from models.method import Sweep
from models.network import Network


class TeacherEmbedding(nn.Module):
    """t = h / |h| where the teacher has kept its projection head, else t = (h - c) / |h - c|.

    h is the teacher's last output: of its projection head, of the first layer of a SimCLR head, or the pooled features.
    These two follow a ReLU: no coordinate is negative and all images have much in common, which would leave little of
    the sphere to tell them apart by. So their mean c over all images is taken away first (`measure`), as contrastive
    training of a head would have done.

    Args:
        teacher: held in a tuple, out of `state_dict`; put into evaluation mode, and takes no gradient from here on.

    Attributes:
        dim: d of t.
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

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) float32 in [0, 1] -> (B, d) float32 unit rows, without gradient."""
        return F.normalize(self._frozen[0].features(x, self._layer) - self.mean, dim=1)

    @torch.no_grad()
    def measure(self, sweep: Sweep) -> None:
        """Set c, for `before_epoch` of the first epoch: one pass of the teacher over all images, or none if projected."""
        if self.projected:
            return
        total, n = torch.zeros_like(self.mean, dtype=torch.float64), 0
        for batch in sweep():
            x = centre(batch.images, self._frozen[0].image_size)
            total += self._frozen[0].features(x, self._layer).sum(dim=0, dtype=torch.float64)
            n += len(x)
        self.mean.copy_(total / max(n, 1))


def projected(student: Network, dim: int, seed: int) -> Network:
    """The student with a projection head of the teacher's width: its own if a training before this has left it one.

    Args:
        student: without classifier.
        dim: d of the embeddings.
        seed: of a new head's weights.
    """
    return student if student.projection_dim == dim else student.with_projection(dim, seed=seed)
