"""A folder in PASCAL VOC's layout: photographs, what is in them and where, and the sets they are divided into.

    JPEGImages/NAME.jpg              the photographs (or PNGImages/)
    Annotations/NAME.xml             boxes: name, difficult, bndbox with 1-based, inclusive corners
    SegmentationClass/NAME.png       classes of pixels: 0 background, 255 void
    ImageSets/Main/SET.txt           a name a line: trainval and test, or train and val

Penn-Fudan's layout is read as well: Annotation/NAME.txt in PASCAL's version 1.00, and PedMasks/NAME_mask.png, which number
the objects. The folder may be behind any fsspec URL.
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
"""Class of pixels that count for nothing."""
_SETS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("trainval",), ("test",)),
    (("train", "val"), ("test",)),
    (("train",), ("val",)),
    (("train",), ("test",)),
)
"""Sets that train, and sets that test; the first pair counts of which all are there."""
_OBJECT = re.compile(
    r'Bounding box for object \d+ "([^"]+)" \(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)'
)


@dataclass(frozen=True)
class Objects:
    """What is in an image, n objects.

    Attributes:
        boxes: (n, 4) float32 px: left, top, right, bottom, counted from 0, the last two exclusive.
        names: n classes.
        difficult: (n,) bool: found or not, these count for nothing.
    """

    boxes: NDArray[np.float32]
    names: tuple[str, ...]
    difficult: NDArray[np.bool_]


class VocFolder:
    """A folder in this layout.

    Args:
        spec: the source, `voc:PLACE`, as messages name it.
        place: path or URL.
    """

    def __init__(self, spec: str, place: str) -> None:
        self.spec, self.place = spec, place

    def __getstate__(self) -> dict[str, str]:
        return {"spec": self.spec, "place": self.place}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # what a file system is connected to stays behind

    @cached_property
    def images(self) -> str:
        """The folder that holds the photographs, relative to this one.

        Raises:
            DataError: there is none.
        """
        filesystem, root = self._opened
        for name in IMAGES:
            if filesystem.isdir(f"{root}/{name}"):
                return name
        raise DataError(f"{self.spec}: neither {' nor '.join(IMAGES)} is there; give the folder in VOC's layout")

    def sets(self, role: Split) -> set[str] | None:
        """Names of the photographs (without ending) of a role; None where the folder says nothing of sets.

        Unlabelled images are those to train on.
        """
        filesystem, root = self._opened
        main = f"{root}/ImageSets/Main"
        there = {path.rsplit("/", 1)[-1] for path in filesystem.ls(main, detail=False)} if filesystem.isdir(main) else set()  # fmt: skip
        for train, test in _SETS:
            wanted = test if role == "test" else train
            if {f"{name}.txt" for name in (*train, *test)} <= there:
                lines = (filesystem.cat_file(f"{main}/{name}.txt").decode().splitlines() for name in wanted)
                return {line.split()[0] for text in lines for line in text if line.split()}
        return None

    def objects(self, uri: str) -> Objects:
        """What is in an image.

        Args:
            uri: of the image, relative to the folder.

        Raises:
            DataError: it has no annotation, or one that can't be read.
        """
        found = self._first(self._annotations(_stem(uri)))
        if found is None:
            raise DataError(f"{self.spec}: {uri} has no annotation of boxes; expected Annotations/{_stem(uri)}.xml")
        path, content = found
        try:
            rows = _of_xml(content) if path.endswith(".xml") else _of_text(content)
        except (ElementTree.ParseError, ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{self.spec}: {path} can't be read as an annotation: {error}") from None
        boxes = np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4)
        boxes[:, :2] -= 1
        return Objects(boxes, tuple(name for name, _, _ in rows), np.array([hard for _, _, hard in rows], bool))

    def classes_of_pixels(self, uri: str) -> NDArray[np.uint8] | None:
        """(H, W) uint8: 0 background, then classes, `VOID`; None where the image has no mask.

        Penn-Fudan's masks number objects: each pixel of one is class 1.
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
            raise DataError(f"{self.spec}: {path} holds {pixels.dtype} of shape {pixels.shape}, not a class a pixel")
        return (pixels > 0).astype(np.uint8) if path.startswith("PedMasks/") else pixels

    def sha256(self, uris: Iterable[str]) -> list[str]:
        """Of each image's annotation files together; of one without any, that of nothing."""
        found = []
        for uri in uris:
            stem, digest = _stem(uri), hashlib.sha256()
            for path in (*self._annotations(stem), f"SegmentationClass/{stem}.png", f"PedMasks/{stem}_mask.png"):
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
        """Annotation files, relative to the folder."""
        filesystem, root = self._opened
        found = set()
        for name in ("Annotations", "Annotation", "SegmentationClass", "PedMasks"):
            if filesystem.isdir(f"{root}/{name}"):
                found |= {f"{name}/{path.rsplit('/', 1)[-1]}" for path in filesystem.ls(f"{root}/{name}", detail=False)}
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


def _of_xml(content: bytes) -> list[_Row]:
    rows = []
    for found in ElementTree.fromstring(content).iter("object"):
        corners = tuple(float(found.find("bndbox").find(name).text) for name in ("xmin", "ymin", "xmax", "ymax"))  # type: ignore[union-attr, arg-type]  # a missing one is caught above
        rows.append((str(found.findtext("name")).strip(), corners, found.findtext("difficult", "0").strip() == "1"))
    return [row for row in rows if _has_area(row[1])]


def _of_text(content: bytes) -> list[_Row]:
    rows = [(name, tuple(map(float, corners)), False) for name, *corners in _OBJECT.findall(content.decode())]
    return [row for row in rows if _has_area(row[1])]


def _has_area(corners: tuple[float, ...]) -> bool:
    """Corners of a slip of the mouse fall together."""
    left, top, right, bottom = corners
    return right > left and bottom > top
