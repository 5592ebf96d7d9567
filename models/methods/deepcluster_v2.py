"""DeepCluster-v2 (Caron et al., arXiv 2006.09882, section 4.2 and appendix): SwAV with labels from k-means.

Two banks store, for each image, the unit projections z of its two large crops from the last step that saw the
image. Before every epoch, spherical k-means clusters bank j mod 2 for each head j. The centroids become the
head's prototypes C_j, which receive no gradient. The loss is the cross-entropy of the scores z C_j^T / tau of
all V crops of an image with the image's label, averaged over heads. Departures:
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
from models.augment import multi_crop, two_views
from models.configs.deepcluster_v2 import DeepClusterV2
from models.method import Batch, Loss, Method, Progress, Sweep
from models.network import build_network, seeded
from models.optim import make_optimizer
from models.per_image import UNSEEN, PerImage
from models.prototypes import Prototypes, share_used
from models.spherical_kmeans import spherical_kmeans

_LARGE = 2


class DeepClusterV2Method(Method):
    """The backbone, a projector, the prototypes of each head, and the memory of embeddings and labels.

    Only the backbone is published.
    """

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
        self._rows, self._z = torch.empty(0), torch.empty(0)  # of this step, until they enter the banks

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw (2B, 3, S, S) large crops and (L B, 3, s, s) small crops, ordered by crop, then by image."""
        batch.views = multi_crop(batch.images, draws, self.config, self.config, self.network.image_size)
        return batch

    @torch.no_grad()
    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Compute labels and prototypes from the banks. Before the first epoch, fill the banks in one pass.

        Raises:
            ConfigError: there are fewer images than prototypes.
        """
        if not len(self.memory.index):
            self._fill(sweep)
        K, N = self.config.prototypes, len(self.memory.index)
        if N < K:
            raise ConfigError(f"pretext.prototypes is {K}, but there are only {N} images; lower it")
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
        """Project the crops, given by size -> (V, B, d) float32 unit vectors."""
        z: Tensor = self.projector(torch.cat([self.network(crops) for crops in views]))
        return F.normalize(z.float(), dim=1).view(-1, B, self.config.projection)

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy with the labels, averaged over heads, crops and the images that have a label.

        Terms: collapse signs of z; `codes_used`, the share of labels of the first head that occur in the
        batch.
        """
        z = self._project(batch.views, len(batch.index))
        self._rows, self._z = self.memory.rows(batch.index), z[:_LARGE].detach()
        label = self.memory.labels[:, self._rows]  # (heads, B)
        scores = self.prototypes(z).view(*z.shape[:2], self.config.heads, -1)  # (V, B, heads, K)
        target = label.T.expand(len(z), -1, -1)  # (V, B, heads)
        loss = F.cross_entropy(
            scores.flatten(0, 2) / self.config.temperature, target.flatten(), ignore_index=UNSEEN
        )
        used = share_used(label[0], self.config.prototypes)
        return Loss(loss, {**collapse.signs(z.flatten(0, 1)), "codes_used": used})

    def after_update(self, progress: Progress) -> None:
        """Store this step's embeddings of the large crops in the banks."""
        self.memory.bank[:, self._rows] = self._z

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Collapsed if all outputs are alike, or nearly all images are in few clusters."""
        return super().collapsed(means) or collapse.few_used(means)

    def codes(self, sweep: Sweep) -> Tensor:
        """The labels of the last epoch, (heads, N)."""
        return self.memory.labels

    def passes(self) -> list[tuple[int, float]]:
        """The two large crops and the small crops of each image."""
        size = self.config.side(self.network.image_size)
        return [(size, float(_LARGE)), (self.config.small_side(size), float(self.config.small_crops))]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the backbone and the projector. The prototypes are set, not trained."""
        return {
            "main": make_optimizer(self.config, [*self.network.parameters(), *self.projector.parameters()])
        }
