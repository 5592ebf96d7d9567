"""Sinkhorn-Knopp: labels of which every prototype gets an equal share. One home for SwAV and SeLa.

Symbols: N (or B) images, K prototypes; L (N, K) log affinities: scores / epsilon in SwAV, lambda log p in SeLa. Wanted are
scalings alpha (N,), beta (K,) such that Q_ik = exp(alpha_i + L_ik + beta_k) gives every image mass 1 and every prototype
N / K. The authors scale Q itself, by turns to 1 / K a prototype and 1 / N an image; these constants cancel, since an
image's step comes last. Here only the scalings move: where no exponential can vanish by two matrix-vector products an
iteration, else on log Q, where nothing overflows and no row can vanish.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

HELD = 2**26
"""Values of exp(L) that are held in float64 rather than made anew in every iteration: 512 MiB."""
EXPONENTS = 70.0
"""Largest range of L that is exponentiated: e^-70 = 4e-31, and its products with N and K, are normal float32 numbers."""


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int = 3) -> Tensor:
    """Soft codes Q of a batch (SwAV, section 3.1, eq. 3 to 5).

    Args:
        scores: (B, K) z C^T, cosines, any float type; computed in float32, or float64 if given so, also under autocast.
        epsilon: weight of the codes' entropy, above 0; towards 0 codes become hard.
        iterations: pairs of steps; 0: softmax(scores / epsilon), without any share for a prototype.

    Returns:
        (B, K) codes without gradient: rows sum to 1, columns to B / K, but for what more iterations would mend.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if iterations == 0:
            return (scores / epsilon).softmax(dim=1)
        if 2 / epsilon <= EXPONENTS:  # cosines differ by 2 at most
            q = ((scores - 1) / epsilon).exp_()
            alpha = q.new_ones(len(q))
            for _ in range(iterations):
                beta = len(q) / q.shape[1] / (alpha @ q)  # each prototype its share: else the scalings drift
                alpha = 1 / (q @ beta)
            return q.mul_(beta).mul_(alpha[:, None])
        log_q = scores / epsilon
        for _ in range(iterations):
            log_q = log_q - log_q.logsumexp(dim=0, keepdim=True)
            log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
        return log_q.exp()


@torch.no_grad()
def prototype_scaling(
    blocks: Callable[[], Iterable[Tensor]], *, iterations: int = 1000, tolerance: float = 0.0
) -> Tensor:
    """The prototypes' log scaling beta over a whole data set, in float64 (SeLa, algorithm 1: r = exp beta, c = exp alpha).

    An image's label is argmax_k (L_ik + beta_k); alpha doesn't matter for it.

    Args:
        blocks: yields L as blocks (n, K), each time the same in the same order. Called once where all of exp(L) may be
            held, else once an iteration.
        iterations: at most so many, at least 1.
        tolerance: stop once sum_i |c_i / c_i' - 1| between two iterations is below; 0: never.

    Returns:
        (K,) float64.
    """
    held = _held(blocks())
    if held is not None:
        beta = _scaled(*held, iterations, tolerance)
        if beta is not None:
            return beta
    return _streamed(blocks, iterations, tolerance)


def _held(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor] | None:
    """exp(L_ik - m_i) (N, K) and m_i = max_k L_ik (N,), float64, if they are no more than `HELD` values."""
    found, values = [], 0
    for block in blocks:
        values += block.numel()
        if values > HELD:
            return None
        found.append(block.double())
    L = torch.cat(found)
    m = L.max(dim=1).values
    return L.sub_(m[:, None]).exp_(), m


def _scaled(P: Tensor, m: Tensor, iterations: int, tolerance: float) -> Tensor | None:
    """`prototype_scaling` by two matrix-vector products an iteration; None where a sum vanishes in float64."""
    N, K = P.shape
    alpha = torch.zeros_like(m)
    beta = math.log(N / K) - (m.exp() @ P).log()
    for _ in range(1, iterations):
        if not bool(beta.isfinite().all()):
            return None
        shift = beta.max()
        row = P @ (beta - shift).exp()
        old, alpha = alpha, -(row.log() + shift + m)
        beta = math.log(N / K) - (row.reciprocal() @ P).log() + shift
        if float(torch.expm1(old - alpha).abs().sum()) < tolerance:
            break
    return beta if bool(beta.isfinite().all()) else None


def _streamed(blocks: Callable[[], Iterable[Tensor]], iterations: int, tolerance: float) -> Tensor:
    """`prototype_scaling` on logarithms, holding a block at a time."""
    beta: Tensor | None = None
    old: list[Tensor] = []
    for _ in range(iterations):
        total: Tensor | None = None
        alphas, change, N = [], 0.0, 0
        for number, block in enumerate(blocks()):
            log_q = block.double()
            alpha = log_q.new_zeros(len(log_q)) if beta is None else -(log_q + beta).logsumexp(dim=1)
            if old:
                change += float(torch.expm1(old[number] - alpha).abs().sum())
            alphas.append(alpha)
            N += len(log_q)
            part = (log_q + alpha[:, None]).logsumexp(dim=0)
            total = part if total is None else torch.logaddexp(total, part)
        assert total is not None
        beta = math.log(N / len(total)) - total
        if old and change < tolerance:
            break
        old = alphas
    assert beta is not None
    return beta
