"""The command line: its output, refusals, exit statuses, and the files it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, TINY, Command, settings
from PIL import Image

import knowledge_transfer
from flows.__main__ import main
from flows.recipes import NAMES, override, recipe
from tasks.overlay import resolve


def one_line(text: str) -> str:
    """The message on stderr, which must be one line without a traceback."""
    lines = [line for line in text.splitlines() if line.startswith("knowledge-transfer: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert text.rstrip().endswith(lines[0])
    return lines[0]


def nothing_half_written(store: Path) -> None:
    for folder in store.glob("artifacts/*/*"):
        meta = json.loads((folder / "meta.json").read_text())
        assert {p.name for p in folder.iterdir()} == {*meta["bytes"], "meta.json"}
        for name, size in meta["bytes"].items():
            assert (folder / name).stat().st_size == size


def photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--set", "cluster.kk=5"], ["unknown key cluster.kk", "iterations"]),
        (["run", "--set", "cluster.k=0"], ["cluster.k = 0", "greater than or equal to 1"]),
        (["run", "--set", "cluster.k=many"], ["cluster.k = 'many'", "integer"]),
        (["run", "--set", "pretext.method=cpc"], ["pretext.method = 'cpc'", "simclr"]),
        (["run", "--set", "cluster.k"], ["section.key=value"]),
        (["run", "--set", "data.labels_per_class=2", "--set", "data.label_fraction=0.1"], ["not both"]),
        (["run", "digit"], ["recipe 'digit'", "digits", "imagenet-paper"]),
        (["run", "absent.yaml"], ["absent.yaml", "can't be read"]),
        (["show", "nothing"], ["recipe 'nothing'"]),
        (["run", "--stor", "x"], ["--stor", "--help"]),
        (["walk"], ["walk", "--help"]),
        ([], ["COMMAND"]),
        (["report", "no-such-run"], ["no-such-run"]),
        (["evaluate", "no-such-model", "--data", "digits"], ["no-such-model", "model.safetensors"]),
        (["evaluate", "x", "--data", "digits", "--protocols", "voc"], ["voc", "knn"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_mistakes_are_refused_in_one_line(
    words: list[str],
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    line = one_line(printed.err)
    assert all(part in line for part in said), line
    assert printed.out == ""
    assert not list(tmp_path.glob("store/runs/*"))


def test_unwritable_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main(["run", "--store", str(tmp_path / "file" / "store"), "--json"]) == 2
    printed = capsys.readouterr()
    assert "can't be written" in one_line(printed.err)
    assert json.loads(printed.out)["status"] == "refused"


@pytest.mark.parametrize("name", NAMES)
def test_show_prints_what_run_accepts(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["show", name, "--set", "cluster.k=7"]) == 0
    text = capsys.readouterr().out
    wanted = override(recipe(name), {"cluster": {"k": 7}})
    assert wanted.cluster.k == 7
    assert resolve(yaml.safe_load(text)) == wanted
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert recipe(str(file)) == wanted


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"knowledge-transfer {knowledge_transfer.__version__}\n"


@pytest.mark.parametrize(
    ("given", "without", "says"),
    [
        (
            (),
            {"embed-teacher-test", "scratch"},
            'evaluate.protocols=["few-label"] and finetune.baseline=false',
        ),
        (
            ("finetune.baseline=true",),
            {"embed-teacher-test"},
            'quick: sets evaluate.protocols=["few-label"]\n',
        ),
        (("evaluate.protocols=[knn]",), {"scratch"}, "quick: sets finetune.baseline=false\n"),
        (("evaluate.protocols=[knn]", "finetune.baseline=true"), set(), "your settings have all its keys"),
    ],
)
def test_quick_leaves_out_what_only_measures(
    given: tuple[str, ...], without: set[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: digits\ncluster: {k: 12}\n")
    words = ["run", str(file), "--quick", "--dry-run", "--json", "--store", str(tmp_path / "store")]
    assert main([*words, *settings(*given)]) == 0
    printed = capsys.readouterr()
    stages = {row["stage"] for row in json.loads(printed.out)["rows"]}
    assert {"embed-teacher-test", "scratch"} - stages == without
    assert {"distill", "evaluate-student", "report"} <= stages
    assert says in printed.err


def test_list_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    words = capsys.readouterr().out.split()
    assert {*NAMES, "simclr", "jigsaw++", "pseudo-labels", "vgg16_bn", "parquet:PATH", "few-label"} <= set(
        words
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["show", "digits"],
        ["show", "digits", "--changed"],
        ["run", "--help"],
    ],
)
def test_cheap_commands_load_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from flows.__main__ import main
try:
    main({words!r})
except SystemExit as end:
    assert not end.code
heavy = {{"torch", "prefect", "pyarrow", "faiss", "sklearn", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["digits", "imagenet-paper"])
def test_dry_run_does_nothing_and_says_what_would_be(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert main(["run", name, "--dry-run", "--json", "--store", str(store)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert not store.exists()
    rows = {row["stage"]: row for row in found["rows"]}
    assert {"manifest", "pretext", "cluster", "transfer", "distill", "scratch", "report"} <= rows.keys()
    assert not any(row["in_store"] for row in found["rows"])
    assert found["starting"] > 0
    seconds = found["starting"] + sum(row["seconds"] for row in found["rows"])
    assert found["hours"]["cpu"] == pytest.approx(seconds / 3600)
    assert main(["run", name, "--dry-run", "--store", str(store)]) == 0
    text = capsys.readouterr().out
    (total,) = [line for line in text.splitlines() if line.startswith("to compute: ")]
    # Digits would be 50 ms of a GPU, which says nothing about how long they take there.
    assert (" on a GPU, or " in total) == ("on GPU" in text) == ("H100" in text) == (name != "digits")
    assert all((stage in text) for stage in rows)
    assert found["hours"]["gpu"] > 0
    if name == "imagenet-paper":
        assert rows["manifest"]["rows"] == 1_281_167 + 50_000
        assert rows["cluster"]["rows"] == 2000
        # AlexNet: 61.1 million parameters, 0.714 billion multiply-adds at 224 px
        assert 60e6 < rows["distill"]["rows"] < 62.5e6
        assert any("1,281,167" in text for text in found["assumptions"])


def test_empty_folder(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = command("run", *settings("data.train=folder:empty"))
    assert done.returncode == 2
    assert "empty" in one_line(done.stderr)
    nothing_half_written(tmp_path / "store")


def test_parquet_without_images(command: Command, tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), tmp_path / "table.parquet")
    done = command("run", *settings("data.train=parquet:table.parquet"), "--json")
    assert done.returncode == 2
    assert "image" in one_line(done.stderr)
    said = json.loads(done.stdout)
    assert said["status"] == "refused"
    nothing_half_written(tmp_path / "store")


def test_more_clusters_than_images(command: Command, tmp_path: Path) -> None:
    photos(tmp_path / "images", 12)
    done = command("run", *settings(*TINY, "data.train=folder:images", "data.test=null", "cluster.k=100"))
    assert done.returncode == 2
    line = one_line(done.stderr)
    assert "100" in line
    nothing_half_written(tmp_path / "store")
    assert not list((tmp_path / "store" / "artifacts").glob("clusters/*"))


def test_one_class_only_is_refused_before_any_training(command: Command, tmp_path: Path) -> None:
    photos(tmp_path / "images" / "cat", 12)
    done = command("run", *settings(*TINY, "data.train=folder:images", "data.test=null", "cluster.k=2"))
    assert done.returncode == 2
    assert "one class" in one_line(done.stderr)
    nothing_half_written(tmp_path / "store")
    (record,) = (tmp_path / "store" / "runs").glob("*/run.json")
    run = json.loads(record.read_text())
    assert run["status"] == "failed"
    assert [row["stage"] for row in run["stages"]] == ["manifest"]


def test_tiny_run_then_all_from_the_store(command: Command, tmp_path: Path) -> None:
    first = command("run", *settings(*TINY), "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["status"] == "done"
    assert {"shipped", "student", "scratch", "gain"} == result["headline"].keys()
    assert not any(row["cached"] for row in result["stages"])
    folder = Path(result["folder"])
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    assert (folder / "report.html").stat().st_size > 10_000
    nothing_half_written(tmp_path / "store")

    second = command("run", *settings(*TINY))
    assert second.returncode == 0, second.stderr
    assert "nothing had to be computed" in second.stdout
    assert str(tmp_path / "store" / "runs") in second.stdout

    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").exists()

    measured = command(
        "evaluate", folder.name, "--data", "digits", "--test", "digits", "--protocols", "few-label", "--json"
    )
    assert measured.returncode == 0, measured.stderr
    scores = {row["metric"]: row["value"] for row in json.loads(measured.stdout)["scores"]}
    assert scores["top1"] == result["headline"]["student"]
