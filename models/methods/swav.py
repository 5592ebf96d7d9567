"""SwAV (Caron et al., arXiv 2006.09882): swap cluster assignments between views.

B images have V crops each; A = 2 of them are large. z (V, B, d) are unit projections, C (K, d) unit
prototypes and z C^T the scores. Sinkhorn-Knopp over the batch turns the scores of the large crops into codes
q (eq. 3 to 5), so that all prototypes get equal shares. Each crop predicts the codes of the other large crops
at temperature tau (eq. 2). No gradient flows into q. Departures: docs/methods/swav.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse, heads
from models.augment import multi_crop
from models.configs.swav import SwAV
from models.losses.codes import swapped_prediction
from models.losses.sinkhorn import prototype_scaling, sinkhorn
from models.method import Batch, Loss, Method, Progress, Sweep
from models.network import build_network, seeded
from models.optim import make_optimizer
from models.per_image import embed_all
from models.prototypes import Prototypes, frozen, share_used
from models.queue import Queue

_LARGE = 2
_FLAT = 0.99
"""Codes with an entropy above this share of ln K carry no information. Untrained networks have 0.4 to 0.8."""
_ROWS = 8192
"""How many images' scores are processed at the same time when all images get codes."""


class SwAVMethod(Method):
    """The backbone, a projection head, prototypes, and the queue of large crops.

    Only the backbone is published.
    """

    def __init__(self, config: SwAV, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        D = self.network.output_dim
        with seeded(seed, "projector"):
            self.projector = heads.mlp(D, config.hidden or D, config.projection)
        with seeded(seed, "prototypes"):
            self.prototypes = Prototypes(config.prototypes, config.projection)
        with seeded(seed, "queue"):  # one row per image holds its large crops
            self.queue = Queue(config.queue, _LARGE * config.projection) if config.queue else None
        self._z = torch.empty(0)  # (A, B, d) of this step's large crops, until the queue takes them

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw (2B, 3, S, S) large crops and (L B, 3, s, s) small crops, ordered by crop, then by image."""
        batch.views = multi_crop(batch.images, draws, self.config, self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """The swapped prediction of codes.

        Terms: collapse signs of z; `codes_used`, the share of prototypes that are the largest entry of some
        code in the batch; `code_entropy`, the mean entropy of the codes as a share of ln K.
        """
        # The backbone runs once per crop size, the head once for all crops.
        z = self.projector(torch.cat([self.network(crops) for crops in batch.views]))
        z = F.normalize(z.float(), dim=1).view(-1, len(batch.index), z.shape[1])
        scores = self.prototypes(z)  # (V, B, K)
        self._z = z[:_LARGE].detach()
        q = self._codes(scores[:_LARGE])
        terms = {
            **collapse.signs(z.flatten(0, 1)),
            "codes_used": share_used(q.argmax(dim=2).flatten(), self.config.prototypes),
            "code_entropy": torch.special.entr(q).sum(dim=2).mean() / math.log(self.config.prototypes),
        }
        if self.config.hard_codes:
            q = F.one_hot(q.argmax(dim=2), self.config.prototypes).float()
        loss = swapped_prediction(scores, q, self.config.temperature)
        return Loss(loss, terms)

    @torch.no_grad()
    def _codes(self, scores: Tensor) -> Tensor:
        """Turn the (A, B, K) scores of the large crops into codes.

        Once the queue is full, each crop's codes are balanced over the queue as well.
        """
        B = scores.shape[1]
        if self.queue is not None and self.queue.full():
            past = self.queue.contents().view(-1, _LARGE, self.config.projection).transpose(0, 1)
            scores = torch.cat([self.prototypes(past), scores], dim=1)  # scored with the current prototypes
        q = [sinkhorn(each, self.config.epsilon, self.config.sinkhorn_iterations) for each in scores]
        return torch.stack(q)[:, -B:]

    def before_update(self, progress: Progress) -> None:
        """Freeze the prototypes at the start of training."""
        if frozen(progress, self.config.freeze_epochs):
            self.prototypes.freeze()

    def after_update(self, progress: Progress) -> None:
        """Scale the prototypes back to unit length, and enqueue the large crops' embeddings."""
        self.prototypes.renormalise()
        if self.queue is not None and progress.epoch >= self.config.queue_epoch:
            self.queue.push(self._z.transpose(0, 1).flatten(1))

    def collapsed(self, means: Mapping[str, float]) -> str | None:
        """Collapsed if all outputs are alike, few codes are used, or all codes are flat.

        With flat codes, the loss stays at ln K.
        """
        entropy = means.get("code_entropy", 0.0)
        flat = (
            f"entropy of the codes {entropy:.3f} ln K, healthy is below 0.9;"
            " lower epsilon, or milder views, may help"
        )
        return super().collapsed(means) or collapse.few_used(means) or (flat if entropy > _FLAT else None)

    def codes(self, sweep: Sweep) -> Tensor:
        """The prototype of each image, (1, N), balanced over all images as training balances over a batch."""
        network = nn.Sequential(self.network, self.projector)
        _, z = embed_all(network, sweep, self.config.side(self.network.image_size))
        blocks = [F.normalize(rows, dim=1) for rows in torch.split(z, _ROWS)]

        def log_affinities() -> Iterator[Tensor]:
            return (self.prototypes(rows) / self.config.epsilon for rows in blocks)

        with torch.no_grad():
            beta = prototype_scaling(log_affinities, iterations=self.config.sinkhorn_iterations)
            return torch.cat([(rows.double() + beta).argmax(dim=1) for rows in log_affinities()])[None]

    def passes(self) -> list[tuple[int, float]]:
        """The two large crops and the small crops of each image."""
        size = self.config.side(self.network.image_size)
        return [(size, float(_LARGE)), (self.config.small_side(size), float(self.config.small_crops))]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for everything; the prototypes are its head group."""
        body = [*self.network.parameters(), *self.projector.parameters()]
        return {"main": make_optimizer(self.config, body, self.prototypes.parameters())}
