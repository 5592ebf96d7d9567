"""What methods keep for every image between epochs: labels that they gave, embeddings from the last pass.

The number of images is only known from the first sweep. So the buffers begin empty, and take their length
from the sweep or from the state of a resume.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.augment import centre
from models.method import Sweep

UNSEEN = -100
"""Label of an image that has none yet. Cross-entropy ignores it by default."""


class PerImage(nn.Module):
    """One row for each of N images, looked up by the manifest's index. All of it is in buffers, for a resume.

    Args:
        heads: labels kept for each image.
        banks: embeddings kept for each image.
        dim: d of an embedding.
    """

    index: Tensor
    labels: Tensor
    bank: Tensor

    def __init__(self, heads: int, banks: int = 0, dim: int = 0) -> None:
        super().__init__()
        self.register_buffer("index", torch.empty(0, dtype=torch.int64))  # (N,) ascending
        self.register_buffer("labels", torch.empty(heads, 0, dtype=torch.int64))  # (heads, N)
        self.register_buffer("bank", torch.empty(banks, 0, dim))  # (banks, N, d)

    def allot(self, index: Tensor) -> None:
        """Make a row for each image, with labels UNSEEN and embeddings 0.

        Args:
            index: (N,) int64, the manifest's index of each image, ascending.

        Raises:
            ValueError: the index is not ascending, so the sweep was not in order of index.
        """
        if not bool((index.diff() > 0).all()):
            raise ValueError("PerImage: images must come in ascending order of index, each once")
        self.index = index.clone()
        self.labels = torch.full((len(self.labels), len(index)), UNSEEN, device=index.device)
        self.bank = self.bank.new_zeros(len(self.bank), len(index), self.bank.shape[2], device=index.device)

    def rows(self, index: Tensor) -> Tensor:
        """(B,) int64 manifest's index of images that have a row -> (B,) int64 rows."""
        return torch.searchsorted(self.index, index)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if f"{prefix}{name}" in state_dict:
                setattr(self, name, buffer.new_empty(state_dict[f"{prefix}{name}"].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


@torch.no_grad()
def embed_all(network: nn.Module, sweep: Sweep, size: int) -> tuple[Tensor, Tensor]:
    """A network's outputs for all images, unaugmented. Leaves the network in evaluation mode.

    Args:
        network: (B, 3, s, s) float32 in [0, 1] -> (B, D).
        sweep: all images.
        size: side s of the centre view, px.

    Returns:
        (N,) int64 index and (N, D) float32 output, in the order of the sweep, on the network's device.
    """
    network.eval()
    device = next(network.parameters()).device
    found = [(batch.index, network(centre(batch.images.to(device), size)).float()) for batch in sweep()]
    return torch.cat([index for index, _ in found]).to(device), torch.cat([output for _, output in found])
