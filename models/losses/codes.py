"""Losses against codes, a method's own labels. Symbols: V crops of B images, A with codes, K prototypes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def swapped_prediction(scores: Tensor, q: Tensor, tau: float) -> Tensor:
    """SwAV eq. 2 with multi-crop (section 3.3): every crop predicts the codes of all other crops.

    The loss is 1/A sum_i 1/(V - 1) sum_{v != i} l(v, q_i). Here l(v, q) is the mean over images of
    -sum_k q_k log p_k, with p = softmax(scores_v / tau). A crop never predicts its own code.

    Args:
        scores: (V, B, K) z C^T, with V at least 2. The first A crops are those that have codes.
        q: (A, B, K) codes, rows sum to 1. They get no gradient.
        tau: temperature, above 0.

    Returns:
        Scalar float32 (float64 for float64 scores). It is ln K when all scores of an image are equal.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores if scores.dtype == torch.float64 else scores.float()
        log_p = F.log_softmax(scores / tau, dim=2)
        A, V = len(q), len(scores)
        others = log_p.sum(dim=0) - log_p[:A]  # (A, B, K): log p summed over all crops except i
        return -(q.detach() * others).sum(dim=2).mean() / (V - 1)
