"""RotNet (Gidaris, Singh, Komodakis 2018, arXiv 1803.07728): predict the rotation of a view.

X is a view of an image, and X^y = g(X | y) is the view rotated by 90 y degrees for y in 0..3 (eq. 2). The
network F(. | theta) gives the probabilities of the K = 4 rotations. A batch of B images has all four
rotations of each, 4 B views in total. The loss is the mean of -log F^y(X^y) over them (eq. 3). Rotations are
made by transposing and flipping, because interpolation would leave traces that give them away. Departures:
docs/methods/rotation.md.
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
    """The network, and a classifier of the four rotations, which is dropped after training.

    Args:
        config: the method's parameters.
        image_size: S, side of the images in px.
        seed: seed of the weights.
    """

    def __init__(self, config: Rotation, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        with seeded(seed, "turns"):
            self.classifier = heads.classifier(self.network.output_dim, TURNS)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw one view per image and rotate it: (4B, 3, s, s).

        All upright views come first, then all views turned once, twice and three times.
        """
        x = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        batch.views = quarter_turns(x).contiguous(memory_format=torch.channels_last)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy over the rotations.

        Terms: `accuracy`; collapse signs of the features of upright images.
        """
        h = self.network(batch.views)
        B = len(h) // TURNS
        y = torch.arange(TURNS, device=h.device).repeat_interleave(B)
        logits = self.classifier(h).float()
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        return Loss(F.cross_entropy(logits, y), {"accuracy": accuracy, **collapse.signs(h[:B])})

    def passes(self) -> list[tuple[int, float]]:
        """Four rotations of one view per image."""
        return [(self.config.side(self.network.image_size), float(TURNS))]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the network and the classifier."""
        return {"main": make_optimizer(self.config, self.parameters())}


def quarter_turns(x: Tensor) -> Tensor:
    """Rotate each image counter-clockwise by 0 to 3 quarter turns, without interpolation.

    Args:
        x: (B, C, s, s).

    Returns:
        (4B, C, s, s): all images rotated by 0 degrees, then by 90, 180 and 270 degrees.
    """
    transposed = x.transpose(2, 3)
    return torch.cat([x, transposed.flip(2), x.flip(2, 3), transposed.flip(3)])
