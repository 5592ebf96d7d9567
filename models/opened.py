"""Open a model that somebody trained, to ask it about images. Every form that a model may have is read here.

To add a form, write a subclass of `Opened` in a file of its own, and call it in `open_model`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from data.checkpoints import read_description
from data.errors import ConfigError
from data.preprocessing import Preprocessing
from data.reading import MAX_PIXELS
from data.sources import Pixels
from models.device import OF_FEATURES, resolve_device
from models.export.given import is_exported, open_file, told
from models.inference import mean_output
from models.saved import load


@dataclass(frozen=True)
class Outputs:
    """What a model says of B images.

    Attributes:
        logits: (B, K) float32; K is 0 without a classifier.
        features: (B, D) float32 of the last layer below the classifier; D is 0 if they were not asked for.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class Opened(ABC):
    """A model that is ready to be asked. One thread may use it.

    Attributes:
        place: its file or folder.
        classes: K, the number of its classes; 0 without a classifier.
        names: names of its classes, in the order of the logits; empty if nothing names them.
        rule: how images are prepared for it. `rule.temperature` divides the logits.
        dim: D, the length of its features; None if it gives none.
    """

    place: Path
    classes: int
    names: tuple[str, ...]
    rule: Preprocessing
    dim: int | None

    @abstractmethod
    def outputs(self, squares: Pixels, *, features: bool = False) -> Outputs:
        """Compute logits, and features if they are asked for. The batch size affects rounding only.

        Args:
            squares: (B, S, S, C) uint8 as `rule.square` makes them, B >= 1.
            features: whether to return features too. `dim` must not be None.
        """

    def logits(self, squares: Pixels) -> NDArray[np.float32]:
        """(B, S, S, C) uint8 as `rule.square` makes them -> (B, K) float32."""
        return self.outputs(squares).logits

    def need_names(self) -> tuple[str, ...]:
        """Return the names of its classes.

        Raises:
            ConfigError: it has no classifier, or nothing says what its classes are called.
        """
        if not self.classes:
            raise ConfigError(
                f"model {str(self.place)!r} has no classifier, so it can't name classes; "
                "give the model that a run with labels ships"
            )
        if not self.names:
            raise ConfigError(
                f"model {str(self.place)!r} has {self.classes} classes without names; "
                "add their names to model.json as class_names, in the order of the outputs"
            )
        return self.names


class Checkpoint(Opened):
    """A folder with model.safetensors and model.json, as the stages of a run write it.

    It computes in float32, whatever `compute.precision` the run had. So do the run's own evaluations and the
    exported files, and its answers are theirs.

    Args:
        folder: the folder.
        device: where to compute.
        max_pixels: images with more pixels are refused before they are decoded.

    Raises:
        ArtifactError: one of the files can't be read, or lacks a key.
    """

    def __init__(self, folder: Path, device: Literal["auto", "cpu", "cuda"], max_pixels: int) -> None:
        described = read_description(folder)
        self.place, self.rule = folder, Preprocessing.of(described, max_pixels)
        self._network = load(folder)
        self.classes = self._network.classes or 0
        names = tuple(map(str, described.get("class_names") or ()))
        self.names = names if len(names) == self.classes else ()
        self.dim = self._network.layer_dim(self._network.classified_layer)
        self._device = resolve_device(device)
        self._network.to(self._device).eval()

    def outputs(self, squares: Pixels, *, features: bool = False) -> Outputs:
        """See `Opened.outputs`."""
        pixels = torch.from_numpy(squares).to(self._device)
        at, size = np.arange(len(squares)), self.rule.size
        if features:
            both = mean_output(self._both, pixels, at, OF_FEATURES, size)
            return Outputs(both[:, : self.classes], both[:, self.classes :])
        logits = mean_output(self._logits, pixels, at, OF_FEATURES, size)
        return Outputs(logits, np.zeros((len(squares), 0), np.float32))

    def _both(self, x: torch.Tensor) -> torch.Tensor:
        features, logits = self._network.answer(x)
        return features if logits is None else torch.cat([logits, features], 1)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        logits = self._network.answer(x)[1]
        return x.new_zeros(len(x), 0) if logits is None else logits


class Exported(Opened):
    """What `export` wrote: model.onnx, model-int8.onnx, model.pt2 or weights. It computes on the CPU.

    Args:
        path: the file or folder.
        max_pixels: images with more pixels are refused before they are decoded.

    Raises:
        ConfigError: the file can't be loaded.
    """

    def __init__(self, path: Path, max_pixels: int) -> None:
        about, self._answer = told(path), open_file(path)
        self.place, self.rule = path, Preprocessing.of(about["preprocessing"], max_pixels)
        self.names = tuple(map(str, about["classes"]))
        side = self.rule.stored
        probability, features = self._answer(np.zeros((1, side, side, self.rule.reading.channels), np.uint8))
        self.classes, self.dim = probability.shape[1], features.shape[1] or None

    def outputs(self, squares: Pixels, *, features: bool = False) -> Outputs:
        """See `Opened.outputs`. The file gives probabilities, and softmax(T ln p / T) is p again."""
        probability, vectors = self._answer(np.ascontiguousarray(squares))
        smallest = np.finfo(np.float32).tiny
        logits = np.float32(self.rule.temperature) * np.log(np.maximum(probability, smallest))
        return Outputs(logits.astype(np.float32), vectors if features else vectors[:, :0])


def open_model(
    place: Path, device: Literal["auto", "cpu", "cuda"] = "auto", max_pixels: int = MAX_PIXELS
) -> Opened:
    """Open a model: the folder of a checkpoint, or what `export` wrote.

    Args:
        place: where the model is, as `flows.model_folder` finds it.
        device: where to compute.
        max_pixels: images with more pixels are refused before they are decoded.

    Raises:
        ArtifactError: its files can't be read.
        ConfigError: the device is not there, or an exported file can't be loaded.
    """
    return Exported(place, max_pixels) if is_exported(place) else Checkpoint(place, device, max_pixels)
