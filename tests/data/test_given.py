"""What a user names as images: which word is what, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import ConfigError
from data.preprocessing import Preprocessing
from data.sources import Unreadable
from data.sources.given import Given, InMemory, open_given
from data.sources.parquet import ParquetSource
from data.squares import read, read_all, together, wanted
from models.network import MEAN, STD

RULE = Preprocessing(8, MEAN, STD)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "train", "test", "a?b=c"):
        Path(name).mkdir()
        photo(f"{name}/1.png", 1)
    photo("b.png", 2)
    photo("a.png", 3)


def photo(name: str, value: int) -> None:
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(name)


def uris(*words: str) -> list[tuple[str, str]]:
    return [
        (found.source, uri)
        for work in wanted(open_given(words), RULE)
        for found in read(work)
        for uri in found.uris
    ]


def test_files_keep_their_order_and_folders_come_between() -> None:
    assert uris("b.png", "a.png", "test", "./b.png") == [
        ("files", "b.png"),
        ("files", "a.png"),
        ("test", "1.png"),
        ("files", "./b.png"),
    ]


def test_a_source_s_name_wins_and_a_path_is_written_with_a_slash() -> None:
    (source,) = open_given(["digits"])
    assert len(source.entries()) == 360
    assert uris("./digits") == [("./digits", "1.png")]


def test_a_folder_gives_all_of_it_whatever_its_folders_are_called() -> None:
    assert {uri for _, uri in uris(".")} >= {"train/1.png", "test/1.png", "a.png"}
    assert uris("a?b=c") == [("a?b=c", "1.png")]


def test_urls_of_files_and_passwords() -> None:
    (source,) = open_given(["memory://there/x.png", "ftp://me:secret@nowhere.invalid/x.png"])
    assert isinstance(source, Given)
    assert {entry.uri for entry in source.entries()} == {
        "memory://there/x.png",
        "ftp://me:***@nowhere.invalid/x.png",
    }


@pytest.mark.parametrize("word", ["gone.png", "gone", "nothing:here", "torchvision:"])
def test_what_is_not_there_is_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        open_given(["a.png", word])


def test_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no images"):
        open_given([])


def test_a_file_that_vanishes_is_a_bad_image_and_the_others_are_read() -> None:
    (source,) = open_given(["a.png", "b.png"])
    Path("a.png").unlink()
    (work,) = wanted([source], RULE)
    (found,) = read(work)
    assert found.uris == ["a.png", "b.png"]
    assert found.reasons == ["it can't be read (No such file or directory)", None]
    assert found.squares.tolist() == np.full((1, 8, 8, 3), 2).tolist()


def test_arrays_of_any_size() -> None:
    arrays = [np.full((8, 8), 7, np.uint8), np.full((20, 30, 3), 9, np.uint8), np.zeros((4, 4, 4), np.uint8)]
    (work,) = wanted([InMemory(arrays)], RULE)
    (found,) = read(work)
    assert found.squares.tolist() == [np.full((8, 8, 3), 7).tolist(), np.full((8, 8, 3), 9).tolist()]
    assert found.reasons[:2] == [None, None]
    assert "4 bands" in str(found.reasons[2])


def test_batches_are_bounded_in_bytes_and_in_number() -> None:
    assert together(RULE) == 512
    assert together(Preprocessing(224, MEAN, STD)) * 256 * 256 * 3 <= 16 << 20


def test_a_row_group_is_read_once_and_given_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": {"bytes": Path("a.png").read_bytes()}, "label": 0}] * 20
    pq.write_table(pa.Table.from_pylist(rows), "rows.parquet")
    monkeypatch.setattr("data.squares.MOST", 8)
    monkeypatch.setattr("data.squares.TOGETHER", 0)
    passes: list[int] = []
    real = ParquetSource._rows

    def counted(*given: Any) -> Iterator[bytes | Unreadable]:
        passes.append(1)
        return real(*given)

    monkeypatch.setattr(ParquetSource, "_rows", counted)
    (work,) = wanted(open_given(["parquet:rows.parquet"]), RULE)
    assert [len(found.squares) for found in read(work)] == [8, 8, 4]
    assert len(passes) == 1
    assert [len(found.squares) for found in read_all(work)] == [8, 8, 4]
