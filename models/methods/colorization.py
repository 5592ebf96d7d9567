"""Colorization (Zhang, Isola, Efros 2016, arXiv 1603.08511): predict an image's colours from its lightness.

X is the lightness L of a view. Y are its colours (a, b), on a grid with a quarter of the view's side. Z is
their soft encoding over Q = 313 bins (section 2.2), and Z^ = G(X) is the predicted distribution. The loss is
the cross-entropy, with each place weighted by v = w[argmax Z], so that rare colours count more (eq. 2 to 4).
The prior p~ in these weights is measured in one pass over the images before the first epoch. The published
network always takes lightness as its input (`input` in model.json). Departures: docs/methods/colorization.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from data.draws import Draws
from data.errors import DataError
from models import collapse
from models.augment import centre, random_view
from models.backbones.backbone import pooled
from models.colour import lab
from models.configs.colorization import Colorization
from models.decoders import PlaceClassifier
from models.losses.colorization import (
    Soft,
    annealed_mean,
    encode,
    in_gamut_bins,
    prior,
    rebalancing,
    weighted_cross_entropy,
)
from models.method import Batch, Loss, Method, Progress, Sweep
from models.network import build_network, seeded
from models.optim import make_optimizer

_COARSER = 4


@dataclass(frozen=True)
class Coloured:
    """The network's input for a batch, and the target.

    Attributes:
        x: (B, 3, s, s) float32 in [0, 1]; the network computes the lightness from it.
        ab: (B, g, g, 2) float32, the colours.
        target: the soft encoding of `ab`.
        coloured: (B,) bool, whether the image has any colour.
    """

    x: Tensor
    ab: Tensor
    target: Soft
    coloured: Tensor


class ColorizationMethod(Method):
    """A network on lightness, and a classifier of colours on its last map.

    The classifier is dropped after training.

    Args:
        config: the method's parameters.
        image_size: S, side of the images in px.
        seed: seed of the weights.
    """

    centres: Tensor
    p: Tensor

    def __init__(self, config: Colorization, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.grid = max(1, (config.side(image_size)) // _COARSER)
        self.network = build_network(
            config.backbone, image_size, seed=seed, width=config.width, input="lightness"
        )
        centres = in_gamut_bins()
        Q = len(centres)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("p", torch.full((Q,), 1 / Q))
        with seeded(seed, "colours"):
            self.head = PlaceClassifier(self.network.backbone.feature_dim, config.hidden, Q, self.grid)

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Before the first epoch, measure p~, the prior over bins, on all images that have colour.

        Raises:
            DataError: no image has colour.
        """
        if progress.epoch:
            return
        sums, size = (
            torch.zeros_like(self.p, dtype=torch.float64),
            self.config.side(self.network.image_size),
        )
        for batch in sweep():
            seen = self._coloured(centre(batch.images, size))
            kept = Soft(seen.target.bins[seen.coloured], seen.target.weight[seen.coloured])
            sums += prior(kept, len(sums))
        if not sums.any():
            raise DataError(
                "pretext.method = colorization, but no image has colour: all a and b values are within "
                f"{self.config.grey_threshold:g} of 0; choose another method, or lower "
                "pretext.grey_threshold"
            )
        self.p.copy_(sums / sums.sum())

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Draw a random view of each image, and compute its colours."""
        batch.views = self._coloured(
            random_view(batch.images, draws, "view", self.config, self.network.image_size)
        )
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Weighted cross-entropy over the places of images that have colour.

        Terms, over the same places: `accuracy` of the bins, `ab_error`, the mean distance between decoded and
        true colours. Also `coloured`, the share of images that have colour, and the collapse signs of the
        features.
        """
        views: Coloured = batch.views
        maps = self.network.last_map(views.x)
        logits = self.head(maps).float()
        nearest = views.target.bins[..., 0]
        on = views.coloured[:, None, None].expand_as(nearest)
        w = rebalancing(self.p, self.config.rebalance)
        total = weighted_cross_entropy(logits, views.target, torch.where(on, w[nearest], 0))
        n = on.sum().clamp(min=1)
        right = logits.argmax(dim=1) == nearest
        found = annealed_mean(logits.detach(), self.centres, self.config.temperature)
        terms: dict[str, Tensor | float] = {
            "accuracy": (right & on).sum() / n,
            "ab_error": ((found - views.ab).norm(dim=3) * on).sum() / n,
            "coloured": views.coloured.float().mean(),
            **collapse.signs(pooled(maps)),
        }
        return Loss(total, terms)

    def passes(self) -> list[tuple[int, float]]:
        """One pass over one view per image."""
        return [(self.config.side(self.network.image_size), 1.0)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for the network and the head."""
        return {"main": make_optimizer(self.config, self.parameters())}

    def _coloured(self, x: Tensor) -> Coloured:
        """Average the colours over the pixels of each place, and encode them.

        An image counts as coloured if any of its pixels has colour.
        """
        ab = lab(x)[:, 1:]
        coloured = ab.abs().amax(dim=(1, 2, 3)) > self.config.grey_threshold
        coarse = F.adaptive_avg_pool2d(ab, self.grid).permute(0, 2, 3, 1)
        return Coloured(x, coarse, encode(coarse, self.centres, self.config.neighbours), coloured)
