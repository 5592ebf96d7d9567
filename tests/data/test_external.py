"""External features: how they are joined, what is refused, and what is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import external
from data.errors import DataError
from data.external import ExternalFeatures
from data.schemas import MANIFEST

D = 5
TRAIN = ("train", "unlabelled")


def manifest(uris: list[str], splits: list[str], contents: list[str] | None = None) -> pa.Table:
    n = len(uris)
    columns = {
        "index": np.arange(n),
        "uri": uris,
        "sha256": [f"{text:0>64}" for text in contents or map(str, range(n))],
        "split": splits,
        "label": [None] * n,
        "width": [8] * n,
        "height": [8] * n,
    }
    return pa.table(columns, schema=MANIFEST)


IMAGES = manifest([f"{i}.png" for i in range(6)], ["train"] * 3 + ["unlabelled"] + ["test"] * 2)


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def write(path: Path, x: Any, **columns: Any) -> str:
    pq.write_table(pa.table({**columns, "vector": x if isinstance(x, pa.Array) else list(x)}), path)
    return f"parquet:{path}"


def joined(
    spec: str, images: pa.Table = IMAGES, splits: tuple[str, ...] = TRAIN
) -> tuple[np.ndarray, np.ndarray]:
    """Index and vectors, in the order of index."""
    blocks = list(ExternalFeatures(spec).blocks(images, splits))
    index, x = (np.concatenate(part) for part in zip(*blocks, strict=True))
    assert x.dtype == np.float32
    return index[np.argsort(index)], x[np.argsort(index)]


@pytest.mark.parametrize("key", ["sha256", "uri"])
def test_join_in_any_order_with_rows_to_spare(key: str, tmp_path: Path) -> None:
    x = vectors(8)
    order = np.random.default_rng(1).permutation(8)
    names = [*IMAGES[key].to_pylist(), "of another image", "and another"]
    spec = write(tmp_path / "a.parquet", x[order], **{key: [names[i] for i in order]}, more=list(range(8)))
    index, found = joined(spec)
    assert index.tolist() == [0, 1, 2, 3]
    assert np.array_equal(found, x[:4])
    index, found = joined(spec, splits=("test",))
    assert np.array_equal(found, x[4:6])


def test_blocks_of_any_size_join_as_a_plain_merge_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    monkeypatch.setattr(external, "_ROWS", 7)
    rng = np.random.default_rng(2)
    images = manifest(
        [f"{i}.png" for i in range(60)], ["train"] * 60, [str(rng.integers(40)) for _ in range(60)]
    )
    known = pd.DataFrame({"sha256": images["sha256"].to_pylist(), "index": range(60)})
    rows = pd.DataFrame({"sha256": known["sha256"].unique()}).sample(frac=1, random_state=0)
    rows["vector"] = list(vectors(len(rows)))
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((rows[:20], rows[20:])):
        part.to_parquet(tmp_path / "parts" / f"{number}.parquet")
    index, found = joined(f"parquet:{tmp_path / 'parts'}", images)
    expected = known.merge(rows, on="sha256").sort_values("index")
    assert np.array_equal(index, expected["index"])
    assert np.array_equal(found, np.stack(expected["vector"].tolist()))  # identical images share a vector


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float16(), D),
        pa.list_(pa.float32(), D),
    ],
)
def test_lists_of_any_floats(kind: pa.DataType, tmp_path: Path) -> None:
    x = vectors(6).astype(np.float16).astype(np.float32)
    values = pa.array([row.astype(kind.value_type.to_pandas_dtype()) for row in x], type=kind)
    _, found = joined(write(tmp_path / "a.parquet", values, uri=IMAGES["uri"].to_pylist()))
    assert np.array_equal(found, x[:4])


def test_any_file_system(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", vectors(6), uri=IMAGES["uri"].to_pylist())
    fsspec.filesystem("memory").pipe("/vectors/a.parquet", (tmp_path / "a.parquet").read_bytes())
    there, here = (
        ExternalFeatures("parquet:memory://vectors"),
        ExternalFeatures(f"parquet:{tmp_path}/*.parquet"),
    )
    assert there.content({})[0] == here.content({})[0]
    assert np.array_equal(joined("parquet:memory://vectors")[1], vectors(6)[:4])
    assert there.width() == D


def refused(spec: str, says: str, images: pa.Table = IMAGES) -> None:
    with pytest.raises(DataError, match=says) as caught:
        joined(spec, images)
    assert "\n" not in str(caught.value)


def test_images_without_a_vector_are_counted_and_one_is_named(tmp_path: Path) -> None:
    spec = write(tmp_path / "a.parquet", vectors(2), uri=["0.png", "2.png"])
    refused(
        spec,
        r"2 of 4 images \(train, unlabelled\) have no vector; the first is '1\.png' with sha256 0{63}1; add",
    )
    refused(write(tmp_path / "b.parquet", vectors(1), uri=["x"]), r"4 of 4 images")


def test_two_vectors_for_an_image_are_refused(tmp_path: Path) -> None:
    uris = IMAGES["uri"].to_pylist()
    refused(
        write(tmp_path / "a.parquet", vectors(7), uri=[*uris, "3.png"]), r"image '3\.png' has two vectors"
    )
    (tmp_path / "parts").mkdir()
    for number in range(2):
        write(tmp_path / "parts" / f"{number}.parquet", vectors(6), uri=uris)
    refused(f"parquet:{tmp_path / 'parts'}", r"image '0\.png' has two vectors, the second in .*1\.parquet")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_that_are_not_finite_are_refused_where_they_are_needed(value: float, tmp_path: Path) -> None:
    for row, bad in ((2, True), (5, False)):
        x = vectors(6).astype(np.float64)
        x[row, 1] = value
        spec = write(tmp_path / f"{row}.parquet", x, uri=IMAGES["uri"].to_pylist())
        if bad:
            refused(spec, r"vector of image '2\.png' in .* not finite in float32")
        else:
            joined(spec)


def test_missing_values_and_ragged_vectors_are_refused(tmp_path: Path) -> None:
    uris = IMAGES["uri"].to_pylist()
    rows = [list(map(float, row)) for row in vectors(6)]
    holed: list[Any] = [*rows]
    holed[1] = [None, *rows[1][1:]]
    refused(write(tmp_path / "a.parquet", pa.array(holed), uri=uris), r"image '1\.png' .* not finite")
    ragged = pa.array([*rows[:3], rows[3][:2], *rows[4:]])
    refused(write(tmp_path / "b.parquet", ragged, uri=uris), "vectors of length 2, 5")
    refused(
        write(tmp_path / "c.parquet", pa.array([*rows[:3], None, *rows[4:]]), uri=uris),
        "all must have the same",
    )
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "0.parquet", pa.array(rows[:3]), uri=uris[:3])
    write(tmp_path / "parts" / "1.parquet", pa.array([row[:2] for row in rows[3:]]), uri=uris[3:])
    refused(
        f"parquet:{tmp_path / 'parts'}", r"vectors of length 2; all must have length 5, like those before"
    )


def test_columns_are_asked_for_by_name(tmp_path: Path) -> None:
    refused(
        write(tmp_path / "a.parquet", vectors(2), place=["0.png", "1.png"]),
        r"the columns place, vector; it needs vector",
    )
    pq.write_table(pa.table({"uri": ["0.png"], "vector": ["text"]}), tmp_path / "b.parquet")
    refused(f"parquet:{tmp_path / 'b.parquet'}", r"column 'vector' is string, not a list of floats")
    refused(f"parquet:{tmp_path / 'absent.parquet'}", "no Parquet file there")
    (tmp_path / "text.parquet").write_text("no Parquet")
    refused(f"parquet:{tmp_path / 'text.parquet'}", "not readable as Parquet")


def test_files_must_name_images_in_the_same_way(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", vectors(3), uri=IMAGES["uri"].to_pylist()[:3])
    write(tmp_path / "1.parquet", vectors(3), sha256=IMAGES["sha256"].to_pylist()[3:])
    refused(
        f"parquet:{tmp_path}", r"1\.parquet names images by sha256, but the file before it by uri; all .* way"
    )


def test_a_uri_of_several_images_needs_more_to_tell_them_apart(tmp_path: Path) -> None:
    images = manifest(["a.png", "b.png", "a.png"], ["train", "train", "test"])
    refused(
        write(tmp_path / "a.parquet", vectors(2), uri=["a.png", "b.png"]),
        r"uri 'a\.png' names several",
        images,
    )
    x = vectors(3)
    spec = write(tmp_path / "b.parquet", x, uri=["a.png", "a.png", "b.png"], split=["test", "train", "train"])
    assert np.array_equal(joined(spec, images)[1], x[[1, 2]])
    assert np.array_equal(joined(spec, images, ("test",))[1], x[:1])
    same = manifest(["a.png", "b.png", "a.png"], ["train", "train", "test"], ["0", "1", "0"])
    assert np.array_equal(
        joined(write(tmp_path / "c.parquet", x[:2], uri=["a.png", "b.png"]), same)[1], x[:2]
    )


def test_content_is_told_by_bytes_alone_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write(tmp_path / "a.parquet", vectors(2), uri=["a", "b"])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "z.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    content, known = ExternalFeatures(spec).content({})
    assert ExternalFeatures(f"parquet:{moved}").content({})[0] == content
    write(moved / "z.parquet", vectors(2, seed=1), uri=["a", "b"])
    assert ExternalFeatures(f"parquet:{moved}").content({})[0] != content

    def unread(*arguments: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(external.ParquetFiles, "raw", unread)
    assert ExternalFeatures(spec).content(known)[0] == content
    with pytest.raises(AssertionError, match="read again"):
        ExternalFeatures(spec).content({})
