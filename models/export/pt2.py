"""The format pt2: one file of torch.export. It loads with torch alone, without the code that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from models.export.answering import About, Answer, Answering, Floats, Pixels
from models.export.given import ABOUT

FILE = "model.pt2"


def write(model: Answering, about: About, folder: Path, images: Pixels) -> dict[str, Any]:
    """Write model.pt2 with a dynamic batch, and `ABOUT` in it."""
    extra = {ABOUT: json.dumps(about.as_json())}
    torch.export.save(traced(model), folder / FILE, extra_files=extra)
    return {}


def traced(model: Answering) -> torch.export.ExportedProgram:
    """The program of a model, for any number of images."""
    batch = {"images": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        return torch.export.export(model, (model.example(),), dynamic_shapes=batch)


def answer(folder: Path, threads: int) -> Answer:
    """Load the file as a user would. Torch's own number of threads counts, not `threads`."""
    return load(folder / FILE)


def load(path: Path) -> Answer:
    """Load a file of this format under any name."""
    program = torch.export.load(path).module()

    def run(pixels: Pixels) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            found, features = program(torch.from_numpy(pixels))
        return found.numpy(), features.numpy()

    return run
