"""Object detection with transferred layers: torchvision's Faster R-CNN (Ren et al., arXiv 1506.01497).

The backbone's last map feeds the region proposals. Pooled within each proposal, it feeds two new fully
connected layers. Everything is trained, and batch norms use the statistics of their batches. Training is
single-scale, or multi-scale as in Fast R-CNN (Girshick 2015, section 2.3): a scale is drawn for each step,
and the test merges the detections at all scales.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, batched_nms

from data.draws import Draws
from models.configs.evaluations import Detection
from models.evaluation.boxes import Found, Truth
from models.method import Batch, Loss, Method, Progress
from models.network import Network, seeded
from models.optim import make_optimizer

RATIOS = (0.5, 1.0, 2.0)
OVERLAP = 0.5
"""Overlap from which on two detections of a class count as the same."""
MOST = 100
"""Maximum number of detections per image."""


class DetectionMethod(Method):
    """Faster R-CNN on a network.

    Args:
        config: the training's parameters.
        network: the network whose convolutional layers are used and trained further.
        truths: objects of the training images, by index.
        extents: index -> (height, width) of an image within its square, px.
        classes: C; labels are 0 to C - 1.
        seed: for the new layers' weights.
    """

    def __init__(
        self,
        config: Detection,
        network: Network,
        truths: Mapping[int, Truth],
        extents: Mapping[int, tuple[int, int]],
        classes: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.network = config, network
        self._truths, self._extents = truths, extents
        anchors = AnchorGenerator((tuple(config.anchors),), (RATIOS,))
        pool = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
        with seeded(seed, "detector"):
            self.detector = FasterRCNN(
                _Maps(network),
                classes + 1,  # 0 is background
                rpn_anchor_generator=anchors,
                box_roi_pool=pool,
                box_detections_per_img=MOST,
                box_nms_thresh=OVERLAP,
                rpn_pre_nms_top_n_train=1000,
                rpn_post_nms_top_n_train=500,
                rpn_pre_nms_top_n_test=1000,
                rpn_post_nms_top_n_test=300,
                box_batch_size_per_image=128,
            )
        self.detector.transform = _Padded(1, 1, [0.0] * network.channels, [1.0] * network.channels)

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        """Scale images, mirror half of them, and move their boxes: `batch.views` is (images, targets)."""
        flips = draws.uniform("flip", 1)[:, 0] < 0.5
        scale = self.config.scales[int(draws.uniform("scale", 1)[0, 0] * len(self.config.scales))]
        images, targets = [], []
        for pixels, index, flip in zip(batch.images, batch.index.tolist(), flips.tolist(), strict=True):
            truth, (height, width) = self._truths[index], self._extents[index]
            x, factors = _scaled(pixels[:height, :width], scale)
            kept = ~truth.difficult
            boxes = torch.from_numpy(truth.boxes[kept] * factors)
            if flip:
                x = x.flip(2)
                boxes = torch.stack(
                    [x.shape[2] - boxes[:, 2], boxes[:, 1], x.shape[2] - boxes[:, 0], boxes[:, 3]], 1
                )
            labels = torch.from_numpy(truth.labels[kept] + 1)
            images.append(x)
            targets.append({"boxes": boxes.to(x.device), "labels": labels.to(x.device)})
        batch.views = images, targets
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Objectness and position of proposals, class and position of detections, weighted equally."""
        terms: dict[str, Tensor] = self.detector(*batch.views)
        names = {name: name.removeprefix("loss_") for name in terms}
        return Loss(
            torch.stack(list(terms.values())).sum(),
            {names[name]: value.detach() for name, value in terms.items()},
        )

    @torch.no_grad()
    def detect(self, pixels: Tensor, extents: Sequence[tuple[int, int]]) -> list[Found]:
        """Find the objects in some images. Boxes are in px of the squares that hold the images.

        Args:
            pixels: (B, L, L, 3) uint8, on the detector's device.
            extents: (height, width) of each image.
        """
        self.eval()
        found: list[list[dict[str, Tensor]]] = [[] for _ in extents]
        for scale in self.config.scales:
            scaled = [_scaled(p[:h, :w], scale) for p, (h, w) in zip(pixels, extents, strict=True)]
            for own, result, (_, factors) in zip(
                found, self.detector([x for x, _ in scaled]), scaled, strict=True
            ):
                own.append(result | {"boxes": result["boxes"] / torch.from_numpy(factors).to(pixels.device)})
        return [_together(own) for own in found]

    def collapsed(self, means: Mapping[str, float]) -> None:
        """No check, because detections are not embeddings."""

    def optimizers(self) -> dict[str, Optimizer]:
        """One optimizer for all parameters."""
        return {"main": make_optimizer(self.config, list(self.detector.parameters()))}


class _Padded(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """Only brings images to a common size: they are already scaled, and the network knows its own mean."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


class _Maps(nn.Module):
    """A network's last map, in the form that torchvision's detectors expect from a backbone."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.out_channels = network.layer_dim("features")

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict([("0", self.network.last_map(x).float())])


def _scaled(pixels: Tensor, scale: float) -> tuple[Tensor, NDArray[np.float32]]:
    """(h, w, 3) uint8 -> (3, h', w') float32 in [0, 1], and (4,) factors for the boxes."""
    x = pixels.permute(2, 0, 1).float() / 255
    if scale != 1:
        size = [max(1, round(side * scale)) for side in x.shape[1:]]
        x = F.interpolate(x[None], size, mode="bilinear", antialias=True)[0]
    height, width = (new / old for new, old in zip(x.shape[1:], pixels.shape[:2], strict=True))
    return x, np.array([width, height, width, height], np.float32)


def _together(found: list[dict[str, Tensor]]) -> Found:
    """Merge the detections at several scales, so that each object appears once."""
    boxes, labels, scores = (
        torch.cat([each[name] for each in found]) for name in ("boxes", "labels", "scores")
    )
    kept = batched_nms(boxes, scores, labels, OVERLAP)[:MOST] if len(found) > 1 else torch.arange(len(boxes))
    arrays: list[Any] = [x[kept].cpu().numpy() for x in (boxes, labels - 1, scores)]
    return Found(*arrays)
