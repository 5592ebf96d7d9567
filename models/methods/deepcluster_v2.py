"""DeepCluster-v2 (Caron et al., arXiv 2006.09882, section 4.2 and appendix): SwAV's training, with k-means' labels.

Two banks hold the unit projections z of the two large crops as training last saw them. Before every epoch, for each
head j: spherical k-means on bank j mod 2; its centroids are the head's prototypes C_j, which no gradient moves. Loss:
mean over heads of the cross-entropy of z C_j^T / tau, all V crops of an image with its label. Departures:
docs/methods/deepcluster-v2.md.
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
from models.augment import multi_crop, small_side, two_views
from models.configs.deepcluster_v2 import DeepClusterV2
from models.method import Batch, Loss, Method, Progress, Sweep
from models.network import build_network, seeded
from models.optim import make_optimizer
from models.per_image import UNSEEN, PerImage
from models.prototypes import Prototypes, share_used
from models.spherical_kmeans import spherical_kmeans

_LARGE = 2


class DeepClusterV2Method(Method):
    """Backbone, which goes on; projector, prototypes of each head, and the memory of embeddings and labels."""

    def __init__(self, config: DeepClusterV2, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        D = self.network.output_dim
        with seeded(seed, "projector"):
            self.projector = heads.mlp(D, config.hidden or D, config.projection)
        with seeded(seed, "prototypes"):
            self.prototypes = Prototypes(config.heads * config.prototypes, config.projection, trained=False)
        self.memory = PerImage(config.heads, banks=_LARGE, dim=config.projection)
        self._rows, self._z = torch.empty(0), torch.empty(0)  # of this step, on their way into the banks

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Views: (2B, 3, S, S) large crops and (L B, 3, s, s) small ones, crop by crop."""
        batch.views = multi_crop(batch.images, draws, self.config, self.config, self.network.image_size)
        return batch

    @torch.no_grad()
    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Labels and prototypes from the banks; at the very start the banks are filled by one pass over all images.

        Raises:
            ConfigError: fewer images than prototypes.
        """
        if not len(self.memory.index):
            self._fill(sweep)
        K, N = self.config.prototypes, len(self.memory.index)
        if N < K:
            raise ConfigError(f"pretext.prototypes is {K}, but there are only {N} images: lower it")
        centroids = []
        for j in range(self.config.heads):
            generator = torch.Generator().manual_seed(key(self.seed, "k-means", progress.epoch, j))
            bank = self.memory.bank[j % _LARGE]
            C_j, self.memory.labels[j] = spherical_kmeans(bank, K, self.config.iterations, generator)
            centroids.append(C_j)
        self.prototypes.place(torch.cat(centroids))

    def _fill(self, sweep: Sweep) -> None:
        self.eval()
        index, z = [], []
        for batch in sweep():
            views = two_views(
                batch.images,
                Draws(self.seed, "memory", 0, batch.index.cpu().numpy()),
                self.config,
                self.network.image_size,
            )
            index.append(batch.index)
            z.append(self._project([views], len(batch.index)))
        self.memory.allot(torch.cat(index))
        self.memory.bank.copy_(torch.cat(z, dim=1))

    def _project(self, views: list[Tensor], B: int) -> Tensor:
        """Crops by size -> (V, B, d) float32 unit projections."""
        z: Tensor = self.projector(torch.cat([self.network(crops) for crops in views]))
        return F.normalize(z.float(), dim=1).view(-1, B, self.config.projection)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the labels, mean over heads, crops and images that have one."""
        z = self._project(batch.views, len(batch.index))
        self._rows, self._z = self.memory.rows(batch.index), z[:_LARGE].detach()
        label = self.memory.labels[:, self._rows]  # (heads, B)
        scores = self.prototypes(z).view(*z.shape[:2], self.config.heads, -1)  # (V, B, heads, K)
        target = label.T.expand(len(z), -1, -1)  # (V, B, heads)
        loss = F.cross_entropy(scores.flatten(0, 2) / self.config.temperature, target.flatten(), ignore_index=UNSEEN)
        used = share_used(label[0], self.config.prototypes)
        return Loss(loss, {**collapse.signs(z.flatten(0, 1)), "codes_used": used})

    def after_update(self, progress: Progress) -> None:
        """The large crops' embeddings, as they were in this step, into the banks."""
        self.memory.bank[:, self._rows] = self._z

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """All outputs alike, or nearly all images in few clusters."""
        return super().collapsed(means) or collapse.few_used(means)

    def codes(self, sweep: Sweep) -> Tensor:
        """(heads, N) the labels of the last epoch."""
        return self.memory.labels

    def passes(self) -> list[tuple[int, float]]:
        """Two large crops and the small ones."""
        size = self.config.view_size or self.network.image_size
        return [(size, float(_LARGE)), (small_side(self.config, size), float(self.config.small_crops))]

    def optimizers(self) -> dict[str, Optimizer]:
        """One for backbone and projector; prototypes are placed, not trained."""
        return {"main": make_optimizer(self.config, [*self.network.parameters(), *self.projector.parameters()])}
