"""Barlow Twins (Zbontar et al., arXiv 2103.03230): self-supervision by redundancy reduction.

y^A and y^B are two views of N images, f is the network, g a projector of three layers. z = g(f(y)) is brought
to mean 0 and deviation 1 over the batch. C = z^A^T z^B / N is (d, d).

The loss is sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2 (eq. 1 and 2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from barlow_twins.config import BarlowTwins
from knowledge_transfer.plugins import (
    Batch,
    Draws,
    Loss,
    Method,
    Progress,
    build_network,
    collapse,
    heads,
    make_optimizer,
    seeded,
    two_views,
)

_EPS = 1e-5


def barlow_twins(z_a: Tensor, z_b: Tensor, lamb: float) -> Tensor:
    """Eq. 1.

    Args:
        z_a: (N, d) of the first views, any scale and offset per column; N at least 2.
        z_b: (N, d) of the second views, in the same order.
        lamb: weight of the redundancy term.

    Returns:
        Scalar float32; 0 if views agree and columns are uncorrelated.
    """
    with torch.autocast(z_a.device.type, enabled=False):
        a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + _EPS).sqrt() for z in (z_a.float(), z_b.float()))
        c = a.T @ b / len(a)
        on = c.diagonal()
        return (1 - on).square().sum() + lamb * (c.square().sum() - on.square().sum())


class BarlowTwinsMethod(Method):
    """The network f, which is published, and the projector g, which is dropped.

    Args:
        config: the method's parameters.
        image_size: side of the images, px.
        seed: of the weights.
    """

    def __init__(self, config: BarlowTwins, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        with seeded(seed, "projector"):
            d = config.projection
            self.projector = heads.mlp(self.network.output_dim, d, d, layers=3)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Views (2N, 3, S, S): the first of each image, then the second."""
        batch.views = two_views(batch.images, draws, self.config, self.network.image_size, self.config.second)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Pass each view separately, with its own batch statistics. Log the signs of collapse of z."""
        z_a, z_b = (self.projector(self.network(view)) for view in batch.views.chunk(2))
        return Loss(barlow_twins(z_a, z_b, self.config.redundancy), dict(collapse.signs(z_a)))

    def passes(self) -> list[tuple[int, float]]:
        """Two views per image."""
        return [(self.config.side(self.network.image_size), 2.0)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the network and the projector."""
        return {"main": make_optimizer(self.config, self.parameters())}
