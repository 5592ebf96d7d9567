"""Export: writes the model that ships in other programs' formats, checks each, and measures what it costs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from data.types import Artifact
from models.configs.pretrained import Pretrained
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, images_of, passes
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from models.export import Format
    from models.export.answering import About, Answer, Answering, Pixels
    from models.network import Network

STAGE = Stage(name="export", kind="export", version=3, process="train")
MOST = 10_000
"""Number of test images that every file is checked on, at most."""
MOST_BYTES = 512 << 20
"""Bytes of these images, at most."""
TOLD = ("method", "backbone", "width", "epochs", "steps", "k", "labels_per_class", "label_fraction")
"""Settings of a stage that the card names."""
SLOW = 256
"""Number of test images for the format bits, whose reader is slow."""
CHOOSING = 1024
"""Largest number of training images that decide which int8 file is kept. Calibration uses other images."""


def plan(
    config: Config,
    manifest: Artifact,
    checkpoint: Artifact,
    labels: Artifact | None = None,
    teacher: Artifact | None = None,
    *,
    formats: list[str],
) -> Request:
    """Request the exported files.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the model that ships; it has a classifier.
        labels: the drawn labels.
        teacher: the fine-tuned teacher, to compare with; None if there is none.
        formats: names in `models.export.FORMATS`.
    """
    inputs = {"manifest": manifest, "checkpoint": checkpoint}
    inputs |= {} if labels is None else {"labels": labels}
    inputs |= {} if teacher is None else {"teacher": teacher}
    settings: dict[str, Any] = {"formats": formats, "max_drop": config.export.max_drop}
    if isinstance(config.pretext, Pretrained) and config.pretext.licence:
        settings["licence"] = config.pretext.licence
    return STAGE.request(
        settings=settings,
        inputs=inputs,
        parts=("train", "unlabelled", "test", "labels", "test_labels"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    cost, count = cost_of(inputs), len(request.settings["formats"])
    seen = (count + 1) * min(images_of(inputs).test, MOST)
    return Size(count, 4.0 * count * cost.parameters, seen * cost.forward, work=(passes(run, cost, seen),))


def build(job: Job) -> Outcome:
    """Write the files and card.json. A file that is refused is not kept; the card has the reason."""
    import numpy as np

    from data.checkpoints import read_description
    from data.draws import key, permutation
    from data.preprocessing import Preprocessing
    from data.store import write_json
    from models.export import FORMATS
    from models.export.answering import About, Answering, probabilities
    from models.saved import load
    from tasks.rows import manifest_rows

    folder = job.path("checkpoint")
    described = read_description(folder)
    rule = Preprocessing.of(described)
    network = load(folder)
    model, about = Answering(network, rule), About(tuple(described["class_names"]), rule)
    images = job.images_for(network)
    index, label = manifest_rows(job.path("manifest"), ("test",))
    most = max(1, min(MOST, MOST_BYTES // (model.side**2 * model.channels)))
    if len(index) > most:
        some = np.sort(permutation(key(job.seed, "export test"), len(index))[:most])
        index, label = index[some], label[some]
    test = images.read(index)
    training, _ = manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    drawn = permutation(key(job.seed, "export"), len(training))[: min(_calibrating(), most)]
    ranges = images.read(training[drawn])
    job.log(f"answers of the network for {len(index)} test images")
    expected = probabilities(model.answer, test)
    measuring = _Measuring(job, model, about, test, label, expected, ranges)
    own, chain = measuring.own(), _chain(job, job.request.inputs["checkpoint"])
    formats = {name: measuring.format(name, FORMATS[name]) for name in job.settings["formats"]}
    card: dict[str, Any] = {
        **about.as_json(),
        "model": _sizes(network) | {"backbone": described["backbone"], "width": described.get("width", 1.0)},
        "shipped": described.get("shipped"),
        "test": _scores(expected, label, about.classes, job.seed),
        "float": own,
        "formats": formats,
        "images": job.meta("manifest")["counts"],
        "image_hashes": job.meta("manifest")["parts"],
        "labels": _labels(job),
        "chain": chain,
        "teacher": _origin(job, chain),
        "compared": [*_teacher(job, measuring, index), *_student(job, network, own, formats)],
        "max_drop": job.settings["max_drop"],
        "uncertain": {name: index[found].tolist() for name, found in measuring.near.items() if found},
    }
    write_json(job.out / "card.json", card)
    kept = [name for name, row in formats.items() if row["refused"] is None]
    return Outcome(rows=len(kept), meta={"formats": kept})


class _Measuring:
    """Writes, loads and measures one format after the other.

    Args:
        job: the stage's job.
        model: the network.
        about: what its users have to know.
        test: (N, S, S, C) squares of test images.
        label: (N,) their classes; -1 without one.
        expected: (N, K) the network's probabilities.
        ranges: (M, S, S, C) squares of training images, for int8.
    """

    def __init__(
        self,
        job: Job,
        model: Answering,
        about: About,
        test: Pixels,
        label: NDArray[np.int64],
        expected: NDArray[np.float32],
        ranges: Pixels,
    ) -> None:
        import os

        self.job, self.model, self.about = job, model, about
        self.test, self.label, self.expected, self.ranges = test, label, expected, ranges
        self.cores = len(os.sched_getaffinity(0))
        self.near: dict[str, list[int]] = {}

    def own(self) -> dict[str, Any]:
        """Accuracy and speed of the network itself, in PyTorch."""
        return {
            **self.accuracy(self.expected),
            **self.rates(lambda cores: self.model.answer, self.test),
            "cores": self.cores,
        }

    def accuracy(self, found: NDArray[np.float32]) -> dict[str, Any]:
        """The accuracy of (N, K) probabilities on the test images, with its interval."""
        from models.export import checks

        return _accuracy(checks.accuracy(found, self.label), int((self.label >= 0).sum()))

    def rates(self, load: Callable[[int], Answer], images: Pixels) -> dict[str, float]:
        """Images per second on one core and on all.

        Args:
            load: gets a number of cores, and returns the function that answers on so many cores.
            images: (N, S, S, C) squares.
        """
        from models.export import checks

        found = {}
        for key, cores in (("rate_one_core", 1), ("rate", self.cores)):
            with checks.threads(cores):
                found[key] = checks.rate(load(cores), images)
        return found

    def format(self, name: str, form: Format) -> dict[str, Any]:
        """Write a format, check it and measure it. If it is refused, its files are deleted.

        Returns:
            Its row of card.json.
        """
        import importlib
        import shutil

        from models.export import checks
        from models.export.answering import probabilities

        module = importlib.import_module(form.module)
        row: dict[str, Any] = {"file": form.file, "refused": None}
        can_not = module.refusal(self.model) if hasattr(module, "refusal") else None
        if can_not is not None:
            return row | {"refused": can_not}
        self.job.log(f"writes {name}")
        out = self.job.out
        row |= module.write(self.model, self.about, out, self.ranges)
        count = SLOW if form.binary else len(self.test)
        test, label, expected = self.test[:count], self.label[:count], self.expected[:count]
        answer = module.answer(out, self.cores)
        found = probabilities(answer, test)
        compared = checks.compare(expected, found, label, self.about.rule.temperature)
        self.near[name] = list(compared.near) if form.exact else []
        row |= {
            "images": compared.n,
            "difference": compared.difference,
            "agreement": compared.agreement,
            **_accuracy(compared.accuracy, compared.labelled),
            "bytes": sum(path.stat().st_size for path in _files(out / form.file)),
        }
        own = checks.accuracy(expected, label)
        real = not self.model.binary
        row["refused"] = checks.refusal(
            compared, own, self.job.settings["max_drop"], exact=form.exact and real
        ) or checks.batch_refusal(answer, test, real=real)
        if row["refused"] is None:
            row |= self.rates(partial(module.answer, out), test)
        else:
            self.job.log(f"refuses {name}: {row['refused']}")
            path = out / form.file
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return row


def _calibrating() -> int:
    from models.export.int8 import CALIBRATED

    return CALIBRATED + CHOOSING


def _files(path: Path) -> list[Path]:
    return [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]


def _accuracy(value: float | None, n: int) -> dict[str, Any]:
    """An accuracy with its 95 % interval; empty without labels."""
    from data.intervals import wilson

    if value is None:
        return {}
    low, high = wilson(value, n)
    return {"accuracy": value, "low": low, "high": high, "labelled": n}


def _sizes(network: Network) -> dict[str, Any]:
    from models.cost import operations, weight_bits

    counted = operations(network)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weight_bits": weight_bits(network),
        "bytes": weight_bits(network) / 8,
        "real_operations": counted.real,
        "binary_operations": counted.binary,
    }


def _teacher(job: Job, measuring: _Measuring, index: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Size, accuracy and speed of the teacher that was fine-tuned, as a row of a table; none without one."""
    from data.checkpoints import read_description
    from data.preprocessing import Preprocessing
    from models.export.answering import Answering, probabilities
    from models.saved import load

    if "teacher" not in job.request.inputs:
        return []
    job.log("measures the teacher")
    network, described = load(job.path("teacher")), read_description(job.path("teacher"))
    rule = Preprocessing.of(described)
    teacher, test = Answering(network, rule), job.images_for(network).read(index)
    row = {
        "name": f"teacher ({described['backbone']})",
        "role": "teacher",
        **_weight(job, "teacher", network),
    }
    row |= measuring.accuracy(probabilities(teacher.answer, test))
    return [row | measuring.rates(lambda cores: teacher.answer, test)]


def _student(
    job: Job, network: Network, own: dict[str, Any], formats: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Size, accuracy and speed of the model that ships, and of its files, as rows of the same table."""
    from data.checkpoints import read_description
    from models.export import FORMATS

    described = read_description(job.path("checkpoint"))
    origin = (described.get("shipped") or {}).get("model", "student")
    sizes = _weight(job, "checkpoint", network)
    rows = [{"name": f"{origin} ({described['backbone']})", "role": "student", **sizes, **own}]
    for name, row in formats.items():
        if FORMATS[name].beside and row["refused"] is None:
            rows.append({"name": f"{origin}, {FORMATS[name].beside}", "role": name, **sizes, **row})
    return rows


def _weight(job: Job, name: str, network: Network) -> dict[str, Any]:
    """What a checkpoint weighs: its size on disk, and its operations for one image."""
    size = (job.path(name) / "model.safetensors").stat().st_size
    return {**_sizes(network), "bytes": size}


def _scores(
    probability: NDArray[np.float32], label: NDArray[np.int64], names: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """Accuracy, calibration, and the classes one by one; empty without labelled test images.

    NAME_low and NAME_high are the ends of the 95 % interval of NAME, over the choice of test images.
    """
    import numpy as np

    from data.draws import key
    from data.intervals import mean_interval, normal_interval
    from models.evaluation import calibration, classes

    known = label >= 0
    if not known.any():
        return {}
    p, truth = probability[known].astype(np.float64), label[known]
    p /= p.sum(axis=1, keepdims=True)
    predicted, confidence = p.argmax(1), p.max(1)
    right, matrix = predicted == truth, classes.confusion(truth, predicted, len(names))
    images, answers = matrix.sum(axis=1), matrix.sum(axis=0)
    recall, precision, seen = classes.recall(matrix), classes.precision(matrix), images > 0
    losses = -np.log(np.maximum(p[np.arange(len(truth)), truth], calibration.SMALLEST))
    found: dict[str, Any] = {
        "balanced_accuracy": classes.balanced_accuracy(matrix),
        "macro_f1": classes.macro_f1(matrix),
        "mean_confidence": float(confidence.mean()),
        "calibration_error": calibration.calibration_error(calibration.bins(confidence, right)),
        "log_loss": calibration.log_loss(p, truth),
    }
    ends = {
        "balanced_accuracy": mean_interval(recall[seen].tolist(), images[seen].tolist()),
        "macro_f1": classes.macro_f1_interval(matrix, seed=key(seed, "macro F1")),
        "calibration_error": calibration.calibration_interval(
            confidence, right, seed=key(seed, "calibration")
        ),
    }
    if len(truth) > 1:
        ends["mean_confidence"] = normal_interval(confidence.tolist())
        ends["log_loss"] = normal_interval(losses.tolist())
    for name, (low, high) in ends.items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    return {
        **_accuracy(float(right.mean()), len(truth)),
        **found,
        "classes": [
            {
                "name": name,
                **_part("recall", float(recall[c]), int(images[c])),
                **_part("precision", float(precision[c]), int(answers[c])),
                "images": int(images[c]),
            }
            for c, name in enumerate(names)
        ],
        "confusion": matrix.tolist(),
    }


def _part(name: str, share: float, n: int) -> dict[str, float | None]:
    """A share with its 95 % interval; None without images."""
    from data.intervals import wilson

    keys = (name, f"{name}_low", f"{name}_high")
    return dict(zip(keys, (share, *wilson(share, n)), strict=True)) if n else dict.fromkeys(keys)


def _labels(job: Job) -> dict[str, int]:
    """How many labels were drawn for each role; empty if the run kept earlier networks."""
    from tasks.rows import label_rows

    if "labels" not in job.request.inputs:
        return {}
    folder = job.path("labels")
    return {role: len(label_rows(folder, role)[0]) for role in ("train", "validation")}


def _chain(job: Job, last: Artifact) -> list[dict[str, Any]]:
    """The artifacts that a model was made from, the first one first, as their meta.json files say."""
    from data.checkpoints import read_description

    found: dict[str, dict[str, Any]] = {}

    def visit(artifact: Artifact) -> None:
        if artifact.path in found:
            return
        meta = job.store.meta(artifact)
        for given in meta["inputs"].values():
            visit(Artifact.model_validate(given))
        row = {"stage": meta["stage"], "kind": artifact.kind, "fingerprint": artifact.fingerprint}
        settings = meta["config"] | (meta["config"].get(meta["stage"]) or {})
        if artifact.kind == "checkpoint":
            settings |= read_description(job.store.whole(artifact))
        row |= {key: settings[key] for key in TOLD if settings.get(key) is not None}
        if meta["stage"] == "pretrained":
            weights = meta["weights"]
            row |= {f"weights_{key}": weights[key] for key in ("name", "sha256", "licence")}
            row["weights_licence"] = job.settings.get("licence") or row["weights_licence"]
        found[artifact.path] = row

    visit(last)
    return list(found.values())


def _origin(job: Job, chain: list[dict[str, Any]]) -> dict[str, Any]:
    """Where the teacher comes from: `source`, `sha256` of its files, and `licence`.

    The stage `pretrained` takes weights from elsewhere, and describes them in its meta.json.
    """
    metas = {}
    for row in chain:
        artifact = Artifact(kind=row["kind"], fingerprint=row["fingerprint"])
        metas[row["stage"]] = job.store.meta(artifact)
    unknown = "unknown: ask whoever made them before you share this model"
    if "pretrained" in metas:
        foreign = metas["pretrained"]["weights"]
        licence = job.settings.get("licence") or foreign.get("licence") or unknown
        return {"source": foreign["name"], "sha256": [foreign["sha256"]], "licence": licence}
    if "external" in metas:
        source = "features that another program computed, in files that the user gave"
        return {"source": source, "sha256": metas["external"]["files"], "licence": unknown}
    if "pretext" in metas:
        made = next(row for row in chain if row["stage"] == "pretext")
        how = ", ".join(str(made[key]) for key in ("method", "backbone") if key in made)
        return {
            "source": f"trained by this run from random weights ({how})",
            "sha256": [metas["pretext"]["sha256"]["model.safetensors"]],
            "licence": "no weights of others are in it; the training images have their own licences",
        }
    source = "none: the network was trained on the labels alone"
    if "embed" in metas:
        source = f"features by the formula {metas['embed']['config']['layer']}, without weights"
    return {"source": source, "sha256": [], "licence": "none is needed"}
