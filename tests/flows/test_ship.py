"""All classifiers are compared on the drawn labels, the student learns their mixture, and one model ships."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from in_process import Made, OfARun, photographs, run_chain
from PIL import Image
from safetensors.numpy import load_file
from scipy.special import softmax
from torch import nn

import flows.export
from data.draws import key, permutation
from data.errors import UserError
from data.images import Images, open_images
from data.intervals import paired_shares
from data.preprocessing import stored_size
from data.schemas import CONTENDERS, probabilities
from data.tables import VectorWriter, column, read_matrix, read_table, read_vectors
from flows.recipes import override
from models.augment import centre
from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.evaluation.contenders import mixture_weights, smoothed, temperature
from models.saved import load
from tasks.config import Config
from tasks.embedding import embed
from tasks.judged import MIXTURE, OWN, Judged, read_judged, write_judged
from tasks.out_of_fold import read_folds
from tasks.stages import distill, finetune, pixels, respread, ship, weigh
from tasks.unseen import read_unseen

NETWORKS = {
    "student-finetuned": "finetune-student",
    "teacher-finetuned": "finetune-teacher",
    "student-linear": "linear-student",
    "teacher-linear": "linear-teacher",
    "scratch": "scratch",
}
ALONE = {"neighbours": "spread", "scratch-neighbours": "spread-scratch", "pixels": "pixels"}
"""Classifiers that are no networks. The student learns from them, but they can't ship."""


def config(place: Path, labels: int = 4) -> Config:
    quick = {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3}
    values = {
        "data": {
            "train": f"folder:{place / 'photos'}",
            "test": f"folder:{place / 'photos'}",
            "image_size": 32,
            "labels_per_class": labels,
        },
        "pretext": {"method": "simclr", "backbone": "smallconv", "width": 0.25, **quick},
        "cluster": {"k": 6},
        "transfer": quick,
        "student": {"backbone": "smallconv", "width": 0.25},
        "finetune": {"steps": 4, "batch_size": 8, "head_first": True},
        "distill": {"epochs": 1, "batch_size": 32, "init": "favoured", "rounds": 2, "precise_bn": True},
        "ship": {"compare": True, "folds": 2},
        "evaluate": {"protocols": ["few-label"]},
        "store": str(place / "store"),
    }
    return override(Config(), values)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("ship")
    photographs(place / "photos", each=70, side=40)
    return run_chain(config(place))


def held(made: Made, label: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index, class and logits of the out-of-fold predictions, by index."""
    table = pq.read_table(made.path(label) / "out_of_fold.parquet")
    order = np.argsort(column(table, "index"))
    return column(table, "index")[order], column(table, "label")[order], read_matrix(table, "logit")[order]


def test_every_classifier_is_judged_on_every_drawn_label(made: Made) -> None:
    drawn = sorted(pq.read_table(made.path("labels") / "labels.parquet")["index"].to_pylist())
    truth = pq.read_table(made.path("manifest") / "images.parquet")["label"].to_numpy()
    for label in (*NETWORKS.values(), *ALONE.values()):
        index, classes, logits = held(made, label)
        assert index.tolist() == drawn
        assert classes.tolist() == truth[drawn].tolist()
        assert logits.shape == (8, 2)


def test_the_model_can_be_exported(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card tells where the teacher is from, and a mixture has weights, too: those of its parts."""
    monkeypatch.setattr(flows.export, "Workers", OfARun)
    flows.export.export_run(str(made.folder), str(tmp_path / "out"), formats=["safetensors"])
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert "weigh" in {row["stage"] for row in card["chain"]}
    assert card["teacher"]["source"].startswith("trained by this run from random weights (simclr, smallconv")


def test_the_mixture_is_what_its_parts_say(made: Made) -> None:
    """A slow rewrite: temperatures and weights from the out-of-fold files, then the mean over all images."""
    labels = {**NETWORKS, **ALONE}
    truth, heat, each = None, {}, []
    for name, label in labels.items():
        _, truth, logits = held(made, label)
        heat[name] = temperature(logits.astype(np.float64), smoothed(truth, 2))
        each.append(softmax(logits.astype(np.float64) / heat[name], axis=1))
    weight = dict(zip(labels, mixture_weights(np.stack(each), truth, weigh.PRIOR), strict=True))
    pool = sum(weight[name] * p for name, p in zip(labels, each, strict=True))
    together = temperature(np.log(pool), smoothed(truth, 2))
    rows = read_table(made.path("weigh") / "contenders.parquet", CONTENDERS).to_pylist()
    found = {row["model"]: row for row in rows}
    assert found.keys() == {*labels, MIXTURE}
    # 2 classes with 4 labels each. Of 8 labels, half are in the fold that a classifier is judged on.
    colder = np.exp(-1 / 2)
    for name in labels:
        assert found[name]["temperature"] == pytest.approx(heat[name] * colder, rel=1e-3)
        assert found[name]["weight"] == pytest.approx(weight[name], abs=1e-3)
        assert found[name]["n"] == 8
    index, target = read_vectors(made.path("weigh"))
    assert target.sum(axis=1) == pytest.approx(1, abs=1e-5)
    expected = np.zeros(target.shape)
    for name in labels:
        label = ALONE.get(name, f"predict-{name}")
        other, p = read_vectors(made.path(label))
        assert np.array_equal(other, index)
        hot = np.maximum(p.astype(np.float64), 1e-30) ** (1 / heat[name])
        expected += found[name]["weight"] * hot / hot.sum(axis=1, keepdims=True)
    assert found[MIXTURE]["temperature"] == pytest.approx(together * colder, rel=1e-2)
    expected = expected ** (1 / found[MIXTURE]["temperature"])
    expected /= expected.sum(axis=1, keepdims=True)
    drawn = pq.read_table(made.path("labels") / "labels.parquet").to_pydict()
    for i, c in zip(drawn["index"], drawn["label"], strict=True):
        at = np.searchsorted(index, i)
        expected[at] *= 1 - OWN
        expected[at, c] += OWN
    assert target == pytest.approx(expected, abs=2e-4)


def test_pixels_are_averaged_over_squares_and_classified_by_scikit_learn(made: Made) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images = np.random.default_rng(0).integers(0, 256, (3, 70, 70, 3), np.uint8)
    small = pixels.shrunk(images, 32).reshape(3, 23, 23, 3)
    assert small[1, 2, 5] == pytest.approx(images[1, 6:9, 15:18].mean(axis=(0, 1)) / 255, abs=1e-6)
    assert pixels.shrunk(images[:, :32, :32], 32).reshape(3, 32, 32, 3)[2, 7, 9, 1] == pytest.approx(
        images[2, 7, 9, 1] / 255
    )
    table = read_table(made.path("manifest") / "images.parquet")
    kept = np.flatnonzero(column(table, "split") != "test")
    photos = f"folder:{made.store.root.parent / 'photos'}"
    place = made.store.root / "cache" / "images"
    opened = open_images(table, {"train": photos, "test": photos}, stored_size(32), place)
    x = pixels.shrunk(opened.read(kept), 32)
    drawn = pq.read_table(made.path("labels") / "labels.parquet").to_pydict()
    rows = np.searchsorted(kept, drawn["index"])
    penalty = made.store.meta(made.made["pixels"])["penalty"]
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=5000, tol=1e-8))
    theirs.fit(x[rows].astype(np.float64), drawn["label"])
    index, p = read_vectors(made.path("pixels"))
    assert np.array_equal(index, kept)
    assert p == pytest.approx(theirs.predict_proba(x.astype(np.float64)), abs=5e-3)


def test_the_student_learns_the_mixture(made: Made) -> None:
    """It starts from a classifier with its own network, which the labels choose. The second round goes on."""
    inputs = made.inputs("distill-round1")
    assert inputs["probabilities"] == made.made["weigh"]
    starts = {"student-finetuned", "student-linear", "scratch"}
    assert {name for name in inputs if name in NETWORKS} == starts
    assert all(inputs[name] == made.made[NETWORKS[name]] for name in starts)
    again = made.inputs("distill")
    assert again["checkpoint"] == made.made["distill-round1"]
    assert again["probabilities"] == made.made["respread-round1"]
    assert made.inputs("respread-round1")["mixture"] == made.made["weigh"]


def test_the_student_is_judged_on_images_that_it_did_not_learn(made: Made) -> None:
    """Its temperature is the one at which it is nearest to the mixture on them."""
    index, target = read_vectors(made.path("weigh"))
    drawn = pq.read_table(made.path("labels") / "labels.parquet")["index"].to_numpy()
    unseen = read_unseen(made.path("distill"))
    assert len(unseen) == (len(index) - len(drawn)) // 10 > 0
    assert np.isin(unseen, index).all()
    assert not np.isin(unseen, drawn).any()
    assert np.array_equal(unseen, read_unseen(made.path("distill-round1")))
    assert made.store.meta(made.made["distill"])["rows"]

    class Job:
        compute, seed = SimpleNamespace(device="cpu"), 0

        def path(self, name: str) -> Path:
            return made.path({"mixture": "weigh", "student": "distill"}.get(name, name))

        def images_for(self, network: Any) -> Any:
            return images_of(made)

    logits = embed(Job(), load(made.path("distill")), unseen, "logits")  # type: ignore[arg-type]
    at = np.searchsorted(index, unseen)
    found, kept = ship._student(Job())  # type: ignore[arg-type]
    assert found == pytest.approx(temperature(logits, target[at].astype(np.float64)), rel=1e-3)
    own, theirs = target[at].max(axis=1).mean(), target[at, logits.argmax(1)].mean()
    assert kept == pytest.approx((own + theirs) / (2 * own))


def test_batch_norms_of_the_student_know_whole_images(made: Made) -> None:
    """Their statistics are the mean over batches of what each of them gets under the final weights."""
    network = load(made.path("distill"))
    published = {name: (m.running_mean.clone(), m.running_var.clone()) for name, m in norms_of(network)}
    got: dict[str, list[torch.Tensor]] = {name: [] for name in published}
    for name, norm in norms_of(network):
        norm.register_forward_pre_hook(lambda _, x, name=name: got[name].append(x[0]))
    index = read_vectors(made.path("weigh"))[0]
    learned = np.setdiff1d(index, read_unseen(made.path("distill")))
    order = learned[permutation(key(0, "precise_bn"), len(learned))]
    batches = np.array_split(order, -(-len(order) // distill.STATISTICS_BATCH))
    pixels = images_of(made)
    with torch.no_grad():
        for batch in batches:
            network.train()(centre(torch.from_numpy(pixels.read(batch)), 32))
    assert published
    for name, (mean, var) in published.items():
        parts = [x.transpose(0, 1).flatten(1) for x in got[name]]
        assert len(parts) == len(batches)
        alike = {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(mean, torch.stack([x.mean(1) for x in parts]).mean(0), **alike)
        torch.testing.assert_close(var, torch.stack([x.var(1) for x in parts]).mean(0), **alike)


def norms_of(network: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]


def images_of(made: Made) -> Images:
    photos = f"folder:{made.store.root.parent / 'photos'}"
    table = read_table(made.path("manifest") / "images.parquet")
    return open_images(
        table, {"train": photos, "test": photos}, stored_size(32), made.store.root / "cache" / "images"
    )


def test_a_student_of_few_images_learns_them_all(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", each=20, side=40)
    made = run_chain(config(tmp_path, labels=2))
    assert len(read_vectors(made.path("weigh"))[0]) < distill.LEAST
    assert not len(read_unseen(made.path("distill")))
    assert made.result["shipped"]["temperature"] > 0


def spread_densely(
    x: np.ndarray, position: np.ndarray, label: np.ndarray, k: int, alpha: float, y: np.ndarray | None = None
) -> np.ndarray:
    """A slow rewrite with whole matrices: (1 - alpha) (I - alpha S)^-1 Y over the k nearest neighbours."""
    n = len(x)
    x = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x.T
    np.fill_diagonal(cosine, -2)
    near = np.argsort(-cosine, axis=1)[:, :k]
    rows = np.arange(n)[:, None]
    weight = np.zeros((n, n))
    weight[rows, near] = np.exp((cosine[rows, near] - 1) / (1 - cosine[rows, near]).mean())
    weight = np.maximum(weight, weight.T)
    root = np.sqrt(weight.sum(axis=1))
    known = np.zeros((n, 2)) if y is None else y.copy()
    known[position] = np.eye(2)[label]
    found = np.linalg.solve(np.eye(n) - alpha * weight / root / root[:, None], (1 - alpha) * known)
    return found / found.sum(axis=1, keepdims=True)


def test_labels_spread_over_what_the_networks_from_scratch_learned(made: Made) -> None:
    """A slow rewrite. Each fold's network is asked about the labels that it did not learn."""
    asked = made.store.meta(made.made["spread-scratch"])["config"]
    k, alpha = asked["neighbours"], asked["alpha"]
    drawn = pq.read_table(made.path("labels") / "labels.parquet").sort_by("index")
    drawn, label = drawn["index"].to_numpy(), drawn["label"].to_numpy()
    told, _, logits = held(made, "spread-scratch")
    folds = list(read_folds(made.path("scratch")))
    assert sorted(np.concatenate([fold.left_out for fold in folds])) == drawn.tolist()
    index, x = read_vectors(made.path("embed-scratch"))
    for fold in folds:
        assert np.array_equal(fold.index, index)  # so few images are all shown
        kept = ~np.isin(drawn, fold.left_out)
        position = np.searchsorted(index, drawn)
        found = spread_densely(fold.features, position[kept], label[kept], k, alpha)[position[~kept]]
        often = np.bincount(label) / np.bincount(label[kept])  # as in `like_all`
        assert np.array_equal(told[~kept], drawn[~kept])
        assert logits[~kept] == pytest.approx(np.log(found + 1e-6) + np.log(often), abs=2e-3)
    whole = spread_densely(x, np.searchsorted(index, drawn), label, k, alpha)
    assert read_vectors(made.path("spread-scratch"))[1] == pytest.approx(whole, abs=1e-4)


def test_the_features_of_a_fold_are_those_of_the_labelled_images_and_some_others(made: Made) -> None:
    class Job:
        settings, seed = {"fold_images": 5}, 3

        def path(self, name: str) -> Path:
            return made.path(name)

    labelled = np.array([0, 7, 30])
    shown = finetune._shown(Job(), labelled)  # type: ignore[arg-type]
    assert len(shown) == 8
    assert np.isin(labelled, shown).all()
    assert (np.diff(shown) > 0).all()
    Job.settings = {}
    assert not len(finetune._shown(Job(), labelled))  # type: ignore[arg-type]


def test_neighbours_are_believed_as_far_as_the_labels_raised_their_weight() -> None:
    names = ("neighbours", "scratch-neighbours", "scratch", "pixels")

    def believed(*weights: float) -> float:
        found = judged(**{name: [0.1] for name in (*names, MIXTURE)})
        for name, weight in zip(names, weights, strict=True):
            found.rows[name]["weight"] = weight
        return respread.believed(found)

    assert believed(0.25, 0.25, 0.25, 0.25) == 0
    assert believed(0.1, 0.2, 0.3, 0.4) == 0
    assert believed(0.2, 0.55, 0.2, 0.05) == pytest.approx(0.5)
    assert believed(0.5, 0.5, 0.0, 0.0) == pytest.approx(1)


def test_the_second_round_learns_from_the_neighbours_of_the_first_student(made: Made, tmp_path: Path) -> None:
    """A slow rewrite, with weights under which the neighbours count."""
    found = judged(**{name: [0.1] for name in ("neighbours", "scratch", "scratch-neighbours", MIXTURE)})
    for name, weight in (("neighbours", 0.3), ("scratch", 0.2), ("scratch-neighbours", 0.5)):
        found.rows[name]["weight"] = weight
    mixture, out = tmp_path / "mixture", tmp_path / "out"
    mixture.mkdir()
    out.mkdir()
    write_judged(mixture, found)
    index, p = read_vectors(made.path("weigh"))
    with VectorWriter(mixture, probabilities(2)) as parts:
        parts.write(index, p)
    student = made.path("embed-student-round1")

    class Job:
        settings = made.store.meta(made.made["respread-round1"])["config"]
        compute = SimpleNamespace(device="cpu")

        def path(self, name: str) -> Path:
            return {"mixture": mixture, "features": student}.get(name) or made.path(name)

        def log(self, text: str) -> None:
            assert "0.40" in text

    Job.out = out  # type: ignore[attr-defined]
    outcome = respread.build(Job())  # type: ignore[arg-type]
    u = (0.8 - 2 / 3) / (1 - 2 / 3)
    assert outcome.meta is not None
    assert outcome.meta["believed"] == pytest.approx(u)
    drawn = pq.read_table(made.path("labels") / "labels.parquet").to_pydict()
    position, label = np.searchsorted(index, drawn["index"]), np.array(drawn["label"])
    x, k = read_vectors(student)[1], Job.settings["neighbours"]
    near = spread_densely(x, position, label, k, Job.settings["alpha"])
    expected = spread_densely(x, position, label, k, u, (p + u * near) / (1 + u))
    expected[position] = (1 - OWN) * expected[position] + OWN * np.eye(2)[label]
    assert read_vectors(out)[1] == pytest.approx(expected, abs=1e-4)


def test_the_labels_choose_the_views_of_the_network_from_scratch(made: Made) -> None:
    """All views are tried on the first fold, and the lowest loss there wins."""
    meta = made.store.meta(made.made["scratch"])
    loss = meta["views_loss"]
    assert loss.keys() == {"chain", "mild"}
    assert loss[meta["views"]] == min(loss.values())


def test_views_to_choose_from() -> None:
    usual = Finetune(flip=0.5, crop_min=0.2, jitter=0.4).alternatives()
    assert usual.keys() == {"chain", "mild"}
    assert usual["chain"].jitter == 0.4
    assert (usual["mild"].jitter, usual["mild"].grey, usual["mild"].flip) == (0, 0, 0.5)
    assert usual["mild"].crop_min == 0.5
    signs = Finetune(flip=0, rotate=15, jitter=0).alternatives()
    assert (signs["colours"].rotate, signs["mild"].rotate) == (15, 0)
    assert signs["colours"].jitter > 0


def judged(**loss: list[float]) -> Judged:
    """Classifiers with these losses, on as many images."""
    n = len(next(iter(loss.values())))
    each = {name: np.array(values) for name, values in loss.items()}
    right = {name: values < np.log(2) for name, values in each.items()}
    rows = {
        name: {"model": name, "temperature": 1.0, "weight": 0.5, "n": n, "accuracy": 0.5}
        | {"low": 0.4, "high": 0.6, "log_loss": float(values.mean())}
        for name, values in each.items()
    }
    return Judged(rows, np.arange(n), right, each, np.ones(n))


def test_judgements_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = judged(a=[0.1, 2.0, 0.3], b=[1.0, 0.2, 0.4])
    write_judged(tmp_path, written)
    read = read_judged(tmp_path)
    assert read.rows == written.rows
    for name in ("a", "b"):
        assert read.right[name].tolist() == written.right[name].tolist()
        assert read.loss[name].tolist() == written.loss[name].tolist()


def test_a_lead_is_that_of_agresti_and_min() -> None:
    """Equal counts: the difference of two shares of the same trials, at one standard error."""
    found = judged(a=[0.1] * 9 + [3.0] * 5, b=[0.1] * 5 + [3.0] * 4 + [0.1] * 2 + [3.0] * 3)
    difference, low, high = paired_shares(4, 2, 14, z=1.0)
    lead, error = found.ahead("a", "b")
    assert lead == pytest.approx(difference)
    assert error == pytest.approx((high - low) / 2)
    assert found.ahead("a", "a")[1] > 0
    lead, _ = found.likelier("a", "b")
    assert lead == pytest.approx(found.loss["b"].mean() - found.loss["a"].mean())


@pytest.mark.parametrize(
    ("loss", "start"),
    [
        ([0.1] * 20, "student-linear"),
        ([1.0] * 20, "student-finetuned"),
        ([1.1] * 19 + [0.9], "student-finetuned"),
    ],
)
def test_distillation_starts_from_what_the_labels_favour(
    tmp_path: Path, loss: list[float], start: str
) -> None:
    """The fine-tuned student, unless the loss of the linear one is lower beyond chance."""
    given = {"student-finetuned": [1.0] * 20, "student-linear": loss, "scratch": [0.1] * 20}
    write_judged(tmp_path, judged(**given, mixture=[0.5] * 20))

    class Job:
        def path(self, name: str) -> Path:
            assert name == "probabilities"
            return tmp_path

        def log(self, text: str) -> None:
            assert start in text

    names = ["student-finetuned", "student-linear", "scratch"]
    assert distill._favoured(Job(), names) == start  # type: ignore[arg-type]


@pytest.mark.parametrize(("near", "start"), [(0.3, "student-finetuned"), (0.5, "scratch")])
def test_distillation_starts_from_scratch_if_most_of_the_mixture_is_from_there(
    tmp_path: Path, near: float, start: str
) -> None:
    """Pixels are on neither side."""
    found = judged(
        **{name: [0.1] * 9 for name in ("student-finetuned", "neighbours", "scratch", "scratch-neighbours")},
        pixels=[0.1] * 9,
        mixture=[0.1] * 9,
    )
    weight = {"student-finetuned": 0.0, "neighbours": 0.4, "scratch": 0.0, "scratch-neighbours": near}
    for name, each in (weight | {"pixels": 0.9}).items():
        found.rows[name]["weight"] = each
    write_judged(tmp_path, found)

    class Job:
        def path(self, name: str) -> Path:
            return tmp_path

        def log(self, text: str) -> None:
            assert text.startswith(f"starts from {start}:")

    assert distill._favoured(Job(), ["student-finetuned", "scratch"]) == start  # type: ignore[arg-type]


def test_what_transfer_has_learned_is_kept_by_a_small_rate_and_mix_up() -> None:
    given = Distill(learning_rate=0.06, transferred_learning_rate=0.02, transferred_mixup=0.4)
    kept = distill._suited(given, "student-linear")
    assert (kept.learning_rate, kept.mixup) == (0.02, 0.4)
    assert distill._suited(given, "scratch") == given
    assert distill._suited(Distill(mixup=0.2), "student-linear") == Distill(mixup=0.2)
    with pytest.raises(ValueError, match=r"set alpha to 1, or mixup"):
        Distill(alpha=0.5, mixup=0.1)


def test_distillation_without_anything_judged_says_so(tmp_path: Path) -> None:
    """With one label per class, nothing is out of fold."""
    nothing = {"student-finetuned": [], "scratch": [], "mixture": []}
    rows = {
        name: row | {"accuracy": None} for name, row in judged(**{n: [1.0] for n in nothing}).rows.items()
    }
    empty = {name: np.zeros(0) for name in nothing}
    right = {name: values.astype(bool) for name, values in empty.items()}
    write_judged(tmp_path, Judged(rows, np.zeros(0, np.int64), right, empty, np.zeros(0)))

    class Job:
        def path(self, name: str) -> Path:
            return tmp_path

        def log(self, text: str) -> None:
            assert text == "starts from student-finetuned: nothing was judged out of fold"

    found = distill._favoured(Job(), ["student-finetuned", "scratch"])  # type: ignore[arg-type]
    assert found == "student-finetuned"


def test_distillation_takes_over_the_views_that_the_labels_chose() -> None:
    """Distillation may change colours although fine-tuning does not. Then `colours` are its own views."""
    plain, coloured = Distill(jitter=0.0, grey=0.0), Distill(jitter=0.3)
    assert distill._seeing(plain, "colours").jitter > 0
    assert distill._seeing(coloured, "colours") == coloured
    mild = distill._seeing(coloured, "mild")
    assert (mild.jitter, mild.crop_min, mild.temperature) == (0.0, 0.5, coloured.temperature)


def test_a_favoured_start_needs_a_comparison() -> None:
    with pytest.raises(UserError, match=r"distill.init = favoured .* ship.compare=true"):
        override(Config(), {"distill": {"init": "favoured"}})


def test_the_shipped_model_is_a_candidate_with_a_temperature(made: Made) -> None:
    shipped = made.result["shipped"]
    label = {**NETWORKS, "student": "distill"}[shipped["model"]]
    folder = made.store.root / shipped["path"]
    assert folder == made.path("ship")
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, made.path(label)))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    described = json.loads((folder / "model.json").read_text())
    assert described["temperature"] == shipped["temperature"] > 0
    assert described["class_names"] == ["flower", "temple"]
    assert shipped["because"]
    record = json.loads((made.folder / "run.json").read_text())
    assert record["shipped"] == shipped
    assert shipped["stage"] == "ship"
    assert made.result["headline"]["shipped"] == next(
        row["value"]
        for row in made.result["scores"]
        if (row["model"], row["evaluation"], row["metric"]) == ("shipped", "few-label", "top1")
    )


def test_no_stage_up_to_the_choice_reads_a_test_image_or_its_label(made: Made) -> None:
    for label in (
        "linear-student",
        "scratch",
        "spread",
        "spread-scratch",
        "respread-round1",
        "weigh",
        "ship",
    ):
        meta = made.store.meta(made.made[label])
        assert not any(given["kind"] == "scores" for given in meta["inputs"].values())
    plan = ship.plan(
        config(made.store.root.parent),
        made.made["manifest"],
        made.made["labels"],
        student=made.made["distill"],
    )
    assert set(plan.parts) <= {"train", "unlabelled"}


def test_uneven_classes_count_the_same_if_asked(tmp_path: Path) -> None:
    from sklearn.metrics import balanced_accuracy_score

    photographs(tmp_path / "photos", each=40, side=40)
    for image in sorted((tmp_path / "photos" / "temple").glob("*.png"))[10:]:
        image.unlink()
    draw = {"labels_per_class": None, "label_fraction": 0.6}
    uneven = override(config(tmp_path), {"data": draw})
    before = run_chain(uneven)
    made = run_chain(override(uneven, {"finetune": {"balanced": True}}), "balanced")
    rows = read_table(made.path("weigh") / "contenders.parquet", CONTENDERS).to_pylist()
    accuracy = {row["model"]: row["accuracy"] for row in rows}
    for name, label in {**NETWORKS, **ALONE}.items():
        _, truth, logits = held(made, label)
        assert np.bincount(truth).max() > 2 * np.bincount(truth).min()
        assert accuracy[name] == pytest.approx(balanced_accuracy_score(truth, logits.argmax(1)))
    cached = {row["stage"]: row["cached"] for row in made.result["stages"]}
    assert all(cached[label] for label in ("pretext", "transfer", "labels"))
    assert not any(cached[label] for label in (*NETWORKS.values(), *ALONE.values(), "weigh"))
    # Neighbours' votes are divided by how many labels a class has.
    plain, fair = (
        read_vectors(place)[1].astype(np.float64) for place in (before.path("spread"), made.path("spread"))
    )
    count = np.bincount(column(pq.read_table(made.path("labels") / "labels.parquet"), "label"))
    expected = plain / count
    assert fair == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=1e-5)


def test_twenty_images_with_one_label_per_class_end_in_a_model(tmp_path: Path) -> None:
    """Nothing can be judged, so all classifiers count the same, and the student ships by the stated rule."""
    photographs(tmp_path / "photos", each=10, side=40)
    made = run_chain(config(tmp_path, labels=1))
    rows = read_table(made.path("weigh") / "contenders.parquet", CONTENDERS).to_pylist()
    named = {row["model"]: row for row in rows}
    weights = [row["weight"] for name, row in named.items() if name != MIXTURE]
    assert weights == pytest.approx([1 / len(weights)] * len(weights))
    assert all((row["n"], row["accuracy"], row["temperature"]) == (0, None, 1.0) for row in rows)
    shipped = made.result["shipped"]
    assert shipped["model"] == "student"
    assert shipped["because"].startswith("with at most 1 labels per class, candidates can't be compared")
    assert made.inputs("distill-round1")["student-finetuned"] == made.made["finetune-student"]
    assert made.store.meta(made.made["respread-round1"])["believed"] == 0


def test_a_run_that_compares_nothing_ships_its_final_student(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", each=20, side=40)
    alone = override(
        config(tmp_path, labels=2),
        {"ship": {"compare": False}, "distill": {"temperature": 0.5, "init": "finetuned", "rounds": 1}},
    )
    made = run_chain(alone)
    shipped = made.result["shipped"]
    assert shipped["model"] == "student"
    assert shipped["temperature"] == 0.5
    assert "not compared" in shipped["because"]
    assert "weigh" not in made.made


def test_a_pinned_rerun_keeps_everything_that_was_compared(tmp_path: Path) -> None:
    """A new image neither trains a classifier again nor changes what ships."""
    photographs(tmp_path / "photos", each=40, side=40)
    pinned = override(config(tmp_path), {"pin": {"enabled": True, "shift": 10.0, "far": 1.0}})
    first = run_chain(pinned)
    new = sorted((tmp_path / "photos" / "temple").glob("*.png"))[0]
    Image.open(new).rotate(3).save(tmp_path / "photos" / "temple" / "999.png")
    again = run_chain(pinned, "again")
    assert again.result["pinned"]
    assert again.result["shipped"] == first.result["shipped"]
    for label in (*NETWORKS.values(), "distill", "ship"):
        assert again.made[label] == first.made[label]
    assert {"labels", *ALONE.values(), "weigh"} <= again.result["not_needed"].keys()
