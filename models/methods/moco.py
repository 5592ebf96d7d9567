"""MoCo v1 and v2 (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297): contrast with a queue.

x_q and x_k are two views of N images. The query encoder computes q = g(f(x_q)); the key encoder computes k of
x_k, without gradient. The loss is InfoNCE (eq. 1) of q with its own k against the K keys of past batches. A
step has this order: compute the loss against the queue that the previous steps left; step the optimizer on
the query encoder; move the key encoder towards it (eq. 2); enqueue the keys. The authors' code applies eq. 2
at the start of the next step, which gives the same sequence.

ShuffleBN (section 3.3): batch norms see groups of the batch, as they would on several GPUs, and keys are
encoded in a different order from queries. Otherwise, a query could recognise its key by the batch statistics
that both share. Departures: docs/methods/moco.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse, heads
from models.augment import two_views
from models.configs.moco import MoCo
from models.ema import advance, teach, teacher_of
from models.losses.contrastive import against_queue, info_nce
from models.method import Batch, Loss, Method, Progress
from models.network import build_network, seeded
from models.norms import replace_norms
from models.optim import make_optimizer
from models.queue import Queue


@dataclass(frozen=True)
class Views:
    """The encoders' input.

    Attributes:
        pairs: (2N, 3, S, S), all first views, then all second views.
        order: (N,) int64, the permutation in which keys are encoded.
    """

    pairs: Tensor
    order: Tensor


class MoCoMethod(Method):
    """Query encoder (network f and projector g), key encoder and queue.

    The query encoder is published, both f and g. Students that learn from the teacher itself learn g's
    output. All other stages read f.

    Args:
        config: the method's parameters.
        image_size: side of the images in px.
        seed: seed of the weights and of the queue's initial rows.
    """

    def __init__(self, config: MoCo, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        f = build_network(config.backbone, image_size, seed=seed, width=config.width)
        self.network = f.with_projection(config.projection, layers=config.head_layers, seed=seed)
        with seeded(seed, "projector"):  # a draw of its own, so g starts as it did before it was published
            g = heads.mlp(
                f.output_dim, f.output_dim, config.projection, layers=config.head_layers, norm=False
            )
        assert self.network.projection is not None
        self.network.projection.load_state_dict(g.state_dict())
        self.key = teacher_of(self.network, config)
        replace_norms(self.network, config.student_norm, config.norm_groups)
        with seeded(seed, "queue"):
            self.queue = Queue(config.queue, config.projection)
        self._keys: list[Tensor] = []

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw two views of each image, and the order in which this step encodes the keys."""
        order = torch.from_numpy(draws.uniform("shuffle", 1)[:, 0].argsort()).to(batch.images.device)
        batch.views = Views(two_views(batch.images, draws, self.config, self.network.image_size), order)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """InfoNCE, averaged over both directions if `symmetric` is set.

        Terms: `accuracy` of finding the query's own key among 1 + K keys; collapse signs of q.
        """
        views: Views = batch.views
        x = views.pairs.chunk(2)
        directions = [(x[0], x[1]), (x[1], x[0])] if self.config.symmetric else [(x[0], x[1])]
        negatives = self.queue.contents()
        q = [self.network(x_q) for x_q, _ in directions]
        self._keys = [self._encoded(x_k, views.order, progress) for _, x_k in directions]
        logits = torch.cat(
            [
                against_queue(*pair, negatives, self.config.temperature)
                for pair in zip(q, self._keys, strict=True)
            ]
        )
        accuracy = (logits.argmax(dim=1) == 0).float().mean()
        return Loss(info_nce(logits), {"accuracy": accuracy, **collapse.signs(q[0])})

    def _encoded(self, x: Tensor, order: Tensor, progress: Progress) -> Tensor:
        """Encode (N, 3, S, S) views in the given order -> (N, d) float32 unit keys.

        The keys are returned in the order of `x`.
        """
        k = teach(self.key, x[order], progress)[order.argsort()]
        return F.normalize(k.float(), dim=1)

    def after_update(self, progress: Progress) -> None:
        """Move the key encoder towards the query encoder, then enqueue this step's keys."""
        advance(self.key, self.network, self.config, progress)
        for k in self._keys:
            self.queue.push(k)
        self._keys = []

    def passes(self) -> list[tuple[int, float]]:
        """One view per image through each encoder, or both views if `symmetric` is set."""
        return [(self.config.side(self.network.image_size), (1 + self.config.symmetric) * 4 / 3)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the query encoder."""
        return {"main": make_optimizer(self.config, self.parameters())}
