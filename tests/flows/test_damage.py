"""After any single damage to a store, the same command ends in the same scores, or names the file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random

import pytest
from damage import Undisturbed, damage, flip, scores, undisturbed

from data.errors import ConfigError, DamagedError, PipelineError, StoreError
from data.files import intact, sealing
from data.store import Store
from flows.__main__ import main
from flows.housekeeping import collect, contents, verify
from flows.model_folder import model_folder
from flows.records import alive, read_record


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(tmp_path_factory.mktemp("damage"))


@pytest.fixture
def store(ran: Undisturbed) -> Store:
    return Store(ran.copied())


def quietly(path: Path, seed: int = 0) -> None:
    flip(path, Random(seed), quietly=True)


def named(ran: Undisturbed, label: str, file: str) -> Path:
    return ran.made.path(label) / file


def test_damage_under_a_stage_that_reads_is_mended_and_nothing_else_is_made(
    ran: Undisturbed, store: Store
) -> None:
    """The clusters are gone, so `cluster` reads features that look whole."""
    part = named(ran, "embed", "part-00000.parquet")
    quietly(part)
    shutil.rmtree(ran.made.path("cluster"))
    again = ran.again()
    assert scores(again) == scores(ran.made)
    assert again.made == ran.made.made
    computed = [row["stage"] for row in again.result["stages"] if not row["cached"]]
    assert computed == ["embed", "cluster"]
    (warning,) = [text for text in again.result["warnings"] if "set aside" in text]
    assert str(part) in warning
    moved = store.root / "damaged" / "features" / f"{part.parent.name}-1"
    assert (moved / part.name).exists()
    record = json.loads((again.folder / "run.json").read_text())
    assert record["damaged"] == [warning]
    assert store.damage(ran.made.made["embed"]) is None


def test_rows_are_not_taken_over_from_what_is_damaged(ran: Undisturbed, store: Store) -> None:
    """Features are gone. Others of the same network are damaged, or have an empty meta.json."""
    shutil.rmtree(ran.made.path("embed"))
    shutil.rmtree(ran.made.path("cluster"))
    for number, name in enumerate(("damaged", "empty")):
        other = shutil.copytree(
            ran.place / "kept" / ran.made.made["embed"].path, store.root / "artifacts" / "features" / name
        )
        if number:
            (other / "meta.json").write_text("")
        else:
            quietly(other / "part-00000.parquet", seed=1)
    again = ran.again()
    assert scores(again) == scores(ran.made)
    meta = store.meta(ran.made.made["embed"])
    assert meta["rows_computed"] == meta["rows"]
    assert sorted(path.name for path in (store.root / "damaged" / "features").iterdir()) == [
        "damaged-1",
        "empty-1",
    ]


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"rows": 1}'])
def test_a_meta_of_any_form_is_noticed(text: str, ran: Undisturbed, store: Store) -> None:
    (ran.made.path("assign") / "meta.json").write_text(text)
    again = ran.again()
    assert scores(again) == scores(ran.made)
    assert [row["stage"] for row in again.result["stages"] if not row["cached"]] == ["assign"]


def test_what_is_copied_into_the_runs_folder_is_checked(ran: Undisturbed, store: Store) -> None:
    quietly(named(ran, "scores", "scores.parquet"))
    quietly(named(ran, "report", "report.html"))
    again = ran.again()
    assert scores(again) == scores(ran.made)
    assert len(again.result["warnings"]) == len(ran.made.result["warnings"]) + 2
    assert {row["stage"] for row in again.result["stages"] if not row["cached"]} == {"scores", "report"}


def test_untouched_cached_stages_are_not_read(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import data.files

    read: list[str] = []
    hashed = data.files.file_sha256
    monkeypatch.setattr(data.files, "file_sha256", lambda path: read.append(path.name) or hashed(path))
    again = ran.again()
    assert all(row["cached"] for row in again.result["stages"])
    assert sorted(read) == ["report.html", "scores.parquet"]


def test_a_model_that_is_asked_is_checked(ran: Undisturbed, store: Store) -> None:
    model = named(ran, "ship", "model.safetensors")
    assert model_folder(str(ran.made.folder), store) == model.parent
    quietly(model)
    with pytest.raises(DamagedError, match=r"model\.safetensors has other content.*store verify --repair"):
        model_folder(str(ran.made.folder), store)


def test_verify_names_every_damage_and_repairs_it(
    ran: Undisturbed, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["store", "verify", "--store", str(store.root)]
    assert main(words) == 0
    assert "every file is what was written" in capsys.readouterr().out
    (pack,) = (store.root / "cache" / "images").glob("*.npy")
    damaged = [
        named(ran, "embed", "part-00000.parquet"),
        named(ran, "manifest", "meta.json"),
        pack,
        next((store.root / "cache" / "hashes").iterdir()),
        ran.made.folder / "scores.parquet",
    ]
    for number, path in enumerate(damaged):
        quietly(path, number)
    assert main(words) == 1
    said = capsys.readouterr().out
    for path in damaged:
        name = path.with_suffix(".sha") if path == pack else path
        assert str(name.relative_to(store.root)) in said
    assert main([*words, "--repair", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["damaged"]) == len(damaged)
    assert main(words) == 0
    assert scores(ran.again()) == scores(ran.made)


def test_gc_keeps_what_runs_need_and_refuses_while_one_lives(ran: Undisturbed, store: Store) -> None:
    assert collect(store, dry_run=True).rows == ()
    shutil.copytree(ran.made.path("cluster"), store.root / "artifacts" / "clusters" / "nobody")
    (store.root / "damaged" / "clusters").mkdir(parents=True)
    (store.root / "damaged" / "clusters" / "old-1").mkdir()
    would = collect(store, dry_run=True)
    assert [(row.place, row.count) for row in would.rows] == [
        ("artifacts/clusters", 1),
        ("damaged/clusters", 1),
    ]
    assert (store.root / "artifacts" / "clusters" / "nobody").exists()
    with store.in_use(), pytest.raises(StoreError, match="in use"):
        collect(store, dry_run=False)
    assert collect(store, dry_run=False).rows == would.rows
    assert not (store.root / "artifacts" / "clusters" / "nobody").exists()
    assert all(row["cached"] for row in ran.again().result["stages"])
    for folder in (store.root / "runs").iterdir():
        shutil.rmtree(folder)
    collect(store, dry_run=False)
    assert list(store.artifacts()) == []
    assert not list((store.root / "cache" / "images").glob("squares-*"))


def test_gc_does_not_guess_what_a_run_with_a_damaged_record_needs(ran: Undisturbed, store: Store) -> None:
    (ran.made.folder / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json is missing or damaged.*delete"):
        collect(store, dry_run=False)
    with pytest.raises(ConfigError, match=r"run\.json is missing or damaged.*run's command again"):
        model_folder(str(ran.made.folder), store)


def test_a_run_that_died_is_seen_by_the_next_command(ran: Undisturbed, store: Store) -> None:
    path = ran.made.folder / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "status": "running", "finished": None}))
    (ran.made.folder / "alive").touch()  # kill -9 leaves it, without its lock
    assert not alive(ran.made.folder)
    listed = contents(store)
    assert listed.died == (ran.made.folder.name,)
    now = read_record(ran.made.folder)
    assert now["status"] == "failed"
    assert "killed" in now["error"]
    (ran.made.folder / "alive").write_text("another machine")
    path.write_text(json.dumps({**record, "status": "running"}))
    assert contents(store).died == ()  # nobody here can know


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(ran.made.path("cluster"))
    publish = Store.publish

    def full(*words: object) -> None:
        raise OSError(28, "No space left on device", str(store.root / "x"))

    monkeypatch.setattr(Store, "publish", full)
    with pytest.raises(StoreError, match=r"no room left.*give the same command again"):
        ran.again()
    assert list((store.root / "drafts").glob("*/*")) == []
    assert not list((store.root / "runs").rglob("*.part"))
    monkeypatch.setattr(Store, "publish", publish)
    assert scores(ran.again()) == scores(ran.made)


def test_a_store_that_vanishes_is_one_line_and_is_not_made_anew(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.stages import cluster

    shutil.rmtree(ran.made.path("cluster"))
    gone = store.root.with_name("gone")

    def build(job: object) -> None:
        store.root.rename(gone)
        raise FileNotFoundError(2, "No such file or directory", str(store.root / "artifacts"))

    monkeypatch.setattr(cluster, "build", build)
    with pytest.raises(StoreError, match="has vanished"):
        ran.again()
    assert not (store.root / "artifacts").exists()
    shutil.rmtree(store.root, ignore_errors=True)
    gone.rename(store.root)


def test_a_state_to_resume_from_is_checked_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    for content in (b"first", b"second"):
        with sealing(path) as file:
            file.write(content)
        assert intact(path)
        assert path.read_bytes() == content
    path.write_bytes(b"first")  # killed after the hash was written and before the state was
    assert intact(path)
    path.write_bytes(b"f1rst")
    assert not intact(path)


def files_of(store: Path) -> list[Path]:
    """All files whose damage could change a result, in a fixed order."""
    roots = [store / "artifacts", store / "cache", store / "runs"]
    return sorted(path for root in roots for path in root.rglob("*") if path.is_file())


def attempt(ran: Undisturbed, number: int) -> None:
    """Damage one file. In every other attempt, a downstream artifact is gone, so that the file is read."""
    draws = Random(number)
    store = ran.copied()
    kinds = sorted({path.relative_to(store).parts[:2] for path in files_of(store)})
    place = kinds[number % len(kinds)]
    path = draws.choice([path for path in files_of(store) if path.relative_to(store).parts[:2] == place])
    said = damage(path, (number // len(kinds)) % 4 if number % 3 else 0, draws)
    if number % 2:
        gone = draws.choice(sorted((store / "artifacts").glob("*/*")))
        if gone not in path.parents:
            shutil.rmtree(gone)
            said += f", without {gone.relative_to(store)}"
    what = f"attempt {number}: {path.relative_to(store)} {said}"
    refusal = None
    try:
        again = ran.again()
    except PipelineError as error:
        refusal = str(error)
    if refusal is not None:
        assert path.name in refusal, (what, refusal)
        assert "\n" not in refusal, what
        verify(Store(store), repair=True)
        again = ran.again()
    assert scores(again) == scores(ran.made), what
    assert again.made == ran.made.made, what


def test_any_single_damage(ran: Undisturbed) -> None:
    for number in range(40):
        attempt(ran, number)


@pytest.mark.slow
def test_any_of_many_damages(ran: Undisturbed) -> None:
    for number in range(40, int(os.environ.get("KNOWLEDGE_TRANSFER_DAMAGES", "500"))):
        attempt(ran, number)
