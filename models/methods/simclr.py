"""SimCLR v2 pretraining (Chen et al., arXiv 2006.10029 and 2002.05709): contrast two views of each image.

x are two views of N images, h = f(x) their pooled features, and z = g(h) their projections by a head of two
or three layers. The loss is NT-Xent (eq. 1). The published network ends after the first layer of g, where
fine-tuning starts. With a memory (v2, section 2.1, after MoCo), a moving average of f and g embeds the second
views, and the last K of these embeddings are further negatives. Departures: docs/methods/simclr.md.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse, heads
from models.augment import two_views
from models.configs.simclr import SimCLR
from models.ema import advance, teach, teacher_of
from models.losses.contrastive import candidates
from models.method import Batch, Loss, Method, Progress
from models.network import build_network, seeded
from models.optim import make_optimizer
from models.queue import Queue


class SimCLRMethod(Method):
    """Network f with the first layer of the head, and `projector`, the rest of the head.

    The projector is dropped after training.


    Args:
        config: the method's parameters.
        image_size: side of the images in px.
        seed: seed of the weights and of the memory's initial rows.
    """

    def __init__(self, config: SimCLR, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width, head=1)
        h = self.network.output_dim
        with seeded(seed, "projector"):
            hidden = [heads.hidden_layer(h, h) for _ in range(config.head_layers - 2)]
            self.projector = nn.Sequential(*hidden, heads.projection(h, config.projection))
        self._embedded: Tensor | None = None
        if config.memory:
            self.averaged = teacher_of(nn.Sequential(self.network, self.projector), config.memory_teacher)
            with seeded(seed, "memory"):
                self.memory = Queue(config.memory, config.projection)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw two views per image, (2N, 3, S, S): all first views, then all second views."""
        batch.views = two_views(batch.images, draws, self.config, self.network.image_size)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """NT-Xent.

        Terms: `accuracy` of finding the other view among all candidates; collapse signs of z.
        """
        z = self.projector(self.network(batch.views))
        memory = None
        if self.config.memory:
            memory = self.memory.contents()
            second = teach(self.averaged, batch.views[len(z) // 2 :], progress)
            self._embedded = F.normalize(second.float(), dim=1)
        s, positive = candidates(z, self.config.temperature, memory)
        accuracy = (s.argmax(dim=1) == positive).float().mean()
        return Loss(F.cross_entropy(s, positive), {"accuracy": accuracy, **collapse.signs(z)})

    def after_update(self, progress: Progress) -> None:
        """Move the memory network towards the network, then store this step's embeddings in the memory."""
        if self._embedded is not None:
            student = nn.Sequential(self.network, self.projector)
            advance(self.averaged, student, self.config.memory_teacher, progress)
            self.memory.push(self._embedded)
            self._embedded = None

    def passes(self) -> list[tuple[int, float]]:
        """Two views per image; one of them also through the memory network, if there is one."""
        return [(self.config.side(self.network.image_size), 2.0 + (self.config.memory > 0) / 3)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the network and the projector."""
        return {"main": make_optimizer(self.config, self.parameters())}
