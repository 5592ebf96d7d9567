"""Runs and models in Python. Each is a folder whose files are read on request."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowledge_transfer import asking
from knowledge_transfer.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Model:
    """A trained network.

    Attributes:
        folder: holds its weights, `model.safetensors`, and its description, `model.json`. Of an exported
            file, its path.
    """

    folder: Path

    @property
    def description(self) -> dict[str, Any]:
        """The content of model.json: architecture, width, image size, input mean and deviation, classes.

        An exported file says nothing of its architecture.

        Raises:
            UserError: the exported file can't be read.
        """
        path = self.folder / "model.json"
        if not path.exists():
            told: dict[str, Any] = asking.description(self.folder)
            return told
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the network's outputs; empty without a classifier."""
        described = self.description
        numbers = range(described.get("classes") or 0)
        return described.get("class_names") or [str(number) for number in numbers]

    def predict(self, images: asking.Images, *, top: int = 2, all: bool = False) -> DataFrame:
        """Name the classes of images, with calibrated probabilities.

        The first call takes some seconds, because it starts the process that does the work and loads the
        model. Later calls find both.

        Args:
            images: a path, a list of paths, or pixels. A path is a file, a folder or a source, such as
                "parquet:PATH". Pixels are uint8: (H, W, C) or (H, W) for one image, (N, H, W, C) for N
                images, or a list of arrays or Pillow images.
            top: number of most likely classes, at least 1.
            all: whether to add the probability of every class, as columns `p_NAME`.

        Returns:
            One row per image, in the given order: `uri` (the path, or the number of an array), `class`,
            `probability`, `runner_up`, `runner_up_probability`, `class_3` ..., and `reason`. If an image
            can't be read, `reason` says why and the others are missing; else `reason` is missing.

        Raises:
            UserError: the model has no classifier or no names of classes; or there is no such file, the
                pixels are not uint8, or `images` is empty.
        """
        return asking.predict(self.folder, images, top=top, every=all)

    def embed(self, images: asking.Images) -> NDArray[np.float32]:
        """Compute the features of images: the last layer below the classifier.

        Args:
            images: as for `predict`.

        Returns:
            (N, D) float32, in the given order. The row of an image that can't be read is NaN.

        Raises:
            UserError: as for `predict`; but the model needs no classifier.
        """
        return asking.embed(self.folder, images)

    def __repr__(self) -> str:
        described = self.description
        named = ", ".join(self.classes[:5]) + (", …" if len(self.classes) > 5 else "")
        told = f"{len(self.classes)} classes: {named}" if self.classes else "no classifier"
        network = described.get("backbone") or "exported file"
        return f"Model: {network} for images of {described['image_size']} px, {told}\n  {self.folder}"


@dataclass(frozen=True, repr=False)
class Run:
    """A run as it was when it was opened. To see its current state, call `knowledge_transfer.open` again.

    Attributes:
        name: the name of the run.
        folder: holds the record and the log of the run, and copies of its scores and its report.
        status: running, done, failed or cancelled.
        config: all settings, by section.
        headline: test accuracy, between 0 and 1, of the model that the run ships (`shipped`), of the final
            student (`student`) and of the same network trained from scratch on the same labels (`scratch`),
            and the difference of these two (`gain`). A value that was not measured is missing.
        because: why the run ships this model; empty if it ships none.
    """

    name: str
    folder: Path
    status: str
    config: dict[str, Any]
    headline: dict[str, float]
    because: str
    _shipped: Path | None = field(compare=False)
    _student: Path | None = field(compare=False)
    _missing: str = field(compare=False)

    @property
    def scores(self) -> DataFrame:
        """Every score of the run, one per row: evaluation, model, metric, split, setting, value, seed, n.

        Raises:
            UserError: the run has no scores, because it did not get that far.
        """
        import pandas as pd

        path = self.folder / "scores.parquet"
        if not path.exists():
            raise UserError(f"run {self.name!r} has no scores (it is {self.status}); run it to its end first")
        return pd.read_parquet(path)

    @property
    def report(self) -> Path | None:
        """The page with figures and scores, or None if the run has none. It opens without a network."""
        path = self.folder / "report.html"
        return path if path.exists() else None

    @property
    def student(self) -> Model:
        """The run's final student.

        Raises:
            UserError: the run has no student, because it did not get that far, or the files are gone.
        """
        if self._student is None:
            raise UserError(self._missing)
        return Model(self._student)

    @property
    def shipped(self) -> Model:
        """The model that the run hands over: the best one by the labels, with a `temperature`.

        Its probabilities are softmax(logits / temperature).

        Raises:
            UserError: the run ships no model, because it did not get that far or has no labels.
        """
        if self._shipped is None:
            raise UserError(f"run {self.name!r} ships no model (it is {self.status}); it needs labels")
        return Model(self._shipped)

    def predict(self, images: asking.Images, *, top: int = 2, all: bool = False) -> DataFrame:
        """Name the classes of images with the model that the run ships. See `Model.predict`."""
        return self.shipped.predict(images, top=top, all=all)

    def embed(self, images: asking.Images) -> NDArray[np.float32]:
        """Compute the features of images with the model that the run ships. See `Model.embed`."""
        return self.shipped.embed(images)

    def export(
        self,
        to: str | os.PathLike[str],
        formats: list[str] | None = None,
        *,
        max_drop: float | None = None,
    ) -> DataFrame:
        """Write the model that the run ships for other programs. Each file is checked on test images.

        Args:
            to: the folder: new, empty, or written by an earlier export. It also gets the model's card,
                `README.md` and `card.json`.
            formats: names such as "onnx", "int8", "pt2", "safetensors" and "bits". None: all that suit the
                network and whose packages are installed.
            max_drop: points of accuracy that a file may lose; None: as in the run's settings.

        Returns:
            One row per format: `format`, `file` (its path; missing if it was refused), `refused` (the reason;
            missing if the file is good), and as measured `accuracy` with its 95 % interval from `low` to
            `high`, `difference` (the largest one of a probability), `agreement` (share of equal answers),
            `bytes`, and images per second on one core (`rate_one_core`) and on all (`rate`).

        Raises:
            UserError: there is no such format, a package is missing, the run ships no classifier, or the
                folder has other files.
            RunFailed: a format in `formats` is refused, or none is left. The folder has the others.
        """
        return asking.export(self.folder, to, formats, max_drop)

    def __repr__(self) -> str:
        lines = [f"Run {self.name}: {self.status}"]
        if "student" in self.headline:
            of = self.scores.query("evaluation == 'few-label' and metric == 'top1'")["n"].max()
            lines.append(f"  student   {100 * self.headline['student']:.1f} % of {of:,} test images right")
        if "gain" in self.headline:
            scratch, gain = (100 * self.headline[name] for name in ("scratch", "gain"))
            lines.append(f"  scratch   {scratch:.1f} % with the same labels alone: {gain:+.1f} points")
        if self._shipped is not None:
            lines.append(f"  shipped   {self._shipped}")
        lines.append(f"  folder    {self.folder}")
        if self.report is not None:
            lines.append(f"  report    {self.report}")
        return "\n".join(lines)


def from_answer(value: dict[str, Any]) -> Run | Model:
    """Build a run or a model from the description that the child process sent."""
    if "model" in value:
        return Model(Path(value["model"]))
    return Run(
        name=value["name"],
        folder=Path(value["folder"]),
        status=value["status"],
        config=value["config"],
        headline=value["headline"],
        because=value["because"],
        _shipped=Path(value["shipped"]) if value["shipped"] else None,
        _student=Path(value["student"]) if value["student"] else None,
        _missing=value["missing"],
    )
