"""Weighted k-nearest-neighbour classification of features (Wu et al. 2018, section 3.4; DINO's protocol).

A query's score for class c is the sum of [y_j = c] exp(s_j / T) over its k most similar bank images j. Here s
is the cosine similarity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from data.errors import ArtifactError, DataError

_SIMILARITIES = 2**24
"""Number of similarities in memory at once, unless `chunk` says otherwise."""


@torch.no_grad()
def knn_classes(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperatures: Sequence[float] = (0.07,),
    classes: int | None = None,
    chunk: int | None = None,
) -> dict[tuple[int, float], Tensor]:
    """Find the class of each query, for each k and temperature, in one pass.

    Args:
        bank: (N, D) features of the training images. They are scaled to unit rows here, like the queries.
        bank_labels: (N,) int64, 0 to classes - 1.
        queries: (M, D) features, on the bank's device.
        ks: numbers of neighbours. Those above N are left out of the result.
        temperatures: values of T, each above 0.
        classes: number of classes; None: one more than the largest label of the bank.
        chunk: queries compared at once; None: as many as fit a fixed memory. The result doesn't depend on it.

    Returns:
        (k, T) -> (M,) int64. Of classes with equal scores the lower one wins.

    Raises:
        DataError: there are no queries, or every k is above the number of bank images.
        ArtifactError: a feature is not finite.
    """
    ks = sorted({k for k in ks if k <= len(bank)})
    if not ks or not len(queries):
        raise DataError(
            f"kNN needs queries and at least as many bank images as neighbours; the bank has {len(bank)}"
        )
    for name, x in (("bank", bank), ("queries", queries)):
        if not torch.isfinite(x).all():
            raise ArtifactError(f"kNN {name}: the features hold values that are not finite")
    if classes is None:
        classes = int(bank_labels.max()) + 1
    bank = F.normalize(bank.float(), dim=1)
    queries = F.normalize(queries.float(), dim=1)
    chunk = chunk or max(1, _SIMILARITIES // len(bank))
    found = {(k, T): bank_labels.new_empty(len(queries)) for T in temperatures for k in ks}
    for start in range(0, len(queries), chunk):
        s, neighbour = (queries[start : start + chunk] @ bank.T).topk(ks[-1], dim=1)
        label = bank_labels[neighbour]
        for T in temperatures:
            # Relative to the nearest one, because exp(1 / T) overflows for a small T. Predictions don't
            # change.
            weight = ((s - s[:, :1]) / T).exp()
            score = weight.new_zeros(len(s), classes)
            used = 0
            for k in ks:
                score.scatter_add_(1, label[:, used:k], weight[:, used:k])
                used = k
                found[k, T][start : start + chunk] = score.argmax(dim=1)
    return found
