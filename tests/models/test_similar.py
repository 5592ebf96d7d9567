"""The most similar images: the largest cosines, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data import schemas
from data.tables import VectorWriter
from models.clustering.similar import most_similar, unit


def test_they_have_the_largest_cosines(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    index = draws.permutation(1000)[:300].astype(np.int64)
    index.sort()
    vectors = draws.normal(size=(300, 7)).astype(np.float32) * draws.uniform(0.1, 50, (300, 1)).astype("f4")
    with VectorWriter(tmp_path, schemas.features(7, "model", "layer")) as out:
        out.write(index, vectors)
    asked = draws.normal(size=(20, 7)).astype(np.float32)
    found, cosine = most_similar(str(tmp_path), asked, 5)
    lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)[None]
    exact = (asked.astype(np.float64) @ vectors.T) / lengths
    best = np.argsort(-exact, axis=1)[:, :5]
    assert found.tolist() == index[best].tolist()
    np.testing.assert_allclose(cosine, np.take_along_axis(exact, best, 1), atol=1e-6)
    everything, _ = most_similar(str(tmp_path), asked[:1], 1000)
    assert sorted(everything[0].tolist()) == index.tolist()


def test_a_vector_of_zeros_stays() -> None:
    x = np.array([[0, 0], [3, 4]], np.float32)
    assert unit(x) == pytest.approx(np.array([[0, 0], [0.6, 0.8]]))
