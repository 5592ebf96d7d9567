"""`export`: the folder answers as the run's model does, its card is true, and what is bad is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import bare
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from in_process import OfARun, run_layout
from PIL import Image
from tiny_digits import TinyDigits

import flows.export
import flows.rewrite
from data.errors import ConfigError, DataError, PipelineError
from data.images import open_images
from data.intervals import wilson
from data.schemas import MANIFEST
from data.tables import read_table
from flows.__main__ import main
from flows.recipes import override
from flows.records import read_record, write_record
from flows.rewrite import rewrite_report
from models.augment import centre
from models.export import INSTALL
from models.export import int8 as int8_file
from models.opened import open_model
from models.saved import load
from tasks.card import loading, readme, squares
from tasks.config import Config
from tasks.phrases import percent
from tasks.rows import manifest_rows


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.export, "Workers", OfARun)
    monkeypatch.setattr(flows.rewrite, "Workers", OfARun)


@pytest.fixture(scope="module")
def folder(tiny: TinyDigits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual formats of the tiny run."""
    to = tmp_path_factory.mktemp("export") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.export, "Workers", OfARun)
        flows.export.export_run(tiny.run, str(to))
    return to


def card_of(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return card


def truth(tiny: TinyDigits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index, class and probabilities of all test images, by the checkpoint alone."""
    index, label = manifest_rows(tiny.ran.path("manifest"), ("test",))
    table = read_table(tiny.ran.path("manifest") / "images.parquet", MANIFEST)
    opened = open_images(table, {"train": "digits"}, 16, cache=tiny.ran.store.cache("images"))
    checkpoint = tiny.ran.path("ship")
    network = load(checkpoint).eval()
    temperature = json.loads((checkpoint / "model.json").read_text()).get("temperature", 1.0)
    with torch.no_grad():
        logits = network(centre(torch.from_numpy(opened.read(index)), 16)).double()
    return index, label, torch.softmax(logits / temperature, 1).numpy()


PHOTOS = """
import sys
from pathlib import Path
paths = sorted(Path(PHOTOS).glob("*.png"))
"""


def run_block(code: str, tiny: TinyDigits, folder: Path, unused: tuple[str, ...]) -> np.ndarray:
    """Run blocks of the card in the folder, without our packages, on the test images as PNG files."""
    start = PHOTOS.replace("PHOTOS", repr(str(tiny.place / "photos")))
    end = f"""
np.save("../answers.npy", np.asarray(probabilities))
assert not set({unused!r}) & set(sys.modules)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-W", "ignore", "-B", "-c", start + code + end]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return np.load(folder.parent / "answers.npy")


def by_number(tiny: TinyDigits, expected: np.ndarray) -> np.ndarray:
    """Rows in the order of the sorted PNG files."""
    names = [f"{Path(uri).name}.png" for uri in tiny.uris]
    table = read_table(tiny.ran.path("manifest") / "images.parquet").to_pandas()
    uris = table[table["split"] == "test"].sort_values("index")["uri"]
    row = {f"{Path(uri).name}.png": number for number, uri in enumerate(uris)}
    return expected[[row[name] for name in sorted(names)]]


BLOCKS = {
    "onnx": ("torch", "models", "data", "onnx"),
    "int8": ("torch", "models", "data", "onnx"),
    "pt2": ("torchvision", "models", "tasks", "onnxruntime"),
    "safetensors": ("torchvision", "models", "tasks", "onnxruntime"),
}


@pytest.mark.parametrize("form", BLOCKS)
def test_each_block_of_the_card_answers_as_the_checkpoint(form: str, tiny: TinyDigits, folder: Path) -> None:
    card = card_of(folder)
    code = loading(card)[form]
    text = (folder / "README.md").read_text()
    assert f"```python\n{code}\n```" in text
    assert f"```python\n{squares(card)}\n```" in text
    found = run_block(f"{squares(card)}\n{code}", tiny, folder, BLOCKS[form])
    _, _, expected = truth(tiny)
    allowed = card["formats"][form]["difference"] + 1e-5
    np.testing.assert_allclose(found, by_number(tiny, expected), rtol=0, atol=allowed)
    assert (allowed < 2e-5) == (form != "int8")


def test_onnx_needs_onnx_runtime_numpy_and_pillow_alone(
    tiny: TinyDigits, folder: Path, tmp_path: Path
) -> None:
    paths = bare.photos(tmp_path / "photos")
    python = bare.interpreter(tmp_path, "onnxruntime", "numpy", "pillow")
    assert not {"torch", "onnx", "knowledge-transfer"} & bare.packages_of(python)
    card = card_of(folder)
    start = f"from pathlib import Path\npaths = sorted(Path({str(tmp_path / 'photos')!r}).iterdir())\n"
    for form in ("onnx", "int8"):
        file = card["formats"][form]["file"]
        end = f"\nnp.save({str(tmp_path / 'answers.npy')!r}, probabilities)\n"
        code = f"{start}{squares(card)}\n{loading(card)[form]}{end}"
        bare.run(python, "-c", code, place=folder)
        asked = tiny.run if form == "onnx" else str(folder / file)
        expected = bare.predicted(asked, tmp_path / "photos", tmp_path / f"{form}.parquet")
        bare.same(np.load(tmp_path / "answers.npy"), expected)
    example = str(ROOT / "examples" / "serve-onnxruntime" / "ask.py")
    said = bare.run(python, example, "model-int8.onnx", *map(str, paths), place=folder)
    rows = [line.split("\t") for line in said.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    assert [int(row[1]) for row in rows] == expected.argmax(1).tolist()


def test_the_card_s_code_makes_the_squares_that_the_run_made(
    tiny: TinyDigits, folder: Path, tmp_path: Path
) -> None:
    """Photographs of any size, turned and grey ones, and pictures with transparent parts."""
    paths = bare.photos(tmp_path / "photos")[-bare.PHOTOGRAPHS :]
    draws = np.random.default_rng(0)
    for mode, channels in (("RGBA", 4), ("LA", 2), ("P", 4)):
        paths.append(tmp_path / f"{mode}.png")
        pixels = draws.integers(0, 256, (30, 40, channels)).astype(np.uint8)
        pixels[:10, :, -1] = 0
        image = Image.fromarray(pixels)
        (image.quantize(16) if mode == "P" else image).save(paths[-1])
    given: dict[str, Any] = {"paths": paths}
    exec(squares(card_of(folder)), given)
    rule = open_model(tiny.ran.path("ship")).rule
    for path, found in zip(paths, given["images"], strict=True):
        assert np.array_equal(found, rule.square(path.read_bytes())), path.name
    assert (given["images"][-3][0] == 255).all()


def by_class(label: np.ndarray, right: np.ndarray) -> list[tuple[int, int]]:
    """The number of test images of each class, and how many of them are right."""
    return [(int((label == c).sum()), int(right[label == c].sum())) for c in range(10)]


def test_the_card_is_true(tiny: TinyDigits, folder: Path) -> None:
    card = card_of(folder)
    _, label, expected = truth(tiny)
    right = expected.argmax(1) == label
    assert card["test"]["accuracy"] == right.mean()
    assert card["test"]["low"] < right.mean() < card["test"]["high"]
    assert np.sum(card["test"]["confusion"]) == card["test"]["labelled"] == 360
    assert np.trace(card["test"]["confusion"]) == right.sum()
    for name in ("balanced_accuracy", "macro_f1", "mean_confidence", "calibration_error", "log_loss"):
        low, value, high = (card["test"][name + end] for end in ("_low", "", "_high"))
        assert low <= value <= high, name
        assert low < high, name
    for row, (n, good) in zip(card["test"]["classes"], by_class(label, right), strict=True):
        assert (row["images"], row["recall"]) == (n, good / n)
        assert (row["recall_low"], row["recall_high"]) == wilson(good / n, n)
    assert card["labels"]["train"] + card["labels"]["validation"] == 20
    assert card["images"]["train"] == 1437
    assert card["run"] == "tiny"
    assert set(card["formats"]) == {"onnx", "int8", "pt2", "safetensors"}
    for name in ("onnx", "pt2", "safetensors"):
        row = card["formats"][name]
        assert row["refused"] is None
        assert row["agreement"] == 1 or card["uncertain"][name]
        assert row["difference"] < 1e-5
        assert min(row["rate"], row["rate_one_core"]) > 0
    weights = (tiny.ran.path("pretext") / "model.safetensors").read_bytes()
    assert card["teacher"]["sha256"] == [hashlib.sha256(weights).hexdigest()]
    assert "trained by this run from random weights (simclr, smallconv)" in card["teacher"]["source"]
    text = (folder / "README.md").read_text()
    assert all(f"| {key} | " in text for key in ("source", "sha256", "licence"))
    chain = {row["stage"]: row for row in card["chain"]}
    assert chain["pretext"]["method"] == "simclr"
    assert card["chain"][0]["stage"] == "manifest"
    assert card["chain"][-1]["fingerprint"] == tiny.ran.made["ship"].fingerprint
    for name, row in card["formats"].items():
        path = folder / row["file"]
        files = [part for part in path.rglob("*") if part.is_file()] if path.is_dir() else [path]
        if row["refused"] is None:
            assert row["bytes"] == sum(part.stat().st_size for part in files), name
    listed = {part.relative_to(folder).as_posix() for part in folder.rglob("*") if part.is_file()}
    assert set(card["files"]) == listed - {"card.json", "README.md"}


def test_teacher_student_and_int8_are_compared(tiny: TinyDigits, folder: Path) -> None:
    card = card_of(folder)
    rows = {row["role"]: row for row in card["compared"]}
    assert [*rows] == ["teacher", "student", "onnx", "int8"]
    assert rows["teacher"]["name"] == "teacher (smallconv)"
    text = (folder / "README.md").read_text()
    assert all(f"| {row['name']} |" in text for row in rows.values())
    for role, stage in (("teacher", "finetune-teacher"), ("student", "ship")):
        assert rows[role]["bytes"] == (tiny.ran.path(stage) / "model.safetensors").stat().st_size
    assert rows["int8"]["bytes"] == (folder / "model-int8.onnx").stat().st_size
    assert all(min(row["rate"], row["rate_one_core"]) > 0 for row in rows.values())
    scores = read_table(tiny.ran.folder / "scores.parquet").to_pylist()
    few = {row["model"]: row["value"] for row in scores if (row["evaluation"], row["metric"]) == FEW}
    assert rows["teacher"]["accuracy"] == pytest.approx(few["teacher-finetuned"])
    assert rows["student"]["accuracy"] == pytest.approx(few["shipped"])


FEW = ("few-label", "top1")


def bought(tiny: TinyDigits) -> list[str]:
    """The rows of the report's table of teacher and student, as plain text."""
    page = (tiny.ran.folder / "report.html").read_text()
    (section,) = re.findall(r'<section id="bought".*?</section>', page, re.DOTALL)
    rows = re.findall(r"<tr.*?</tr>", section, re.DOTALL)[1:]
    return [" ".join(re.sub(r"<[^>]*>", " ", row).replace("\u202f", " ").split()) for row in rows]


def test_the_report_shows_the_files_once_they_are_there(tiny: TinyDigits, tmp_path: Path) -> None:
    written = read_record(tiny.ran.folder)
    stages = [row for row in written["stages"] if row["stage"] != "export"]
    write_record(tiny.ran.folder, written | {"stages": stages})
    rewrite_report(tiny.run, None)
    teacher, student, int8 = bought(tiny)
    assert teacher.startswith("teacher (smallconv)")
    assert student.endswith("– –")
    assert "knowledge-transfer export tiny --to DIR , then knowledge-transfer report tiny" in int8
    flows.export.export_run(tiny.run, str(tmp_path / "out"))
    rewrite_report(tiny.run, None)
    rows = bought(tiny)
    assert [row.partition(" ")[0] for row in rows[:2]] == ["teacher", "student"]
    assert "–" not in "".join(rows)
    row = card_of(tmp_path / "out")["formats"]["int8"]
    assert percent(row["accuracy"]) in rows[-1]


def test_a_second_export_computes_nothing_and_replaces_the_folder(tiny: TinyDigits, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    result = flows.export.export_run(tiny.run, str(folder))
    assert result["cached"]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir() if path.name.endswith(".part")] == []


def test_a_file_that_collapses_is_refused_with_its_figure(
    tiny: TinyDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the file's answers are those for other images."""
    own = int8_file.answer

    def collapsed(folder: Path, threads: int) -> Any:
        answer = own(folder, threads)
        return lambda images: answer(np.zeros_like(images))

    monkeypatch.setattr(int8_file, "answer", collapsed)
    over = {"export": {"max_drop": 0.5}}
    with pytest.raises(PipelineError, match=r"int8 is refused: it is right about .*% of 360 test images"):
        flows.export.export_run(tiny.run, str(tmp_path / "out"), ["int8"], over)
    card = card_of(tmp_path / "out")
    assert card["files"] == {}
    assert f"- int8 is not here: {card['formats']['int8']['refused']}." in readme(card)
    assert "points less, and export.max_drop allows 0.5" in card["formats"]["int8"]["refused"]
    assert not (tmp_path / "out" / int8_file.FILE).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onx"], "--format onx: choose of onnx, int8, pt2, safetensors, bits"),
        (["--set", "cluster.k=3"], "--set cluster: the run is done"),
        (["--set", "export.max_drop=200"], "export.max_drop"),
    ],
)
def test_mistakes_are_said_before_any_work(
    words: list[str], said: str, tiny: TinyDigits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", tiny.run, "--to", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_and_a_folder_of_others(tiny: TinyDigits, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a folder with run\.json"):
        flows.export.export_run("gone", str(tmp_path / "out"), store=tiny.store)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"has files that no export wrote, such as letter\.txt"):
        flows.export.export_run(tiny.run, str(tmp_path / "mine"))
    (tmp_path / "mine" / "card.json").write_text('{"files": {"model.onnx": ""}}')
    with pytest.raises(ConfigError, match=r"letter\.txt"):
        flows.export.export_run(tiny.run, str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    tiny: TinyDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.export.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"onnx needs onnxscript; install them with: pip install 'know"):
        flows.export.export_run(tiny.run, str(tmp_path / "out"), ["onnx"])
    chosen, said = flows.export._formats(None, one_bit=False)
    assert chosen == ["pt2", "safetensors"]
    assert said == [f"not written: onnx, int8; install what they need with: {INSTALL}"]


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "weights"])
def test_predict_asks_an_exported_file(
    name: str, tiny: TinyDigits, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.parquet"
    words = [str(folder / name), "digits", "--out", str(out), "--embeddings"]
    assert main(["predict", *words]) == 0, capsys.readouterr().err
    found = pd.read_parquet(out)
    table = read_table(tiny.ran.path("manifest") / "images.parquet").to_pandas()
    uris = table[table["split"] == "test"].sort_values("index")["uri"]
    found = found.set_index("uri").loc[uris.tolist()]
    _, _, expected = truth(tiny)
    assert found["class"].astype(int).tolist() == expected.argmax(1).tolist()
    np.testing.assert_allclose(found["probability"], expected.max(1), rtol=0, atol=1e-5)


def evaluated(place: Path, tiny: TinyDigits, name: str) -> dict[tuple[str, str, str], float]:
    """The scores of a model on the run's test images: (evaluation, metric, setting) -> value."""
    from flows.evaluate import lay_out

    over = {
        "recipe": "evaluate",
        "data": {"train": "digits", "test": "digits", "image_size": 16},
        "evaluate": {"protocols": ["few-label"]},
        "compute": {"device": "cpu"},
        "store": tiny.store,
    }
    config = override(Config(), over)
    made = run_layout(config, name, partial(lay_out, config, place))
    rows = made.result["scores"]
    assert {row["model"] for row in rows} == {"model"}
    return {(row["evaluation"], row["metric"], row["setting"]): row["value"] for row in rows}


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "weights"])
def test_evaluate_finds_for_an_exported_file_what_it_finds_for_the_model(
    name: str, tiny: TinyDigits, folder: Path
) -> None:
    own = evaluated(tiny.ran.path("ship"), tiny, "own")
    own = {key: value for key, value in own.items() if key[0] != "cost"}
    assert ("few-label", "top1", "") in own
    assert {"calibration_error", "recall", "precision", "balanced_accuracy"} <= {key[1] for key in own}
    found = evaluated(folder / name, tiny, name.replace(".", "-"))
    assert found == pytest.approx(own, abs=1e-5)


def test_evaluate_agrees_with_what_the_card_says_of_8_bits(tiny: TinyDigits, folder: Path) -> None:
    row = card_of(folder)["formats"]["int8"]
    assert row["refused"] is None
    found = evaluated(folder / row["file"], tiny, "int8")
    assert found["few-label", "top1", ""] == found["shipped", "top1", ""] == row["accuracy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocols", "knn", "few-label"], "evaluate: knn can't measure"),
        (["--voc", "voc:gone", "--protocols", "detection"], "evaluate: detection can't measure"),
    ],
)
def test_what_needs_more_than_answers_is_refused(
    words: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    given = ["evaluate", str(folder / "model.onnx"), "--data", "digits", "--store", str(store), *words]
    assert main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(store.glob("runs/*"))


def test_a_model_of_other_classes_is_not_scored_by_them(tiny: TinyDigits, tmp_path: Path) -> None:
    """Planted: the same network says that it names other things."""
    other = tmp_path / "other"
    shutil.copytree(tiny.ran.path("ship"), other)
    described = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(described | {"class_names": [*"abcdefghij"]}))
    # Digits have numbers for classes, so ten names can stand for them. Nine can't.
    assert evaluated(other, tiny, "ten")["few-label", "top1", ""] > 0
    (other / "model.json").write_text(json.dumps(described | {"class_names": [*"abcdefghi"]}))
    with pytest.raises(DataError, match=r"classes of digits \(0, 1, 2, 3, 4 \.\.\.\); it names a, b, c"):
        evaluated(other, tiny, "nine")


def test_a_file_that_no_export_wrote_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.onnx").write_bytes(b"no model")
    assert main(["predict", str(tmp_path / "other.onnx"), "digits"]) == 2
    assert "can't be loaded" in capsys.readouterr().err
    torch.export.save(torch.export.export(torch.nn.Identity(), (torch.zeros(2),)), tmp_path / "other.pt2")
    assert main(["predict", str(tmp_path / "other.pt2"), "digits"]) == 2
    assert "no export wrote it" in capsys.readouterr().err
