"""A sample of what the report shows, and a parser of the page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from data.checkpoints import LogRow
from tasks.report import content, sheets
from tasks.report.content import (
    Answered,
    Answers,
    ClassRow,
    ClusterQuality,
    Clusters,
    ClusterSheet,
    ConfidenceBin,
    Counts,
    Group,
    ImageMap,
    Mistake,
    Rejected,
    ReportData,
    Ships,
    StageRow,
)
from tasks.report.scoreboard import Score

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CONFIG = """seed: 7
data:
  train: digits
  label_fraction: 0.1
pretext:
  method: simclr
  backbone: resnet18
  epochs: 60
cluster:
  k: 40
"""

EDGES = {
    "manifest": (),
    "labels": ("manifest",),
    "pretext": ("manifest",),
    "embed": ("manifest", "pretext"),
    "embed test": ("manifest", "pretext"),
    "cluster": ("embed",),
    "assign": ("embed", "cluster"),
    "transfer": ("manifest", "assign"),
    "finetune teacher": ("manifest", "labels", "pretext"),
    "finetune student": ("manifest", "labels", "transfer"),
    "baseline": ("manifest", "labels"),
    "predict": ("manifest", "finetune teacher"),
    "distill": ("manifest", "labels", "predict", "finetune student"),
    "evaluate features": ("embed", "embed test", "manifest"),
    "evaluate student": ("distill", "manifest"),
    "evaluate baseline": ("baseline", "manifest"),
    "evaluate clusters": ("assign", "manifest"),
    "scores": ("evaluate features", "evaluate student", "evaluate baseline", "evaluate clusters"),
}
KINDS = (
    *("manifest", "labels", "checkpoint", "features", "features", "clusters", "assignments"),
    *("checkpoint", "checkpoint", "checkpoint", "checkpoint", "probabilities", "checkpoint"),
    *("scores", "scores", "scores", "scores", "scores"),
)


def training(rng: np.random.Generator, start: float, end: float, epochs: int, steps: int) -> list[LogRow]:
    rows = []
    for step in (*range(1, steps, max(1, steps // 900)), steps):
        t = step / steps
        epoch = t * epochs
        loss = end + (start - end) * np.exp(-5 * t) + rng.normal(0, 0.04) * (0.3 + start * np.exp(-3 * t))
        rate = 0.1 * min(t / 0.05, 0.5 * (1 + np.cos(np.pi * (t - 0.05) / 0.95)))
        rows += [LogRow(step, epoch, "loss", abs(loss)), LogRow(step, epoch, "learning_rate", rate)]
        rows.append(LogRow(step, epoch, "accuracy", 1 - np.exp(-4 * t)))
    return rows


def answers(names: tuple[str, ...] = WORDS, images: int = 36, seed: int = 0) -> Answers:
    """Invented answers: `images` test images of each class, about 80 % of them right."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(names)), images)
    sure = rng.uniform(0.3, 1, len(label))
    other = (label + 1 + (rng.random(len(label)) < 0.3)) % len(names)
    predicted = np.where(rng.random(len(label)) < 0.4 + 0.6 * sure, label, other)
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, (label, predicted), 1)
    wrong = [i for i in np.argsort(-sure) if label[i] != predicted[i]]
    both = np.triu(matrix + matrix.T, 1)
    pairs = sorted(((int(both[a, b]), a, b) for a, b in np.argwhere(both)), reverse=True)
    rows = [
        ClassRow(
            name, images, int(matrix[c, c]), int(matrix[:, c].sum()), 15, (names[(c + 1) % len(names)], 2)
        )
        for c, name in enumerate(names)
    ]
    good = label == predicted
    ordered = np.argsort(sure)
    return Answers(
        n=len(label),
        right=int(good.sum()),
        balanced=float(good.mean()),
        macro_f1=0.8123,
        confidence=float(sure.mean()),
        log_loss=0.4321,
        brier=0.2345,
        error=0.0456,
        error_interval=(0.0123, 0.0789),
        bins=tuple(
            ConfidenceBin(
                len(part),
                float(sure[part].min()),
                float(sure[part].max()),
                float(sure[part].mean()),
                float(good[part].mean()),
            )
            for part in np.array_split(ordered, 10)
        ),
        histogram=tuple(np.histogram(sure, 10, (0, 1))[0].tolist()),
        answered=tuple(Answered(s, round(s * len(label)), 1 - s / 2, 0.99 - s / 9) for s in (0.2, 0.6, 1.0)),
        classes=tuple(sorted(rows, key=lambda row: row.right)),
        names=names,
        matrix=matrix,
        pairs=tuple((names[a], names[b], n) for n, a, b in pairs),
        mistakes=tuple(
            Mistake(
                f"set/{i}.png",
                names[label[i]],
                names[predicted[i]],
                float(sure[i]),
                rng.integers(0, 255, (8, 8, 3), np.uint8),
            )
            for i in wrong[:5]
        ),
    )


def sample() -> ReportData:
    """A run on scikit-learn's digits with invented, plausible scores and 40 K-means clusters of pixels."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(7)
    digits = load_digits()
    pixels = np.repeat((digits.images / 16 * 255).astype(np.uint8)[..., None], 3, axis=3)[:1437]
    target = digits.target[:1437]
    flat = digits.data[:1437]
    centroids = flat[rng.choice(len(flat), 40, replace=False)]
    objective = []
    for _ in range(15):
        squared = ((flat[:, None] - centroids[None]) ** 2).sum(-1)
        cluster, distance = squared.argmin(1), squared.min(1)
        objective.append(float(distance.mean()))
        centroids = np.array(
            [flat[cluster == c].mean(0) if (cluster == c).any() else centroids[c] for c in range(40)]
        )
    sizes = np.bincount(cluster, minlength=40)
    votes = np.zeros((40, 10))
    np.add.at(votes, (cluster, target), 1)
    purity = votes.max(1) / np.maximum(1, sizes)
    chosen = sheets.choose(sizes, purity)
    rows = sheets.nearest(cluster.astype(np.int32), distance.astype(np.float32), [c for c, _ in chosen])
    n = 360
    scores = [
        Score("few-label", model, "accuracy", "test", "", right / n, 7, n)
        for model, right in (
            ("teacher-finetuned", 352),
            ("student-finetuned", 344),
            ("student", 351),
            ("scratch", 328),
        )
    ]
    for evaluation, settings, values in (
        ("linear", "C=1", (348, 350, 346, 349, 352, 335)),
        ("knn", "k=20", (342, 349, 344, 346, 350, 327)),
    ):
        scores += [
            Score(evaluation, model, "accuracy", "test", settings, right / n, 7, n)
            for model, right in zip(list(content.MODELS)[:6], values, strict=True)
        ]
    scores += [Score("few-label", "student", "ece", "test", "15 bins", 0.01234, 7, n)]
    stages = tuple(
        StageRow(
            label,
            kind,
            f"{i:02d}c0ffee{i:02d}5eed{i:04d}",
            EDGES[label],
            float(rng.gamma(1.2, 14)),
            1797,
        )
        for i, (label, kind) in enumerate(zip(EDGES, KINDS, strict=True))
    )
    return ReportData(
        recipe="digits",
        seed=7,
        stages=stages,
        counts=Counts(train=1437, unlabelled=0, test=n, labelled=115, validation=29, fewest=14, most=15),
        ships=Ships(
            model="student",
            origin="student",
            stage="distill",
            path="artifacts/checkpoint/11c0ffee115eed0011",
            parameters=116_890,
            size=474_000,
            backbone="smallconv",
            image_size=16,
            classes=10,
            temperature=0.25,
            because="it was right about 96 % of 50 labels",
        ),
        answers=answers(),
        logs={
            "pretext": training(rng, 5.5, 3.6, 60, 9000),
            "transfer": training(rng, 3.7, 0.4, 40, 900),
            "finetune teacher": training(rng, 2.3, 0.01, 20, 300),
            "finetune student": training(rng, 2.3, 0.02, 20, 300),
            "baseline": training(rng, 2.3, 0.05, 20, 300),
            "distill": training(rng, 2.1, 0.3, 30, 700),
        },
        clusters=Clusters(sizes, tuple(objective), 1437, 1437),
        sheets=tuple(
            ClusterSheet(
                c,
                reason,
                tuple(pixels[rows[c]]),
                int(sizes[c]),
                sizes[c] / 1437,
                WORDS[votes[c].argmax()],
                float(purity[c]),
                int(votes[c].sum()),
            )
            for c, reason in chosen
        ),
        quality=ClusterQuality(0.742, 0.731, 0.554, float(votes.max(1).sum() / 1437), 1437),
        scores=tuple(scores),
        classes=WORDS,
        rejected=Rejected(
            3, (("broken/one.png", "truncated: 17 of 420 bytes"), ("broken/two.gif", "not an image"))
        ),
        notes=("The test split is scikit-learn's last 360 digits, by other writers than most of train.",),
        config=CONFIG,
        environment=(
            ("python", "3.12.1"),
            ("torch", "2.15.0"),
            ("device", "cpu"),
            ("precision", "fp32"),
            ("threads", "2"),
        ),
    )


def image_map(n: int = 400, k: int = 40, seed: int = 1) -> ImageMap:
    """A map of some digits, with an invented answer for each test image."""
    from sklearn.datasets import load_digits

    from tasks.report.sprite import sprite

    rng = np.random.default_rng(seed)
    digits = load_digits()
    label = digits.target[:n].astype(np.int64)
    pixels = np.repeat((digits.images[:n] / 16 * 255).astype(np.uint8)[..., None], 3, axis=3)
    test = np.arange(n) >= 0.8 * n
    said = np.where(rng.random(n) < 0.8, label, (label + 1) % 10)
    pictures = sprite(lambda part: pixels[part], n, 8)
    return ImageMap(
        x=(np.cos(label) + rng.normal(0, 0.2, n)).astype(np.float32),
        y=(np.sin(label) + rng.normal(0, 0.2, n)).astype(np.float32),
        label=label,
        labelled=(rng.random(n) < 0.1) & ~test,
        split=tuple("test" if each else "train" for each in test),
        cluster=(label * (k // 10) + rng.integers(0, k // 10, n)).astype(np.int64),
        distance=rng.random(n).astype(np.float32),
        predicted=np.where(test, said, -1),
        confidence=np.where(test, rng.uniform(0.3, 1, n), np.nan).astype(np.float32),
        uri=tuple(f"{'test' if each else 'train'}/{i}.png" for i, each in enumerate(test)),
        total=1797,
        random=300,
        projection="pca",
        explained=(0.21, 0.13),
        sprite=pictures.webp,
        side=pictures.side,
        columns=pictures.columns,
        groups={c: Group(36, c // (k // 10), 0.9, 36) for c in range(k)},
    )


class Page(HTMLParser):
    """Collects elements, ids, links and texts of a page. Fails if tags don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)
            if "td" in self.open or "th" in self.open:
                self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def bare(**changes: object) -> ReportData:
    """A run of which only the recipe and counts are known."""
    return replace(ReportData("digits", 0, (), Counts(10, 0, 0)), **changes)  # type: ignore[arg-type]
