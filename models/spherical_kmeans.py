"""K-means on the unit sphere, in torch, on the device of the embeddings (DeepCluster-v2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS = 65_536
"""Number of points compared with all centroids at once."""


@torch.no_grad()
def spherical_kmeans(z: Tensor, k: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm by cosine. Neither step lowers the mean cosine between points and their centroids.

    Args:
        z: (N, d) float32 unit rows.
        k: number of clusters, 1 to N.
        iterations: how often centroids move, at least 1.
        generator: on the CPU. It draws the points to start from.

    Returns:
        (k, d) unit centroids, and (N,) int64 the centroid with the largest cosine for each point. A centroid
        stays where it was if it has no points, or if its points sum to zero.
    """
    centroids = z[torch.randperm(len(z), generator=generator)[:k].to(z.device)]
    label = _nearest(z, centroids)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids).index_add_(0, label, z)
        moved = sums.norm(dim=1, keepdim=True) > 0
        centroids = torch.where(moved, F.normalize(sums, dim=1), centroids)
        label = _nearest(z, centroids)
    return centroids, label


def _nearest(z: Tensor, centroids: Tensor) -> Tensor:
    return torch.cat([(rows @ centroids.T).argmax(dim=1) for rows in torch.split(z, _ROWS)])
