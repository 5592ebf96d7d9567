"""SeLa (Asano, Rupprecht, Vedaldi, arXiv 1911.05371): self-labelling by optimal transport.

Training alternates between two parts. One trains f and `heads` classifiers of K labels by cross-entropy with
the labels L. The other relabels all N images by optimal transport (algorithm 1): P are the softmax outputs,
and the scalings r (K,) and c (N,) of P^lambda give each label and each image an equal share. Then L_i =
argmax_k r_k P_ki^lambda c_i. Departures: docs/methods/sela.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse, heads
from models.augment import random_view
from models.configs.sela import SeLa
from models.losses.sinkhorn import prototype_scaling
from models.method import Batch, Loss, Method, Progress, Sweep
from models.network import build_network, seeded
from models.optim import make_optimizer
from models.per_image import PerImage, embed_all
from models.prototypes import share_used

_ROWS = 8192
"""How many images' probabilities are held in float64 at the same time."""


def relabelling_epochs(epochs: int, relabellings: int, spacing: str) -> frozenset[int]:
    """The epochs before which all images are relabelled; epoch 0 is always one.

    These are floor(epochs (j / n)^2) for quadratic and floor(epochs j / n) for even spacing, with j = 0..n-1
    and n relabellings.
    """
    power = 2 if spacing == "quadratic" else 1
    return frozenset(epochs * j**power // relabellings**power for j in range(relabellings))


class SeLaMethod(Method):
    """The backbone, which is published, and the classifiers, which are dropped after training."""

    changed: Tensor

    def __init__(self, config: SeLa, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        with seeded(seed, "tops"):
            self.tops = nn.ModuleList(
                heads.classifier(self.network.output_dim, config.clusters) for _ in range(config.heads)
            )
        self.memory = PerImage(config.heads)
        self.register_buffer("changed", torch.ones(()))  # share of labels that the last relabelling changed

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image: (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    @torch.no_grad()
    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Relabel all images if the schedule asks for it."""
        if progress.epoch not in relabelling_epochs(
            progress.epochs, self.config.relabellings, self.config.spacing
        ):
            return
        index, h = embed_all(self.network, sweep, self.config.side(self.network.image_size))
        if not len(self.memory.index):
            self.memory.allot(index)
        label = torch.stack([self._label(top(h)) for top in self.tops])
        self.changed.copy_((label != self.memory.labels).float().mean())
        self.memory.labels.copy_(label)

    def _label(self, logits: Tensor) -> Tensor:
        """Turn the (N, K) logits of a head into (N,) int64 labels.

        Each label occurs about N / K times. Exact shares are not always possible with hard labels.
        """

        def log_affinities() -> Iterator[Tensor]:
            return (
                self.config.lamb * F.log_softmax(rows.double(), dim=1) for rows in torch.split(logits, _ROWS)
            )

        beta = prototype_scaling(log_affinities, tolerance=self.config.tolerance)
        return torch.cat([(rows + beta).argmax(dim=1) for rows in log_affinities()])

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the labels, averaged over heads.

        Terms: `accuracy`; collapse signs of the features; `codes_used`, the share of labels of the first head
        that occur in the batch; `changed`, the share of labels that the last relabelling changed.
        """
        h = self.network(batch.views)
        logits = torch.stack([top(h) for top in self.tops]).float()  # (heads, B, K)
        label = self.memory.labels[:, self.memory.rows(batch.index)]
        loss = F.cross_entropy(logits.flatten(0, 1), label.flatten())
        terms: dict[str, Tensor | float] = {
            "accuracy": (logits.argmax(dim=2) == label).float().mean(),
            **collapse.signs(h),
            "codes_used": share_used(label[0], self.config.clusters),
            "changed": self.changed,
        }
        return Loss(loss, terms)

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Collapsed if all features are alike, or nearly all images have one of few labels."""
        return super().collapsed(means) or collapse.few_used(means)

    def codes(self, sweep: Sweep) -> Tensor:
        """The last labels, (heads, N)."""
        return self.memory.labels

    def passes(self) -> list[tuple[int, float]]:
        """One view per image, and another pass without gradient for each relabelling."""
        size = self.config.side(self.network.image_size)
        relabellings = relabelling_epochs(self.config.epochs, self.config.relabellings, self.config.spacing)
        return [(size, 1 + len(relabellings) / self.config.epochs / 3)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for everything; the classifiers are its head group."""
        return {"main": make_optimizer(self.config, self.network.parameters(), self.tops.parameters())}
