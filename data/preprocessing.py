"""Pre-processing: how an image gets from its file to a network. Evaluation, `predict` and exports share it.

1. Decode the file to (H, W, C) uint8, upright, as `data.decode` says: C = 3 in the order red, green, blue. A
   grey image has three equal channels. Transparent parts are white. Only the first frame of an animation is
   used. With bands, C is their number (3 for a single band). Values of more than 8 bits are first scaled so
   that `value_range` becomes 0 to 255.
2. Crop the central square: side min(H, W), its left edge at (W - side) / 2 and its top at (H - side) / 2,
   which may be half a pixel.
3. Resize the square to S x S px with Pillow's bicubic filter (a = -0.5). If it shrinks, the filter is widened
   by the same factor (antialiasing). A square of S x S px stays as it is. The result is rounded to uint8.
   S is `stored_size(s)`, where s is `image_size` of model.json.
4. Crop the central s x s px. The first row and column are `first_of_centre(S, s)`. Nothing is padded.
5. Divide by 255. Each value is now a float32 from 0 to 1.
6. Subtract `mean` and divide by `std`, one value for each channel (model.json). The network does this itself.
   With the input `lightness`, the network first replaces the colours by their lightness L / 100.

A foreign network (`pretext.method=pretrained`) brings its own steps 2 and 3, and model.json has them:

- `interpolation`: the name of Pillow's filter.
- `resized`: S, in place of `stored_size(s)`.
- `fit`: `square` as above; `shorter`: resize the shorter side to S px and the longer one in proportion,
  rounded down, then crop; `squash`: resize both sides to S px, whatever the aspect ratio.

The network returns logits. The probabilities are softmax(logits / temperature), where `temperature` is in
model.json and is 1 if it is missing there. docs/preprocessing.md has the same with Pillow and NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from data.errors import ArtifactError
from data.reading import MAX_PIXELS, Reading, recorded_in

if TYPE_CHECKING:
    from data.packs import Fit, Shape, Way
    from data.sources import Pixels

CROPPED_FROM = 64
"""Smallest `image_size` of which evaluation crops the centre, px. Smaller images are used whole."""


def stored_size(image_size: int) -> int:
    """Side S of the stored square in pixels, for networks whose input is `image_size` pixels wide.

    From 64 px on, evaluation crops the central 87.5 % (224 of 256). Smaller images are used whole.
    """
    return image_size if image_size < CROPPED_FROM else round(image_size * 8 / 7)


def first_of_centre(side: int, size: int) -> int:
    """The first row and column of the central `size` px of a square of `side` px, rounded half to even."""
    return round((side - size) / 2)


@dataclass(frozen=True)
class Preprocessing:
    """What a model's images go through, in numbers. The module's docstring has the steps.

    Attributes:
        size: side s of what the network sees, px.
        mean: subtracted from values in [0, 1], one per channel of the network's input.
        std: divides them after that, one per channel of the network's input.
        input: what the network makes of the image: rgb, lightness, or bands.
        temperature: T > 0 of the probabilities, softmax(logits / T).
        reading: which bands are read, and how values of more than 8 bits become 8 bits.
        interpolation: Pillow's filter that resizes the image.
        resized: side S of the square before the central crop, px; None: `stored_size(size)`.
        fit: how the image becomes a square; see `data.packs.Fit`.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: str = "rgb"
    temperature: float = 1.0
    reading: Reading = Reading()  # noqa: RUF009  # it is immutable
    interpolation: str = "bicubic"
    resized: int | None = None
    fit: Fit = "square"

    @classmethod
    def of(cls, description: Mapping[str, Any], max_pixels: int = MAX_PIXELS) -> Self:
        """The pre-processing that a model.json describes.

        Args:
            description: the content of model.json.
            max_pixels: images with more pixels are refused before they are decoded.

        Raises:
            ArtifactError: a key is missing or has no such value.
        """
        try:
            return cls(
                size=int(description["image_size"]),
                mean=tuple(map(float, description["mean"])),
                std=tuple(map(float, description["std"])),
                input=str(description.get("input", "rgb")),
                temperature=float(description.get("temperature") or 1.0),
                reading=recorded_in(description, max_pixels),
                interpolation=str(description.get("interpolation") or "bicubic"),
                resized=None if description.get("resized") is None else int(description["resized"]),
                fit=_fit(description.get("fit") or "square"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"model.json does not say how images are prepared: {error!r}") from None

    @property
    def stored(self) -> int:
        """Side S of the square before the central crop, px."""
        return stored_size(self.size) if self.resized is None else self.resized

    @property
    def way(self) -> Way:
        """How an image is resized to the square."""
        from data.packs import Way

        return Way(self.fit, self.interpolation, self.size if self.fit == "shorter" else 0)

    @property
    def shape(self) -> Shape:
        """The squares of steps 1 to 3, as packs hold them."""
        from data.packs import Shape

        return Shape(self.stored, reading=self.reading, way=self.way)

    def square(self, data: bytes | Pixels) -> Pixels:
        """Steps 1 to 3: the content of a file, or (H, W, C) or (H, W) uint8 pixels -> (S, S, C) uint8.

        Raises:
            DataError: it can't be decoded; the message is the reason.
        """
        from data.decode import decode_then

        return decode_then(data, self.reading, self.shape.of)

    def crop(self, squares: Pixels) -> Pixels:
        """Step 4: (..., S, S, C) uint8 -> (..., s, s, C) uint8, without a copy."""
        start = first_of_centre(squares.shape[-2], self.size)
        return squares[..., start : start + self.size, start : start + self.size, :]

    def normalised(self, crops: Pixels) -> NDArray[np.float32]:
        """Steps 5 and 6: (B, s, s, C) uint8 -> (B, C, s, s) float32, for programs without the network.

        Not for the input `lightness`.
        """
        assert self.input != "lightness"
        x: NDArray[Any] = crops.astype(np.float32) / np.float32(255)
        x = (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def words(self) -> list[str]:
        """The steps for this model, a sentence each, with all numbers."""
        s, S, reading = self.size, self.stored, self.reading
        channels = "red, green, blue" if reading.channels == 3 else f"{reading.channels} bands"
        chosen = "" if reading.bands is None else f" Read bands {', '.join(map(str, reading.bands))}."
        wide = (
            "" if reading.value_range is None else " Scale wider values so that {} to {} become 0 to 255."
        ).format(*(reading.value_range or ()))
        start = first_of_centre(S, s)
        crop = "Use it whole." if s == S else f"Crop its centre: {s} rows and columns from number {start} on."
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        seen = " Replace the colours by their lightness L / 100." if self.input == "lightness" else ""
        return [
            f"Decode the image upright to 8 bits: {channels}.{chosen}{wide} Transparent parts are white.",
            f"{self._resize()}, {self.interpolation} with antialiasing.",
            crop,
            f"Divide by 255.{seen} Subtract the mean ({mean}) and divide by the deviation ({std}).",
            f"The probabilities are softmax(logits / {self.temperature:g}).",
        ]

    def _resize(self) -> str:
        match self.fit:
            case "square":
                return f"Crop the central square, and resize it to {self.stored} x {self.stored} px"
            case "shorter":
                return (
                    f"Resize the shorter side to {self.stored} px and the longer one in proportion, rounded "
                    f"down, and crop the central {self.stored} x {self.stored} px"
                )
            case "squash":
                return f"Resize the whole image to {self.stored} x {self.stored} px, whatever its shape"


def _fit(value: object) -> Fit:
    match value:
        case "square" | "shorter" | "squash":
            return value
        case _:
            raise ValueError(f"fit is {value!r}")
