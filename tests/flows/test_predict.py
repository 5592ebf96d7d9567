"""`predict`: the answers are those that the run measured, for every form of images, and nothing is fatal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_digits import TinyDigits

from data.errors import ConfigError
from data.schemas import ANSWERS
from data.tables import column, read_table, read_vectors
from flows.__main__ import main

Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ask(*words: str) -> None:
    assert main(["predict", *words]) == 0


def read(path: str) -> pd.DataFrame:
    return pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path, dtype={"class": str})


def measured(tiny: TinyDigits) -> pd.DataFrame:
    """What the run itself says of the test images, by the number in their uri."""
    answers = read_table(tiny.ran.path("answers") / "answers.parquet", ANSWERS).to_pandas()
    images = read_table(tiny.ran.path("manifest") / "images.parquet").to_pandas()
    found = answers.merge(images[["index", "uri"]], on="index")
    found["number"] = found["uri"].str.extract(r"(\d+)")[0].astype(int)
    return found.set_index("number").sort_index()


def agree(found: pd.DataFrame, tiny: TinyDigits) -> None:
    expected = measured(tiny)
    found = found.assign(number=found["uri"].str.extract(r"(\d+)(?:\.png)?$")[0].astype(int))
    found = found.set_index("number").sort_index()
    assert found.index.tolist() == expected.index.tolist()
    assert found["class"].astype(str).tolist() == expected["predicted"].astype(str).tolist()
    assert found["runner_up"].astype(str).tolist() == expected["runner_up"].astype(str).tolist()
    np.testing.assert_allclose(found["probability"], expected["confidence"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        found["runner_up_probability"], expected["runner_up_confidence"], rtol=0, atol=1e-5
    )
    assert found["reason"].isna().all()


@pytest.mark.parametrize(
    ("form", "out"),
    [
        ("digits", "a.parquet"),
        ("photos", "a.parquet"),
        ("photos", "a.csv"),
        ("photos.zip", "a.parquet"),
        ("photos.parquet", "a.parquet"),
        ("folder:photos", "a.parquet"),
    ],
)
def test_answers_are_those_of_the_run(
    tiny: TinyDigits, form: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.place)
    path = str(tmp_path / out)
    ask(tiny.run, form, "--out", path)
    agree(read(path), tiny)


def test_a_url_of_an_archive_and_single_files(tiny: TinyDigits) -> None:
    ask("tiny", f"zip://::{tiny.place / 'photos.zip'}", "--store", tiny.store, "--out", "a.parquet")
    agree(read("a.parquet"), tiny)
    files = sorted(map(str, (tiny.place / "photos").glob("*.png")), reverse=True)
    ask("tiny", *files, "--store", tiny.store, "--out", "b.parquet")
    found = read("b.parquet")
    assert found["uri"].tolist() == files  # in the given order
    agree(found, tiny)


def test_a_checkpoint_answers_like_its_run(tiny: TinyDigits) -> None:
    ask(str(tiny.ran.path("ship")), "digits", "--out", "a.parquet")
    agree(read("a.parquet"), tiny)


def test_processes_and_a_thread_give_the_same(tiny: TinyDigits, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = str(tiny.place / "photos")
    ask(tiny.run, photos, "--out", "a.parquet")
    monkeypatch.setattr("tasks.predictions.LARGE", 1)
    monkeypatch.setattr("tasks.config.Compute.decoders", 2)
    monkeypatch.setattr("data.squares.MOST", 100)  # several batches
    ask(tiny.run, photos, "--out", "b.parquet")
    a, b = read("a.parquet"), read("b.parquet")
    assert a["uri"].tolist() == b["uri"].tolist()
    np.testing.assert_allclose(a["probability"], b["probability"], rtol=0, atol=1e-6)


def test_every_class_and_further_ones(tiny: TinyDigits) -> None:
    ask(tiny.run, "digits", "--out", "a.parquet", "--top", "4", "--all")
    found = read("a.parquet")
    every = found[[f"p_{digit}" for digit in range(10)]].to_numpy()
    np.testing.assert_allclose(every.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(every.max(1), found["probability"].to_numpy())
    order = -np.sort(-every, axis=1)
    for place, name in enumerate(("probability", "runner_up_probability", "probability_3", "probability_4")):
        np.testing.assert_array_equal(order[:, place], found[name].to_numpy())
    assert "class_5" not in found
    third = [every[row, int(each)] for row, each in enumerate(found["class_3"])]
    np.testing.assert_array_equal(third, found["probability_3"].to_numpy())
    ask(tiny.run, "digits", "--out", "b.parquet", "--top", "99")
    assert "class_10" in read("b.parquet")
    assert "class_11" not in read("b.parquet")


def test_bad_images_are_listed_with_a_reason(tiny: TinyDigits, capsys: Shown) -> None:
    folder = Path("mixed")
    folder.mkdir()
    good = sorted((tiny.place / "photos").glob("*.png"))[:3]
    for path in good:
        shutil.copy(path, folder)
    (folder / "zero.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(good[0].read_bytes()[:-30])
    (folder / "text.jpg").write_text("no image")
    (folder / "README").write_text("not meant to be an image")
    Image.new("LA", (9, 9)).save(folder / "fine.png")
    (folder / "gone.png").symlink_to("nowhere")
    ask(tiny.run, "mixed", "--out", "a.parquet", "--embeddings")
    found = read("a.parquet").set_index("uri")
    bad = found[found["reason"].notna()]
    assert set(bad.index) == {"zero.png", "cut.png", "text.jpg", "gone.png"}
    assert bad["class"].isna().all()
    assert bad["probability"].isna().all()
    assert bad["vector"].isna().all()
    assert "empty" in bad.loc["zero.png", "reason"]
    assert "can't be read" in bad.loc["gone.png", "reason"]
    assert found.drop(bad.index)["class"].notna().all()
    said = capsys.readouterr().out
    assert "bad     4 can't be used" in said
    assert "1 other files are no images" in said
    ask(tiny.run, str(good[0]), "--json", "--max-pixels", "63")
    assert "64 pixels" in json.loads(capsys.readouterr().out)["predictions"][0]["reason"]
    alone = str(folder / "zero.png")
    ask(tiny.run, alone, "--json")  # all of them are bad
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "done"
    assert (result["images"], result["bad"]) == (1, 1)
    assert result["predictions"][0]["reason"] == "it is empty"
    assert result["predictions"][0]["class"] is None


def test_a_few_images_are_shown_in_a_table(tiny: TinyDigits, capsys: Shown) -> None:
    ask(tiny.run, "digits")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["uri", "class", "probability", "runner_up", "runner_up_probability"]
    assert len([line for line in lines if line.startswith("digits/")]) == 20
    assert any("340 more" in line for line in lines)
    first = measured(tiny).iloc[0]
    assert lines[1].split()[1:3] == [str(first["predicted"]), f"{first['confidence']:.4f}"]


def test_json_is_one_object_and_nothing_else(tiny: TinyDigits, capsys: Shown) -> None:
    ask(tiny.run, "digits", "--json", "--embeddings", "--neighbours", "1")
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "done"
    assert result["run"] == "tiny"
    assert len(result["predictions"]) == result["images"] == 360
    assert result["classes"] == [str(digit) for digit in range(10)]
    assert sum(result["counts"].values()) == 360
    assert {"uri", "class", "vector", "neighbour_1"} <= result["predictions"][0].keys()
    ask(tiny.run, "digits", "--json", "--out", "a.csv")
    result = json.loads(capsys.readouterr().out)
    assert "predictions" not in result
    assert result["out"] == "a.csv"


def test_neighbours_are_the_nearest_by_cosine(tiny: TinyDigits) -> None:
    ask(tiny.run, "digits", "--out", "a.parquet", "--neighbours", "3", "--embeddings")
    found = read("a.parquet")
    vectors = np.stack(found["vector"].tolist())
    features = next(
        path.parent
        for path in Path(tiny.store, "artifacts", "features").glob("*/meta.json")
        if json.loads(path.read_text())["inputs"]["checkpoint"]["fingerprint"]
        == tiny.ran.made["ship"].fingerprint
    )
    index, trained = read_vectors(features)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors.astype(np.float64), trained)]
    cosine = unit[0] @ unit[1].T
    best = -np.sort(-cosine, axis=1)[:, :3]
    images = read_table(tiny.ran.path("manifest") / "images.parquet")
    row_of = {uri: row for row, uri in enumerate(images["uri"].to_pylist())}
    position = {each: place for place, each in enumerate(index.tolist())}
    labels = column(images, "label")
    for n in range(3):
        rows = [row_of[uri] for uri in found[f"neighbour_{n + 1}"]]
        assert found[f"neighbour_{n + 1}_class"].tolist() == [str(labels[row]) for row in rows]
        similarity = found[f"neighbour_{n + 1}_similarity"].to_numpy()
        np.testing.assert_allclose(similarity, best[:, n], atol=1e-5)
        own = [cosine[i, position[row]] for i, row in enumerate(rows)]
        np.testing.assert_allclose(similarity, own, atol=1e-5)
    page = Path("a-neighbours.html").read_text()
    assert page.count("data:image/png;base64,") == 4 * 50
    assert found["uri"][0] in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_file_is_replaced_as_a_whole_and_has_the_schema(tiny: TinyDigits) -> None:
    Path("a.parquet").write_text("old")
    ask(tiny.run, "digits", "--out", "a.parquet", "--embeddings")
    schema = pq.read_schema("a.parquet")
    kinds = {field.name: str(field.type) for field in schema}
    assert kinds["uri"] == kinds["class"] == kinds["reason"] == kinds["source"] == "string"
    assert kinds["probability"] == kinds["runner_up_probability"] == "float"
    assert kinds["vector"].startswith("fixed_size_list")
    assert [path.name for path in Path().iterdir()] == ["a.parquet"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "digits"], ["model 'nothing'", "--store"]),
        (["{run}", "gone.png"], ["'gone.png'", "no such file"]),
        (["{run}", "folder:gone"], ["doesn't exist"]),
        (["{run}", "digits", "--out", "a.xlsx"], [".parquet or .csv"]),
        (["{run}", "digits", "--out", "gone/a.csv"], ["no folder"]),
        (["{run}", "digits", "--out", "a.csv", "--embeddings"], ["CSV can't hold vectors"]),
        (["{run}", "digits", "--embeddings"], ["--json"]),
        (["{run}", "digits", "--top", "0"], ["--top 0"]),
        (["{run}", "digits", "--max-pixels", "0"], ["--max-pixels 0"]),
        (["{run}", "digits", "--neighbours", "-1"], ["--neighbours -1"]),
        (["{checkpoint}", "digits", "--neighbours", "1"], ["give the run"]),
        (["{teacher}", "digits"], ["no classifier"]),
        (["{nameless}", "digits"], ["10 classes without names", "class_names"]),
        (["{unshipped}", "digits"], ["ships no model", "failed"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0][0] in "{n" else "",
)
def test_mistakes_are_refused_in_one_line(
    tiny: TinyDigits, words: list[str], said: list[str], capsys: Shown
) -> None:
    nameless, unshipped = Path("models/nameless").absolute(), Path("models/unshipped").absolute()
    shutil.copytree(tiny.ran.path("ship"), nameless)
    described = json.loads((nameless / "model.json").read_text())
    (nameless / "model.json").write_text(json.dumps(described | {"class_names": None}))
    (nameless / "meta.json").unlink()  # so that it is no artifact, whose files have known hashes
    unshipped.mkdir()
    (unshipped / "run.json").write_text(json.dumps({"shipped": None, "status": "failed", "stages": []}))
    places: dict[str, Any] = {
        "run": tiny.run,
        "checkpoint": tiny.ran.path("ship"),
        "teacher": tiny.ran.path("pretext"),
        "nameless": nameless,
        "unshipped": unshipped,
    }
    assert main(["predict", *(word.format(**places) for word in words)]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("knowledge-transfer: ")
    assert all(part in line for part in said), line
    assert printed.out == ""
    assert {path.name for path in Path().iterdir()} == {"models"}


def test_the_flow_s_child_answers_and_refuses_like_the_command(tiny: TinyDigits) -> None:
    from flows.predict import _in_child

    said: list[str] = []
    asked = {"model": tiny.run, "images": ["digits"], "out": "a.parquet", "neighbours": 1}
    result = _in_child(asked, said.append)
    assert (result["images"], result["bad"], result["out"]) == (360, 0, "a.parquet")
    agree(read("a.parquet"), tiny)
    with pytest.raises(ConfigError, match="no classifier"):
        _in_child(asked | {"model": str(tiny.ran.path("pretext")), "neighbours": 0}, said.append)
