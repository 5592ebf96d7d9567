"""Context encoder (Pathak et al. 2016, arXiv 1604.07379): fill in a hole in the image.

x is a view in [-1, 1], M is the hole, and F is the picture that the decoder makes of x hidden by M. The
reconstruction loss is L_rec = |W (F - x)|^2 (eq. 1). W is w in the hole, 10 w on its rim and 0 outside. The
rim stays visible, so that the picture continues the image. With an adversary D, L = lambda_rec L_rec +
lambda_adv L_adv (eq. 3). D sees only the hole, not its context (section 3.2), and has its own optimizer,
which steps after the encoder's. Departures: docs/methods/inpainting.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from data.draws import Draws
from data.errors import ConfigError
from models import collapse
from models.augment import random_view
from models.backbones.backbone import pooled
from models.configs.inpainting import Inpainting
from models.decoders import Adversary, ContextDecoder
from models.losses.adversarial import judge, persuade
from models.method import Batch, Loss, Method, Progress
from models.network import MEAN, build_network, seeded
from models.optim import make_optimizer

RIM_WEIGHT = 10.0
_LEAST_BLOCK = 2
_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class Holes:
    """Images and their holes.

    Attributes:
        x: (B, 3, s, s) float32 in [0, 1], the whole images.
        region: (B, 1, s, s) bool, the hole M, which is predicted.
        hidden: (B, 1, s, s) bool, the region without its rim.
    """

    x: Tensor
    region: Tensor
    hidden: Tensor

    def visible(self) -> Tensor:
        """The images with the mean colour in the hidden area, (B, 3, s, s) float32."""
        return torch.where(self.hidden, self.x.new_tensor(MEAN).view(3, 1, 1), self.x)

    def weight(self) -> Tensor:
        """W with w = 1, (B, 1, s, s) float32."""
        return torch.where(self.hidden, 1.0, torch.where(self.region, RIM_WEIGHT, 0.0))


class InpaintingMethod(Method):
    """The network, the decoder and an optional adversary. Only the network is published.

    Args:
        config: the method's parameters.
        image_size: S, side of the images in px.
        seed: seed of the weights.

    Raises:
        ConfigError: the rim covers the whole hole, or blocks would be smaller than 2 px.
    """

    def __init__(self, config: Inpainting, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.size = s = config.side(image_size)
        self.overlap = max(1, round(s / 32)) if config.overlap is None else config.overlap
        blocks = config.blocks if config.hole == "blocks" else 1
        self.largest = math.floor(s * math.sqrt(config.area / blocks) + 1e-9)
        if self.largest < max(_LEAST_BLOCK, 2 * self.overlap + 1):
            raise ConfigError(
                f"pretext.area {config.area:g} and pretext.overlap {self.overlap}: in a view of {s} px, the"
                f" squares of the hole have a side of {self.largest} px, which the rim covers; choose a"
                " larger area, a smaller overlap or fewer blocks"
            )
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width)
        places = self._side_of_map()
        with seeded(seed, "decoder"):
            self.decoder = ContextDecoder(self.network.backbone.feature_dim, places, s, config.hidden)
        with seeded(seed, "adversary"):
            self.adversary = Adversary(s, config.hidden // 4) if config.adversarial else None

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw a random view of each image, and a hole."""
        x = random_view(batch.images, draws, "view", self.config, self.network.image_size)
        if self.config.hole == "centre":
            region = centre_square(self.size, self.largest).expand(len(x), 1, -1, -1).to(x.device)
        else:
            u = torch.from_numpy(draws.uniform("blocks", 3 * self.config.blocks)).view(len(x), -1, 3)
            least = max(_LEAST_BLOCK, 2 * self.overlap + 1, self.largest // 2)
            region = squares(u, self.size, least, self.largest).to(x.device)
        batch.views = Holes(x, region, without_rim(region, self.overlap))
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """The encoder's loss: the reconstruction loss, combined with the adversarial loss if there is one."""
        return self._encoder_loss(batch.views, *self._picture(batch.views))

    def losses(self, batch: Batch, progress: Progress) -> Iterator[Loss]:
        """The encoder's loss, then the adversary's loss on the same picture."""
        holes: Holes = batch.views
        maps, picture = self._picture(holes)
        yield self._encoder_loss(holes, maps, picture)
        if self.adversary is not None:
            true = self.adversary(self._cut(holes, 2 * holes.x - 1))
            false = self.adversary(self._cut(holes, picture.detach()))
            right = ((true > 0).float().mean() + (false < 0).float().mean()) / 2
            yield Loss(judge(true, false), {"adversary_accuracy": right}, optimizer="adversary")

    def passes(self) -> list[tuple[int, float]]:
        """One pass over one view per image."""
        return [(self.size, 1.0)]

    def optimizers(self) -> dict[str, Optimizer]:
        """`main` for the network and the decoder; `adversary`, which is Adam as in the authors' code."""
        generator = [*self.network.parameters(), *self.decoder.parameters()]
        found: dict[str, Optimizer] = {"main": make_optimizer(self.config, generator)}
        if self.adversary is not None:
            found["adversary"] = Adam(
                self.adversary.parameters(), lr=self.config.adversary_learning_rate, betas=_BETAS
            )
        return found

    def _picture(self, holes: Holes) -> tuple[Tensor, Tensor]:
        maps = self.network.last_map(holes.visible())
        return maps, self.decoder(maps)

    def _encoder_loss(self, holes: Holes, maps: Tensor, picture: Tensor) -> Loss:
        rec = reconstruction(picture, 2 * holes.x - 1, holes.weight())
        terms: dict[str, Tensor | float] = {"reconstruction": rec.detach(), **collapse.signs(pooled(maps))}
        if self.adversary is None:
            return Loss(rec, terms)
        adv = persuade(self.adversary(self._cut(holes, picture)))
        lam = self.config.adversarial
        return Loss((1 - lam) * rec + lam * adv, {**terms, "adversarial": adv.detach()})

    def _cut(self, holes: Holes, picture: Tensor) -> Tensor:
        return torch.where(holes.region, picture, 0.0)

    @torch.no_grad()
    def _side_of_map(self) -> int:
        self.network.eval()
        side = self.network.last_map(torch.zeros(1, 3, self.size, self.size)).shape[-1]
        self.network.train()
        return side


def reconstruction(picture: Tensor, x: Tensor, W: Tensor) -> Tensor:
    """Eq. 1, as a mean over the pixels and channels of the hole.

    Args:
        picture: (B, 3, s, s), the prediction.
        x: (B, 3, s, s), the true image.
        W: (B, 1, s, s), weights, 0 outside the hole.

    Returns:
        Scalar.
    """
    return (W * (picture - x).square()).sum() / (3 * (W > 0).sum())


def centre_square(size: int, side: int) -> Tensor:
    """Mask of a square of `side` px in the centre of an image of `size` px, (1, 1, s, s) bool."""
    first = (size - side) // 2
    inside = (torch.arange(size) >= first) & (torch.arange(size) < first + side)
    return (inside[:, None] & inside)[None, None]


def squares(u: Tensor, size: int, least: int, largest: int) -> Tensor:
    """Mask of squares with random sides at random places. The squares may overlap.

    Args:
        u: (B, n, 3), draws in [0, 1) for the side, row and column of n squares.
        size: s, side of the image in px.
        least: smallest side of a square in px.
        largest: largest side of a square in px.

    Returns:
        (B, 1, s, s) bool.
    """
    side = least + (u[..., 0] * (largest - least + 1)).long()
    first = (u[..., 1:] * (size - side + 1)[..., None]).long()  # (B, n, 2)
    at = torch.arange(size)
    inside = (at >= first[..., None]) & (at < (first + side[..., None])[..., None])  # (B, n, 2, s)
    return (inside[:, :, 0, :, None] & inside[:, :, 1, None, :]).any(dim=1, keepdim=True)


def without_rim(region: Tensor, overlap: int) -> Tensor:
    """Shrink a (B, 1, s, s) bool region by `overlap` px where it borders on visible pixels.

    It doesn't shrink at the border of the image.
    """
    if overlap == 0:
        return region
    outside = F.max_pool2d((~region).float(), 2 * overlap + 1, stride=1, padding=overlap)
    return region & (outside == 0)
