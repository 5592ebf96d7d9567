"""SeLa (Asano, Rupprecht, Vedaldi, arXiv 1911.05371): self-labelling by simultaneous clustering and representation learning.

By turns: train f and `heads` classifiers of K labels by cross-entropy on the labels L; then label all N images anew by
optimal transport: of P = softmax outputs, raised to lambda, the scalings r (K,), c (N,) that give each label and each
image an equal share (algorithm 1), and L_i = argmax_k r_k P_ki^lambda c_i. Departures: docs/methods/sela.md.
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
"""Images whose probabilities are held in float64 at once."""


def relabelling_epochs(epochs: int, relabellings: int, spacing: str) -> frozenset[int]:
    """Before which epochs images are labelled: floor(epochs (j / n)^2), or of j / n, for j = 0..n-1; always before 0."""
    power = 2 if spacing == "quadratic" else 1
    return frozenset(epochs * j**power // relabellings**power for j in range(relabellings))


class SeLaMethod(Method):
    """The backbone, which goes on, and the classifiers, which are dropped afterwards."""

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
        """Views (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    @torch.no_grad()
    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Label all images anew, if it is time."""
        if progress.epoch not in relabelling_epochs(progress.epochs, self.config.relabellings, self.config.spacing):
            return
        index, h = embed_all(self.network, sweep, self.config.view_size or self.network.image_size)
        if not len(self.memory.index):
            self.memory.allot(index)
        label = torch.stack([self._label(top(h)) for top in self.tops])
        self.changed.copy_((label != self.memory.labels).float().mean())
        self.memory.labels.copy_(label)

    def _label(self, logits: Tensor) -> Tensor:
        """(N, K) logits of a head -> (N,) int64, every label N / K times but for what hard labels can't split."""

        def log_affinities() -> Iterator[Tensor]:
            return (self.config.lamb * F.log_softmax(rows.double(), dim=1) for rows in torch.split(logits, _ROWS))

        beta = prototype_scaling(log_affinities, tolerance=self.config.tolerance)
        return torch.cat([(rows + beta).argmax(dim=1) for rows in log_affinities()])

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the labels, mean over heads; `changed`, the share of labels that were new last time."""
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
        """All features alike, or nearly all images under few labels."""
        return super().collapsed(means) or collapse.few_used(means)

    def codes(self, sweep: Sweep) -> Tensor:
        """(heads, N) the last labels."""
        return self.memory.labels

    def passes(self) -> list[tuple[int, float]]:
        """One view, and one more without gradient for each relabelling."""
        size = self.config.view_size or self.network.image_size
        relabellings = relabelling_epochs(self.config.epochs, self.config.relabellings, self.config.spacing)
        return [(size, 1 + len(relabellings) / self.config.epochs / 3)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One for all; the classifiers are its head."""
        return {"main": make_optimizer(self.config, self.network.parameters(), self.tops.parameters())}
