"""Mix-up (Zhang et al. 2018, arXiv 1710.09412): blend each image with another one of its batch."""

from __future__ import annotations

import torch
from torch import Tensor

from models.two_sizes import Seen


def partners(n: int, alpha: float) -> tuple[float, Tensor]:
    """Draw whom each of n images is blended with, and by how much. One share holds for the whole batch.

    The draws are torch's, whose generator the engine seeds for each step.

    Args:
        n: number of images.
        alpha: both parameters of the Beta distribution of the share, above 0. The share is folded at a half,
            so that each image keeps most of itself.

    Returns:
        The other image's share, 0 to 0.5; and (n,) int64, the position of the other image.
    """
    a = torch.tensor(alpha, dtype=torch.float64)
    share = float(torch.distributions.Beta(a, a).sample())
    return min(share, 1 - share), torch.randperm(n)


def blended(seen: Seen, alpha: float) -> Seen:
    """Blend the images of a batch with each other, for both networks alike.

    Args:
        seen: what the student and the teacher see.
        alpha: as in `partners`; 1 draws shares uniformly. At 0 nothing is blended.
    """
    if not alpha:
        return seen
    share, other = partners(len(seen.student), alpha)
    student = torch.lerp(seen.student, seen.student[other], share)
    same = seen.teacher is seen.student
    return Seen(student, student if same else torch.lerp(seen.teacher, seen.teacher[other], share))
