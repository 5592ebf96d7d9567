"""A queue of embeddings of past batches (MoCo, SEED, S2-BNN, SwAV)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Queue(nn.Module):
    """The last K embeddings. A new one overwrites the oldest.

    Everything is in buffers, so the queue survives a resume.

    Args:
        size: K, rows.
        dim: d of an embedding.
    """

    rows: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Append a batch in its order.

        Args:
            z: (B, d), with any B, because the queue wraps around. Of more than K rows only the last K are
                kept.
        """
        z = z[-len(self.rows) :].to(self.rows.dtype)
        at = (self.pointer + torch.arange(len(z), device=z.device)) % len(self.rows)
        self.rows[at] = z
        self.pointer.copy_((self.pointer + len(z)) % len(self.rows))
        self.filled.copy_((self.filled + len(z)).clamp_max(len(self.rows)))

    def full(self) -> bool:
        """Whether every row has been pushed. Reads a value from the device."""
        return int(self.filled) == len(self.rows)

    def contents(self) -> Tensor:
        """(K, d) float32, a copy, because a later `push` must not change what a backward pass still needs.

        Rows that were never pushed are random unit vectors. `filled` counts the pushed ones.
        """
        return self.rows.clone()
