"""`import knowledge_transfer as kt` as in a notebook, beside user modules with our packages' names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from hostile import make_hostile

GUIDE = ROOT / "docs" / "python.md"
QUICK = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in TINY)}
QUICK = {**QUICK, "cluster.k": 50, "evaluate.protocols": ["few-label"]}  # 50 as in the guide
START = f"""
import functools, io, json, os, sys
import knowledge_transfer as kt

_run = kt.run
kt.run = lambda recipe="digits", /, **settings: _run(recipe, **{{**{QUICK!r}, **settings}})
"""
"""Shortens the runs of the guide without changing its text."""
LOOK = """
screen, sys.stderr = sys.stderr, io.StringIO()
kt.run("digits", cluster={"k": 50}, seed=1)
shown, sys.stderr = sys.stderr.getvalue(), screen
os.mkdir("elsewhere")
os.chdir("elsewhere")
try:
    kt.open(run.name)
except kt.UserError as error:
    missing = str(error)
top1 = scores[(scores.evaluation == "few-label") & (scores.metric == "top1") & (scores.model == "student")]
import numpy as np
from PIL import Image
Image.fromarray(pixels[0]).save("zero.png")
open("bad.png", "w").write("no image")
mixed = run.predict(["zero.png", "bad.png"], top=3, all=True)
rgb = np.repeat(np.stack(pixels)[..., None], 3, -1)
refused = []
for wrong in ([], ["zero.png", pixels[0]], rgb / 255, 7, "gone.png", [rgb]):
    try:
        run.predict(wrong)
    except kt.UserError as error:
        refused.append(str(error))
of_teacher = kt.open(next(path.parent for path in run.folder.parents[1].glob(
    "artifacts/checkpoint/*/model.json") if json.loads(path.read_text())["classes"] is None))
try:
    of_teacher.predict("zero.png")
except kt.UserError as error:
    refused.append(str(error))
try:
    run.export("model", formats=["onx"])
except kt.UserError as error:
    refused.append(str(error))
said = {
    "files": files.astype(object).where(files.notna(), None).to_dict("list"),
    "exported": [file.predict(pixels).equals(file.predict(rgb)), repr(file), file.classes],
    "by file": file.predict(rgb).to_dict("list"),
    "vectors of file": float(np.abs(file.embed(pixels) - vectors).max() / np.abs(vectors).max()),
    "answers": answers.to_dict("list"),
    "stacked": run.shipped.predict(rgb).equals(answers),
    "single": run.predict(rgb[3])["probability"].tolist() + answers["probability"].tolist()[3:4],
    "mixed": mixed.astype(object).where(mixed.notna(), None).to_dict("list"),
    "vectors": [str(vectors.dtype), vectors.shape, bool(np.isfinite(vectors).all())],
    "nan": np.isnan(run.embed(["zero.png", "bad.png"])).all(axis=1).tolist(),
    "teacher": of_teacher.embed(rgb).shape[0],
    "refused": refused,
    "recipes": kt.recipes(),
    "run": repr(run),
    "name": run.name,
    "status": run.status,
    "folder": str(run.folder),
    "k": run.config["cluster"]["k"],
    "headline": run.headline,
    "top1": top1.value.tolist(),
    "report": run.report.stat().st_size,
    "model": repr(run.student),
    "classes": run.student.classes,
    "shipped": [str(run.shipped.folder), run.shipped.description["temperature"], run.because],
    "weights": (run.student.folder / "model.safetensors").exists(),
    "again": again == run,
    "same model": model == again.student,
    "same": same.config == run.config and same.headline == run.headline,
    "shown": shown,
    "missing": missing,
    "elsewhere": kt.open(run.folder) == run,
    "by store": kt.open(run.name, store=run.folder.parent.parent) == run,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
    "child": kt._child.CHILD._process.pid,
}
print("SAID", json.dumps(said), flush=True)
"""
"""Questions to the session after the guide's blocks."""


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.1)
    return not alive(pid)


def python(code: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run code from Python's stdin. As in a notebook, the current folder is first on the path."""
    return subprocess.run(
        [sys.executable, "-"],
        input=code,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def session(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the guide's blocks in order, in a hostile folder with the embedded server -> results and output."""
    folder = make_hostile(tmp_path_factory.mktemp("session"))
    home = {"PREFECT_HOME": str(tmp_path_factory.mktemp("home"))}
    done = python("\n".join([START, *blocks(), LOOK]), folder, environment | home)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("SAID "))
    return {
        **json.loads(line.removeprefix("SAID ")),
        "stdout": done.stdout,
        "stderr": done.stderr,
        "in": str(folder),
    }


def test_the_guide_runs_as_it_is_written(session: dict[str, Any]) -> None:
    assert len(blocks()) >= 8
    assert "UserError" not in session["stdout"]
    assert "unknown key cluster.clusters = 50" in session["stdout"]
    assert session["k"] == 50
    assert session["same"]


def test_what_a_run_gives(session: dict[str, Any]) -> None:
    assert session["status"] == "done"
    assert session["folder"] == f"{session['in']}/store/runs/{session['name']}"
    assert session["headline"].keys() == {"shipped", "student", "scratch", "gain"}
    assert session["top1"] == [session["headline"]["student"]]
    assert session["report"] > 10_000
    assert session["classes"] == [str(digit) for digit in range(10)]
    assert session["weights"]
    shipped, temperature, because = session["shipped"]
    record = json.loads((Path(session["folder"]) / "run.json").read_text())["shipped"]
    assert shipped == f"{session['in']}/store/{record['path']}"
    assert (temperature, because) == (record["temperature"], record["because"])
    assert session["again"]
    assert session["same model"]
    assert f"{100 * session['headline']['student']:.1f} %" in session["run"]
    assert session["name"] in session["run"]
    assert "10 classes: 0, 1" in session["model"]


def test_images_get_answers_in_their_order(session: dict[str, Any]) -> None:
    found = session["answers"]
    assert found["uri"] == [str(number) for number in range(10)]
    assert set(found["class"]) <= {str(digit) for digit in range(10)}
    assert all(0 < p <= 1 for p in found["probability"])
    assert session["stacked"]
    one, among_others = session["single"]
    assert one == pytest.approx(among_others, abs=1e-6)
    mixed = session["mixed"]
    assert mixed["uri"] == ["zero.png", "bad.png"]
    assert mixed["class"] == [found["class"][0], None]
    assert mixed["probability"][0] == pytest.approx(found["probability"][0], abs=1e-6)
    assert mixed["reason"][0] is None
    assert "no image" in mixed["reason"][1]
    assert sum(mixed[f"p_{digit}"][0] for digit in range(10)) == pytest.approx(1, abs=1e-5)
    assert mixed["class_3"][0] in session["classes"]


def test_features_of_images(session: dict[str, Any]) -> None:
    kind, (count, width), finite = session["vectors"]
    assert (kind, count, finite) == ("float32", 10, True)
    assert width > 1
    assert session["nan"] == [False, True]
    assert session["teacher"] == 10


def test_images_that_are_none_are_refused(session: dict[str, Any]) -> None:
    empty, mixed, floats, number, gone, nested, teacher, _ = session["refused"]
    assert "the list is empty" in empty
    assert "only paths, or only arrays" in mixed
    assert "float64, not uint8" in floats
    assert "int is neither" in number
    assert "'gone.png'" in gone
    assert "shape (10, 8, 8, 3)" in nested
    assert "no classifier" in teacher


def test_a_run_exports_its_model_and_the_file_answers_like_it(session: dict[str, Any]) -> None:
    files = session["files"]
    assert files["format"] == ["onnx", "pt2"]
    assert files["file"] == [f"{session['in']}/model/{name}" for name in ("model.onnx", "model.pt2")]
    assert files["refused"] == [None, None]
    assert files["bytes"] == [Path(file).stat().st_size for file in files["file"]]
    assert min(files["rate"]) > 0
    assert session["exported"] == [True, session["exported"][1], session["classes"]]
    assert "exported file for images of 16 px, 10 classes" in session["exported"][1]
    by_file = session["by file"]
    assert by_file["class"] == session["answers"]["class"]
    assert by_file["probability"] == pytest.approx(session["answers"]["probability"], abs=1e-5)
    assert session["vectors of file"] < 1e-4
    assert "format onx" in session["refused"][-1]


def test_runs_are_found_by_folder_and_store_from_anywhere(session: dict[str, Any]) -> None:
    assert session["elsewhere"]
    assert session["by store"]
    assert session["name"] in session["missing"]
    assert "elsewhere/store/runs" in session["missing"]
    assert not (Path(session["in"]) / "elsewhere" / "store").exists()


def test_progress_goes_to_the_stderr_of_the_moment(session: dict[str, Any]) -> None:
    assert "pretext" in session["stderr"]
    assert session["name"] in session["stderr"]
    assert "cached" in session["shown"]
    assert "started" not in session["shown"]


def test_the_users_process_stays_the_users(session: dict[str, Any]) -> None:
    loaded = set(session["loaded"])
    assert not loaded & {"data", "models", "tasks", "flows", "torch", "prefect", "faiss"}
    assert "pandas" in loaded
    assert session["recipes"]["digits"].startswith("The whole chain on scikit-learn's")


def test_nothing_is_left_behind(session: dict[str, Any]) -> None:
    assert not alive(session["child"])


def test_a_setting_that_is_none_is_refused_by_name(tmp_path: Path, environment: dict[str, str]) -> None:
    code = """
import knowledge_transfer as kt
for settings in ({"cluster": {"k": {1}}}, {"cluster": 3, "cluster.k": 3}, {"cluster.k": 0}):
    try:
        kt.run("digits", **settings)
    except kt.UserError as error:
        print(error)
"""
    done = python(code, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    wrong, twice, zero = done.stdout.splitlines()
    assert "cluster.k = {1}: a set is no setting" in wrong
    assert "cluster already has a value" in twice
    assert "cluster.k = 0: input should be greater than or equal to 1" in zero
    assert not list(tmp_path.iterdir())


def test_a_child_that_dies_is_explained_and_replaced(tmp_path: Path, environment: dict[str, str]) -> None:
    code = """
import os, signal, sys
import knowledge_transfer as kt
from knowledge_transfer._child import CHILD
kt.recipes()
first = CHILD._process.pid
os.kill(first, signal.SIGKILL)
CHILD._process.wait()
kt.recipes()
second = CHILD._process.pid
class Killer:
    def write(self, text): os.kill(CHILD._process.pid, signal.SIGKILL)
    def flush(self): pass
sys.stderr = Killer()
try:
    kt.run("digits")
except kt.RunFailed as error:
    print(error)
kt.recipes()
os.environ["OF_LATER"] = "1"
third = CHILD._process.pid
kt.recipes()
print(len({first, second, third, CHILD._process.pid}))
"""
    done = python(code, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(
        "the process that did the work ended by signal SIGKILL (out of"
    )
    assert done.stdout.splitlines()[1] == "4"


def test_the_child_goes_when_its_parent_is_killed(tmp_path: Path, environment: dict[str, str]) -> None:
    code = """
import knowledge_transfer as kt, os, signal
kt.recipes()
print(kt._child.CHILD._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert gone(int(python(code, tmp_path, environment).stdout))


@pytest.mark.slow
def test_ctrl_c_stops_the_run_and_the_same_call_goes_on(
    tmp_path: Path, environment: dict[str, str], server: str
) -> None:
    code = """
import glob, json, os, signal, sys
import knowledge_transfer as kt
from knowledge_transfer._child import CHILD
screen, seen = sys.stderr, []
class Interrupter:
    def write(self, text):
        screen.write(text)
        if self.word in text:
            os.kill(os.getpid(), signal.SIGINT)
    def flush(self):
        screen.flush()
def long():
    try:
        kt.recipes()
        print(CHILD._process.pid)
        kt.run("digits", pretext={"epochs": 500, "width": 0.25}, until="pretext")
    except KeyboardInterrupt:
        (record,) = [path for path in glob.glob("store/runs/*/run.json") if path not in seen]
        seen.append(record)
        print(json.load(open(record))["status"])
sys.stderr = Interrupter()
sys.stderr.word = "epoch "  # in a progress line
long()
sys.stderr.word = " step "  # in the line that says where the training goes on
long()
print(len(kt.recipes()))
"""
    done = python(code, tmp_path, {**environment, "PREFECT_API_URL": server})
    assert done.returncode == 0, done.stderr
    first, status, second, again, count = done.stdout.splitlines()
    assert (status, again) == ("cancelled", "cancelled")
    assert first != second
    assert int(count) > 5
    assert not alive(int(first))
    assert not alive(int(second))
    assert "resuming at step" in done.stderr
    assert "stopping; what was done is kept" in done.stderr


def test_bars_appear_on_a_terminal(tmp_path: Path, environment: dict[str, str], server: str) -> None:
    import pty

    parent, child = pty.openpty()
    code = f"import knowledge_transfer as kt; kt.run(until='pretext', quick=True, **{QUICK!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "PREFECT_API_URL": server, "TERM": "xterm"},
        stderr=child,
    ) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                shown += (more := os.read(parent, 1 << 16))
            except OSError:  # the terminal's other end is closed
                break
            if not more:
                break
    os.close(parent)
    assert process.returncode == 0, shown.decode(errors="replace")
    assert b"\x1b[" in shown
    assert "✓".encode() in shown
    assert b"quick: sets finetune.baseline=false" in shown  # evaluate.protocols is the user's
