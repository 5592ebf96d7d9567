"""torchvision's classification data sets, from a local copy. A missing copy is downloaded if possible.

Write `torchvision:NAME` or `torchvision:NAME?root=FOLDER`. Without `root`, the folder is the environment
variable KNOWLEDGE_TRANSFER_DATA, or ~/.cache/knowledge-transfer. No other source imports torchvision, because
that imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from data.errors import ConfigError, DataError
from data.sources import UNKNOWN_TIME, Entry, Listing, Pixels, Source
from data.types import Split

_TRAIN: dict[str, object] = {"train": True}
_TEST: dict[str, object] = {"train": False}


def _splits(train: str, test: str, unlabelled: str | None = None) -> dict[Split, dict[str, object]]:
    return {"train": {"split": train}, "test": {"split": test}, "unlabelled": {"split": unlabelled or train}}


_BOOLEAN: dict[Split, dict[str, object]] = {"train": _TRAIN, "test": _TEST, "unlabelled": _TRAIN}
DATASETS: dict[str, dict[Split, dict[str, object]]] = {
    "CIFAR10": _BOOLEAN,
    "CIFAR100": _BOOLEAN,
    "MNIST": _BOOLEAN,
    "FashionMNIST": _BOOLEAN,
    "KMNIST": _BOOLEAN,
    "STL10": _splits("train", "test", "unlabeled"),
    "SVHN": _splits("train", "test", "extra"),
    "ImageNet": _splits("train", "val"),
    "Imagenette": _splits("train", "val"),
    "DTD": _splits("train", "test"),
    "Flowers102": _splits("train", "test"),
    "Food101": _splits("train", "test"),
    "FGVCAircraft": _splits("trainval", "test"),
    "GTSRB": _splits("train", "test"),
    "OxfordIIITPet": _splits("trainval", "test"),
}
"""Name of torchvision's class -> role -> the arguments that select the split."""
_NO_DOWNLOAD = frozenset({"ImageNet"})  # its publisher requires a registration


def _root(query: str, spec: str) -> str:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - {"root"})
    if unknown:
        raise ConfigError(f"source {spec!r}: option {unknown[0]!r} is not known; the only option is root")
    folder = options.get("root") or os.environ.get("KNOWLEDGE_TRANSFER_DATA") or "~/.cache/knowledge-transfer"
    return os.path.abspath(os.path.expanduser(folder))


class TorchvisionSource(Source):
    """One split of a torchvision data set.

    A data set that is a folder of image files gives their content, and `Entry.place` is the file's path. Any
    other data set gives pixels, and `Entry.place` is the position in it.
    """

    def __init__(self, spec: str, place: str, role: Split) -> None:
        super().__init__(spec, place, role)
        self.name, _, query = place.partition("?")
        if self.name not in DATASETS:
            raise ConfigError(
                f"source {spec!r}: data set {self.name!r} is not known; known are {', '.join(DATASETS)}"
            )
        self.root = _root(query, spec)
        self.selection = DATASETS[self.name][role]

    @cached_property
    def _dataset(self) -> Any:
        import torchvision

        create = getattr(torchvision.datasets, self.name)
        folder = os.path.join(self.root, self.name)
        try:
            return create(folder, **self.selection)
        except (RuntimeError, OSError, ValueError) as error:
            if self.name in _NO_DOWNLOAD:
                raise DataError(
                    f"{self.spec}: {error} The archives can't be downloaded: put them into {folder}"
                ) from None
        try:
            os.makedirs(folder, exist_ok=True)
            return create(folder, download=True, **self.selection)
        except Exception as error:  # the network, the publisher's server, the disk, the archive
            raise DataError(
                f"{self.spec}: no copy in {folder}, and downloading one failed "
                f"({type(error).__name__}: {error}); put a copy there, or name its folder with ?root=FOLDER"
            ) from error

    @property
    def parallel(self) -> bool:  # type: ignore[override]  # a constant of the class in the other sources
        """True for files. An array would be loaded again by each worker process."""
        return self._files is not None

    @cached_property
    def _files(self) -> list[tuple[str, int]] | None:
        """(path, label) for each image, if the data set is made of class folders."""
        import torchvision

        dataset = self._dataset
        return dataset.samples if isinstance(dataset, torchvision.datasets.DatasetFolder) else None

    def _list(self) -> Listing:
        dataset = self._dataset
        split = next(iter(self.selection.values()))
        if self._files is not None:
            # ImageNet has several names per class; the first is used.
            names = [name if isinstance(name, str) else name[0] for name in dataset.classes]
            classes = tuple(
                name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)
            )
            entries = []
            for path, label in self._files:
                status = os.stat(path)
                uri = os.path.relpath(path, dataset.root)
                entries.append(Entry(uri, int(label), status.st_size, status.st_mtime_ns, path))
            return Listing(entries, classes)
        labels = self._labels()
        prefix = f"{self.name}/{'train' if split is True else 'test' if split is False else split}"
        entries = [
            Entry(f"{prefix}/{row:06d}", label if label >= 0 else None, 0, UNKNOWN_TIME, row)
            for row, label in enumerate(labels)
        ]
        if max(labels) < 0:
            return Listing(entries, None)
        classes = tuple(str(name) for name in getattr(dataset, "classes", range(max(labels) + 1)))
        return Listing(entries, classes)

    def _labels(self) -> list[int]:
        dataset = self._dataset
        for name in ("targets", "labels", "_labels"):
            if getattr(dataset, name, None) is not None:
                return [int(label) for label in getattr(dataset, name)]
        return [int(dataset[row][1]) for row in range(len(dataset))]

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """The content of each file, or the data set's image as (H, W, 3) uint8."""
        for entry in entries:
            if isinstance(entry.place, str):
                with open(entry.place, "rb") as file:
                    content = file.read()
                yield content
            else:
                image, _ = self._dataset[entry.place]
                yield np.asarray(image.convert("RGB"))
