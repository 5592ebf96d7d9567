"""Sinkhorn-Knopp: labels that give every prototype an equal share. Used by SwAV and SeLa.

Symbols: N (or B) images, K prototypes; L (N, K) log affinities: scores / epsilon in SwAV, lambda log p in
SeLa. The algorithm looks for scalings alpha (N,) and beta (K,). With them,
Q_ik = exp(alpha_i + L_ik + beta_k) gives every image a mass of 1 and every prototype a mass of N / K. The
authors scale Q itself, in turn to 1 / K per prototype and 1 / N per image. These constants cancel, because
the step for images comes last.

If no exponential can vanish, only the scalings are updated, by two matrix-vector products per iteration.
Otherwise the iterations run on log Q, where nothing overflows and no row can vanish.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

HELD = 2**26
"""Up to this many values of exp(L) are kept in float64, 512 MiB. More are recomputed in every iteration."""
EXPONENTS = 70.0
"""Largest range of L that is exponentiated. e^-70 = 4e-31 is a normal float32 number, also times N or K."""


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int = 3) -> Tensor:
    """Soft codes Q of a batch (SwAV, section 3.1, eq. 3 to 5).

    Args:
        scores: (B, K) z C^T, cosines of any float type. Computed in float32, or in float64 for float64
            scores, also under autocast.
        epsilon: weight of the codes' entropy, above 0. Codes become hard as it approaches 0.
        iterations: pairs of steps. At 0 the result is softmax(scores / epsilon), and prototypes get no equal
            share.

    Returns:
        (B, K) codes without gradient. Rows sum to 1. Columns sum to B / K up to an error that more iterations
        reduce.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if iterations == 0:
            return (scores / epsilon).softmax(dim=1)
        if 2 / epsilon <= EXPONENTS:  # cosines differ by 2 at most
            q = ((scores - 1) / epsilon).exp_()
            alpha = q.new_ones(len(q))
            for _ in range(iterations):
                # The factor is each prototype's share. Without it the scalings would drift.
                beta = len(q) / q.shape[1] / (alpha @ q)
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
    """The prototypes' log scaling beta over a data set (SeLa, algorithm 1: r = exp beta, c = exp alpha).

    An image's label is argmax_k (L_ik + beta_k). Alpha doesn't affect it.

    Args:
        blocks: yields L as blocks (n, K), each time the same blocks in the same order. Called once if all of
            exp(L) fits into `HELD` and no sum vanishes, otherwise also once per iteration.
        iterations: maximum number of iterations, at least 1.
        tolerance: stop once sum_i |c_i / c_i' - 1| between two iterations is below this; 0: never.

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
    """exp(L_ik - m_i) (N, K) and m_i = max_k L_ik (N,) in float64. None if above `HELD` values."""
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
    """`prototype_scaling` by two matrix-vector products per iteration. None if a sum vanishes in float64."""
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
    """`prototype_scaling` on logarithms, with one block in memory at a time."""
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
