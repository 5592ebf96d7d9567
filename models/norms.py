"""Batch norms of a momentum teacher: by groups of the batch, or with moving statistics and the lazy update.

Both have the parameters and buffers of `nn.BatchNorm1d` and `nn.BatchNorm2d`. All of these can load each
other's `state_dict`, and all compute the same in evaluation mode.

Symbols: x (B, C) or (B, C, H, W), C channels, mu and var over the other dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

TeacherNorm = Literal["batch", "split", "momentum"]
_Module = TypeVar("_Module", bound=nn.Module)


class SplitBatchNorm(_BatchNorm):
    """Statistics for each group of the batch, as if on separate devices (MoCo, section 3.3: ShuffleBN).

    Image b belongs to group b mod G. The running statistics take the mean over the groups. If G does not
    divide the batch size, their greatest common divisor is used instead.

    Args:
        channels: C.
        groups: G.
    """

    def __init__(
        self, channels: int, groups: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ):
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.groups = groups

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(x)
        B, C, *places = x.shape
        G = gcd(B, self.groups)
        mean, var = self.running_mean.repeat(G), self.running_var.repeat(G)  # type: ignore[union-attr]  # tracked
        weight, bias = (None if p is None else p.repeat(G) for p in (self.weight, self.bias))
        y = F.batch_norm(
            x.reshape(B // G, G * C, *places), mean, var, weight, bias, True, self.momentum or 0.0, self.eps
        )
        self.running_mean.copy_(mean.view(G, C).mean(dim=0))  # type: ignore[union-attr]
        self.running_var.copy_(var.view(G, C).mean(dim=0))  # type: ignore[union-attr]
        return y.view(B, C, *places)


class MomentumBatchNorm(_BatchNorm):
    """Momentum² Teacher's batch norm (Li et al., arXiv 2101.07525, 3.3), for a network without gradient.

    In training, x is normalised by mu = alpha mu_x + (1 - alpha) mu_run, and likewise var. Alpha is the
    weight of the batch. At alpha = 1 this is an ordinary batch norm in training, at alpha = 0 in evaluation.

    The lazy update leaves the running statistics unchanged until `commit`. It is called once per iteration
    and updates them with the mean over all batches seen since the last call. So the first view does not
    affect how the second one is normalised.

    Departure: the authors' layer corrects an already unbiased variance a second time by n / (n - 1). Here, as
    in `nn.BatchNorm`, the biased variance normalises, and the unbiased one goes into the running statistics.

    Args:
        channels: C.
        lazy: whether running statistics wait for `commit`. Otherwise every forward pass in training updates
            them, and the normalisation of a view depends on the views before it in the iteration.

    Attributes:
        alpha: weight of the batch, 0 to 1. The caller sets it from the step, so a resume needs no counter.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, affine: bool = True, lazy: bool = True):
        super().__init__(channels, eps=eps, affine=affine)
        self.alpha, self.lazy = 1.0, lazy
        self._seen: list[tuple[Tensor, Tensor]] = []

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            dims = [0, *range(2, x.ndim)]
            var, mean = torch.var_mean(x.to(self.running_mean.dtype), dim=dims, correction=0)  # type: ignore[union-attr]
            n = x.numel() // x.shape[1]
            self._seen.append((mean, var * (n / max(n - 1, 1))))
            mean = torch.lerp(self.running_mean, mean, self.alpha)  # type: ignore[arg-type]  # tracked, so a tensor
            var = torch.lerp(self.running_var, var, self.alpha)  # type: ignore[arg-type]
            if not self.lazy:
                self.commit()
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    @torch.no_grad()
    def commit(self) -> None:
        """Update the running statistics from all batches since the last call. Without a batch, do nothing."""
        if self._seen:
            mean, var = (torch.stack(values).mean(dim=0) for values in zip(*self._seen, strict=True))
            self.running_mean.lerp_(mean, self.alpha)  # type: ignore[union-attr]
            self.running_var.lerp_(var, self.alpha)  # type: ignore[union-attr]
            self._seen = []


def replace_norms(module: _Module, norm: TeacherNorm, groups: int, *, lazy: bool = True) -> _Module:
    """Replace every batch norm in a module by the given kind, in place. Weights and statistics are kept.

    Args:
        module: any module that is not itself a batch norm.
        norm: which kind. `batch` changes nothing.
        groups: number of groups, for `split`.
        lazy: see `MomentumBatchNorm`, for `momentum`.
    """
    if norm == "batch":
        return module
    for parent in module.modules():
        for name, old in list(parent.named_children()):
            if isinstance(old, _BatchNorm) and not isinstance(old, SplitBatchNorm | MomentumBatchNorm):
                new: _BatchNorm
                if norm == "split":
                    new = SplitBatchNorm(
                        old.num_features, groups, eps=old.eps, momentum=old.momentum or 0.0, affine=old.affine
                    )
                else:
                    new = MomentumBatchNorm(old.num_features, eps=old.eps, affine=old.affine, lazy=lazy)
                new.load_state_dict(old.state_dict())
                new.train(old.training)
                for p, q in zip(new.parameters(), old.parameters(), strict=True):
                    p.requires_grad_(q.requires_grad)
                setattr(parent, name, new)
    return module


def set_alpha(module: nn.Module, alpha: float) -> None:
    """Set the weight of the batch in every MomentumBatchNorm of a module."""
    for norm in _moving(module):
        norm.alpha = alpha


def commit(module: nn.Module) -> None:
    """Do the lazy update of every MomentumBatchNorm in a module."""
    for norm in _moving(module):
        norm.commit()


def _moving(module: nn.Module) -> Iterator[MomentumBatchNorm]:
    return (m for m in module.modules() if isinstance(m, MomentumBatchNorm))
