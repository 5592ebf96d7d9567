"""DeepCluster (Caron et al., arXiv 1807.05520): learn clusters of the network's own features as classes.

Before every epoch, the features h = f(x) of all N images are PCA-whitened, scaled to length 1 and clustered
by k-means with k clusters, and the network gets a new top layer. The epoch then minimises the cross-entropy
with the clusters. All clusters have the same total weight, however many images they have (section 3.3,
"trivial parametrization"). Departures: docs/methods/deepcluster.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws, key
from data.errors import ConfigError
from models import collapse, heads
from models.augment import random_view
from models.clustering.apart import Clustering, cluster_apart
from models.configs.deepcluster import DeepCluster
from models.evaluation.clusters import agreement
from models.method import Batch, Loss, Method, Progress, Sweep
from models.network import build_network, seeded
from models.optim import make_optimizer
from models.per_image import PerImage, embed_all
from models.prototypes import share_used


class DeepClusterMethod(Method):
    """The backbone, which is published, and `top`, the classifier of the current epoch's clusters."""

    weight: Tensor
    nmi: Tensor

    def __init__(self, config: DeepCluster, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        with seeded(seed, "top"):
            self.top = heads.classifier(self.network.output_dim, config.clusters)
        self.memory = PerImage(heads=1)
        self.register_buffer("weight", torch.ones(config.clusters))  # (k,) weight of each cluster in the loss
        self.register_buffer("nmi", torch.zeros(()))  # between the last two clusterings
        self._optimizer: Optimizer | None = None

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image: (B, 3, S, S)."""
        batch.views = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        return batch

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Cluster the features of all images, and reinitialise the top layer.

        Raises:
            ConfigError: there are fewer images than clusters.
        """
        index, h = embed_all(self.network, sweep, self.config.side(self.network.image_size))
        k = self.config.clusters
        if len(index) < k:
            raise ConfigError(f"pretext.clusters is {k}, but there are only {len(index)} images; lower it")
        wanted = Clustering(
            k,
            pca=self.config.pca,
            iterations=self.config.iterations,
            seed=key(self.seed, "k-means", progress.epoch),
            device="auto" if h.is_cuda else "cpu",
        )
        found = cluster_apart(h.cpu().numpy(), wanted)
        if len(self.memory.index):
            self.nmi.fill_(agreement(self.memory.labels[0].cpu().numpy(), found)["nmi"])
        self.memory.allot(index)
        self.memory.labels[0] = torch.from_numpy(found)
        size = torch.bincount(self.memory.labels[0], minlength=k)
        self.weight.copy_(len(index) / (size > 0).sum() / size.clamp_min(1))
        self._new_top(progress.epoch)

    @torch.no_grad()
    def _new_top(self, epoch: int) -> None:
        with seeded(self.seed, f"top {epoch}"):
            new = heads.classifier(self.top.in_features, self.top.out_features)
        for old, fresh in zip(self.top.parameters(), new.parameters(), strict=True):
            old.copy_(fresh)
            if self._optimizer is not None:
                self._optimizer.state.pop(old, None)  # the old layer's momentum doesn't suit the new one

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the clusters, where each image has a weight of 1 / size of its cluster.

        Terms: `accuracy`; collapse signs of the features; `codes_used`, the share of clusters that occur in
        the batch; from the second epoch on `nmi`, the agreement of the last two clusterings.
        """
        h = self.network(batch.views)
        logits = self.top(h).float()
        label = self.memory.labels[0, self.memory.rows(batch.index)]
        terms: dict[str, Tensor | float] = {
            "accuracy": (logits.argmax(dim=1) == label).float().mean(),
            **collapse.signs(h),
            "codes_used": share_used(label, self.config.clusters),
        }
        if progress.epoch:
            terms["nmi"] = self.nmi
        return Loss(F.cross_entropy(logits, label, weight=self.weight), terms)

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Collapsed if all features are alike, or nearly all images are in few clusters."""
        return super().collapsed(means) or collapse.few_used(means)

    def codes(self, sweep: Sweep) -> Tensor:
        """The clusters of the last epoch, (1, N)."""
        return self.memory.labels

    def passes(self) -> list[tuple[int, float]]:
        """One view per image, and another pass without gradient to compute the features."""
        size = self.config.side(self.network.image_size)
        return [(size, 1 + 1 / 3)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for everything; the top layer is its head group."""
        self._optimizer = make_optimizer(self.config, self.network.parameters(), self.top.parameters())
        return {"main": self._optimizer}
