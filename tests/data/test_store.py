import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from data import files
from data.errors import ArtifactError, DamagedError, Interrupted, StoreError, about_storage
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
    with pytest.raises(ArtifactError, match=r"is missing; .* then run again"):
        Store(tmp_path).meta(A)


def test_a_store_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="give another folder with --store"):
        Store(tmp_path / "file" / "store")


def test_other_bytes_of_the_same_size_and_time_are_noticed_when_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    publish(store)
    file = store.folder(A) / "centroids.parquet"
    status = file.stat()
    file.write_text("y")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.has(A)  # nothing was read
    reader = Store(tmp_path)
    with pytest.raises(DamagedError, match=r"centroids\.parquet has other content than was written; `knowl"):
        reader.whole(A)
    assert isinstance(reader.damage(A), DamagedError)
    aside = reader.set_aside(A)
    assert aside is not None
    assert aside.place == f"damaged/clusters/{A.fingerprint}-1"
    assert (tmp_path / aside.place / "centroids.parquet").read_text() == "y"
    assert not store.has(A)
    assert reader.set_aside(A) is None
    publish(store)
    assert Store(tmp_path).whole(A) == store.folder(A)
    assert store.set_aside(A) is None


def test_a_file_is_hashed_once_by_all_processes_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(Store(tmp_path))
    read: list[Path] = []
    hashed = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: read.append(path) or hashed(path))
    first, second = Store(tmp_path), Store(tmp_path)
    for _ in range(2):
        first.whole(A)
    second.checked.add(json.loads(json.dumps(first.checked.news())))  # as processes tell each other
    second.whole(A)
    assert read == [first.folder(A) / "centroids.parquet"]
    assert first.checked.news() == []
    os.utime(read[0], ns=(1, 1))  # it was touched, so it may be another file
    second.whole(A)
    assert len(read) == 2


@pytest.mark.parametrize("flipped", ["rows", "stage", "bytes", "sha256", "seal"])
def test_a_changed_meta_is_noticed_without_reading_another_file(tmp_path: Path, flipped: str) -> None:
    store = Store(tmp_path)
    publish(store)
    path = store.folder(A) / "meta.json"
    meta = json.loads(path.read_text())
    value = meta[flipped]
    meta[flipped] = {name: f"{each}0" for name, each in value.items()} if isinstance(value, dict) else "0"
    path.write_text(json.dumps(meta))
    assert not store.has(A)
    with pytest.raises(DamagedError, match=r"meta\.json has other content"):
        store.meta(A)


def test_a_meta_from_before_the_seal_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.draft(A, interrupted=never, waiting=nothing) as draft:
        more = {"stage": "cluster", "version": 1, "config": {}, "inputs": {}, "seconds": 0.1, "rows": 1}
        store.publish(A, draft, more)
    path = store.folder(A) / "meta.json"
    meta = json.loads(path.read_text())
    del meta["seal"]
    path.write_text(json.dumps(meta))
    assert store.has(A)
    del meta["seconds"]
    path.write_text(json.dumps(meta))
    assert not store.has(A)


def test_the_draft_of_the_next_holder_is_left_alone(tmp_path: Path) -> None:
    """One holder publishes; before it leaves, another one waits for the same draft, gets it, and writes."""
    store, entered, leave = Store(tmp_path), threading.Event(), threading.Event()
    kept: list[bool] = []

    def next_holder() -> None:
        with Store(tmp_path).draft(A, interrupted=never, waiting=nothing) as draft:
            (draft / "out" / "mine").write_text("x")
            entered.set()
            leave.wait(30)
            kept.append((draft / "out" / "mine").exists())

    thread = threading.Thread(target=next_holder)
    with store.draft(A, interrupted=never, waiting=nothing) as draft:
        (draft / "out" / "centroids.parquet").write_text("x")
        store.publish(A, draft, {"stage": "cluster", "rows": 1})
        thread.start()
        entered.wait(1)  # it may get in here only if that is safe
    assert entered.wait(30)
    leave.set()
    thread.join(30)
    assert kept == [True]
    assert not (tmp_path / "drafts" / A.kind / A.fingerprint).exists()


def test_all_is_on_disk_before_an_artifact_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def renamed(path: Path, target: Path) -> Path:
        if path.name == "out":
            synced.append("published")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    store = Store(tmp_path)
    publish(store)
    before, after = synced[: synced.index("published")], synced[synced.index("published") + 1 :]
    out = str(tmp_path / "drafts" / A.kind / A.fingerprint / "out")
    assert f"{out}/centroids.parquet" in before
    assert any("meta.json" in name for name in before)
    assert before[-1] == out
    assert after[:2] == [str(tmp_path / "artifacts" / A.kind), str(tmp_path / "artifacts")]


def test_of_two_that_publish_the_same_content_the_second_takes_over_the_first(tmp_path: Path) -> None:
    """Artifacts that are named by their content can be built in two drafts at once."""
    store, other = Store(tmp_path), Artifact(kind=A.kind, fingerprint="1" * 32)
    with store.draft(other, interrupted=never, waiting=nothing) as draft:
        (draft / "out" / "centroids.parquet").write_text("x")
        publish(store)
        assert store.publish(A, draft, {"stage": "cluster", "rows": 7})["rows"] == 1
    assert store.meta(A)["rows"] == 1
    assert not (tmp_path / "damaged").exists()


def test_a_store_that_vanished_is_not_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    for use in (lambda: publish(store), lambda: store.cache("images"), lambda: Store(store.root, make=False)):
        with pytest.raises(StoreError, match=r"has vanished; mount or restore it"):
            use()
    assert not (tmp_path / "store").exists()


def test_errors_of_the_disk_are_told_from_others(tmp_path: Path) -> None:
    root = Store(tmp_path).root
    full = about_storage(OSError(28, "No space left on device"), root)
    assert "no room left" in str(full)
    assert "no room left" in str(
        about_storage(ValueError("I/O error: No space left on device (os error 28)"), root)
    )
    outer = RuntimeError("write failed")
    outer.__cause__ = OSError(122, "Disk quota exceeded")
    assert "no room left" in str(about_storage(outer, root))
    assert "Read-only" in str(about_storage(OSError(30, "Read-only file system", str(root / "x")), root))
    assert about_storage(OSError(30, "Read-only file system", "/elsewhere"), root) is None
    assert about_storage(FileNotFoundError(2, "No such file", str(root / "x")), root) is None
    assert about_storage(ValueError("k is too large"), root) is None


def test_who_deletes_waits_for_nobody_and_keeps_all_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.in_use(), Store(tmp_path).in_use(), pytest.raises(StoreError, match="in use"), store.alone():
        pass
    with store.alone(), pytest.raises(StoreError, match="in use"), Store(tmp_path).alone():
        pass


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
