"""The Parquet schemas of the artifacts: columns, types and which of them may be null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa


def _column(name: str, type_: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable)


def _vector(dim: int, half: bool = False) -> pa.DataType:
    return pa.list_(pa.field("item", pa.float16() if half else pa.float32(), nullable=False), dim)


def schema_of(columns: Mapping[str, str]) -> pa.Schema:
    """Make a schema without nulls from column names and names of Arrow types, such as {"index": "int64"}.

    Raises:
        ValueError: Arrow has no type of that name.
    """
    return pa.schema([_column(name, pa.type_for_alias(type_)) for name, type_ in columns.items()])


MANIFEST = pa.schema(
    [
        _column("index", pa.int64()),
        _column("uri", pa.string()),
        _column("sha256", pa.string()),
        _column("split", pa.string()),
        _column("label", pa.int32(), nullable=True),
        _column("width", pa.int32()),
        _column("height", pa.int32()),
    ]
)
REJECTED = pa.schema(
    [_column("split", pa.string()), _column("uri", pa.string()), _column("reason", pa.string())]
)
TWINS = pa.schema(
    [
        _column("first", pa.int64(), nullable=True),
        _column("second", pa.int64(), nullable=True),
        *(_column(name, pa.string()) for name in ("first_split", "first_uri", "second_split", "second_uri")),
        _column("kind", pa.string()),
        _column("correlation", pa.float32()),
    ]
)
"""Pairs of images that show the same picture; `first` and `second` are indices, null for dropped images."""
LABELS = pa.schema([_column("index", pa.int64()), _column("label", pa.int32()), _column("role", pa.string())])
LOG = pa.schema(
    [
        _column("step", pa.int64()),
        _column("epoch", pa.float64()),
        _column("name", pa.string()),
        _column("value", pa.float64()),
    ]
)
ASSIGNMENTS = pa.schema(
    [
        _column("index", pa.int64()),
        _column("cluster", pa.int32()),
        _column("distance", pa.float32()),
        _column("runner_up", pa.float32()),
    ]
)
CODES = pa.schema(
    [
        _column("round", pa.int32()),
        _column("index", pa.int64()),
        _column("head", pa.int32()),
        _column("cluster", pa.int32()),
    ]
)
"""`round`: the number of epochs trained when these labels were assigned."""
SCORES = pa.schema(
    [
        _column("evaluation", pa.string()),
        _column("model", pa.string()),
        _column("metric", pa.string()),
        _column("split", pa.string()),
        _column("setting", pa.string()),
        _column("value", pa.float64()),
        _column("seed", pa.int64()),
        _column("n", pa.int64()),
    ]
)
OUTCOMES = pa.schema(
    [
        _column("evaluation", pa.string()),
        _column("model", pa.string()),
        _column("metric", pa.string()),
        _column("setting", pa.string()),
        _column("index", pa.int64()),
        _column("right", pa.bool_()),
    ]
)
"""Whether a model is right about each test image. With this, models can be compared image by image."""
CONTENDERS = pa.schema(
    [
        _column("model", pa.string()),
        *(_column(name, pa.float64(), nullable=True) for name in ("accuracy", "low", "high", "log_loss")),
        _column("temperature", pa.float64()),
        _column("weight", pa.float64()),
        _column("n", pa.int64()),
    ]
)
"""What the drawn labels say of each classifier, from held-out predictions, and its weight in the mixture."""
JUDGED = pa.schema(
    [
        _column("index", pa.int64()),
        _column("model", pa.string()),
        _column("right", pa.bool_()),
        _column("loss", pa.float64()),
        _column("counts", pa.float64()),
    ]
)
"""What each classifier says of each labelled image out of fold: whether it is right, and the loss, -ln of the
label's probability. And how much the image counts."""
ANSWERS = pa.schema(
    [
        _column("index", pa.int64()),
        _column("label", pa.int32(), nullable=True),
        _column("predicted", pa.int32()),
        _column("confidence", pa.float32()),
        _column("runner_up", pa.int32()),
        _column("runner_up_confidence", pa.float32()),
    ]
)
"""What a classifier says of each image: its two most probable classes, with their probabilities."""
MAP = pa.schema(
    [
        _column("index", pa.int64()),
        _column("x", pa.float32()),
        _column("y", pa.float32()),
        _column("label", pa.int32(), nullable=True),
        _column("labelled", pa.bool_()),
        _column("random", pa.bool_()),
        _column("cluster", pa.int32(), nullable=True),
        _column("distance", pa.float32(), nullable=True),
        _column("predicted", pa.int32(), nullable=True),
        _column("confidence", pa.float32(), nullable=True),
    ]
)
"""The images on the map, in order of index. `label` is the image's own label, known to the run or not.

`labelled`: its label was drawn. `random`: it is one of the random images. `distance`: squared L2, to the
centroid of its cluster. `predicted` and `confidence`: the answer of the model that ships.
"""
LEADERBOARD = pa.schema(
    [
        *(_column(name, pa.string()) for name in ("entry", "pretext", "teacher", "transfer", "student")),
        *(_column(name, pa.string()) for name in ("evaluation", "model", "metric", "setting")),
        _column("value", pa.float64()),
        _column("spread", pa.float64(), nullable=True),
        _column("seeds", pa.int64()),
        _column("n", pa.int64()),
        *(_column(name, pa.float64(), nullable=True) for name in ("behind", "low", "high")),
        _column("test_set", pa.int64()),
    ]
)
"""Scores of several runs: `value` is the mean over seeds and `spread` the standard deviation.

`behind` is the difference to the best run of the same test set, and `low` and `high` are its 95 % interval.
`test_set` counts from 1; only entries of the same number have the same test images.
"""


def features(dim: int, model: str, layer: str) -> pa.Schema:
    """Features: index, and a vector of `dim` float32. The metadata holds model, layer and dim."""
    metadata = {"model": model, "layer": layer, "dim": str(dim)}
    return pa.schema([_column("index", pa.int64()), _column("vector", _vector(dim))], metadata=metadata)


def centroids(dim: int) -> pa.Schema:
    """Clusters: id, number of training points nearest to it, and centroid (`dim` float32).

    The centroid is in clustering space.
    """
    return pa.schema(
        [_column("cluster", pa.int32()), _column("size", pa.int64()), _column("vector", _vector(dim))]
    )


def out_of_fold(classes: int) -> pa.Schema:
    """Out-of-fold predictions: index, label, and logits of a classifier that did not learn this label."""
    return pa.schema(
        [_column("index", pa.int64()), _column("label", pa.int32()), _column("logit", _vector(classes))]
    )


INDICES = pa.schema([_column("index", pa.int64())])
"""Some images: those that a network did not learn."""


def probabilities(classes: int) -> pa.Schema:
    """Probabilities: index, and a vector of `classes` float32 that sums to 1."""
    return pa.schema([_column("index", pa.int64()), _column("probability", _vector(classes))])


def predictions(
    classes: Sequence[str], *, top: int = 2, every: bool = False, dim: int = 0, neighbours: int = 0
) -> pa.Schema:
    """Schema of what `predict` says, one row per image. All columns but `uri` and `source` may be null.

    Args:
        classes: names of the classes.
        top: number of most likely classes. The first two are `class` and `runner_up`, the next `class_3` ...
        every: whether each class has a column of its probability, `p_NAME`.
        dim: D of the column `vector`; 0: no such column.
        neighbours: number of similar training images.
    """
    fields = [_column("uri", pa.string())]
    if classes:
        best = [("class", "probability"), ("runner_up", "runner_up_probability")]
        best += [(f"class_{n}", f"probability_{n}") for n in range(3, min(top, len(classes)) + 1)]
        for name, probability in best:
            fields += [_column(name, pa.string(), True), _column(probability, pa.float32(), True)]
        fields += [_column(f"p_{name}", pa.float32(), True) for name in (classes if every else ())]
    if dim:
        fields.append(_column("vector", _vector(dim), True))
    for n in range(1, neighbours + 1):
        fields.append(_column(f"neighbour_{n}", pa.string(), True))
        fields.append(_column(f"neighbour_{n}_class", pa.string(), True))
        fields.append(_column(f"neighbour_{n}_similarity", pa.float32(), True))
    return pa.schema([*fields, _column("reason", pa.string(), True), _column("source", pa.string())])
