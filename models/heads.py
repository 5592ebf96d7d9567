"""Layers on top of a backbone: projection layers, the puzzle's head, classifiers."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def hidden_layer(inputs: int, outputs: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """(B, inputs) -> (B, outputs): linear layer, batch norm with the bias, activation (default ReLU)."""
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), activation())


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs) -> (B, outputs): SimCLR's last layer, a linear layer and a batch norm without offset.

    Unlike in the authors' code the batch norm has no scale either, so no dimension of z can be switched off.
    """
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=False))


def mlp(
    inputs: int,
    hidden: int,
    outputs: int,
    *,
    layers: int = 2,
    norm: bool = True,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """(B, inputs) -> (B, outputs): `layers` linear layers with ReLU in between, no norm after the last.

    Args:
        inputs: width of the input.
        hidden: width between the layers.
        outputs: width of the output.
        layers: number of linear layers, at least 1.
        norm: True for batch norm before each ReLU (BYOL, SwAV), False for none (MoCo v2).
        activation: used instead of ReLU.
    """
    widths = [inputs] + [hidden] * (layers - 1)
    stack: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        stack += [hidden_layer(a, b, activation)] if norm else [nn.Linear(a, b), activation()]
    return nn.Sequential(*stack, nn.Linear(widths[-1], outputs))


def prediction(features: int, dim: int, layers: int) -> nn.Sequential:
    """(B, features) -> (B, dim): the head g of SimReg (Navaneet et al. 2021).

    Args:
        features: D of the student.
        dim: d of the teacher's embedding.
        layers: 1 is a linear layer behind a batch norm; 2 has a layer of 2D in between; 4 has layers of 2D, D
            and 2D. As in the authors' code, the one of D has no batch norm and no ReLU.
    """
    if layers == 1:
        return nn.Sequential(nn.BatchNorm1d(features), nn.Linear(features, dim))
    wide = 2 * features
    first = [hidden_layer(features, wide), nn.Linear(wide, features)] if layers == 4 else []
    return nn.Sequential(*first, hidden_layer(features, wide), nn.Linear(wide, dim))


def classifier(inputs: int, classes: int) -> nn.Linear:
    """(B, inputs) -> (B, classes), weights N(0, 0.01), bias 0: the first loss is close to ln(classes)."""
    layer = nn.Linear(inputs, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class JigsawHead(nn.Module):
    """The context-free network above its trunk: fc6 on each tile, then fc7 and fc8 on all tiles in order.

    All tiles share fc6. Batch norm replaces the paper's dropout. So every random number is still a draw that
    belongs to an image, and trunks with batch norm train at their usual rates.

    Args:
        features: D, features per tile from the trunk.
        tile_features: width of fc6 (1024 in the paper). fc7 is four times as wide (4096 in the paper).
        tiles: number of tiles in a puzzle.
        permutations: number of classes.
    """

    def __init__(self, features: int, tile_features: int, tiles: int, permutations: int) -> None:
        super().__init__()
        self.tiles = tiles
        self.fc6 = hidden_layer(features, tile_features)
        self.fc7 = hidden_layer(tiles * tile_features, 4 * tile_features)
        self.fc8 = classifier(4 * tile_features, permutations)

    def forward(self, features: Tensor) -> Tensor:
        """(tiles B, D) features, tiles of a puzzle next to each other -> (B, permutations) logits."""
        each: Tensor = self.fc6(features)
        logits: Tensor = self.fc8(self.fc7(each.reshape(-1, self.tiles * each.shape[1])))
        return logits


class DINOHead(nn.Module):
    """DINO's projection head (Caron et al., arXiv 2104.14294, appendix C): cosines with K vectors.

    Three linear layers with GELU in between produce a vector, which is scaled to a unit vector z of length d.
    Then comes a linear layer without bias, whose rows have unit length. This is weight normalisation with a
    fixed scale of 1, so a moving average of two such heads is again such a head.

    Args:
        inputs: width of the input.
        hidden: width between the layers.
        bottleneck: d.
        outputs: K.
        norm: whether there is a batch norm before each GELU.
    """

    def __init__(self, inputs: int, hidden: int, bottleneck: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        self.mlp = mlp(inputs, hidden, bottleneck, layers=3, norm=norm, activation=nn.GELU)
        for layer in self.mlp.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.last = nn.Parameter(torch.randn(outputs, bottleneck))

    def embed(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, d) float32 unit rows z."""
        z: Tensor = self.mlp(x)
        return F.normalize(z.float(), dim=1)

    def scores(self, z: Tensor) -> Tensor:
        """(B, d) -> (B, K) float32. Outside autocast: scores are divided by 0.04, and bf16 is too coarse."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z, F.normalize(self.last, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, K) float32 in [-1, 1]."""
        return self.scores(self.embed(x))
