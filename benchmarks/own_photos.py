r"""Is the shipped model ever worse than a simpler thing? Compare it on sets of a user's kind of images.

    python -m benchmarks.own_photos --store STORE --out benchmarks/records/<date>_own-photos \
        --images NAME=TRAIN,TEST ... [--labels 5 25] [--draws 3] [--minutes 5] [--hours 8] \
        [--named RECIPE] [--without CONTESTANT ...]

TRAIN and TEST are sources, such as parquet:train.parquet. The command can be stopped at any time, and goes on
where it was: every finished row is in rows.jsonl. Rows that are missing when the hours are over are listed in
the summary. This needs the extra `oracles` (lightly). Nothing else should run on the machine, because the
first runs on each set, and lightly's pretraining, have a given time.

Draws and label budgets of a set share the teacher. All contestants get the same draws and are scored on the
same test images, so differences are paired.

Contestants:
    shipped: The model that `knowledge-transfer run photos --minutes N` ships.
    student: The final student of the same run.
    scratch: The student's network from untrained weights, with the run's views and mix-up, for 300 and 600
        steps, and for twice as many as long as this is better ON TEST by more than a point, up to 2,400. The
        best one ON TEST counts, which favours it.
    plain: The same with crops, flips and quarter turns alone (`Views.mild`).
    pixels: Logistic regression on raw pixels (32 x 32), C = 0.01.
    frozen: Logistic regression (C = 0.03) on the frozen features of the run's teacher.
    spreading: LabelSpreading on these features, the best ON TEST of a grid.
    lightly: lightly's SimCLR for the same minutes, then fine-tuned (see `benchmarks.chain_pays`).
    named: With `--named RECIPE`, the final student of that recipe, whose settings were chosen for its set.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.chain_pays import (
    Images,
    Lightly,
    neighbour_graphs,
    run_chain,
    settings_of,
    spreading_right,
    stage_path,
)
from benchmarks.record import environment

STEPS = (300, 600, 1200, 2400)
"""Steps of the networks from scratch. The longer trainings are left out once the curve is flat."""
FLAT = 0.01
"""A curve is flat if twice the steps gain no more than this."""
MODELS = ("shipped", "student")
"""What a run brings."""
OTHERS = ("scratch", "plain", "pixels", "frozen", "spreading", "lightly", "named")
"""What it is compared with."""
ROUNDS = 10_000
"""Bootstrap samples per interval."""

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """What a contestant is measured on: a set, a budget, labels and a draw.

    Attributes:
        images: name of the set.
        minutes: the budget.
        labels: labels per class, or the share of labels that is drawn if it is below 1.
        draw: seed of the draw.
    """

    images: str
    minutes: float
    labels: float
    draw: int


class Record:
    """The rows so far, in a file that grows by a line per row.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[Cell, str], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.rows[Cell(**row["cell"]), row["contestant"]] = row

    def has(self, cell: Cell, contestant: str) -> bool:
        """Whether the row is there."""
        return (cell, contestant) in self.rows

    def add(self, cell: Cell, contestant: str, right: Right, **more: Any) -> None:
        """Add a row: which test images were right."""
        row = {
            "cell": vars(cell),
            "contestant": contestant,
            "accuracy": float(right.mean()),
            "right": np.packbits(right).tobytes().hex(),
            "n": len(right),
            **more,
        }
        self.rows[cell, contestant] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(cell, contestant, f"{right.mean():.3f}", flush=True)

    def right(self, cell: Cell, contestant: str) -> Right:
        """Which test images were right."""
        row = self.rows[cell, contestant]
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))
        return np.asarray(bits[: row["n"]], np.bool_)


def outcomes(result: dict[str, Any], store: Path, label: str) -> Right:
    """Which test images a model's classifier was right about, in order of index."""
    table = pq.read_table(stage_path(result, store, label) / "outcomes.parquet").to_pandas()
    few = table[table["evaluation"] == "few-label"].sort_values("index")
    return np.asarray(few["right"], np.bool_)


def calibration(result: dict[str, Any], store: Path) -> dict[str, Any]:
    """Confidence of the shipped model for each test image."""
    table = pq.read_table(stage_path(result, store, "answers") / "answers.parquet").to_pandas()
    known = table[table["label"].notna()].sort_values("index")
    return {"confidence": [round(float(c), 4) for c in known["confidence"]]}


def logistic(x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any], C: float) -> Right:
    """scikit-learn's logistic regression on standardised inputs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000)).fit(x, y)
    return np.asarray(model.predict(x_test) == y_test)


def from_scratch(images: Images, drawn: NDArray[np.int64], config: Any, plain: bool, steps: int) -> Right:
    """Train the student's network on the drawn rows alone, with the product's own fine-tuning."""
    import torch

    from data.order import Repeated
    from models.device import resolve_precision
    from models.engine import train
    from models.inference import run
    from models.method import Batch
    from models.methods.finetune import FinetuneMethod
    from models.network import build_network
    from models.schedules import SCHEDULES

    # One rate for all layers, as in the product. The other rate of the head is for networks that are tuned.
    rate = config.finetune.baseline_learning_rate or config.finetune.learning_rate
    mixup = 0.0 if plain else config.finetune.baseline_mixup or config.finetune.mixup
    finetune = config.finetune.model_copy(
        update={"learning_rate": rate, "head_learning_rate": None, "mixup": mixup}
    )
    if plain:
        finetune = finetune.model_copy(update=finetune.mild().model_dump())
    student = config.student
    network = build_network(
        student.backbone, images.size, width=student.width, classes=images.classes, seed=0
    )
    batch = min(64, len(drawn))
    order = Repeated(drawn, batch, steps)

    class Feed:
        steps_per_epoch = steps

        def batch(self, epoch: int, step: int) -> Batch:
            rows = drawn[order.batch(epoch, step, 0)]
            pixels, label = images.pixels[rows], images.label[rows]
            return Batch(torch.from_numpy(pixels), torch.from_numpy(rows), torch.from_numpy(label))

    schedule, device = SCHEDULES["cosine"], torch.device("cpu")
    train(
        FinetuneMethod(finetune, network),
        Feed(),
        epochs=1,
        seed=0,
        stage="scratch",
        schedule=lambda step, of: schedule(step, of, warmup=0.1),
        device=device,
        precision=resolve_precision("auto", device),
    )
    blocks = run(
        network,
        network,
        lambda index: images.pixels[index],
        images.test,
        batch_size=512,
        device=device,
        precision="fp32",
        size=images.size,
    )
    logits = np.concatenate([block for _, block in blocks])
    return np.asarray(logits.argmax(1) == images.label[images.test])


class Contest:
    """The contestants on one set, in a process of its own, which reads images and features once.

    Args:
        result: a run on the set. Its images, sizes and teacher are those of all runs on it.
        store: where that run is.
        pretrained: the file of lightly's network.
    """

    def __init__(self, result: dict[str, Any], store: Path, pretrained: Path) -> None:
        from data.tables import read_vectors

        self.store, self.pretrained = store, pretrained
        self.images = Images(result, store)
        self.train = read_vectors(stage_path(result, store, "embed"))
        index, x = read_vectors(stage_path(result, store, "embed-teacher-test"))
        self.test = x[np.searchsorted(index, self.images.test)]

    @cached_property
    def graphs(self) -> dict[int, Any]:
        """The neighbours of all images in the teacher's features, for LabelSpreading."""
        unit = [
            x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
            for x in (self.train[1], self.test)
        ]
        return neighbour_graphs(*unit)

    @cached_property
    def lightly(self) -> Lightly:
        """The network that lightly has pretrained."""
        return Lightly(self.images, 0.0, 0, self.pretrained)

    def row(self, contestant: str, result: dict[str, Any]) -> tuple[Right, dict[str, Any]]:
        """Train a contestant on a run's labels -> (which test images are right, what else to keep)."""
        images = self.images
        labels = pq.read_table(stage_path(result, self.store, "labels") / "labels.parquet")
        drawn = labels["index"].to_numpy()
        y, truth = images.label[drawn], images.label[images.test]
        if contestant == "frozen":
            x = self.train[1][np.searchsorted(self.train[0], drawn)]
            return logistic(x, y, self.test, truth, 0.03), {}
        if contestant == "pixels":
            small = _small(images.pixels)
            return logistic(small[drawn], y, small[images.test], truth, 0.01), {}
        if contestant == "spreading":
            return spreading_right(self.graphs, images, drawn), {}
        if contestant == "lightly":
            return self.lightly.finetuned(drawn, images.test), {"steps": self.lightly.steps}
        config, tried = settings_of(result), list[Right]()
        for steps in STEPS:
            if len(tried) > 1 and tried[-1].mean() <= tried[-2].mean() + FLAT:
                break
            tried.append(from_scratch(images, drawn, config, contestant == "plain", steps))
        best = max(tried, key=lambda right: right.mean())
        return best, {"by_steps": [float(right.mean()) for right in tried]}


_contest: Contest | None = None
"""The contest of a worker process."""


def _begin(*given: Any) -> None:
    global _contest
    _contest = Contest(*given)


def _row(contestant: str, result: dict[str, Any]) -> tuple[Right, dict[str, Any]]:
    assert _contest is not None
    return _contest.row(contestant, result)


def measure(
    a: argparse.Namespace, record: Record, name: str, minutes: float, late: Callable[[], bool]
) -> None:
    """Measure all contestants on one set with one budget, as far as rows are missing.

    What is given a time has the machine for itself: the first run with each number of labels, whose plan all
    others find, and lightly's pretraining. The rest does as many steps however long it takes, so it runs with
    one thread a process and as many processes as the machine has cores.
    """
    asked = a.asked
    cells = [cell for cell in wanted(a) if (cell.images, cell.minutes) == (name, minutes)]
    cells = [cell for cell in cells if not all(record.has(cell, each) for each in asked)]
    if not cells or late():
        return
    store = a.store / name
    cores = len(os.sched_getaffinity(0))
    results: dict[Cell, dict[str, Any]] = {}
    for labels in a.labels:
        for cell in [cell for cell in cells if cell.labels == labels][:1]:
            results[cell] = _chain(a, record, cell)
    some = next(iter(results.values()))
    pretrained = store / f"lightly-{minutes:g}.pt"
    if "lightly" in asked and not pretrained.exists():
        images = Images(some, store)
        Lightly(images, 60 * minutes, min(128, len(images.pool) // 2), pretrained)
        del images
    others = [] if late() else [cell for cell in cells if cell not in results]
    with ThreadPoolExecutor(cores) as pool:
        results |= zip(others, pool.map(lambda cell: _chain(a, record, cell, threads=1), others), strict=True)
        named = [cell for cell in cells if "named" in asked and not record.has(cell, "named")]
        list(pool.map(lambda cell: _named(a, record, cell), [] if late() else named))
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, spawn, _begin, (some, store, pretrained)) as workers:
        jobs = {
            workers.submit(_row, contestant, result): (cell, contestant)
            for cell, result in results.items()
            for contestant in asked
            if contestant not in (*MODELS, "named") and not record.has(cell, contestant)
        }
        for job in as_completed(jobs):
            right, more = job.result()
            record.add(*jobs[job], right, **more)
            if late():
                workers.shutdown(cancel_futures=True)
                break
    del os.environ["OMP_NUM_THREADS"]


def _chain(a: argparse.Namespace, record: Record, cell: Cell, threads: int | None = None) -> dict[str, Any]:
    """Run the chain on a cell, and record its models -> the run's JSON result."""
    store = a.store / cell.images
    settings = [f"plan.minutes={cell.minutes:g}", *a.settings, *_data(a, cell)]
    result, seconds = run_chain("photos", settings, store, cell.draw, threads=threads)
    if record.has(cell, "shipped"):
        return result
    cold = not any(row["cached"] for row in result["stages"])
    for label in [row["stage"] for row in result["stages"] if row["stage"].startswith("evaluate-")]:
        model = label.removeprefix("evaluate-")
        right = outcomes(result, store, label)
        if model == "shipped":
            more: dict[str, Any] = {"seconds": seconds} if cold else {}
            more |= {"ships": result["shipped"]["model"], **calibration(result, store)}
            record.add(cell, model, right, **more)
        elif model == "student":
            record.add(cell, model, right)
        elif model not in ("teacher", "student-transferred"):
            record.add(cell, f"candidate {model}", right)
    return result


def _named(a: argparse.Namespace, record: Record, cell: Cell) -> None:
    """Run the named recipe on a cell, and record its student."""
    store = a.store / cell.images
    result, _ = run_chain(a.named, _data(a, cell), store, cell.draw, threads=1)
    record.add(cell, "named", outcomes(result, store, "evaluate-student"))


def _data(a: argparse.Namespace, cell: Cell) -> list[str]:
    """Settings of a cell's images and labels."""
    train, test = a.sources[cell.images]
    per_class, share = ("null", cell.labels) if cell.labels < 1 else (f"{cell.labels:g}", "null")
    return [
        f"data.train={train}",
        f"data.test={test}",
        "data.labels_short=take",
        f"data.labels_per_class={per_class}",
        f"data.label_fraction={share}",
    ]


def _small(pixels: NDArray[np.uint8], side: int = 32) -> NDArray[np.float32]:
    """(N, S, S, 3) uint8 -> (N, 3 side side) float32 in [0, 1], by averages over areas."""
    import torch
    from torch.nn import functional as F

    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    out: NDArray[np.float32] = (F.adaptive_avg_pool2d(x, min(side, x.shape[2])) / 255).flatten(1).numpy()
    return out


def interval(pairs: list[tuple[Right, Right]], seed: int = 0) -> tuple[float, float, float]:
    """Mean difference in points, and its 95 % interval by a bootstrap over draws and test images.

    Args:
        pairs: for each draw, which test images two contestants were right about, on the same images.
        seed: of the bootstrap.
    """
    random = np.random.default_rng(seed)
    difference = np.stack([100.0 * (a.astype(float) - b) for a, b in pairs])
    draws, n = difference.shape
    found = np.empty(ROUNDS)
    for r in range(ROUNDS):
        columns = random.integers(0, n, n)
        found[r] = difference[random.integers(0, draws, draws)][:, columns].mean()
    low, high = np.quantile(found, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def summary(record: Record, a: argparse.Namespace) -> str:
    """The record as Markdown: accuracies by set, differences with intervals, regret and calibration."""
    lines = []
    groups = sorted({(cell.minutes, cell.labels) for cell, _ in record.rows})
    for minutes, labels in groups:
        drawn = f"{labels:g} labels per class" if labels >= 1 else f"{labels:.0%} of the labels"
        lines += [f"## {minutes:g} minutes, {drawn}", ""]
        lines += [*_table(record, minutes, labels), ""]
        lines += [*_calibration(record, minutes, labels), ""]
    missing = [
        f"{cell.images}, {cell.minutes:g} minutes, {cell.labels:g} labels, draw {cell.draw}"
        for cell in wanted(a)
        if not all(record.has(cell, each) for each in a.asked)
    ]
    lines += [f"Not run yet: {text}" for text in missing]
    return "\n".join(lines) + "\n"


def _table(record: Record, minutes: float, labels: float) -> Iterator[str]:
    names = sorted({c.images for c, _ in record.rows if (c.minutes, c.labels) == (minutes, labels)})
    others = [each for each in OTHERS if any(k == each for _, k in record.rows)]
    columns = (*MODELS, *others)
    yield f"| set | n | draws | {' | '.join(columns)} | shipped - best other | regret |"
    yield f"| {' | '.join(['---'] * (len(columns) + 5))} |"
    for name in names:
        cells = sorted(
            {c for c, _ in record.rows if (c.images, c.minutes, c.labels) == (name, minutes, labels)},
            key=lambda c: c.draw,
        )
        means = {}
        for contestant in columns:
            found = [record.right(c, contestant) for c in cells if record.has(c, contestant)]
            means[contestant] = np.mean([100 * right.mean() for right in found]) if found else np.nan
        whole = [c for c in cells if all(record.has(c, each) for each in columns)]
        versus = ""
        if whole:
            best = max(others, key=lambda each: means[each])
            mean, low, high = interval([(record.right(c, "shipped"), record.right(c, best)) for c in whole])
            versus = f"{best} {mean:+.1f} ({low:+.1f} to {high:+.1f})"
        regret = [
            100
            * (
                max(record.rows[c, k]["accuracy"] for o, k in record.rows if o == c and _candidate(k))
                - record.rows[c, "shipped"]["accuracy"]
            )
            for c in cells
            if record.has(c, "shipped")
        ]
        n = next(row["n"] for (cell, _), row in record.rows.items() if cell == cells[0])
        values = " | ".join(f"{means[each]:.1f}" for each in columns)
        yield f"| {name} | {n} | {len(whole)} | {values} | {versus} | {np.mean(regret):.1f} |"


def _calibration(record: Record, minutes: float, labels: float) -> Iterator[str]:
    """How far the shipped model's confidence is from its accuracy, pooled over the draws of a set."""
    from models.evaluation.calibration import bins, calibration_error

    yield "| set | test images, all draws | confidence | accuracy | calibration error |"
    yield "| --- | --- | --- | --- | --- |"
    names = sorted({c.images for c, _ in record.rows if (c.minutes, c.labels) == (minutes, labels)})
    for name in names:
        cells = [
            c
            for c, k in record.rows
            if k == "shipped" and (c.images, c.minutes, c.labels) == (name, minutes, labels)
        ]
        if not cells:
            continue
        sure = np.concatenate([record.rows[c, "shipped"]["confidence"] for c in cells])
        right = np.concatenate([record.right(c, "shipped") for c in cells])
        error = calibration_error(bins(sure, right))
        yield (
            f"| {name} | {len(sure)} | {100 * sure.mean():.1f} | {100 * right.mean():.1f} | "
            f"{100 * error:.1f} |"
        )


def _candidate(contestant: str) -> bool:
    return contestant == "student" or contestant.startswith("candidate ")


def wanted(a: argparse.Namespace) -> list[Cell]:
    """All cells that were asked for."""
    return [
        Cell(name, minutes, labels, draw)
        for minutes in a.minutes
        for name in a.sources
        for labels in a.labels
        for draw in range(a.first, a.first + a.draws)
    ]


def main() -> None:
    """Run what is missing, and write the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", action="append", required=True, metavar="NAME=TRAIN,TEST")
    parser.add_argument("--labels", type=float, nargs="+", default=[5, 25], help="per class; or a share")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0])
    parser.add_argument("--hours", type=float, default=8.0, help="no row is begun after this time")
    parser.add_argument(
        "--without", nargs="*", default=[], choices=OTHERS, help="contestants that are left out"
    )
    parser.add_argument("--named", metavar="RECIPE", help="also run this recipe")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", action="store_true", help="only write the summary again")
    a = parser.parse_args()
    without = [*a.without, *([] if a.named else ["named"])]
    a.asked = [each for each in (*MODELS, *OTHERS) if each not in without]
    a.sources = {}
    for given in a.images:
        name, _, places = given.partition("=")
        train, _, test = places.partition(",")
        a.sources[name] = (train, test)
    a.out.mkdir(parents=True, exist_ok=True)
    record = Record(a.out / "rows.jsonl")
    began = time.monotonic()
    if not a.page:
        calls = a.out / "environment.json"  # one entry per call, because machines may differ
        told = json.loads(calls.read_text()) if calls.exists() else []
        about = {"command": " ".join(["python -m benchmarks.own_photos", *sys.argv[1:]]), **environment()}
        calls.write_text(json.dumps([*told, about], indent=1) + "\n")
    for minutes in [] if a.page else a.minutes:
        for name in a.sources:
            measure(a, record, name, minutes, lambda: time.monotonic() - began > 3600 * a.hours)
    (a.out / "summary.md").write_text(summary(record, a))
    print((a.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
