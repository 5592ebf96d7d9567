"""Colorization (Zhang, Isola, Efros 2016, arXiv 1603.08511): from the lightness of an image to its colours.

X the lightness L of a view, Y its colours (a, b) on a grid of a quarter of its side, Z their soft encoding over Q = 313
bins (section 2.2), Z^ = G(X) the predicted distribution. Loss: cross-entropy, each place weighted by v = w[argmax Z],
which makes rare colours count more (eq. 2 to 4); p~ is found by one pass over the images before the first epoch.
The network that goes on sees lightness for good (`input` in model.json). Departures: docs/methods/colorization.md.
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
    """What the network sees of a batch, and what it is to find.

    Attributes:
        x: (B, 3, s, s) float32 in [0, 1], of which the network takes the lightness.
        ab: (B, g, g, 2) float32 colours.
        target: their soft encoding.
        coloured: (B,) bool, whether the image has colour at all.
    """

    x: Tensor
    ab: Tensor
    target: Soft
    coloured: Tensor


class ColorizationMethod(Method):
    """Network on lightness, and the classifier of colours on its last map, which is dropped afterwards.

    Args:
        config: the method's parameters.
        image_size: S, side of the images, px.
        seed: of the weights.
    """

    centres: Tensor
    p: Tensor

    def __init__(self, config: Colorization, image_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.grid = max(1, (config.view_size or image_size) // _COARSER)
        self.network = build_network(config.backbone, image_size, seed=seed, width=config.width, input="lightness")
        centres = in_gamut_bins()
        Q = len(centres)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("p", torch.full((Q,), 1 / Q))
        with seeded(seed, "colours"):
            self.head = PlaceClassifier(self.network.backbone.feature_dim, config.hidden, Q, self.grid)

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        """Before the first epoch: p~, the prior over bins, from all images with colour.

        Raises:
            DataError: there is none.
        """
        if progress.epoch:
            return
        sums, size = torch.zeros_like(self.p, dtype=torch.float64), self.config.view_size or self.network.image_size
        for batch in sweep():
            seen = self._coloured(centre(batch.images, size))
            kept = Soft(seen.target.bins[seen.coloured], seen.target.weight[seen.coloured])
            sums += prior(kept, len(sums))
        if not sums.any():
            raise DataError(
                f"pretext.method colorization: no image has colour (all a and b within {self.config.grey_threshold:g}"
                " of 0), so there is nothing to learn; choose another method, or lower pretext.grey_threshold"
            )
        self.p.copy_(sums / sums.sum())

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Views: a random view of each image, and its colours."""
        batch.views = self._coloured(random_view(batch.images, draws, "view", self.config, self.network.image_size))
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Weighted cross-entropy; `accuracy` of the bins and `ab_error`, distance of the decoded colours, of what has colour."""
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
        """One view."""
        return [(self.config.view_size or self.network.image_size, 1.0)]

    def optimizers(self) -> dict[str, Optimizer]:
        """One for network and head."""
        return {"main": make_optimizer(self.config, self.parameters())}

    def _coloured(self, x: Tensor) -> Coloured:
        """Colours are averaged over the pixels of a place; an image has colour where any of its pixels has."""
        ab = lab(x)[:, 1:]
        coloured = ab.abs().amax(dim=(1, 2, 3)) > self.config.grey_threshold
        coarse = F.adaptive_avg_pool2d(ab, self.grid).permute(0, 2, 3, 1)
        return Coloured(x, coarse, encode(coarse, self.centres, self.config.neighbours), coloured)
