"""Read a folder in PASCAL VOC's layout: photographs, their boxes and masks, and train and test sets.

    JPEGImages/NAME.jpg              the photographs (or PNGImages/)
    Annotations/NAME.xml             boxes: name, difficult, bndbox with 1-based, inclusive corners
    SegmentationClass/NAME.png       the class of each pixel: 0 is background, 255 is void
    ImageSets/Main/SET.txt           one NAME per line; SET is trainval and test, or train and val

Penn-Fudan's layout works too. It has boxes in Annotation/NAME.txt (PASCAL's version 1.00), and masks in
PedMasks/NAME_mask.png whose pixels hold the object's number. The folder may be any fsspec URL.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import DataError
from data.sources.files import open_filesystem
from data.types import Split

IMAGES = ("JPEGImages", "PNGImages")
VOID = 255
"""The class of pixels that are ignored in training and scoring."""
_SETS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("trainval",), ("test",)),
    (("train", "val"), ("test",)),
    (("train",), ("val",)),
    (("train",), ("test",)),
)
"""Pairs of (sets to train on, sets to test on). The first pair whose files all exist is used."""
_OBJECT = re.compile(
    r'Bounding box for object \d+ "([^"]+)" \(Xmin, Ymin\) - \(Xmax, Ymax\) : '
    r"\((\d+), (\d+)\) - \((\d+), (\d+)\)"
)


@dataclass(frozen=True)
class Objects:
    """The n annotated objects of an image.

    Attributes:
        boxes: (n, 4) float32 in px: left, top, right, bottom; 0-based, and right and bottom are exclusive.
        names: the class name of each of the n objects.
        difficult: (n,) bool; scoring ignores these objects, whether they are detected or not.
    """

    boxes: NDArray[np.float32]
    names: tuple[str, ...]
    difficult: NDArray[np.bool_]


class VocFolder:
    """A folder in VOC's layout.

    Args:
        spec: the source `voc:PLACE`, for error messages.
        place: path or fsspec URL of the folder.
    """

    def __init__(self, spec: str, place: str) -> None:
        self.spec, self.place = spec, place

    def __getstate__(self) -> dict[str, str]:
        return {"spec": self.spec, "place": self.place}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # an open connection to a file system is not pickled

    @cached_property
    def images(self) -> str:
        """The folder of the photographs, relative to this one.

        Raises:
            DataError: there is no such folder.
        """
        filesystem, root = self._opened
        for name in IMAGES:
            if filesystem.isdir(f"{root}/{name}"):
                return name
        raise DataError(
            f"{self.spec}: the folder has neither {' nor '.join(IMAGES)}; give the folder in VOC's layout"
        )

    def sets(self, role: Split) -> set[str] | None:
        """Names of a role's photographs, without extension. None if the folder does not define sets.

        The role "unlabelled" has the same images as "train".
        """
        filesystem, root = self._opened
        main = f"{root}/ImageSets/Main"
        listed = filesystem.ls(main, detail=False) if filesystem.isdir(main) else []
        there = {path.rsplit("/", 1)[-1] for path in listed}
        for train, test in _SETS:
            wanted = test if role == "test" else train
            if {f"{name}.txt" for name in (*train, *test)} <= there:
                lines = (filesystem.cat_file(f"{main}/{name}.txt").decode().splitlines() for name in wanted)
                return {line.split()[0] for text in lines for line in text if line.split()}
        return None

    def objects(self, uri: str) -> Objects:
        """Read the objects in an image.

        Args:
            uri: the image's uri, relative to the folder.

        Raises:
            DataError: the image has no annotation, or the annotation can't be read.
        """
        found = self._first(self._annotations(_stem(uri)))
        if found is None:
            raise DataError(
                f"{self.spec}: {uri} has no annotation of boxes; Annotations/{_stem(uri)}.xml is expected"
            )
        path, content = found
        try:
            rows = _of_xml(content) if path.endswith(".xml") else _of_text(content)
        except (ElementTree.ParseError, ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{self.spec}: {path} can't be read as an annotation: {error}") from None
        boxes = np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4)
        boxes[:, :2] -= 1
        return Objects(
            boxes, tuple(name for name, _, _ in rows), np.array([hard for _, _, hard in rows], bool)
        )

    def classes_of_pixels(self, uri: str) -> NDArray[np.uint8] | None:
        """Read an image's mask of classes.

        Penn-Fudan's masks hold object numbers. Every pixel of an object becomes class 1.

        Returns:
            (H, W) uint8: 0 for background, classes from 1, and `VOID`. None if the image has no mask.

        Raises:
            DataError: the mask can't be read, or is not one uint8 per pixel.
        """
        stem = _stem(uri)
        found = self._first([f"SegmentationClass/{stem}.png", f"PedMasks/{stem}_mask.png"])
        if found is None:
            return None
        path, content = found
        try:
            with Image.open(io.BytesIO(content)) as mask:
                pixels = np.asarray(mask)
        except OSError as error:
            raise DataError(f"{self.spec}: {path} can't be read as a mask: {error}") from None
        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise DataError(
                f"{self.spec}: {path} holds {pixels.dtype} of shape {pixels.shape}, "
                "not one uint8 class per pixel"
            )
        return (pixels > 0).astype(np.uint8) if path.startswith("PedMasks/") else pixels

    def sha256(self, uris: Iterable[str]) -> list[str]:
        """One hash per image, over all its annotation files. Without any, it is the hash of nothing."""
        found = []
        for uri in uris:
            stem, digest = _stem(uri), hashlib.sha256()
            for path in (
                *self._annotations(stem),
                f"SegmentationClass/{stem}.png",
                f"PedMasks/{stem}_mask.png",
            ):
                content = self._content(path)
                if content is not None:
                    digest.update(f"{path}\0{len(content)}\0".encode() + content)
            found.append(digest.hexdigest())
        return found

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        filesystem, root = open_filesystem(self.place)
        return filesystem, root.rstrip("/")

    @cached_property
    def _there(self) -> set[str]:
        """The annotation files that exist, relative to the folder."""
        filesystem, root = self._opened
        found = set()
        for name in ("Annotations", "Annotation", "SegmentationClass", "PedMasks"):
            if filesystem.isdir(f"{root}/{name}"):
                found |= {
                    f"{name}/{path.rsplit('/', 1)[-1]}"
                    for path in filesystem.ls(f"{root}/{name}", detail=False)
                }
        return found

    def _annotations(self, stem: str) -> tuple[str, ...]:
        return f"Annotations/{stem}.xml", f"Annotation/{stem}.txt"

    def _first(self, paths: Iterable[str]) -> tuple[str, bytes] | None:
        for path in paths:
            content = self._content(path)
            if content is not None:
                return path, content
        return None

    def _content(self, path: str) -> bytes | None:
        if path not in self._there:
            return None
        filesystem, root = self._opened
        content: bytes = filesystem.cat_file(f"{root}/{path}")
        return content


def _stem(uri: str) -> str:
    return uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]


_Row = tuple[str, tuple[float, ...], bool]
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _of_xml(content: bytes) -> list[_Row]:
    rows = []
    for found in ElementTree.fromstring(content).iter("object"):
        box = found.find("bndbox")
        # If an element is missing, this raises an error that `objects` catches.
        corners = tuple(float(box.find(name).text) for name in _CORNERS)  # type: ignore[union-attr, arg-type]
        rows.append(
            (str(found.findtext("name")).strip(), corners, found.findtext("difficult", "0").strip() == "1")
        )
    return [row for row in rows if _has_area(row[1])]


def _of_text(content: bytes) -> list[_Row]:
    rows = [(name, tuple(map(float, corners)), False) for name, *corners in _OBJECT.findall(content.decode())]
    return [row for row in rows if _has_area(row[1])]


def _has_area(corners: tuple[float, ...]) -> bool:
    """Whether a box has an area. An accidental mouse click gives a box without one."""
    left, top, right, bottom = corners
    return right > left and bottom > top
