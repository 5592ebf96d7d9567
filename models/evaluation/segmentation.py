"""Segmentation with transferred layers: a fully convolutional network (Long et al., arXiv 1411.4038).

torchvision's FCN head is put on the backbone's last map. Its output is interpolated to the size of the image.
Everything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torchvision.models.segmentation.fcn import FCNHead

from data.draws import Draws
from data.voc import VOID
from models.configs.evaluations import Segmentation
from models.method import Batch, Loss, Method, Progress
from models.network import Network, seeded
from models.optim import make_optimizer


class SegmentationMethod(Method):
    """Predicts a class for each pixel. The background is one of the classes.

    Args:
        config: the training's parameters.
        network: the network whose convolutional layers are used and trained further.
        masks: index -> (L, L) uint8 classes within the square of the image; `VOID` outside the image.
        classes: C, including the background.
        seed: for the new layers' weights.
    """

    def __init__(
        self,
        config: Segmentation,
        network: Network,
        masks: Mapping[int, NDArray[np.uint8]],
        classes: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.network, self._masks = config, network, masks
        with seeded(seed, "segmenter"):
            self.head = FCNHead(network.layer_dim("features"), classes)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Scale images and masks, and mirror half of them: `batch.views` is (B, 3, l, l), (B, l, l)."""
        flips = torch.from_numpy(draws.uniform("flip", 1)[:, 0] < 0.5).to(batch.images.device)
        scale = self.config.scales[int(draws.uniform("scale", 1)[0, 0] * len(self.config.scales))]
        x = batch.images.permute(0, 3, 1, 2).float() / 255
        truth = torch.from_numpy(np.stack([self._masks[index] for index in batch.index.tolist()])).to(
            x.device
        )
        if scale != 1:
            side = max(1, round(x.shape[2] * scale))
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
            truth = F.interpolate(truth[:, None].float(), (side, side), mode="nearest-exact")[:, 0].to(
                torch.uint8
            )
        x = torch.where(flips[:, None, None, None], x.flip(3), x)
        truth = torch.where(flips[:, None, None], truth.flip(2), truth)
        batch.views = x.contiguous(memory_format=torch.channels_last), truth
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Cross-entropy over all pixels that are not void, and the `accuracy` on them."""
        x, truth = batch.views
        logits, truth = self.logits(x), truth.long()
        known = truth != VOID
        accuracy = (logits.argmax(1) == truth)[known].float().mean()
        return Loss(F.cross_entropy(logits, truth, ignore_index=VOID), {"accuracy": accuracy})

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, l, l) in [0, 1] -> (B, C, l, l) float32."""
        found: Tensor = self.head(self.network.last_map(x)).float()
        return F.interpolate(found, x.shape[2:], mode="bilinear", align_corners=False)

    @torch.no_grad()
    def segment(self, pixels: Tensor) -> Tensor:
        """(B, L, L, 3) uint8, on the network's device -> (B, L, L) uint8 classes."""
        self.eval()
        return self.logits(pixels.permute(0, 3, 1, 2).float() / 255).argmax(1).to(torch.uint8)

    def collapsed(self, means: Mapping[str, float]) -> None:
        """No check, because classes of pixels are not embeddings."""

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for all parameters."""
        return {"main": make_optimizer(self.config, [*self.network.parameters(), *self.head.parameters()])}
