"""Detection, segmentation and multi-label classification, after the chain and on their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from in_process import photographs, run_chain
from voc_folder import divide, draw_shapes

from data.draws import Draws
from data.errors import ConfigError
from data.tables import read_table
from flows.__main__ import main
from flows.estimate import estimate
from flows.recipes import override
from models.configs.evaluations import Detection, MultiLabel, Segmentation
from models.evaluation.boxes import Truth
from models.evaluation.multi_label import MultiLabelMethod
from models.method import Batch, Progress
from models.network import build_network
from tasks.config import USUAL, Config, measurable

QUICK = {"optimizer": "adamw", "learning_rate": 1e-3, "steps": 2, "batch_size": 4}
NAMES = [f"{number:03}" for number in range(12)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downstream")
    photographs(folder / "photographs", each=20)
    draw_shapes(folder / "shapes", NAMES)
    divide(folder / "shapes", train=NAMES[:8], test=NAMES[8:])
    return folder


def small(place: Path, **over: Any) -> Config:
    small = {"backbone": "smallconv", "width": 0.25}
    train = {"epochs": 1, "batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3}
    values: dict[str, Any] = {
        "data": {"train": f"folder:{place / 'photographs'}", "image_size": 32, "labels_per_class": 5},
        "pretext": {"method": "simclr", **small, **train},
        "cluster": {"k": 4},
        "transfer": train,
        "student": small,
        "until": "transfer",
        "evaluate": {
            "protocols": ["detection", "segmentation", "multi-label"],
            "voc": f"voc:{place / 'shapes'}",
            "detection": {**QUICK, "side": 64, "anchors": [16], "scales": [1.0, 0.75]},
            "segmentation": {**QUICK, "side": 64, "scales": [1.0, 0.5]},
            "multi_label": {**QUICK, "crops": 2},
        },
        "compute": {"device": "cpu", "precision": "fp32"},
        "store": str(place / "store"),
    }
    return override(override(Config(), values), over)


def test_the_transferred_student_is_measured_beside_the_same_from_scratch(place: Path) -> None:
    config = small(place)
    ran = run_chain(config, "downstream")
    labels = {
        f"{protocol}-{model}"
        for protocol in config.evaluate.leaves
        for model in ("student-transferred", "scratch")
    }
    assert labels <= set(ran.made)
    assert "checkpoint" in ran.inputs("detection-student-transferred")
    assert "checkpoint" not in ran.inputs("detection-scratch")
    rows = {(r["evaluation"], r["model"], r["metric"], r["setting"]): r for r in ran.result["scores"]}
    for model in ("student-transferred", "scratch"):
        for evaluation, metric, setting in (
            ("detection", "voc_map", "side=64 scales=1,0.75"),
            ("segmentation", "miou", "side=64"),
            ("multi-label", "voc_map", "crops=2"),
        ):
            value, low, high = (
                rows[evaluation, model, f"{metric}{end}", setting] for end in ("", "_low", "_high")
            )
            assert value["n"] == 4
            assert 0 <= low["value"] <= high["value"] <= 1
        assert (
            rows["detection", model, "coco_map", "side=64 scales=1,0.75"]["value"]
            <= rows["detection", model, "voc_map", "side=64 scales=1,0.75"]["value"] + 1e-9
        )
    report = (ran.folder / "report.html").read_text()
    assert "Detection, trained further" in report
    assert "class=disc" not in report
    again = run_chain(config, "downstream")
    assert again.made == ran.made
    assert all(row["cached"] for row in again.result["stages"])


def test_a_dry_run_finds_what_is_there(place: Path) -> None:
    config = small(place)
    ran = run_chain(config, "dry")
    planned = estimate(config)
    assert [row.stage for row in planned.rows] == list(ran.made)
    assert all(row.in_store for row in planned.rows)
    assert all(
        row.operations > 0 for row in planned.rows if row.stage.startswith(("detection", "segmentation"))
    )


def test_a_changed_box_renews_what_reads_boxes(place: Path) -> None:
    config = small(place, evaluate={"protocols": ["detection", "knn"]})
    before = run_chain(config, "before")
    path = place / "shapes" / "Annotations" / "000.xml"
    text = path.read_text()
    path.write_text(text.replace("<difficult>1", "<difficult>0"))
    after = run_chain(config, "after")
    path.write_text(text)
    renewed = {label for label in before.made if before.made[label] != after.made[label]}
    assert renewed == {
        "manifest-voc",
        "detection-student-transferred",
        "detection-scratch",
        "scores",
        "report",
    }
    index = read_table(before.path("manifest-voc") / "images.parquet")
    assert index["label"].null_count == index.num_rows


def test_without_photographs_it_is_refused_before_any_work(place: Path) -> None:
    for voc in (None, "folder:photographs"):
        with pytest.raises(ConfigError, match=r"evaluate\.voc=voc:PATH"):
            small(place, evaluate={"protocols": ["segmentation"], "voc": voc})


def prepared(batch: Any, method: Any) -> Any:
    return method.prepare(batch, Draws(0, "test", 0, batch.index.numpy()))


def scene() -> tuple[Batch, dict[int, Truth], dict[int, np.ndarray]]:
    """Two images with a bright rectangle each."""
    images, truths, masks = torch.full((2, 64, 64, 3), 90, dtype=torch.uint8), {}, {}
    for i, (top, left) in enumerate(((8, 16), (30, 20))):
        images[i, top : top + 24, left : left + 20] = 230
        images[i, 48:] = 0
        truths[i] = Truth(
            np.array([[left, top, left + 20, min(top + 24, 48)]], np.float32),
            np.zeros(1, np.int64),
            np.zeros(1, bool),
        )
        masks[i] = np.zeros((64, 64), np.uint8)
        masks[i][top : top + 24, left : left + 20] = 1
        masks[i][48:] = 255
    return Batch(images, torch.arange(2)), truths, masks


def falls(method: Any, batch: Batch, steps: int) -> tuple[float, float]:
    """Loss on one fixed batch before and after some steps."""
    (optimizer,) = method.optimizers().values()
    batch, losses = prepared(batch, method), []
    for step in range(steps):
        torch.manual_seed(0)
        method.train()
        loss = method.loss(batch, Progress(step, steps, 0, 1))
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    return losses[0], losses[-1]


def test_a_detector_learns_one_batch_and_then_finds_what_is_there() -> None:
    from models.evaluation.detection import DetectionMethod

    batch, truths, _ = scene()
    config = Detection(side=64, anchors=[24], optimizer="adamw", learning_rate=1e-3)
    network = build_network("smallconv", 64, seed=0, width=0.5)
    method = DetectionMethod(config, network, truths, dict.fromkeys((0, 1), (48, 64)), 1, seed=0)
    first, last = falls(method, batch, 80)
    assert last < 0.5 * first
    network.eval()
    for found in method.detect(batch.images, [(48, 64)] * 2):
        assert len(found.boxes)
        assert (found.labels == 0).all()
        assert found.boxes[:, [0, 2]].max() <= 64
        assert found.boxes[:, [1, 3]].max() <= 48  # within the image, not the square


def test_mirrored_and_scaled_images_keep_their_boxes() -> None:
    from models.evaluation.detection import DetectionMethod

    batch, truths, _ = scene()
    config = Detection(side=64, anchors=[24], scales=[0.5])
    network = build_network("smallconv", 64, seed=0, width=0.25)
    method = DetectionMethod(config, network, truths, dict.fromkeys((0, 1), (48, 64)), 1, seed=0)
    seen = set()
    for first in range(12):
        given = Batch(batch.images, torch.arange(2))
        images, targets = method.prepare(given, Draws(first, "test", 0, np.arange(2))).views
        for x, target in zip(images, targets, strict=True):
            assert x.shape == (3, 24, 32)
            left, top, right, bottom = target["boxes"][0].tolist()
            inside = x[:, int(top) + 1 : int(bottom) - 1, int(left) + 1 : int(right) - 1]
            assert inside.mean() > 0.8
            seen.add((left, right))
    assert len(seen) == 4  # both images, both ways


def test_a_segmenter_learns_one_batch() -> None:
    from models.evaluation.segmentation import SegmentationMethod

    batch, _, masks = scene()
    config = Segmentation(side=64, optimizer="adamw", learning_rate=1e-3)
    network = build_network("smallconv", 32, seed=0, width=0.5)
    method = SegmentationMethod(config, network, masks, 2, seed=0)
    first, last = falls(method, batch, 80)
    assert last < 0.5 * first
    found = method.segment(batch.images)
    assert found.shape == (2, 64, 64)
    assert set(found.unique().tolist()) <= {0, 1}


def test_a_multi_label_classifier_learns_one_batch_and_ignores_difficult_classes() -> None:
    batch, _, _ = scene()
    labels = {0: torch.tensor([1.0, 0.0]), 1: torch.tensor([0.0, -1.0])}
    network = build_network("smallconv", 64, seed=0, width=0.25, classes=2)
    method = MultiLabelMethod(MultiLabel(optimizer="adamw", learning_rate=1e-3), network, labels)
    given = prepared(batch, method)
    logits = network.train()(given.views[0])
    expected = [
        torch.nn.functional.softplus(-logits[0, 0]),
        torch.nn.functional.softplus(logits[0, 1]),
        torch.nn.functional.softplus(logits[1, 0]),
    ]
    assert method.loss(given, Progress(0, 1, 0, 1)).total.item() == pytest.approx(
        torch.stack(expected).mean().item(), rel=1e-5
    )
    first, last = falls(method, batch, 20)
    assert last < first


def test_the_command_offers_what_the_flow_takes(capsys: pytest.CaptureFixture[str]) -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.evaluate import evaluate

    assert set(USUAL) < set(measurable())
    taken = parameter_schema(evaluate.fn).properties["protocols"]["items"]["enum"]
    assert taken == list(measurable())
    assert main(["evaluate", "model", "--data", "digits", "--protocols", "stability"]) == 2
    assert "'stability'" in capsys.readouterr().err


@pytest.mark.slow
def test_any_model_can_be_measured_alone(command: Command, place: Path, tmp_path: Path) -> None:
    ran = run_chain(small(place, evaluate={"protocols": ["knn"]}), "alone")
    model = str(ran.path("transfer"))
    voc = f"voc:{place / 'shapes'}"
    refused = command("evaluate", model, "--store", str(tmp_path / "s"))
    assert refused.returncode == 2
    assert "--voc" in refused.stderr
    done = command(
        "evaluate",
        model,
        "--voc",
        voc,
        "--protocols",
        "multi-label",
        "--store",
        str(tmp_path / "s"),
        "--json",
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["scores"]
    assert {row["evaluation"] for row in rows} == {"multi-label"}
