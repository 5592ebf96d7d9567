r"""Compare every pretext and transfer method on photographs, with the same training time for each teacher.

    python -m benchmarks.every_method --store STORE --out benchmarks/records/<date>_methods --minutes 5 \
        --cifar TRAIN.parquet TEST.parquet --imagenette TRAIN.parquet TEST.parquet

The tile and picture tasks (jigsaw, jigsaw++, colorization, inpainting) use Imagenette at 96 px, and all
others use CIFAR-10 at 32 px. Every teacher is a `smallconv`. A few trial steps measure its speed, and the
number of epochs is set so that training takes the given minutes.

Each method runs through the whole chain. The stages after the teacher are short and the same for all methods,
because the table compares teachers. It shows the kNN and linear probe of their features, the NMI of their
clusters, and the accuracy of one student. Raw pixels and a network with random weights (on Imagenette too)
are included as external features. The transfer rows start from simclr's teacher, and here the transfer takes
the given minutes. There is one seed. Intervals are bootstrapped over the test images.

The results are table.md, scores.csv and environment.json. A row is written after each method, and the same
command resumes where it stopped. A row is computed again if it took much less than the given minutes. With
--at-once 2, two methods train at the same time, each in its own process on half of the cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from threading import Lock
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.record import environment

TILES = ("jigsaw", "jigsaw++", "colorization", "inpainting")
SHORT: dict[str, dict[str, Any]] = {
    "transfer": {"epochs": 1, "optimizer": "muon", "learning_rate": 0.06, "weight_decay": 0.0},
    "student": {"backbone": "smallconv", "width": 0.25},
    "finetune": {
        "steps": 100,
        "optimizer": "muon",
        "learning_rate": 0.03,
        "weight_decay": 0.0,
        "baseline": False,
    },
    "predict": {"neighbours": 20, "alpha": 0.8},
    "distill": {
        "epochs": 1,
        "optimizer": "muon",
        "learning_rate": 0.06,
        "weight_decay": 0.0,
        "init": "transferred",
    },
    "evaluate": {"knn_neighbours": [20]},
}
"""Settings of the stages after the teacher. They are the same for all methods."""
DATA: dict[str, dict[str, Any]] = {
    "cifar10": {"image_size": 32, "labels_per_class": 50, "views": 24, "k": 300},
    "imagenette": {"image_size": 96, "labels_per_class": 50, "views": 96, "k": 100},
}
RESAMPLES = 10_000
ENOUGH = 0.8
"""A row that took less than this share of the minutes is computed again, with the speed that it showed."""
_WRITING = Lock()


def flat(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as arguments of `--set`."""
    words = []
    for name, value in values.items():
        if isinstance(value, dict):
            words += flat(value, f"{prefix}{name}.")
        else:
            words.append(f"{prefix}{name}={json.dumps(value)}")
    return words


def chain(values: dict[str, Any], store: Path, threads: int) -> dict[str, Any]:
    """Run the chain once with `threads` threads -> its JSON result."""
    given = [word for setting in flat(values) for word in ("--set", setting)]
    command = [sys.executable, "-m", "flows", "run", "cifar10", *given, "--store", str(store), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
    )
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def epochs_for(method: Any, batch_size: int, size: int, images: int, seconds: float) -> int:
    """The number of epochs that take about `seconds`, estimated from 16 steps on noise.

    What a method does between epochs is not included.
    """
    import torch

    from models.device import resolve_precision
    from models.engine import train
    from models.method import Batch

    class Noise:
        steps_per_epoch = 16

        def batch(self, epoch: int, step: int) -> Batch:
            pixels = np.random.default_rng(step).integers(0, 255, (batch_size, size, size, 3), dtype=np.uint8)
            return Batch(torch.from_numpy(pixels), torch.arange(batch_size) + step * batch_size)

        def sweep(self) -> Any:
            return (self.batch(0, step) for step in range(self.steps_per_epoch))

    noise, device = Noise(), torch.device("cpu")
    ended: list[float] = []

    def tick() -> bool:
        ended.append(time.perf_counter())
        return False

    train(
        method,
        noise,
        epochs=1,
        seed=0,
        stage="trial",
        schedule=lambda step, steps: 1.0,
        device=device,
        precision=resolve_precision("auto", device),
        sweep=noise.sweep,
        interrupted=tick,
    )
    step = float(np.median(np.diff(ended)[-10:]))
    return max(1, round(seconds * batch_size / step / images))


def transfer_for(by: str, student: dict[str, Any], size: int, views: int) -> tuple[dict[str, Any], Any, int]:
    """Prepare a transfer method -> (settings, the untrained method of the first phase, batch size)."""
    from models.configs import TRANSFER
    from models.network import build_network

    given: dict[str, Any] = {**(SHORT["transfer"] if by == "seed" else {}), "method": by, "view_size": views}
    config: Any = TRANSFER[by].model_validate(given)
    teacher = build_network("smallconv", size, seed=0).eval().requires_grad_(False)
    network = build_network(student["backbone"], size, width=student["width"], seed=0)
    told = {"phase": config.phases[0]} if len(config.phases) > 1 else {}
    return given, resolve_name(config.trainer)(config, network, teacher, seed=0, **told), config.batch_size


def features_of(kind: str, sources: tuple[str, str], size: int, folder: Path) -> str:
    """Write all images' raw pixels, or their features from a network with random weights, as Parquet.

    Returns:
        The files as a source, `parquet:FOLDER/*.parquet`.
    """
    import pyarrow as pa
    import torch

    from data.images import open_images
    from data.manifest import make_manifest
    from models.network import build_network

    folder.mkdir(parents=True, exist_ok=True)
    manifest = make_manifest(*sources, None, seed=0, max_rejected=0.05, workers=os.cpu_count() or 1).images
    images = open_images(
        manifest, dict(zip(("train", "test"), sources, strict=True)), size, cache=folder / "cache"
    )
    network = build_network("smallconv", size, seed=0).eval()
    uri, split = manifest["uri"].to_pylist(), manifest["split"].to_pylist()
    for role in ("train", "test"):
        rows = np.array([row for row, name in enumerate(split) if name == role])
        writer = None
        for start in range(0, len(rows), 2048):
            at = rows[start : start + 2048]
            pixels = torch.from_numpy(images.read(at)).permute(0, 3, 1, 2).float() / 255
            with torch.no_grad():
                x = network.features(pixels) if kind == "random weights" else pixels.flatten(1)
            vector = pa.FixedSizeListArray.from_arrays(pa.array(x.numpy().ravel()), x.shape[1])
            table = pa.table({"uri": [uri[row] for row in at], "vector": vector})
            writer = writer or pq.ParquetWriter(folder / f"{role}.parquet", table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
    return f"parquet:{folder}/*.parquet"


def interval(p: float, n: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of a share p of n test images -> (low, high)."""
    drawn = np.random.default_rng(0).binomial(n, p, RESAMPLES) / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def one(
    name: str, sources: dict[str, tuple[str, str]], options: argparse.Namespace, threads: int
) -> dict[str, Any]:
    """Run the chain with a method -> the method's row of the table."""
    import torch

    from models.configs import PRETEXT, TRANSFER
    from models.configs.shared import Teacher
    from models.method import make_pretext

    torch.set_num_threads(threads)
    by = name.removeprefix("transfer:") if name.startswith("transfer:") else "pseudo-labels"
    method = "simclr" if by != "pseudo-labels" else name
    trained = method in PRETEXT and issubclass(PRETEXT[method], Teacher)
    # "random weights, imagenette" is an untrained network on the data of the tile and picture tasks.
    method, _, elsewhere = method.partition(", ")
    data = elsewhere or ("imagenette" if method in TILES else "cifar10")
    facts, (train, test) = DATA[data], sources[data]
    images = pq.read_metadata(train.removeprefix("parquet:")).num_rows
    size, epochs, seconds = facts["image_size"], 0, 60 * options.minutes
    student: dict[str, Any] = {"backbone": "reactnet", "width": 0.25} if by == "s2bnn" else SHORT["student"]
    pretext: dict[str, Any] = {"method": method}
    transfer = {**SHORT["transfer"], "method": by, "view_size": facts["views"]}
    if by != "pseudo-labels":
        transfer, first, batch = transfer_for(by, student, size, facts["views"])
        phases = len(TRANSFER[by].phases)
        epochs = transfer["epochs"] = epochs_for(first, batch, size, images, seconds / phases)
    if trained:
        pretext |= {"backbone": "smallconv", "batch_size": 256 if size < 64 else 64}
        if "view_size" in PRETEXT[method].model_fields:
            pretext["view_size"] = facts["views"]
        config: Any = PRETEXT[method].model_validate(pretext)
        there = {row["method"]: row for row in rows_of(options.out)}
        if method not in there:
            pretext["epochs"] = epochs_for(
                make_pretext(config, size, 0), config.batch_size, size, images, seconds
            )
        elif by != "pseudo-labels":  # reuse simclr's teacher from the store
            pretext["epochs"] = int(there[method]["epochs"])
        else:  # the row was too short: use the speed that it measured
            pretext["epochs"] = round(
                seconds * int(there[method]["epochs"]) / float(there[method]["seconds"])
            )
        epochs = epochs or pretext["epochs"]
    elif method != "hog":
        pretext = {"method": "external"} | {
            "features": features_of(
                method,
                (train, test),
                size,
                options.store / "external" / name.replace(", ", "-").replace(" ", "-"),
            )
        }
    values = {
        **SHORT,
        "data": {"train": train, "test": test, **{k: facts[k] for k in ("image_size", "labels_per_class")}},
        "pretext": pretext,
        "embed": {"layer": "features"},
        "cluster": {"k": facts["k"], "pca": 64},
        "transfer": transfer,
        "student": student,
    }
    began = time.monotonic()
    result = chain(values, options.store, threads)
    shown = "student-transferred" if by != "pseudo-labels" else "teacher"
    found = {(r["evaluation"], r["model"], r["metric"]): r for r in result["scores"]}
    knn, linear = found["knn", shown, "top1"], found["linear", shown, "top1"]
    nmi = found.get(("clusters", "teacher", "nmi"))
    took = {row["stage"]: row["seconds"] for row in result["stages"]}
    return {
        "method": name,
        "data": data,
        "n": knn["n"],
        "epochs": epochs,
        "seconds": round(
            took.get("pretext", 0.0)
            if by == "pseudo-labels"
            else sum(spent for stage, spent in took.items() if stage.startswith("transfer")),
            1,
        ),
        "knn": knn["value"],
        "linear": linear["value"],
        "nmi": nmi["value"] if nmi else "",
        "student": found["few-label", "student", "top1"]["value"],
        "chain_seconds": round(time.monotonic() - began),
    }


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows that are finished so far."""
    path = out / "scores.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def keep(
    name: str, made: list[dict[str, Any]], order: list[str], out: Path, future: Future[dict[str, Any]]
) -> None:
    """Add a finished row to the results. If the method failed, print the error instead."""
    error = future.exception()
    if error is not None:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return
    with _WRITING:
        made[:] = [row for row in made if row["method"] != name] + [future.result()]
        made.sort(key=lambda row: order.index(row["method"]))
        with (out / "scores.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, made[0].keys())
            writer.writeheader()
            writer.writerows(made)
        write_table(made, out / "table.md")
    print(future.result(), flush=True)


def main() -> None:
    """Run the methods that are missing, and write the table."""
    from models.configs import PRETEXT, TRANSFER
    from models.configs.shared import Teacher

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--cifar", nargs=2, required=True, metavar=("TRAIN", "TEST"))
    parser.add_argument("--imagenette", nargs=2, required=True, metavar=("TRAIN", "TEST"))
    parser.add_argument(
        "--at-once", type=int, default=1, help="number of methods that train at the same time"
    )
    parser.add_argument("--only", nargs="*", help="the rows to compute, such as swav or transfer:seed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sources = {
        data: (f"parquet:{train}", f"parquet:{test}")
        for data, (train, test) in {"cifar10": options.cifar, "imagenette": options.imagenette}.items()
    }
    trained = [name for name, model in PRETEXT.items() if issubclass(model, Teacher)]
    transfers = [f"transfer:{name}" for name in TRANSFER if name != "pseudo-labels"]
    rows = ["raw pixels", "random weights", "random weights, imagenette", "hog", *trained, *transfers]
    made = rows_of(options.out)
    short = {row["method"] for row in made if 0 < float(row["seconds"]) < ENOUGH * 60 * options.minutes}
    done = {row["method"] for row in made} - short
    missing = [name for name in options.only or rows if name not in done]
    threads = max(1, (os.cpu_count() or 1) // options.at_once)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # each new process reads this when it starts
    with ProcessPoolExecutor(options.at_once, get_context("spawn"), max_tasks_per_child=1) as pool:
        begun = [pool.submit(one, name, sources, options, threads) for name in missing]
        for name, future in zip(missing, begun, strict=True):
            future.add_done_callback(partial(keep, name, made, rows, options.out))
        wait(begun)
    about = {
        "command": " ".join(["python -m benchmarks.every_method", *sys.argv[1:]]),
        "minutes": options.minutes,
        "threads": threads,
        **environment(),
    }
    (options.out / "environment.json").write_text(json.dumps(about, indent=1) + "\n")


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the table as Markdown, with percentages and bootstrap intervals."""
    lines = [
        "| method | data | epochs | seconds | kNN | linear | NMI of clusters "
        "| student, 50 labels per class |",
        "| --- | --- | ---: | ---: | --- | --- | ---: | ---: |",
    ]
    for row in rows:
        cells = []
        for metric in ("knn", "linear"):
            p = float(row[metric])
            low, high = interval(p, int(row["n"]))
            cells.append(f"{100 * p:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        nmi = f"{float(row['nmi']):.3f}" if row["nmi"] != "" else ""
        student = f"{100 * float(row['student']):.1f}"
        shown = [row["method"], row["data"], row["epochs"], row["seconds"], *cells, nmi, student]
        lines.append(f"| {' | '.join(map(str, shown))} |")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
