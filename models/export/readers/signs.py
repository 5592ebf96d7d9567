"""Answers for images by the 1-bit network in model.npz. It needs NumPy, and no other code.

from reader import Reader
probabilities, features = Reader("model.npz").answer(images)  # (N, S, S, C) uint8; S is stored_size
"""

import json
from pathlib import Path
from typing import Any

import numpy as np


class Reader:
    """The network of a file: ReActNet, of which 3 x 3 and 1 x 1 convolutions multiply signs.

    Args:
        path: model.npz. NAME.bits has the signs of a convolution's weights, a bit each, NAME.scale the size
            of the weights of each output channel.
    """

    def __init__(self, path: str | Path) -> None:
        with np.load(path) as arrays:
            self.w = dict(arrays)
        self.config = json.loads(str(self.w.pop("config")))

    def answer(self, images: Any) -> tuple[Any, Any]:
        """(N, S, S, C) uint8 array -> probabilities (N, classes) and features (N, D), float32 arrays."""
        rule = self.config["preprocessing"]
        start, size = round((rule["stored_size"] - rule["image_size"]) / 2), rule["image_size"]
        x = images[:, start : start + size, start : start + size].astype(np.float32) / np.float32(255)
        x = ((x - np.float32(rule["mean"])) / np.float32(rule["std"])).transpose(0, 3, 1, 2)
        stem = self.w["backbone.stages.conv1.0.weight"]
        x = self._norm(_convolved(x, stem, self.config["first_stride"]), "backbone.stages.conv1.1")
        for name, stride, copies in self.config["blocks"]:
            x = self._block(x, name, stride, copies)
        features = x.mean(axis=(2, 3))
        z = (features @ self.w["classifier.weight"].T + self.w["classifier.bias"]) / rule["temperature"]
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True), features

    def _block(self, x: Any, name: str, stride: int, copies: int) -> Any:
        y = self._binary(self._signs(x, f"{name}.sign1"), f"{name}.conv3x3", 3, stride)
        x = self._prelu(
            self._norm(y, f"{name}.norm3x3") + (_halved(x) if stride == 2 else x), f"{name}.prelu1"
        )
        s, parts = self._signs(x, f"{name}.sign2"), []
        for i in range(copies):
            parts.append(self._norm(self._binary(s, f"{name}.conv1x1.{i}", 1, 1), f"{name}.norm1x1.{i}") + x)
        return self._prelu(np.concatenate(parts, axis=1), f"{name}.prelu2")

    def _signs(self, x: Any, name: str) -> Any:
        return np.where(x + self._each(f"{name}.b") >= 0, np.float32(1), np.float32(-1))

    def _binary(self, s: Any, name: str, kernel: int, stride: int) -> Any:
        scale, inputs = self.w[f"{name}.scale"], s.shape[1]
        shape = (len(scale), inputs, kernel, kernel)
        bits = np.unpackbits(self.w[f"{name}.bits"], count=int(np.prod(shape))).reshape(shape)
        return _convolved(s, 2 * bits.astype(np.float32) - 1, stride) * scale[:, None, None]

    def _norm(self, x: Any, name: str) -> Any:
        gain = self._each(f"{name}.weight") / np.sqrt(self._each(f"{name}.running_var") + np.float32(1e-5))
        return (x - self._each(f"{name}.running_mean")) * gain + self._each(f"{name}.bias")

    def _prelu(self, x: Any, name: str) -> Any:
        u = x - self._each(f"{name}.gamma")
        return np.where(u >= 0, u, u * self._each(f"{name}.slope")) + self._each(f"{name}.zeta")

    def _each(self, name: str) -> Any:
        return self.w[name][:, None, None]


def _convolved(x: Any, weight: Any, stride: int) -> Any:
    """Zero-padded convolution: (N, c, h, w) and (C, c, k, k) -> (N, C, h / stride, w / stride)."""
    k = weight.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


def _halved(x: Any) -> Any:
    """The mean over 2 x 2 places. At an odd edge, over those that exist."""
    odd = ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2))
    total, n = np.pad(x, odd), np.pad(np.ones_like(x[:1, :1]), odd)
    parts = ((slice(None), slice(None), slice(i, None, 2), slice(j, None, 2)) for i in (0, 1) for j in (0, 1))
    sums = [(total[part], n[part]) for part in parts]
    return sum(t for t, _ in sums) / sum(c for _, c in sums)
