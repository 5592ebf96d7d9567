import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import schemas, tables
from data.errors import ArtifactError


@pytest.mark.parametrize("rows_per_part", [7, 100])
def test_vectors_come_back_by_index_whatever_the_parts(tmp_path: Path, rows_per_part: int) -> None:
    rng = np.random.default_rng(0)
    index, x = rng.permutation(40).astype(np.int64), rng.normal(size=(40, 5)).astype(np.float32)
    with tables.VectorWriter(tmp_path, schemas.features(5, "m", "conv4"), rows_per_part) as out:
        for start in range(0, 40, 6):
            out.write(index[start : start + 6], x[start : start + 6])
    got_index, got = tables.read_vectors(tmp_path)
    assert np.array_equal(got_index, np.arange(40))
    assert np.array_equal(got, x[np.argsort(index)])
    assert len(list(tmp_path.glob("part-*.parquet"))) == (1 if rows_per_part == 100 else 7)


def test_plain_readers_see_the_contracts_schema(tmp_path: Path) -> None:
    import pandas as pd

    with tables.VectorWriter(tmp_path, schemas.features(3, "abc", "layer3")) as out:
        out.write(np.arange(2), np.ones((2, 3), np.float32))
    schema = pq.read_schema(tmp_path / "part-00000.parquet")
    vector = schema.field("vector").type
    assert (vector.list_size, vector.value_type, vector.value_field.nullable) == (3, pa.float32(), False)
    assert schema.metadata == {b"model": b"abc", b"layer": b"layer3", b"dim": b"3"}
    assert pd.read_parquet(tmp_path)["vector"].iloc[1].tolist() == [1.0, 1.0, 1.0]


def test_no_vectors_are_still_a_readable_artifact(tmp_path: Path) -> None:
    with tables.VectorWriter(tmp_path, schemas.features(4, "m", "l")):
        pass
    index, x = tables.read_vectors(tmp_path)
    assert index.shape == (0,)
    assert x.shape == (0, 4)


def test_a_missing_column_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="column role is missing"):
        tables.write_table(tmp_path / "labels.parquet", {"index": [1], "label": [2]}, schemas.LABELS)
    tables.write_table(
        tmp_path / "log.parquet", {"step": [1], "epoch": [0.5], "name": ["a"], "value": [1.0]}, schemas.LOG
    )
    with pytest.raises(ArtifactError, match="column index"):
        tables.read_table(tmp_path / "log.parquet", schemas.LABELS)


def test_unknown_labels_are_null_on_disk_and_minus_one_in_memory(tmp_path: Path) -> None:
    names = {"uri": ["a", "b"], "sha256": ["x", "y"], "split": ["train"] * 2}
    numbers = {"index": [0, 1], "label": [3, None], "width": [1, 1], "height": [1, 1]}
    tables.write_table(tmp_path / "images.parquet", {**numbers, **names}, schemas.MANIFEST)
    table = tables.read_table(tmp_path / "images.parquet", schemas.MANIFEST)
    assert table["label"].to_pylist() == [3, None]
    assert tables.column(table, "label").tolist() == [3, -1]


def test_rows_are_joined_by_index_and_a_missing_one_is_named() -> None:
    index = np.array([2, 3, 7, 9])
    assert tables.positions(index, np.array([9, 2, 2]), "features").tolist() == [3, 0, 0]
    for wanted in ([3, 4], [10], [0]):
        with pytest.raises(ArtifactError, match=f"features: there is no row for index {wanted[-1]}"):
            tables.positions(index, np.array(wanted), "features")
    with pytest.raises(ArtifactError, match="no row for index 1"):
        tables.positions(np.zeros(0, np.int64), np.array([1]), "features")
    assert tables.positions(index, np.zeros(0, np.int64), "features").tolist() == []


def test_a_table_of_columns_declared_by_name(tmp_path: Path) -> None:
    declared = {"index": "int64", "times": "float32", "name": "string"}
    path = tmp_path / "own.parquet"
    assert tables.write_table(path, {"index": [1, 2], "times": [0.5, 1], "name": ["a", "b"]}, declared) == 2
    assert {field.name: str(field.type) for field in tables.read_table(path).schema} == {
        "index": "int64",
        "times": "float",
        "name": "string",
    }
    with pytest.raises(ArtifactError, match="column times is missing"):
        tables.write_table(path, {"index": [1], "name": ["a"]}, declared)


def test_several_artifacts_are_read_in_step_whatever_their_blocks(tmp_path: Path) -> None:
    index, x = np.arange(40), np.random.default_rng(0).normal(size=(2, 40, 3)).astype(np.float32)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, values, block, part in zip(folders, x, (6, 17), (7, 100), strict=True):
        folder.mkdir()
        with tables.VectorWriter(folder, schemas.features(3, "m", "l"), part) as out:
            for start in range(0, 40, block):
                out.write(index[start : start + block], values[start : start + block])
    found = list(tables.iterate_in_step(folders, rows=5))
    assert np.array_equal(np.concatenate([at for at, _ in found]), index)
    for number in range(2):
        assert np.array_equal(np.concatenate([blocks[number] for _, blocks in found]), x[number])


@pytest.mark.parametrize("other", [np.arange(1, 41), np.arange(39), np.zeros(0, np.int64)])
def test_artifacts_of_other_images_are_not_read_in_step(tmp_path: Path, other: np.ndarray) -> None:
    for name, index in (("a", np.arange(40)), ("b", other)):
        (tmp_path / name).mkdir()
        with tables.VectorWriter(tmp_path / name, schemas.features(1, "m", "l")) as out:
            out.write(index, np.zeros((len(index), 1), np.float32))
    with pytest.raises(ArtifactError, match="different images"):
        list(tables.iterate_in_step([tmp_path / "a", tmp_path / "b"]))


def test_one_file_is_read_without_pandas(tmp_path: Path) -> None:
    """A rerun that finds everything reads one small table, and pandas would take a tenth of its time."""
    path = tmp_path / "log.parquet"
    tables.write_table(path, {"step": [1], "epoch": [0.5], "name": ["a"], "value": [1.0]}, schemas.LOG)
    code = (
        f"import sys; from pathlib import Path; from data.tables import read_table;"
        f" assert read_table(Path({str(path)!r})).num_rows == 1; assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent.parent)
