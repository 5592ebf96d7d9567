"""Jigsaw (Noroozi and Favaro 2016, arXiv 1603.09246) and Jigsaw++ (Noroozi et al. 2018, arXiv 1805.00385).

The network predicts which permutation shuffled the tiles of an image. The two methods differ in their
configuration: Jigsaw++ has more permutations, more grey images and occluding tiles.

An image is cut into 3 x 3 cells, and a tile is taken from a random place in each cell. The next steps follow
the order of the authors' code. The tiles are permuted. All nine are made grey, or lose one direction of
colour. Some are replaced by tiles of one other image. Each tile is normalised on its own. One trunk sees each
tile separately; the head sees the features of all nine.

Each step closes a shortcut. The gap between tiles hides edges that continue across them. Channel shift and
grey images hide chromatic aberration. Normalising each tile hides the brightness that neighbours share.
Departures: docs/methods/jigsaw++.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from data.errors import ConfigError
from models import collapse
from models.augment import GREY
from models.configs.jigsaw import CELLS, Jigsaw, JigsawPlusPlus
from models.heads import JigsawHead
from models.method import Batch, Loss, Method, Progress
from models.network import build_network, seeded
from models.optim import make_optimizer
from models.permutations import TILES, permutation_set

_LEAST_DEVIATION = 1.0  # of 255 grey levels; keeps noise in flat tiles from being amplified


@dataclass(frozen=True)
class Puzzles:
    """The tiles that the network sees, and the permutation it has to find.

    Attributes:
        tiles: (9 B, 3, t, t) float32; the nine tiles of a puzzle follow each other.
        permutation: (B,) int64, rows of the permutation set.
    """

    tiles: Tensor
    permutation: Tensor


class JigsawMethod(Method):
    """The trunk, which is published and later sees whole images, and the puzzle's head, which is dropped.

    Args:
        config: the method's parameters.
        image_size: S, side of the images in px.
        seed: seed of the weights and of the permutation set.

    Raises:
        ConfigError: the tiles are larger than the cells of S / 3 px, or smaller than 8 px.
    """

    permutations: Tensor

    def __init__(self, config: Jigsaw | JigsawPlusPlus, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.cell, self.tile = image_size // CELLS, config.tile_side(image_size)
        if not 8 <= self.tile <= self.cell:
            raise ConfigError(
                f"pretext.tile: {self.tile} px; with data.image_size {image_size} a cell of the puzzle has"
                f" {self.cell} px, so a tile must have 8 to {self.cell} px; choose such a tile, or images of"
                " at least 30 px"
            )
        slack = self.cell - self.tile
        self.channel_shift = min(config.channel_shift, slack // 2)
        self.jitter = slack - self.channel_shift
        self.network = build_network(
            config.backbone, image_size, seed=seed, width=config.width, form=self.tile
        )
        with seeded(seed, "puzzle"):
            self.head = JigsawHead(self.network.output_dim, config.tile_features, TILES, config.permutations)
        permutations = permutation_set(config.permutations, seed, config.construction)
        self.register_buffer("permutations", torch.from_numpy(permutations))

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Make one puzzle per image.

        Apart from the occluding tiles, a puzzle depends only on its image and the image's draws.
        """
        images = batch.images
        B, S, device = len(images), images.shape[1], images.device

        def uniform(name: str, *shape: int) -> Tensor:
            n = torch.Size(shape).numel()
            return torch.from_numpy(draws.uniform(name, n)).view(B, *shape).to(device)

        permutation = _integers(uniform("permutation", 1), len(self.permutations)).squeeze(1)
        cells = self.permutations[permutation]
        corner = _integers(uniform("crop", 1, 1, 2), S - CELLS * self.cell + 1)
        corner = corner + self.cell * torch.stack([cells // CELLS, cells % CELLS], dim=-1)[:, :, None]
        corner = corner + _integers(uniform("jitter", TILES, 1, 2), self.jitter + 1)
        corner = corner + _integers(uniform("channel shift", TILES, 3, 2), self.channel_shift + 1)
        tiles = cut(images, corner, self.tile).float()

        colour = uniform("colour", 2)
        tiles = recolour(
            tiles, grey=colour[:, 0] < self.config.grey, project=colour[:, 1] < self.config.projection
        )
        if B > 1 and self.config.occluders:
            count = _integers(uniform("occluders", 1), self.config.occluders + 1)
            others = (
                torch.arange(B, device=device)
                + 1
                + _integers(uniform("occluding image", 1), B - 1).squeeze(1)
            )
            order = uniform("occluded", 2, TILES).argsort(dim=2)
            tiles = occlude(tiles, count, others % B, slots=order[:, 0], sources=order[:, 1])
        tiles = normalise(tiles).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        batch.views = Puzzles(tiles, permutation)
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy over the permutations.

        Terms: `accuracy`; collapse signs of the features of each puzzle's first tile.
        """
        puzzles: Puzzles = batch.views
        features = self.network.backbone(puzzles.tiles)
        logits = self.head(features).float()
        accuracy = (logits.argmax(dim=1) == puzzles.permutation).float().mean()
        return Loss(
            F.cross_entropy(logits, puzzles.permutation),
            {"accuracy": accuracy, **collapse.signs(features[::TILES])},
        )

    def passes(self) -> list[tuple[int, float]]:
        """Nine tiles per image."""
        return [(self.tile, float(TILES))]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the trunk and the head."""
        return {"main": make_optimizer(self.config, self.parameters())}


def cut(images: Tensor, corner: Tensor, tile: int) -> Tensor:
    """Cut squares out of images.

    Args:
        images: (B, S, S, 3).
        corner: (B, n, 3, 2) int64, row and column of the upper left corner of each square in each colour
            channel.
        tile: t, side of a square in px.

    Returns:
        (B, n, 3, t, t), with the dtype of the images.
    """
    B, device = len(images), images.device
    span = torch.arange(tile, device=device)
    image = torch.arange(B, device=device).view(B, 1, 1, 1, 1)
    channel = torch.arange(3, device=device).view(1, 1, 3, 1, 1)
    row = (corner[..., 0, None] + span)[..., :, None]
    column = (corner[..., 1, None] + span)[..., None, :]
    return images[image, row, column, channel]


def recolour(tiles: Tensor, grey: Tensor, project: Tensor) -> Tensor:
    """Make all tiles of an image grey, or remove only the green-magenta direction from their colours.

    The projection I - v v' / |v|^2 with v = (1, -2, 1) is the one in the authors' code. It suits chromatic
    aberration, which shifts green against red and blue.

    Args:
        tiles: (B, n, 3, t, t) float32; the channels are red, green and blue.
        grey: (B,) bool; True replaces all three channels by luma (Rec. 601).
        project: (B,) bool; True applies the projection, unless the image is made grey.

    Returns:
        (B, n, 3, t, t) float32.
    """
    v = tiles.new_tensor([1.0, -2.0, 1.0])
    unchanged = torch.eye(3, device=tiles.device)
    luma = tiles.new_tensor(GREY).expand(3, 3)
    matrix = torch.where(project[:, None, None], unchanged - v[:, None] * v / (v @ v), unchanged)
    matrix = torch.where(grey[:, None, None], luma, matrix)
    return (matrix[:, None] @ tiles.flatten(3)).view_as(tiles)


def occlude(tiles: Tensor, count: Tensor, others: Tensor, slots: Tensor, sources: Tensor) -> Tensor:
    """Replace tiles by tiles of one other image.

    Args:
        tiles: (B, n, 3, t, t).
        count: (B, 1) int64, how many tiles to replace.
        others: (B,) int64, the image that the new tiles come from.
        slots: (B, n) int64, a permutation per image; the tiles at its first `count` positions are replaced.
        sources: (B, n) int64, a permutation per image; its first `count` entries are the tiles of the other
            image that replace them, in the same order.

    Returns:
        (B, n, 3, t, t); tiles that are not replaced keep their exact values.
    """
    B, n = slots.shape
    replaced = torch.arange(n, device=tiles.device) < count
    own = torch.arange(B, device=tiles.device)[:, None]
    image = torch.empty_like(slots).scatter_(1, slots, torch.where(replaced, others[:, None], own))
    tile = torch.empty_like(slots).scatter_(1, slots, torch.where(replaced, sources, slots))
    return tiles[image, tile]


def normalise(tiles: Tensor) -> Tensor:
    """Give each tile a mean of 0 and a standard deviation of 1, over its channels jointly.

    Args:
        tiles: (B, n, 3, t, t) float32, on the scale 0 to 255.
    """
    deviation, mean = torch.std_mean(tiles, dim=(2, 3, 4), correction=0, keepdim=True)
    return (tiles - mean) / deviation.clamp_min(_LEAST_DEVIATION)


def _integers(uniform: Tensor, n: int) -> Tensor:
    """Map draws in [0, 1) to int64 in 0..n-1."""
    return (uniform * n).long()
