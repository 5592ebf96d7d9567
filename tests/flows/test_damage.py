"""After any single damage to a store, the same command ends in the same scores, or names the file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import (
    MANNERS,
    Undisturbed,
    build_imitated,
    contents,
    damage,
    fixed,
    flip,
    imitated,
    rewrite,
    scores,
    tiny_config,
    undisturbed,
)

import data.files
import data.packs
import data.store
import tasks.fit
from data.errors import ConfigError, DamagedError, Interrupted, PipelineError, StoreError
from data.files import intact, sealing
from data.store import Store
from data.tables import read_vectors
from flows.__main__ import main
from flows.housekeeping import collect, verify
from flows.housekeeping import contents as listed
from flows.model_folder import FILES, model_folder, whole_model
from flows.pin import find
from flows.records import alive, copied_scores, living, read_record, records, write_record
from flows.rewrite import rewrite_report
from flows.run import Run
from flows.server import history
from tasks.stages import cluster


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    made = undisturbed(tmp_path_factory.mktemp("damage"))
    before = fixed(made.place / "kept")
    yield made
    assert fixed(made.place / "kept") == before  # else a test met what another one had done


@pytest.fixture
def store(ran: Undisturbed) -> Store:
    return Store(ran.copied())


def quietly(path: Path, seed: int = 0) -> None:
    flip(path, Random(seed), quietly=True)


def named(ran: Undisturbed, label: str, file: str) -> Path:
    return ran.made.path(label) / file


def same(ran: Undisturbed, again: Any) -> None:
    """Not only the scores are the same, but also all that led to them."""
    assert scores(again) == scores(ran.made)
    assert again.made == ran.made.made
    assert contents(again) == ran.contents


def without(ran: Undisturbed, *labels: str) -> None:
    for label in labels:
        shutil.rmtree(ran.made.path(label))


def computed(again: Any) -> list[str]:
    return [row["stage"] for row in again.result["stages"] if not row["cached"]]


def test_damage_under_a_stage_that_reads_is_mended_and_nothing_else_is_made(
    ran: Undisturbed, store: Store
) -> None:
    """The clusters are gone, so `cluster` reads features that look whole."""
    part = named(ran, "embed", "part-00000.parquet")
    quietly(part)
    without(ran, "cluster")
    again = ran.again()
    same(ran, again)
    assert computed(again) == ["embed", "cluster"]
    (warning,) = [text for text in again.result["warnings"] if "set aside" in text]
    assert str(part) in warning
    moved = store.root / "damaged" / "features" / f"{part.parent.name}-1"
    assert (moved / part.name).exists()
    assert read_record(again.folder)["damaged"] == [warning]
    assert store.damage(ran.made.made["embed"]) is None


def test_rows_are_not_taken_over_from_what_is_damaged(ran: Undisturbed, store: Store) -> None:
    """Features are gone. Others of the same network are damaged, or have an empty meta.json."""
    without(ran, "embed", "cluster")
    for number, name in enumerate(("damaged", "empty")):
        other = shutil.copytree(
            ran.place / "kept" / ran.made.made["embed"].path, store.root / "artifacts" / "features" / name
        )
        if number:
            (other / "meta.json").write_text("")
        else:
            quietly(other / "part-00000.parquet", seed=1)
    again = ran.again()
    same(ran, again)
    meta = store.meta(ran.made.made["embed"])
    assert meta["rows_computed"] == meta["rows"]
    assert sorted(path.name for path in (store.root / "damaged" / "features").iterdir()) == [
        "damaged-1",
        "empty-1",
    ]


def negate(path: Path) -> None:
    """Flip the signs of 16 vectors. Size and time stay."""
    vectors = read_vectors(path.parent)[1][:16].tobytes()
    content = path.read_bytes()
    assert content.count(vectors) == 1
    other = np.frombuffer(vectors, np.float32) * np.float32(-1)
    rewrite(path, content.replace(vectors, other.tobytes()))


def not_finite(path: Path) -> None:
    """One value of a vector is no number. Size and time stay."""
    vector = read_vectors(path.parent)[1][0]
    other = np.where(np.arange(len(vector)) == 0, np.float32(np.nan), vector)
    rewrite(path, path.read_bytes().replace(vector.tobytes(), other.tobytes()))


def without_rows(meta: Path) -> None:
    values = json.loads(meta.read_text())
    del values["rows"]
    rewrite(meta, json.dumps(values).encode(), quietly=False)


FEATURES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "other values": ("part-00000.parquet", negate),
    "a value that is not finite": ("part-00000.parquet", not_finite),
    "64 bytes": (
        "part-00000.parquet",
        lambda path: rewrite(path, path.read_bytes()[:300] + bytes(64) + path.read_bytes()[364:]),
    ),
    "truncated": (
        "part-00000.parquet",
        lambda path: rewrite(path, path.read_bytes()[:-200], quietly=False),
    ),
    "no part": ("part-00000.parquet", Path.unlink),
    "meta.json empty": ("meta.json", lambda path: rewrite(path, b"", quietly=False)),
    "meta.json a list": ("meta.json", lambda path: rewrite(path, b"[]", quietly=False)),
    "meta.json null": ("meta.json", lambda path: rewrite(path, b"null", quietly=False)),
    "meta.json without rows": ("meta.json", without_rows),
}
"""How features are damaged: the file, and what is done to it."""


@pytest.mark.parametrize("how", FEATURES)
def test_damaged_features_are_not_made_again_from_themselves(
    how: str, ran: Undisturbed, store: Store
) -> None:
    """While they are made again, they lie in the store as features of the same network and images."""
    file, hurt = FEATURES[how]
    path = named(ran, "embed", file)
    hurt(path)
    if path.exists():
        path.touch()  # so the damage is seen before anything reads the file
    without(ran, "cluster")
    again = ran.again()
    same(ran, again)
    assert computed(again) == ["embed", "cluster"]
    meta = store.meta(ran.made.made["embed"])
    assert meta["rows_computed"] == meta["rows"]


def another_cluster(path: Path) -> None:
    """Two images have each other's cluster. Size and time stay."""
    table = pq.read_table(path)
    clusters, place = table["cluster"].to_numpy(), table.column_names.index("cluster")
    for one, two in combinations(range(len(clusters)), 2):
        other = clusters.copy()
        other[[one, two]] = other[[two, one]]
        out = pa.BufferOutputStream()
        pq.write_table(
            table.set_column(place, table.schema.field(place), pa.array(other)), out, compression="zstd"
        )
        content = out.getvalue().to_pybytes()
        if clusters[one] != clusters[two] and len(content) == path.stat().st_size:
            return rewrite(path, content)
    raise AssertionError("no other table has the same size")


def test_the_next_night_takes_no_rows_over_from_features_that_were_damaged(
    ran: Undisturbed, no_fsync: None
) -> None:
    wanted = {row["metric"]: row["value"] for row in ran.night()}
    ran.copied()
    negate(named(ran, "embed", "part-00000.parquet"))
    with ran.growing() as give:
        again = give()
    assert again.result["pinned"]
    assert {row["metric"]: row["value"] for row in scores(again)} == pytest.approx(wanted, abs=1e-4)
    assert ran.made.made["embed"].fingerprint in " ".join(again.result["warnings"])
    before, after = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for _, vectors in (
            read_vectors(ran.place / "kept" / ran.made.made["embed"].path),
            read_vectors(again.path("embed-drift")),
        )
    )
    assert (before @ after.T).max(axis=1).min() > 0.999  # every image still has its features


def test_the_next_night_neither_takes_over_nor_moves_assignments_that_were_damaged(
    ran: Undisturbed, store: Store, no_fsync: None
) -> None:
    """Each night compares today's images with them. Without them, the night after would train again."""
    another_cluster(named(ran, "assign", "part-00000.parquet"))
    with ran.growing() as give:
        for _ in range(2):
            with pytest.raises(
                PipelineError, match=r"part-00000\.parquet has other content.*store verify --repair"
            ):
                give()


def test_a_part_that_the_stage_did_not_write_is_not_read(ran: Undisturbed, store: Store) -> None:
    """A tool that restores files may leave a second copy of a part beside the first."""
    part = named(ran, "embed", "part-00000.parquet")
    shutil.copy2(part, part.with_name("part-00001.parquet"))
    without(ran, "cluster")
    again = ran.again()
    same(ran, again)
    assert any("part-00001.parquet was not written by the stage" in text for text in again.result["warnings"])


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"rows": 1}'])
def test_a_meta_of_any_form_is_noticed(text: str, ran: Undisturbed, store: Store) -> None:
    rewrite(named(ran, "assign", "meta.json"), text.encode(), quietly=False)
    again = ran.again()
    same(ran, again)
    assert computed(again) == ["assign"]


def test_a_meta_with_another_number_is_noticed(ran: Undisturbed, store: Store) -> None:
    """The calibration of the model that ships is in its meta.json, and no other file has its hash."""
    path = named(ran, "ship", "meta.json")
    meta = json.loads(path.read_text())
    rewrite(path, json.dumps({**meta, "temperature": 2 * meta["temperature"] + 1}).encode())
    again = ran.again()
    same(ran, again)
    assert computed(again) == ["ship"]
    assert again.result["shipped"] == ran.made.result["shipped"]


def test_packs_are_checked_before_networks_see_them(ran: Undisturbed, store: Store) -> None:
    (pack,) = (store.root / "cache" / "images").glob("*.npy")
    content = pack.read_bytes()
    rewrite(pack, content[:200] + bytes(len(content) - 200))
    without(ran, "embed")
    same(ran, ran.again())


def test_small_caches_are_checked(ran: Undisturbed, store: Store) -> None:
    """What is remembered about images names another content. Its seal is from before."""
    (path,) = (store.root / "cache" / "hashes").iterdir()
    content, seal = path.read_bytes()[:-40], path.read_bytes()[-40:]
    known = pq.read_table(pa.BufferReader(content))
    place = known.column_names.index("sha256")
    names = known["sha256"].to_pylist()
    other = pa.array(["0" * 64, *names[1:]], known.schema.field("sha256").type)
    out = pa.BufferOutputStream()
    pq.write_table(known.set_column(place, known.schema.field("sha256"), other), out)
    rewrite(path, out.getvalue().to_pybytes() + seal)
    same(ran, ran.again())


def stopped_in_training(ran: Undisturbed) -> Path:
    """Stop the command after a few steps of `pretext`, which is gone. Returns the saved state."""
    without(ran, "pretext")
    asked = iter(range(1000))
    with pytest.raises(Interrupted):
        ran.again(interrupted=lambda: next(asked) >= 2)
    (path,) = (ran.place / "store" / "drafts").glob("*/*/state/training.pt")
    return path


def test_a_stopped_training_goes_on_and_ends_in_the_same_network(ran: Undisturbed, store: Store) -> None:
    stopped_in_training(ran)
    again = ran.again()
    same(ran, again)
    assert again.result["warnings"] == ran.made.result["warnings"]


def test_a_saved_training_that_is_damaged_is_not_gone_on_with(ran: Undisturbed, store: Store) -> None:
    import torch

    path = stopped_in_training(ran)

    def other(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: other(each) for name, each in value.items()}
        return value + 1 if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    torch.save(other(torch.load(path, weights_only=True)), path)
    again = ran.again()
    same(ran, again)
    assert any(str(path) in text and "from its beginning" in text for text in again.result["warnings"])


def test_a_saved_training_that_was_cut_is_not_gone_on_with(ran: Undisturbed, store: Store) -> None:
    path = stopped_in_training(ran)
    path.write_bytes(path.read_bytes()[:-1000])
    again = ran.again()
    same(ran, again)
    assert any(str(path) in text and "from its beginning" in text for text in again.result["warnings"])


def test_what_is_copied_into_the_runs_folder_is_checked(ran: Undisturbed, store: Store) -> None:
    quietly(named(ran, "scores", "scores.parquet"))
    quietly(named(ran, "report", "report.html"))
    again = ran.again()
    same(ran, again)
    assert len(again.result["warnings"]) == len(ran.made.result["warnings"]) + 2
    assert set(computed(again)) == {"scores", "report"}


def test_untouched_cached_stages_are_not_read(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    hashed = data.files.file_sha256
    monkeypatch.setattr(data.files, "file_sha256", lambda path: read.append(path.name) or hashed(path))
    again = ran.again()
    assert computed(again) == []
    assert sorted(read) == ["report.html", "scores.parquet"]


def test_an_input_that_is_damaged_while_it_is_read_is_made_again(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was whole when it was checked. Then another run may also have set it aside."""
    without(ran, "cluster")
    build, broke = cluster.build, []

    def once(job: Any) -> Any:
        if not broke:
            part = job.path("features") / "part-00000.parquet"
            broke.append(part)
            part.unlink()
            part.read_bytes()
        return build(job)

    monkeypatch.setattr(cluster, "build", once)
    again = ran.again()
    same(ran, again)
    assert computed(again) == ["embed", "cluster"]


def test_two_runs_that_meet_the_same_damage_both_end_in_the_same(ran: Undisturbed, store: Store) -> None:
    quietly(named(ran, "embed", "part-00000.parquet"))
    quietly(named(ran, "assign", "part-00000.parquet"), seed=1)
    without(ran, "cluster", "transfer")
    made: list[Any] = []
    threads = [threading.Thread(target=lambda: made.append(ran.again())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(made) == 2
    for again in made:
        same(ran, again)
    assert sorted(path.name[-2:] for path in (store.root / "damaged").glob("*/*")) == ["-1", "-1"]


def test_a_clock_that_goes_backwards_changes_nothing(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files become younger than what was made from them, and a build ends before it began."""
    hours = iter(range(10**9, 0, -3600))
    monkeypatch.setattr("time.time", lambda: float(next(hours)))
    part = named(ran, "embed", "part-00000.parquet")
    quietly(part)
    os.utime(part, ns=(10**9, 10**9))
    without(ran, "cluster")
    again = ran.again()
    same(ran, again)
    assert all(row["seconds"] >= 0 and row["computed_in"] >= 0 for row in again.result["stages"])


def test_a_store_behind_a_link_is_the_same_store(ran: Undisturbed, store: Store, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store.root)
    beside = Store(link, make=False)
    with store.in_use(), pytest.raises(StoreError, match="in use"):
        collect(beside, dry_run=False)
    assert collect(beside, dry_run=False).rows == ()
    quietly(named(ran, "embed", "part-00000.parquet"))
    (damaged,) = verify(beside, repair=True).damaged
    assert damaged.file.endswith("part-00000.parquet")
    same(ran, ran.again())
    (tmp_path / "latest").symlink_to(ran.made.folder)
    assert model_folder(str(tmp_path / "latest"), beside) == ran.made.path("ship")


def test_a_store_that_can_only_be_read_is_listed_and_verified(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = os.open

    def reading(path: Any, flags: int, *more: Any, **how: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *more, **how)

    monkeypatch.setattr(os, "open", reading)
    for lock in ("held", "never used"):
        if lock == "never used":
            (store.root / "lock").unlink()
        for words in (["list"], ["verify"]):
            assert main(["store", *words, "--store", str(store.root)]) == 0
    assert "every file is what was written" in capsys.readouterr().out


def test_a_model_that_is_asked_is_checked(ran: Undisturbed, store: Store, tmp_path: Path) -> None:
    model = named(ran, "ship", "model.safetensors")
    assert model_folder(str(ran.made.folder), store) == model.parent
    copy = shutil.copytree(model.parent, tmp_path / "copy")
    (tmp_path / "link").symlink_to(model.parent)
    for folder in (copy, tmp_path / "link"):
        assert model_folder(str(folder), store) == folder.resolve()
    quietly(model)
    quietly(copy / model.name)
    for name in (str(ran.made.folder), str(tmp_path / "link")):
        with pytest.raises(
            DamagedError, match=r"model\.safetensors has other content.*store verify --repair"
        ):
            model_folder(name, store)
    with pytest.raises(ConfigError, match=r"copy/model\.safetensors has other content.*copy the model"):
        whole_model(copy)
    for name in set(os.listdir(copy)) - set(FILES):
        (copy / name).unlink()
    assert whole_model(copy) == copy  # nothing says what it was


def test_pythons_predict_checks_the_model(ran: Undisturbed, store: Store) -> None:
    """There, the run was opened before, perhaps long ago."""
    from flows.answer import opened

    model = named(ran, "ship", "model.safetensors")
    quietly(model)
    with pytest.raises(DamagedError, match=r"model\.safetensors has other content"):
        opened(model.parent, "cpu", 10**6)


def test_verify_names_every_damage_and_repairs_it(
    ran: Undisturbed, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["store", "verify", "--store", str(store.root)]
    assert main(words) == 0
    assert "every file is what was written" in capsys.readouterr().out
    (pack,) = (store.root / "cache" / "images").glob("*.npy")
    other = shutil.copytree(ran.made.folder, store.root / "runs" / "other")
    damaged = [
        named(ran, "embed", "part-00000.parquet"),
        named(ran, "manifest", "meta.json"),
        pack,
        next((store.root / "cache" / "hashes").iterdir()),
        ran.made.folder / "scores.parquet",
        ran.made.folder / "report.html",
        other / "run.json",
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
    kept = ran.place / "kept" / "runs" / ran.made.folder.name
    for name in ("scores.parquet", "report.html"):
        assert (ran.made.folder / name).read_bytes() == (kept / name).read_bytes()
    same(ran, ran.again())


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
    record = read_record(ran.made.folder)
    write_record(ran.made.folder, {**record, "status": "running"})
    (store.root / "lock").unlink()  # then only the run itself can tell that it lives
    with living(ran.made.folder), pytest.raises(StoreError, match=f"in use by run {ran.made.folder.name}"):
        collect(store, dry_run=False)
    write_record(ran.made.folder, record)
    assert collect(store, dry_run=False).rows == would.rows
    assert not (store.root / "artifacts" / "clusters" / "nobody").exists()
    assert computed(ran.again()) == []
    for folder in (store.root / "runs").iterdir():
        shutil.rmtree(folder)
    collect(store, dry_run=False)
    assert list(store.artifacts()) == []
    assert not list((store.root / "cache" / "images").glob("squares-*"))


def test_a_restored_backup_needs_no_cache_and_must_have_its_runs(
    ran: Undisturbed, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guide says that `cache` and `drafts` need no backup."""
    for name in ("cache", "drafts"):
        shutil.rmtree(store.root / name)
    for words in (["list"], ["verify"], ["gc"]):
        assert main(["store", *words, "--store", str(store.root)]) == 0
    assert "every file is what was written" in capsys.readouterr().out
    assert store.has(ran.made.made["ship"])
    same(ran, ran.again())
    shutil.rmtree(store.root / "runs")
    with pytest.raises(StoreError, match=r"runs is missing, so nobody knows what is needed"):
        collect(store, dry_run=False)
    assert store.has(ran.made.made["ship"])


def test_gc_does_not_guess_what_a_run_with_a_damaged_record_needs(ran: Undisturbed, store: Store) -> None:
    rewrite(ran.made.folder / "run.json", b"{")
    with pytest.raises(ConfigError, match=r"run\.json is missing or damaged.*delete"):
        collect(store, dry_run=False)
    with pytest.raises(ConfigError, match=r"run\.json is missing or damaged.*run's command again"):
        model_folder(str(ran.made.folder), store)


def test_gc_does_not_believe_a_record_with_another_fingerprint(ran: Undisturbed, store: Store) -> None:
    path, made = ran.made.folder / "run.json", ran.made.made["ship"]
    rewrite(path, path.read_bytes().replace(made.fingerprint.encode(), f"{made.fingerprint[:-1]}g".encode()))
    with pytest.raises(ConfigError, match=r"run\.json is missing or damaged.*delete"):
        collect(store, dry_run=False)
    assert store.has(made)


def test_gc_does_not_guess_what_an_artifact_was_made_from(ran: Undisturbed, store: Store) -> None:
    """The networks of a pinned run were made from images that only their meta.json names."""
    record = read_record(ran.made.folder)
    rows = [row for row in record["stages"] if row["stage"] == "pretext"]
    write_record(ran.made.folder, {**record, "stages": rows})
    quietly(named(ran, "pretext", "meta.json"))
    with pytest.raises(DamagedError, match=r"meta\.json .*store verify --repair"):
        collect(store, dry_run=False)
    assert store.has(ran.made.made["manifest"])


def test_a_report_that_is_written_again_is_kept_from_gc(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.rewrite

    def gc(*words: object) -> None:
        with pytest.raises(StoreError, match="in use"):
            collect(Store(store.root), dry_run=False)
        raise ZeroDivisionError

    monkeypatch.setattr(flows.rewrite, "write_stamped", gc)
    with pytest.raises(ZeroDivisionError):
        rewrite_report(str(ran.made.folder), None)


def test_scores_in_a_runs_folder_are_read_only_as_they_were_written(ran: Undisturbed, store: Store) -> None:
    """Python's `open`, and the history on a run's page."""
    from flows.service import _described

    folder = ran.made.folder
    was = _described(folder)["headline"]
    table = pq.read_table(folder / "scores.parquet")
    values = pa.array([0.5 * value for value in table["value"].to_pylist()])
    out = pa.BufferOutputStream()
    pq.write_table(table.set_column(table.column_names.index("value"), "value", values), out)
    rewrite(folder / "scores.parquet", out.getvalue().to_pybytes(), quietly=False)
    with pytest.raises(ConfigError, match=r"scores\.parquet is missing or has other.*store verify --repair"):
        _described(folder)
    shown = history.past(store, {**read_record(folder), "name": "tomorrow"})
    assert [run.scores for run in shown] == [{}]
    verify(store, repair=True)
    assert _described(folder)["headline"] == was
    shutil.rmtree(ran.made.path("scores"))
    assert copied_scores(folder, read_record(folder)) == folder / "scores.parquet"  # nothing says otherwise


def test_the_latest_run_is_the_one_that_started_last(ran: Undisturbed, store: Store) -> None:
    """A record that was copied, or whose report was written again, is younger than the run."""
    record = read_record(ran.made.folder)
    for started in ("2030-01-02T00:00:00+00:00", "2030-01-01T00:00:00+00:00"):
        folder = store.root / "runs" / started[:10]
        folder.mkdir()
        write_record(folder, {**record, "name": folder.name, "started": started})
    assert [folder.name for folder, _ in records(store)] == ["2030-01-02", "2030-01-01", ran.made.folder.name]
    earlier = find(tiny_config(ran.place, pinned=True))
    assert earlier is not None
    assert earlier.run == "2030-01-02"


@pytest.mark.parametrize("file", ["run.json", "model.safetensors", "meta.json"])
def test_a_rerun_does_not_train_anew_because_of_damage(file: str, ran: Undisturbed, store: Store) -> None:
    """It would get other scores than the night before, for no reason that anybody sees."""
    path = ran.made.folder / file if file == "run.json" else named(ran, "transfer", file)
    rewrite(path, path.read_bytes()[:-9], quietly=False)
    with ran.growing() as again:
        with pytest.raises(PipelineError, match=rf"{file}.*store verify --repair") as told:
            again()
        assert "\n" not in str(told.value)
        verify(store, repair=True)
        assert find(tiny_config(ran.place, pinned=True)) is None


def test_a_run_that_died_is_seen_by_the_next_command(ran: Undisturbed, store: Store) -> None:
    record = read_record(ran.made.folder)
    write_record(ran.made.folder, {**record, "status": "running", "finished": None})
    (ran.made.folder / "alive").touch()  # kill -9 leaves it, without its lock
    assert not alive(ran.made.folder)
    found = listed(store)
    assert found.died == (ran.made.folder.name,)
    now = read_record(ran.made.folder)
    assert now["status"] == "failed"
    assert "killed" in now["error"]
    (ran.made.folder / "alive").write_text("another machine")
    write_record(ran.made.folder, {**record, "status": "running"})
    assert listed(store).died == ()  # nobody here can know


def test_the_next_run_tells_the_server_of_a_run_that_died(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed could not tell it."""
    from flows.server.page import Page

    told: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "flows.server.events.emit_event",
        lambda event, resource, payload: told.append((event, payload["run"])),
    )
    write_record(ran.made.folder, {**read_record(ran.made.folder), "status": "running", "finished": None})
    (ran.made.folder / "alive").touch()
    with Run(tiny_config(ran.place), "next", []) as run:
        Page().begin(run)
    assert told == [("knowledge-transfer.run.failed", ran.made.folder.name)]
    assert read_record(ran.made.folder)["status"] == "failed"


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(ran, "cluster")
    publish = Store.publish

    def full(*words: object) -> None:
        raise OSError(28, "No space left on device", str(store.root / "x"))

    monkeypatch.setattr(Store, "publish", full)
    with pytest.raises(StoreError, match=r"no room left.*give the same command again"):
        ran.again()
    assert list((store.root / "drafts").glob("*/*")) == []
    assert not list((store.root / "runs").rglob("*.part"))
    monkeypatch.setattr(Store, "publish", publish)
    same(ran, ran.again())


def test_a_store_that_vanishes_is_one_line_and_is_not_made_anew(
    ran: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(ran, "cluster")
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


def sorts(store: Path) -> dict[str, list[Path]]:
    """All files whose damage could change a result, by sort: kind of artifact or cache, and kind of file."""
    found: dict[str, list[Path]] = {}
    for place in ("artifacts", "cache", "runs"):
        for path in sorted((store / place).rglob("*")):
            if path.is_file():
                kind = "" if place == "runs" else f"/{path.relative_to(store).parts[1]}"
                file = f"*{path.suffix}" if path.name.startswith("part-") or place == "cache" else path.name
                found.setdefault(f"{place}{kind}/{file}", []).append(path)
    return dict(sorted(found.items()))


PIXELS = ("embed", "pretext", "transfer", "finetune-student", "predict", "distill")
"""Stages that read pixels from the cache."""


def attempt(ran: Undisturbed, number: int) -> tuple[str, str, str]:
    """Damage one file of a store, and give a command. All choices are drawn from `number`.

    The sorts of files take turns. A third of the damages keep size and time. In three of four attempts, a
    stage that reads the damaged file is gone, so that it is read. In the others, the whole run is cached, or
    the command is that of the next night: the folder has grown, and the run keeps its networks.

    Returns:
        The sort of file, the manner of damage, and how it ended.
    """
    draws = Random(f"damage {number}")
    grown = ran.grows and draws.randrange(4) == 0
    night = ran.night() if grown else None
    store = ran.copied()
    files = sorts(store)
    sort = list(files)[number % len(files)]
    path = draws.choice(files[sort])
    manner = draws.choice([1, 2, 3]) if draws.randrange(3) else 0
    damaged = {label for label in ran.made.made if ran.made.path(label) in path.parents}
    readers = sorted({reader for label in damaged for reader in ran.readers(label)})
    if sort.startswith("cache/images"):
        readers = [label for label in PIXELS if label in ran.made.made]
    gone = draws.choice(readers) if readers and not grown and draws.randrange(8) else None
    if gone is not None:
        without(ran, gone)
    said = damage(path, manner, draws)
    how = "the next night" if grown else f"without {gone}" if gone else "all cached"
    what = f"attempt {number}: {path.relative_to(store)} {said}, {how}"
    with ran.growing() if grown else nullcontext(ran.again) as give:
        return sort, MANNERS[manner], _ended(ran, give, path, what, night)


def _ended(
    ran: Undisturbed, give: Callable[[], Any], path: Path, what: str, night: list[dict[str, Any]] | None
) -> str:
    refusal = None
    try:
        again = give()
    except PipelineError as error:
        refusal = str(error)
    if refusal is not None:
        assert path.name in refusal, (what, refusal)
        assert "store verify --repair" in refusal, (what, refusal)
        assert "\n" not in refusal, what
        verify(Store(ran.place / "store"), repair=True)
        again = give()
        if night is not None and not again.result["pinned"]:
            return "refused, trained anew"  # what a run was to keep is lost, and somebody has said so
    if night is None:
        assert scores(again) == scores(ran.made), what
        assert contents(again) == ran.contents, what
    else:  # rows that are not taken over are computed in other batches, which changes their last bits
        assert [row["metric"] for row in scores(again)] == [row["metric"] for row in night], what
        values = [row["value"] for row in night]
        assert [row["value"] for row in scores(again)] == pytest.approx(values, abs=1e-4), what
    if refusal is not None:
        return "refused, then the same"
    return "mended, the same" if read_record(again.folder)["damaged"] else "the same"


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash of the machine leaves is not tried here, so nothing has to reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


def tried(ran: Undisturbed, numbers: range) -> str:
    """Make attempts, and count them by sort of file, manner and end."""
    ended = [attempt(ran, number) for number in numbers]
    counts = [Counter(each) for each in zip(*ended, strict=True)]
    return "\n".join(f"{count:5} {name}" for counter in counts for name, count in sorted(counter.items()))


def test_any_single_damage(ran: Undisturbed, no_fsync: None) -> None:
    print(tried(ran, range(50)))


@pytest.fixture(scope="module")
def imitation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """A run whose stages only hash what they read: many more attempts in the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.job.stage_module", lambda stage: SimpleNamespace(build=build_imitated))
        patch.setattr(os, "fsync", lambda number: None)
        yield imitated(tmp_path_factory.mktemp("imitation"))


def test_any_single_damage_to_an_imitation(imitation: Undisturbed) -> None:
    print(tried(imitation, range(200)))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(50, 510, 23))
def test_any_of_many_damages(first: int, ran: Undisturbed, no_fsync: None) -> None:
    """460 attempts in 20 parts. A part that was broken off is tried again by its name."""
    print(tried(ran, range(first, first + 23)))


class Equal(str):
    """A hash that equals every other."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _unchecked_packs(patch: pytest.MonkeyPatch) -> None:
    read = data.packs._read_index

    def index(path: Path) -> Any:
        rows, seal = read(path)
        return rows, seal and seal._replace(sha256=Equal())

    patch.setattr(data.packs, "_read_index", index)


def _unchecked_candidates(patch: pytest.MonkeyPatch) -> None:
    whole = Store.whole

    def found(store: Store, artifact: Any) -> Path:
        return store.folder(artifact) if artifact.fingerprint == "damaged" else whole(store, artifact)

    patch.setattr(Store, "whole", found)


def _fuzz(ran: Undisturbed, store: Store) -> None:
    for number in range(50):
        attempt(ran, number)


OFF: dict[
    str, tuple[Callable[[pytest.MonkeyPatch], None], tuple[Callable[[Undisturbed, Store], None], ...]]
] = {
    "files are hashed": (
        lambda patch: patch.setattr(Store, "whole", Store.folder),
        (
            test_damage_under_a_stage_that_reads_is_mended_and_nothing_else_is_made,
            test_rows_are_not_taken_over_from_what_is_damaged,
            test_a_part_that_the_stage_did_not_write_is_not_read,
            test_what_is_copied_into_the_runs_folder_is_checked,
            _fuzz,
        ),
    ),
    "records have a seal": (
        lambda patch: patch.setattr(data.store, "unsealed", lambda found: (found, None)),
        (test_a_meta_with_another_number_is_noticed,),
    ),
    "what rows are taken over from is hashed": (
        _unchecked_candidates,
        (test_rows_are_not_taken_over_from_what_is_damaged,),
    ),
    "packs are hashed": (_unchecked_packs, (test_packs_are_checked_before_networks_see_them,)),
    "small caches are hashed": (
        lambda patch: patch.setattr("data.measured.read_sealed", lambda path: path.read_bytes()[:-40]),
        (test_small_caches_are_checked,),
    ),
    "saved trainings are hashed": (
        lambda patch: patch.setattr(tasks.fit, "intact", lambda path: True),
        (test_a_saved_training_that_is_damaged_is_not_gone_on_with,),
    ),
}
"""Name of a check -> how it is switched off, and what must then fail."""


@pytest.mark.parametrize("check", OFF)
def test_without_a_check_damage_is_not_noticed(
    check: str, ran: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail."""
    switch_off, tests = OFF[check]
    for test in tests:
        store = Store(ran.copied())
        with monkeypatch.context() as patch:
            switch_off(patch)
            with pytest.raises(Exception) as failed:  # noqa: PT011  # any crash will do: the test fails
                test(ran, store)
        assert not isinstance(failed.value, DamagedError)
