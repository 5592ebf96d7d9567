"""RotNet (Gidaris, Singh, Komodakis 2018, arXiv 1803.07728): which quarter turn was it?

X a view of each of B images, X^y = g(X | y) turned by 90 y degrees, y in 0..3 (eq. 2); F(. | theta) gives the
probabilities of the K = 4 turns. All four turns of an image are in one batch, 4 B in all, and the loss is the mean of
-log F^y(X^y) over them (eq. 3). Turns are a transposition and flips, so that no interpolation gives them away.
Departures: docs/methods/rotation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from models import collapse, heads
from models.augment import random_view
from models.configs.rotation import Rotation
from models.method import Batch, Loss, Method, Progress
from models.network import build_network, seeded
from models.optim import make_optimizer

TURNS = 4


class RotationMethod(Method):
    """Network and the classifier of four turns, which is dropped afterwards.

    Args:
        config: the method's parameters.
        image_size: S, side of the images, px.
        seed: of the weights.
    """

    def __init__(self, config: Rotation, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        with seeded(seed, "turns"):
            self.classifier = heads.classifier(self.network.output_dim, TURNS)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Views (4B, 3, s, s): one view of each image, upright, then turned once, twice and three times."""
        x = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        batch.views = quarter_turns(x).contiguous(memory_format=torch.channels_last)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy over the turns; `accuracy`, and collapse signs of the features of upright images."""
        h = self.network(batch.views)
        B = len(h) // TURNS
        y = torch.arange(TURNS, device=h.device).repeat_interleave(B)
        logits = self.classifier(h).float()
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        return Loss(F.cross_entropy(logits, y), {"accuracy": accuracy, **collapse.signs(h[:B])})

    def passes(self) -> list[tuple[int, float]]:
        """Four turns of a view."""
        return [(self.config.view_size or self.network.image_size, float(TURNS))]

    def optimizers(self) -> dict[str, Optimizer]:
        """One for network and classifier."""
        return {"main": make_optimizer(self.config, self.parameters())}


def quarter_turns(x: Tensor) -> Tensor:
    """Each image in four rotations, counter-clockwise, pixel for pixel.

    Args:
        x: (B, C, s, s).

    Returns:
        (4B, C, s, s): all images turned by 0, then by 90, 180 and 270 degrees.
    """
    transposed = x.transpose(2, 3)
    return torch.cat([x, transposed.flip(2), x.flip(2, 3), transposed.flip(3)])
