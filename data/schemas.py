"""One Parquet schema per kind of artifact: the contract's columns, types and nullability."""

from __future__ import annotations

import pyarrow as pa


def _column(name: str, type_: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=nullable)


def _vector(dim: int, half: bool = False) -> pa.DataType:
    return pa.list_(pa.field("item", pa.float16() if half else pa.float32(), nullable=False), dim)


MANIFEST = pa.schema([
    _column("index", pa.int64()),
    _column("uri", pa.string()),
    _column("sha256", pa.string()),
    _column("split", pa.string()),
    _column("label", pa.int32(), nullable=True),
    _column("width", pa.int32()),
    _column("height", pa.int32()),
])  # fmt: skip
REJECTED = pa.schema([_column("split", pa.string()), _column("uri", pa.string()), _column("reason", pa.string())])
LABELS = pa.schema([_column("index", pa.int64()), _column("label", pa.int32()), _column("role", pa.string())])
LOG = pa.schema([
    _column("step", pa.int64()),
    _column("epoch", pa.float64()),
    _column("name", pa.string()),
    _column("value", pa.float64()),
])  # fmt: skip
ASSIGNMENTS = pa.schema([
    _column("index", pa.int64()),
    _column("cluster", pa.int32()),
    _column("distance", pa.float32()),
    _column("runner_up", pa.float32()),
])  # fmt: skip
CODES = pa.schema([
    _column("round", pa.int32()),
    _column("index", pa.int64()),
    _column("head", pa.int32()),
    _column("cluster", pa.int32()),
])  # fmt: skip
"""`round`: epochs that were trained when the labels were given."""
SCORES = pa.schema([
    _column("evaluation", pa.string()),
    _column("model", pa.string()),
    _column("metric", pa.string()),
    _column("split", pa.string()),
    _column("setting", pa.string()),
    _column("value", pa.float64()),
    _column("seed", pa.int64()),
    _column("n", pa.int64()),
])  # fmt: skip
OUTCOMES = pa.schema([
    _column("evaluation", pa.string()),
    _column("model", pa.string()),
    _column("metric", pa.string()),
    _column("setting", pa.string()),
    _column("index", pa.int64()),
    _column("right", pa.bool_()),
])  # fmt: skip
"""Beside the scores of a model: which test images they are right about, so that models can be compared image by image."""
LEADERBOARD = pa.schema([
    *(_column(name, pa.string()) for name in ("entry", "pretext", "teacher", "transfer", "student")),
    *(_column(name, pa.string()) for name in ("evaluation", "model", "metric", "setting")),
    _column("value", pa.float64()),
    _column("spread", pa.float64(), nullable=True),
    _column("seeds", pa.int64()),
    _column("n", pa.int64()),
    *(_column(name, pa.float64(), nullable=True) for name in ("behind", "low", "high")),
])  # fmt: skip
"""Scores of several runs: mean and deviation over seeds, and the difference to the best with its 95 % interval."""


def features(dim: int, model: str, layer: str) -> pa.Schema:
    """Features: index and a vector of `dim` float32; metadata says which model and layer."""
    metadata = {"model": model, "layer": layer, "dim": str(dim)}
    return pa.schema([_column("index", pa.int64()), _column("vector", _vector(dim))], metadata=metadata)


def centroids(dim: int) -> pa.Schema:
    """Clusters: id, training points nearest to it, centroid in clustering space."""
    return pa.schema([_column("cluster", pa.int32()), _column("size", pa.int64()), _column("vector", _vector(dim))])


def probabilities(classes: int) -> pa.Schema:
    """Probabilities: index and a row of `classes` float32 that sums to 1."""
    return pa.schema([_column("index", pa.int64()), _column("probability", _vector(classes))])
