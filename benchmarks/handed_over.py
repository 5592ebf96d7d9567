r"""Does the model outside of this project answer as it does inside?

    python -m benchmarks.handed_over --run store/runs/NAME --images parquet:PATH --name NAME --out DIR

This exports the model that a run ships. Each kept file then answers the source's test images from their own
bytes, by the code that the export's card gives to its readers, and `predict` answers them too. DIR gets
handed-over-NAME.json. For each file it has: what the card says, the number of images with another answer than
`predict` gives, how many of these have two best logits that differ by less than 0.0001, and the largest
difference of a probability.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from benchmarks.record import environment
from data.sources import open_source
from flows.answer import answer, question
from flows.export import export_run
from models.export import FORMATS, checks
from tasks.card import loading, squares

TOLD = ("images", "difference", "agreement", "accuracy", "bytes", "refused", "kept_in_float", "library")
"""What is taken from the card for each file."""
SCORE = ("accuracy", "low", "high", "labelled")
"""What is taken from the card for the network itself."""
TOGETHER = 100
"""Number of images that the card's code reads at a time."""
READ = """
import sys
from pathlib import Path
every = sorted(Path({photos!r}).iterdir())
found = []
for start in range(0, len(every), {together}):
    paths = every[start : start + {together}]
    {code}
    found.append(np.asarray(probabilities))
np.save({out!r}, np.concatenate(found))
assert not {{"data", "models", "tasks", "flows"}} & set(sys.modules)
"""


def write_photos(spec: str, folder: Path, first: int | None) -> int:
    """Write a source's test images as files with their own bytes; pixels without a file become PNG."""
    source = open_source(spec, "test")
    entries = sorted(source.entries(), key=lambda entry: entry.place)[:first]
    folder.mkdir()
    for number, content in enumerate(source.read(entries)):
        path = folder / f"{number:06}"  # Pillow and `predict` look at the content, not at the name
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(path.with_suffix(".png"))
        else:
            assert isinstance(content, bytes), content
            path.with_suffix(".jpg").write_bytes(content)
    return len(entries)


def inside(run: str, photos: Path) -> NDArray[np.float32]:
    """The probabilities (N, K) that `predict` gives."""
    out = photos.with_name("answers.parquet")
    answer(question(run, [str(photos)], every=True, out=str(out)), lambda line: None, lambda done, n: None)
    found = pd.read_parquet(out).sort_values("uri")
    assert found["reason"].isna().all()
    return found[[name for name in found if name.startswith("p_")]].to_numpy(np.float32)


def outside(card: dict[str, Any], name: str, model: Path, photos: Path) -> NDArray[np.float32]:
    """The probabilities (N, K) by the card's code, in a process without our packages."""
    out = photos.with_name(f"{name}.npy")
    code = f"{squares(card)}\n{loading(card)[name]}".replace("\n", "\n    ")
    program = READ.format(photos=str(photos), together=TOGETHER, code=code, out=str(out))
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-W", "ignore", "-B", "-c", program], cwd=model, env=alone, check=True)
    found: NDArray[np.float32] = np.load(out)
    return found


def measure(run: str, spec: str, formats: list[str], first: int | None) -> dict[str, Any]:
    """Export a run and ask all kept files -> the record."""
    with tempfile.TemporaryDirectory() as place:
        photos, model = Path(place) / "photos", Path(place) / "model"
        count = write_photos(spec, photos, first)
        export_run(run, str(model), formats)
        card = json.loads((model / "card.json").read_text())
        expected, temperature = inside(run, photos), card["preprocessing"]["temperature"]
        files: dict[str, Any] = {}
        for name, row in card["formats"].items():
            files[name] = {"card": {key: row[key] for key in TOLD if key in row}}
            if row["refused"] is None:
                found = outside(card, name, model, photos)
                seen = checks.compare(expected, found, np.full(count, -1), temperature)
                files[name]["from_raw_files"] = {
                    "images": seen.n,
                    "other_answers": len(seen.near) + seen.contradicted,
                    "of_these_near_ties": len(seen.near),
                    "difference": seen.difference,
                }
        return {
            "backbone": card["model"]["backbone"],
            "image_size": card["preprocessing"]["image_size"],
            "classes": len(card["classes"]),
            "float": {key: card["float"][key] for key in SCORE if key in card["float"]},
            "near_ties_at_stored_size": card["uncertain"],
            "files": files,
        }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="the folder of a run that ships a model")
    parser.add_argument("--images", required=True, help="the source of the test images, such as parquet:PATH")
    parser.add_argument("--name", required=True, help="name of the record")
    parser.add_argument("--formats", nargs="+", default=["onnx", "int8"], choices=list(FORMATS))
    parser.add_argument("--first", type=int, help="ask only this many images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the record")
    options = parser.parse_args()
    record = {
        "name": options.name,
        "command": f"python -m benchmarks.handed_over --run RUN --images SOURCE --name {options.name} "
        f"--formats {' '.join(options.formats)}" + (f" --first {options.first}" if options.first else ""),
        **measure(options.run, options.images, options.formats, options.first),
        "environment": environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"handed-over-{options.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: value for key, value in record.items() if key != "environment"}, indent=1))


if __name__ == "__main__":
    main()
