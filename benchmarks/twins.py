r"""How many planted near-duplicates are found, and what else is?

    python -m benchmarks.twins --images parquet:PATH --name NAME --plants 300 --seed 0 --out DIR

This takes some images, plants changed copies of each among all images, and finds the twins. DIR gets
twins-NAME.json: the recall of each kind of plant, the precision of the pairs that involve a plant, and the
seconds. The sheet shows up to 50 of the pairs that were not planted, to be judged by eye.

Plants:
    jpeg: re-encoded as JPEG of quality 70.
    crop-corner: 95 % of the height and width, from a corner.
    crop-centre: 95 % of the height and width, from the centre.
    crop-resized: 95 % of the height and width, from anywhere, resized to the size of the original.
    resized: to 60 % of the size.
    mirrored: left and right swapped. It is not in the mean recall.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.record import environment
from data import confirmation, draws, proposals, twins
from data.decode import decode
from data.sources import Pixels, open_source
from data.thumbnails import pixel_sha, thumbnail

SHOWN = 50
SIDE, COLUMNS = 96, 5


def plant(pixels: Pixels, u: NDArray[np.float64]) -> dict[str, Pixels]:
    """Make the changed copies of an image, by kind. `u` is (4,) in [0, 1), where to crop."""
    height, width, _ = pixels.shape
    h, w = round(0.95 * height), round(0.95 * width)
    image = Image.fromarray(pixels)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=70)

    def crop(top: int, left: int) -> Pixels:
        return np.ascontiguousarray(pixels[top : top + h, left : left + w])

    anywhere = crop(int(u[0] * (height - h + 1)), int(u[1] * (width - w + 1)))
    resized = Image.fromarray(anywhere).resize((width, height), Image.Resampling.BICUBIC)
    small = image.resize((round(0.6 * width), round(0.6 * height)), Image.Resampling.BICUBIC)
    return {
        "jpeg": decode(encoded.getvalue()),
        "crop-corner": crop(round(u[2]) * (height - h), round(u[3]) * (width - w)),
        "crop-centre": crop((height - h) // 2, (width - w) // 2),
        "crop-resized": np.asarray(resized),
        "resized": np.asarray(small),
        "mirrored": np.ascontiguousarray(pixels[:, ::-1]),
    }


class Set:
    """The images of a source, followed by the plants.

    Attributes:
        kinds: the kind of each plant.
        original: (N,) int64, the index of each plant's original; each image's own index.
    """

    def __init__(self, spec: str, plants: int, seed: int, first: int | None) -> None:
        source = open_source(spec, "train")
        entries = sorted(source.entries(), key=lambda entry: entry.place)
        self._data = list(source.read(entries[:first]))
        self.n = len(self._data)
        chosen = np.sort(draws.permutation(draws.key(seed, "plants"), self.n)[:plants])
        where = draws.uniform(draws.key(seed, "crops"), chosen, 4)
        made = [(i, plant(decode(self._data[i]), u)) for i, u in zip(chosen.tolist(), where, strict=True)]
        self._plants = [pixels for _, copies in made for pixels in copies.values()]
        self.kinds = [kind for _, copies in made for kind in copies]
        self.original = np.concatenate(
            [np.arange(self.n), [i for i, copies in made for _ in copies]], dtype=np.int64
        )

    def pixels(self, index: int) -> Pixels:
        """Decode an image, or take a plant."""
        return decode(self._data[index]) if index < self.n else self._plants[index - self.n]

    def read(self, index: NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
        """As `twins.twins` wants it."""
        return ((i, self.pixels(i)) for i in index.tolist())


def measure(images: Set) -> tuple[dict[str, Any], list[twins.Twin]]:
    """Find the twins -> (the record, the pairs that were not planted)."""
    microseconds: dict[str, list[float]] = {"decode": [], "pixel_sha": [], "thumbnail": []}
    shas, thumbnails = [], []
    for i in range(len(images.original)):
        times = [time.perf_counter()]
        pixels = images.pixels(i)
        times.append(time.perf_counter())
        shas.append(pixel_sha(pixels))
        times.append(time.perf_counter())
        thumbnails.append(thumbnail(pixels))
        times.append(time.perf_counter())
        if i < images.n:
            for values, spent in zip(microseconds.values(), np.diff(times).tolist(), strict=True):
                values.append(spent * 1e6)
    stacked = np.stack(thumbnails)
    started = time.perf_counter(), time.process_time()
    found = twins.twins(stacked, shas, images.read)
    spent = time.perf_counter() - started[0], time.process_time() - started[1]
    started = time.perf_counter(), time.process_time()
    proposed = len(proposals.propose(stacked, mirrored=False).near)
    proposing = time.perf_counter() - started[0], time.process_time() - started[1]

    original, pairs = images.original, {(twin.first, twin.second) for twin in found}
    recall: dict[str, list[bool]] = {}
    for i, kind in enumerate(images.kinds, images.n):
        recall.setdefault(kind, []).append((int(original[i]), i) in pairs)
    involved = [twin for twin in found if twin.second >= images.n]
    unplanted = [twin for twin in found if twin.second < images.n]
    right = [bool(original[twin.first] == original[twin.second]) for twin in involved]
    group = twins.groups(images.n, np.array([twin[:2] for twin in unplanted], np.int64).reshape(-1, 2))
    through = [bool(group[original[twin.first]] == group[original[twin.second]]) for twin in involved]
    means = {kind: float(np.mean(hits)) for kind, hits in recall.items()}
    record = {
        "images": images.n,
        "plants": len(images.kinds),
        "recall": {"mean": float(np.mean([v for k, v in means.items() if k != "mirrored"])), **means},
        "precision": {
            "pairs_with_a_plant": len(involved),
            "right": sum(right),
            "through_an_unplanted_pair": sum(through) - sum(right),
            "wrong": len(involved) - sum(through),
            "value": sum(through) / max(1, len(involved)),
        },
        "unplanted": {
            **{kind: sum(twin.kind == kind for twin in unplanted) for kind in ("equal", "near", "mirrored")},
            "groups": len(np.unique(group[group != np.arange(images.n)])),
        },
        "proposed_not_mirrored": proposed,
        "seconds": {
            "twins": round(spent[0], 2),
            "twins_cpu": round(spent[1], 2),
            "propose": round(proposing[0], 2),
            "propose_cpu": round(proposing[1], 2),
        },
        "median_microseconds": {name: round(median(values), 1) for name, values in microseconds.items()},
    }
    wrong = [twin for twin, yes in zip(involved, through, strict=True) if not yes]
    return record, wrong + unplanted


def choose(pairs: list[twins.Twin], n: int, seed: int) -> list[twins.Twin]:
    """Draw up to 50 pairs, no two of one group, so that a few large groups don't fill the sheet."""
    group = twins.groups(n, np.array([twin[:2] for twin in pairs], np.int64).reshape(-1, 2))
    shuffled = [pairs[i] for i in draws.permutation(draws.key(seed, "sheet"), len(pairs)).tolist()]
    one_each = {int(group[twin.first]): twin for twin in shuffled}
    return sorted(list(one_each.values())[:SHOWN], key=lambda twin: -twin.correlation)


def draw_sheet(images: Set, pairs: list[twins.Twin], path: Path) -> None:
    """Draw pairs side by side, with their kind and correlation."""
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (2 * SIDE + 12), max(1, rows) * (SIDE + 16)), "grey")
    write = ImageDraw.Draw(sheet)
    for k, (first, second, kind, correlation) in enumerate(pairs):
        x, y = k % COLUMNS * (2 * SIDE + 12), k // COLUMNS * (SIDE + 16)
        for at, i in ((x, first), (x + SIDE, second)):
            sheet.paste(Image.fromarray(images.pixels(i)).resize((SIDE, SIDE)), (at, y + 14))
        write.text((x, y), f"{first} {second} {kind} {correlation:.3f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="a source, such as parquet:PATH")
    parser.add_argument("--name", required=True, help="name of the set in the record")
    parser.add_argument("--plants", type=int, default=300, help="how many images get copies (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, help="use only this many images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the record")
    parser.add_argument("--sheet", type=Path, help="PNG with up to 50 of the pairs that were not planted")
    options = parser.parse_args()
    images = Set(options.images, options.plants, options.seed, options.first)
    record, pairs = measure(images)
    if options.sheet:
        draw_sheet(images, choose(pairs, len(images.original), options.seed), options.sheet)
    record = {
        "name": options.name,
        "command": f"python -m benchmarks.twins --images SOURCE --name {options.name} "
        f"--plants {options.plants} --seed {options.seed}"
        + (f" --first {options.first}" if options.first else ""),
        **record,
        "thresholds": {
            **{name: getattr(proposals, name) for name in ("RADIUS", "NEAREST")},
            **{
                name: getattr(confirmation, name)
                for name in ("CORRELATION", "SPARSE_CORRELATION", "SPARSE", "AGREEMENT")
            },
        },
        "environment": environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1) + "\n"
    (options.out / f"twins-{options.name}.json").write_text(text)
    print(json.dumps({k: v for k, v in record.items() if k not in ("environment", "thresholds")}, indent=1))


if __name__ == "__main__":
    main()
