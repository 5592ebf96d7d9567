import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from data.errors import ArtifactError, Interrupted, StoreError
from data.store import Store, digest, fingerprint, part_reading
from data.types import Artifact

A = Artifact(kind="clusters", fingerprint="0" * 32)


def never() -> bool:
    return False


def nothing() -> None:
    return None


def publish(store: Store, artifact: Artifact = A, text: str = "x") -> None:
    with store.draft(artifact, interrupted=never, waiting=nothing) as draft:
        (draft / "out" / "centroids.parquet").write_text(text)
        store.publish(artifact, draft, {"stage": "cluster", "rows": 1})


def test_an_artifact_is_there_once_published_and_leaves_no_draft(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not store.has(A)
    publish(store)
    assert store.has(A)
    assert not (tmp_path / "drafts" / "clusters" / A.fingerprint).exists()
    meta = store.meta(A)
    assert meta["bytes"] == {"centroids.parquet": 1}
    assert (
        meta["sha256"]["centroids.parquet"]
        == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )


def test_a_build_that_raises_leaves_no_artifact_but_keeps_its_state(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail() -> None:
        with store.draft(A, interrupted=never, waiting=nothing) as draft:
            (draft / "state" / "training.pt").write_text("half-way")
            (draft / "out" / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not store.has(A)
    assert not store.folder(A).exists()
    with store.draft(A, interrupted=never, waiting=nothing) as draft:
        assert (draft / "state" / "training.pt").read_text() == "half-way"
        assert list((draft / "out").iterdir()) == []


def test_a_build_that_fails_without_state_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail() -> None:
        with store.draft(A, interrupted=never, waiting=nothing) as draft:
            (draft / "out" / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "drafts").rglob("*")) == [tmp_path / "drafts" / "clusters"]


@pytest.mark.parametrize("damage", ["gone", "longer", "same size", "no meta", "bad meta"])
def test_damage_is_seen_and_mended(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    publish(store)
    file, meta = store.folder(A) / "centroids.parquet", store.folder(A) / "meta.json"
    match damage:
        case "gone":
            file.unlink()
        case "longer":
            file.write_text("xx")
        case "same size":
            time.sleep(0.01)
            file.write_text("y")
        case "no meta":
            meta.unlink()
        case "bad meta":
            meta.write_text("{")
    assert not store.has(A)
    publish(store)
    assert store.has(A)
    assert file.read_text() == "x"


def test_a_touched_but_equal_file_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    os.utime(store.folder(A) / "centroids.parquet", (time.time() + 60, time.time() + 60))
    assert store.has(A)


def test_a_missing_artifact_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run again"):
        Store(tmp_path).meta(A)


def test_a_store_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give another folder with --store"):
        Store(tmp_path / "file" / "store")


def _hold(root: str, ready: str) -> None:
    with Store(root).draft(A, interrupted=never, waiting=nothing):
        Path(ready).touch()
        time.sleep(60)


def _build(root: str, log: str) -> None:
    store = Store(root)
    with store.draft(A, interrupted=never, waiting=nothing) as draft:
        if not store.has(A):
            with open(log, "a") as file:
                file.write("built\n")
            time.sleep(0.3)
            (draft / "out" / "centroids.parquet").write_text("x")
            store.publish(A, draft, {"stage": "cluster", "rows": 1})


def test_of_processes_that_want_the_same_one_builds(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_build, args=(str(tmp_path), str(tmp_path / "log"))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"
    assert Store(tmp_path).has(A)


def test_the_lock_of_a_killed_process_is_free_and_waiting_can_be_stopped(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("spawn").Process(
        target=_hold, args=(str(tmp_path), str(tmp_path / "ready"))
    )
    holder.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    store = Store(tmp_path)
    said: list[int] = []
    with pytest.raises(Interrupted), store.draft(A, interrupted=lambda: True, waiting=lambda: said.append(1)):
        pass
    assert said == [1]
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    publish(store)
    assert store.has(A)


def test_fingerprints_tell_apart_everything_asked_and_nothing_else() -> None:
    base = ("cluster", 1, {"k": 3}, 0, {"features": "f"})
    others = [
        ("assign", 1, {"k": 3}, 0, {"features": "f"}),
        ("cluster", 2, {"k": 3}, 0, {"features": "f"}),
        ("cluster", 1, {"k": 4}, 0, {"features": "f"}),
        ("cluster", 1, {"k": 3}, 1, {"features": "f"}),
        ("cluster", 1, {"k": 3}, None, {"features": "f"}),
        ("cluster", 1, {"k": 3}, 0, {"features": "g"}),
        ("cluster", 1, {"k": 3}, 0, {"features": "f", "more": "f"}),
    ]
    assert len({fingerprint(*ask) for ask in [base, *others]}) == 1 + len(others)
    assert fingerprint("s", 1, {"a": 1, "b": 2}, 0, {}) == fingerprint("s", 1, {"b": 2, "a": 1}, 0, {})
    assert digest({"x": 0.1}) == digest(json.loads('{"x": 0.1}'))


def test_a_part_moves_when_parts_before_it_grow() -> None:
    meta = {
        "parts": {"train": "t", "unlabelled": "u", "test": "e", "test_labels": "l"},
        "counts": {"train": 5, "unlabelled": 2},
    }
    grown = {**meta, "counts": {"train": 5, "unlabelled": 3}}
    assert part_reading(meta, ("train",)) == part_reading(grown, ("train",))
    assert part_reading(meta, ("test",)) != part_reading(grown, ("test",))
