"""Manifests of unchanged sources are known without listing. Sources that may have changed are listed."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.store import Store
from data.types import Artifact
from tasks.config import Config, Data
from tasks.recall import Recall
from tasks.stages.manifest import plan

MADE = Artifact(kind="manifest", fingerprint="0" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the artifact that the tests remember."""
    made = Store(str(tmp_path / "store"))
    draft_of(made)
    return made


def draft_of(store: Store) -> None:
    with store.draft(MADE, interrupted=lambda: False, waiting=lambda: None) as draft:
        (draft / "out" / "images.parquet").write_bytes(b"")
        store.publish(MADE, draft, {"rows": 0})


def request(train: str, **data: object):  # type: ignore[no-untyped-def]  # a test's shorthand
    return plan(Config(data=Data(train=train, **data)))  # type: ignore[arg-type]


def write(path: Path) -> str:
    pq.write_table(pa.table({"image": [b"x"]}), path)
    return f"parquet:{path}"


def test_digits_are_recalled_and_another_bound_is_another_question(store: Store) -> None:
    assert Recall(store, request("digits")).made() is None
    Recall(store, request("digits")).keep(MADE)
    assert Recall(store, request("digits")).made() == MADE
    assert Recall(store, request("digits", max_rejected=0.5)).made() is None
    assert Recall(store, request("digits", test="digits")).made() is None


def test_a_changed_parquet_file_is_listed_anew(store: Store, tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet")
    Recall(store, request(source)).keep(MADE)
    assert Recall(store, request(source)).made() == MADE
    os.utime(tmp_path / "a.parquet", ns=(1, 1))
    assert Recall(store, request(source)).made() is None


def test_a_new_file_in_a_parquet_folder_is_listed_anew(store: Store, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    write(tmp_path / "many" / "a.parquet")
    source = f"parquet:{tmp_path / 'many'}"
    Recall(store, request(source)).keep(MADE)
    assert Recall(store, request(source)).made() == MADE
    write(tmp_path / "many" / "b.parquet")
    assert Recall(store, request(source)).made() is None


def test_what_changes_while_it_is_listed_is_seen_the_next_time(store: Store, tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet")
    recall = Recall(store, request(source))
    os.utime(tmp_path / "a.parquet", ns=(1, 1))
    recall.keep(MADE)
    assert Recall(store, request(source)).made() is None


def test_folders_are_always_listed(store: Store, tmp_path: Path) -> None:
    Recall(store, request(f"folder:{tmp_path}")).keep(MADE)
    assert Recall(store, request(f"folder:{tmp_path}")).made() is None


def test_what_is_gone_or_damaged_is_not_recalled(store: Store, tmp_path: Path) -> None:
    Recall(store, request("digits")).keep(MADE)
    (memory,) = (tmp_path / "store" / "cache" / "listings").iterdir()
    content = memory.read_text()
    for damaged in ("", "{}", "[1]", content[:-9]):
        memory.write_text(damaged)
        assert Recall(store, request("digits")).made() is None
    memory.write_text(content)
    (store.folder(MADE) / "meta.json").unlink()
    assert Recall(store, request("digits")).made() is None


def test_a_missing_source_is_the_users_mistake(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.parquet"):
        Recall(store, request(f"parquet:{tmp_path / 'gone.parquet'}"))
