"""Files written with `replacing` appear whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from data.files import read_sealed, replacing, write_sealed


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("half")
        assert path.read_text() == "old"
        assert draft.parent == tmp_path
        draft.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.txt", [str(n) * 10_000 for n in range(8)]

    def write(text: str) -> None:
        with replacing(path, durable=False) as draft:
            draft.write_text(text)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts for _ in range(5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_sealed_file_is_read_only_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_sealed(path, b"content")
    assert read_sealed(path) == b"content"
    whole = path.read_bytes()
    for at in range(len(b"content")):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_sealed(path) is None
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 128]))
    assert read_sealed(path) is None
    path.write_bytes(b"from before")
    assert read_sealed(path) == b"from before"
