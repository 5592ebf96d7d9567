r"""Does the chain pay? Compare its student with training from scratch, lightly's SimCLR and LabelSpreading.

    python -m benchmarks.chain_pays digits  --draws 10 --store STORE --out benchmarks/records/<date>_digits
    python -m benchmarks.chain_pays cifar10 --draws 3  --store STORE --out benchmarks/records/<date>_cifar10 \
        --set data.train=parquet:TRAIN --set data.test=parquet:TEST

This needs the extra `oracles` (lightly). Nothing else should run on the machine, because the first run of the
chain is timed. lightly gets the same wall time for its pretraining alone; its fine-tuning is not counted. All
contestants get the same label draws, so their differences are paired. The results are scores.csv (one row per
contestant and draw), summary.md and environment.json.

Contestants:
    chain: The final student (distill) of `knowledge-transfer run`.
    scratch: The same student, trained from scratch. It has the same label draw, augmentation and grid of
        learning rates, and as many steps as the chain's student in all its trainings together.
    lightly: lightly's SimCLRTransform, NTXentLoss and SimCLRProjectionHead on ResNet-18 (3x3 stem, no
        max-pool) with SGD at 0.06 x batch / 128, as in its CIFAR-10 benchmark. Then it is fine-tuned on the
        label draw. If the draw has a validation part, that part chooses the learning rate among 0.03 and
        0.01; otherwise the rate is 0.03. It trains with channels-last tensors, and in bf16 where the CPU
        has it, which makes more steps in the given time.
    spreading-pixels: LabelSpreading (knn kernel) on the raw pixels of train. The fitted model predicts test.
    spreading-ours: The same on our teacher's features.

For both spreading contestants, we report the best result ON TEST over a grid of neighbours and alpha. This
favours them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.record import environment
from tasks.config import Config

NEIGHBOURS, ALPHAS = (5, 7, 10, 20), (0.2, 0.8, 0.95, 0.99)
SPLITS = ("train", "test", "unlabelled")
LIGHTLY_RATES, LIGHTLY_STEPS = (0.03, 0.01), 200


def run_chain(
    recipe: str,
    settings: list[str],
    store: Path,
    draw: int,
    more: tuple[str, ...] = (),
    threads: int | None = None,
) -> tuple[dict[str, Any], float]:
    """Run the chain once with a label draw -> (its JSON result, wall seconds).

    `threads` is the number of threads of each of its processes; None leaves it to the machine.
    """
    given = [x for s in [*settings, f"data.label_seed={draw}", *more] for x in ("--set", s)]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows", "run", recipe, *given, "--store", str(store), "--json"],
        capture_output=True,
        text=True,
        env=os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
    )
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"the chain failed with status {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout), seconds


def stage_path(result: dict[str, Any], store: Path, label: str) -> Path:
    """The folder of a stage's artifact."""
    return store / next(row["path"] for row in result["stages"] if row["stage"] == label)


def settings_of(result: dict[str, Any]) -> Config:
    """The configuration of a run, with what its plan chose."""
    from flows.recipes import planned

    told = json.loads((Path(result["folder"]) / "run.json").read_text())
    config = Config.model_validate(told["config"])
    return planned(config, told["plan"]) if told["plan"] else config


class Images:
    """Pixels and labels of a run's manifest, read once with our decoder."""

    def __init__(self, result: dict[str, Any], store: Path) -> None:
        from data.images import open_images
        from data.preprocessing import stored_size
        from data.schemas import MANIFEST
        from data.tables import column, read_table

        config = settings_of(result)
        sources = {name: source for name in SPLITS if (source := getattr(config.data, name))}
        manifest = read_table(stage_path(result, store, "manifest") / "images.parquet", MANIFEST)
        self.size = config.data.image_size
        opened = open_images(manifest, sources, stored_size(self.size), cache=store / "cache" / "images")
        self.pixels = opened.read(np.arange(manifest.num_rows))
        self.label = column(manifest, "label").astype(np.int64)
        self.split = column(manifest, "split").astype(str)
        self.train = np.flatnonzero(self.split == "train")
        self.pool = np.flatnonzero(self.split != "test")
        self.test = np.flatnonzero((self.split == "test") & (self.label >= 0))
        self.classes = int(self.label.max()) + 1


def spreading_right(graphs: dict[int, Any], images: Images, drawn: np.ndarray) -> np.ndarray:
    """Which test images LabelSpreading is right about, at the best test accuracy over the grid.

    Args:
        graphs: neighbours -> (connectivity of the pool's images, rows of the pool nearest to each test
            image).
        images: the images of the run.
        drawn: the rows whose labels are given.
    """
    import warnings

    from sklearn.semi_supervised import LabelSpreading

    y = np.full(len(images.pool), -1, np.int64)
    y[np.searchsorted(images.pool, drawn)] = images.label[drawn]
    best = np.zeros(len(images.test), bool)
    for graph, near in graphs.values():
        for alpha in ALPHAS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some corners of the grid do not converge
                # kernel="knn" would rebuild the graph for every fit, so a callable kernel returns it.
                model = LabelSpreading(kernel=lambda a, b: graph, alpha=alpha, max_iter=100)  # noqa: B023
                fitted = model.fit(y[:, None], y)
            votes = fitted.label_distributions_[near].sum(1)  # as in predict() with kernel="knn"
            right = fitted.classes_[votes.argmax(1)] == images.label[images.test]
            best = max(best, right, key=lambda found: found.mean())
    return best


def neighbour_graphs(x: np.ndarray, x_test: np.ndarray) -> dict[int, Any]:
    """The `graphs` that `spreading` needs, for features `x` of the pool and `x_test` of test."""
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=max(NEIGHBOURS), algorithm="brute", n_jobs=-1).fit(x)
    own, near = (model.kneighbors(y, return_distance=False) for y in (x, x_test))
    n, found = len(x), {}
    for k in NEIGHBOURS:
        graph = csr_matrix((np.ones(n * k), own[:, :k].ravel(), np.arange(0, n * k + 1, k)), (n, n))
        found[k] = (graph, near[:, :k])
    return found


class Lightly:
    """lightly's SimCLR: pretrained once for a given wall time, then fine-tuned for each label draw."""

    def __init__(self, images: Images, seconds: float, batch: int, keep: Path | None = None) -> None:
        """Pretrain, or load what an earlier call has written to the file `keep`."""
        import torch
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform
        from PIL import Image
        from torchvision.models import resnet18

        torch.manual_seed(0)
        self.images, self.size = images, images.size
        net = resnet18()
        net.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = torch.nn.Identity()
        net.fc = torch.nn.Identity()
        net = net.to(memory_format=torch.channels_last)
        head = SimCLRProjectionHead(512, 512, 128)
        flip = 0.0 if images.size < 32 else 0.5  # the digits must not be mirrored
        transform = SimCLRTransform(input_size=self.size, cj_strength=0.5, gaussian_blur=0.0, hf_prob=flip)
        loss_of = NTXentLoss(temperature=0.5)
        rate = 0.06 * batch / 128
        optimizer = torch.optim.SGD(
            [*net.parameters(), *head.parameters()], lr=rate, momentum=0.9, weight_decay=5e-4
        )
        rng = np.random.default_rng(0)
        started = time.monotonic()
        self.net, self.flip, self.steps = net, flip, 0
        if keep is not None and keep.exists():
            kept = torch.load(keep, weights_only=True)
            self.weights, self.steps = kept["weights"], kept["steps"]
            return
        while (elapsed := time.monotonic() - started) < seconds:
            for group in optimizer.param_groups:  # cosine schedule over the given time
                group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * min(1.0, elapsed / seconds)))
            chosen = rng.choice(images.pool, batch, replace=False)
            pictures = [Image.fromarray(images.pixels[i]) for i in chosen]
            views = [transform(p.resize((self.size, self.size))) for p in pictures]
            a, b = (torch.stack([v[j] for v in views]) for j in (0, 1))
            with self.autocast():
                z = [head(net(v.contiguous(memory_format=torch.channels_last))) for v in (a, b)]
            loss = loss_of(*(v.float() for v in z))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.steps += 1
        self.weights = {k: v.clone() for k, v in net.state_dict().items()}
        if keep is not None:
            torch.save({"weights": self.weights, "steps": self.steps}, keep)

    @staticmethod
    def autocast() -> Any:
        """bfloat16 where the CPU has it, as our own trainings do."""
        import torch

        from models.device import resolve_precision

        low = resolve_precision("auto", torch.device("cpu")) == "bf16"
        return torch.autocast("cpu", torch.bfloat16, enabled=low)

    def batch(self, rows: np.ndarray, augment: bool) -> Any:
        """The images of the rows as (B, 3, S, S) float32, normalised as lightly does."""
        import torch
        from PIL import Image
        from torchvision.transforms import v2

        parts = (
            [v2.RandomResizedCrop(self.size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip(self.flip)]
            if augment
            else []
        )
        normal = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        t = v2.Compose([*parts, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normal])
        return torch.stack(
            [t(Image.fromarray(self.images.pixels[i]).resize((self.size, self.size))) for i in rows]
        )

    def finetune(self, drawn: np.ndarray, rate: float, test: np.ndarray) -> float:
        """Fine-tune the whole network on the rows `drawn` -> accuracy on the rows `test`."""
        return float(self.finetuned(drawn, test, rate).mean())

    def finetuned(self, drawn: np.ndarray, test: np.ndarray, rate: float = LIGHTLY_RATES[0]) -> np.ndarray:
        """Fine-tune the whole network on the rows `drawn` -> which of the rows `test` are right."""
        import torch

        torch.manual_seed(1)
        self.net.load_state_dict(self.weights)
        self.net.fc = torch.nn.Linear(512, self.images.classes)
        optimizer = torch.optim.SGD(self.net.parameters(), lr=rate, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, LIGHTLY_STEPS)
        rng = np.random.default_rng(1)
        self.net.train()
        size = min(64, len(drawn))
        for _ in range(LIGHTLY_STEPS):
            rows = rng.choice(drawn, size, replace=False)
            with self.autocast():
                logits = self.net(self.batch(rows, True))
            loss = torch.nn.functional.cross_entropy(
                logits.float(), torch.from_numpy(self.images.label[rows])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.net.eval()
        with torch.inference_mode():
            found = [
                self.net(self.batch(part, False)).argmax(1).numpy()
                for part in np.array_split(test, len(test) // 250 + 1)
            ]
        self.net.fc = torch.nn.Identity()
        return np.concatenate(found) == self.images.label[test]


def interval(differences: Iterable[float]) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % t-interval -> (mean, low, high)."""
    from scipy import stats

    d = np.asarray(list(differences))
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)) if len(d) > 1 else float("nan")
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


def main() -> None:
    """Run all contestants and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first label seed")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--lightly-seconds",
        type=float,
        help="pretraining time of lightly, instead of the first run's wall time; 0 leaves lightly out",
    )
    parser.add_argument("--lightly-batch", type=int, default=128)
    parser.add_argument("--lightly-draws", type=int, help="number of draws for which lightly is fine-tuned")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    wall: list[float] = []
    draws = range(a.first, a.first + a.draws)
    for draw in draws:
        # Features and probes do not depend on the draw, so later runs evaluate only the classifiers.
        more = ("evaluate.protocols=[few-label]",) if draw != a.first else ()
        result, seconds = run_chain(a.recipe, a.settings, a.store, draw, more)
        results.append(result)
        wall.append(seconds)
        for name, model in (("chain", "student"), ("scratch", "scratch")):
            rows.append({"contestant": name, "draw": draw, "accuracy": result["headline"][model]})
        print(draw, f"{seconds:.0f} s", result["headline"], flush=True)

    from data.tables import read_vectors

    images = Images(results[0], a.store)
    spaces = {"spreading-pixels": (_flat(images.pixels[images.pool]), _flat(images.pixels[images.test]))}
    ours = [
        read_vectors(stage_path(results[0], a.store, label))[1] for label in ("embed", "embed-teacher-test")
    ]
    spaces["spreading-ours"] = (_unit(ours[0]), _unit(ours[1]))
    graphs = {name: neighbour_graphs(*pair) for name, pair in spaces.items()}
    draw_of = {}
    for draw, result in zip(draws, results, strict=True):
        table = pq.read_table(stage_path(result, a.store, "labels") / "labels.parquet")
        role = np.array(table["role"].to_pylist())
        draw_of[draw] = (table["index"].to_numpy(), role)
        for name, found in graphs.items():
            rows.append(
                {
                    "contestant": name,
                    "draw": draw,
                    "accuracy": float(spreading_right(found, images, draw_of[draw][0]).mean()),
                }
            )
            print(rows[-1], flush=True)
    write(rows, a, wall, 0, len(images.test))
    budget = wall[0] if a.lightly_seconds is None else a.lightly_seconds
    steps = 0
    if budget:
        lightly = Lightly(images, budget, a.lightly_batch)
        steps = lightly.steps
        print(f"lightly pretrained {steps} steps", flush=True)
        for draw in list(draws)[: a.lightly_draws]:
            index, role = draw_of[draw]
            rate = LIGHTLY_RATES[0]
            if (role == "validation").any():
                held = index[role == "validation"]
                rate = max(LIGHTLY_RATES, key=lambda r: lightly.finetune(index[role == "train"], r, held))
            accuracy = lightly.finetune(index, rate, images.test)
            rows.append({"contestant": "lightly", "draw": draw, "accuracy": accuracy})
            print(rows[-1], rate, flush=True)

    write(rows, a, wall, steps, len(images.test))
    print((a.out / "summary.md").read_text())


def write(rows: list[dict[str, Any]], a: argparse.Namespace, wall: list[float], steps: int, n: int) -> None:
    """Write the record with the rows so far."""
    with (a.out / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["contestant", "draw", "accuracy"])
        writer.writeheader()
        writer.writerows(rows)
    (a.out / "summary.md").write_text(summary(rows, a, wall, steps, n))
    about = {
        "command": " ".join(["python -m benchmarks.chain_pays", *sys.argv[1:]]),
        "wall_seconds": [round(s, 1) for s in wall],
        "lightly_steps": steps,
        **environment(),
    }
    (a.out / "environment.json").write_text(json.dumps(about, indent=1) + "\n")


def summary(rows: list[dict[str, Any]], a: argparse.Namespace, wall: list[float], steps: int, n: int) -> str:
    """The record as Markdown: accuracies, and the chain's paired difference to each other contestant."""
    by: dict[str, dict[int, float]] = {}
    for row in rows:
        by.setdefault(row["contestant"], {})[row["draw"]] = row["accuracy"]
    lines = [
        f"{a.recipe}: {a.draws} label draws, {n} test images. The first run took {wall[0]:.0f} s. "
        f"lightly was pretrained for {steps} steps.",
        "",
        "| contestant | accuracy, % (mean ± sd over draws) | draws "
        "| chain minus contestant, points (95 % interval) |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in by.items():
        values = 100 * np.array(list(found.values()))
        spread = values.std(ddof=1) if len(values) > 1 else float("nan")
        versus = ""
        if name != "chain":
            mean, low, high = interval(100 * (by["chain"][draw] - value) for draw, value in found.items())
            versus = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {name} | {values.mean():.1f} ± {spread:.1f} | {len(values)} | {versus} |")
    return "\n".join(lines) + "\n"


def _flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


if __name__ == "__main__":
    main()
