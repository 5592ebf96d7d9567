"""The stage predict: which networks' neighbours it uses, and the probe that it averages in."""

from __future__ import annotations

import numpy as np
import pytest

from data import schemas
from data.store import Store
from data.tables import VectorWriter, read_vectors, write_table
from data.types import Artifact, Kind
from tasks.config import Compute, Config, Predict
from tasks.job import Job
from tasks.stages.propagate import build, plan, probe


def corners(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around the four corners of a square, in turn: (n, 2), and the corner of each."""
    corner = np.arange(n) % 4
    centres = np.array([[0, 0], [0, 8], [8, 0], [8, 8]], np.float32)
    return (centres[corner] + np.random.default_rng(seed).normal(0, 1, (n, 2))).astype(np.float32), corner


def test_probe_tells_corners_apart_and_gives_nothing_to_a_class_without_label() -> None:
    x, corner = corners(200, 0)
    found = probe(x, np.arange(40), corner[:40].astype(np.int32), classes=6)
    assert found.shape == (200, 6)
    assert (found[:, 4:] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert (found.argmax(axis=1) == corner).mean() > 0.95
    moved = probe(x * np.float32([3, 0.1]) + 7, np.arange(40), corner[:40].astype(np.int32), classes=6)
    np.testing.assert_allclose(moved, found, atol=1e-3)  # scale and place of a feature don't matter


@pytest.fixture
def run(tmp_path):  # type: ignore[no-untyped-def]
    """Propagate two labels over 60 images that two networks have embedded -> probabilities."""
    store = Store(str(tmp_path))

    def publish(kind: Kind, name: str, write) -> Artifact:  # type: ignore[no-untyped-def]
        artifact = Artifact(kind=kind, fingerprint=name)
        if not store.has(artifact):
            with store.draft(artifact, interrupted=lambda: False, waiting=lambda: None) as draft:
                write(draft / "out")
                store.publish(artifact, draft, {"rows": 1, "stage": "test"})
        return artifact

    def vectors(kind: Kind, name: str, values: np.ndarray, schema) -> Artifact:  # type: ignore[no-untyped-def]
        def write(folder) -> None:  # type: ignore[no-untyped-def]
            with VectorWriter(folder, schema) as out:
                out.write(np.arange(len(values)), values.astype(np.float32))

        return publish(kind, name, write)

    def go(
        first: np.ndarray, second: np.ndarray | None, prior: np.ndarray, labelled: dict[int, int]
    ) -> np.ndarray:  # type: ignore[no-untyped-def]
        def draw(folder) -> None:  # type: ignore[no-untyped-def]
            columns = {
                "index": np.array([*labelled]),
                "label": np.array([*labelled.values()], np.int32),
                "role": np.array(["train"] * len(labelled), object),
            }
            write_table(folder / "labels.parquet", columns, schemas.LABELS)

        config = Config(predict=Predict(neighbours=5, prior=0.0), cluster={"normalise": False})  # type: ignore[arg-type]
        inputs = {
            "features": vectors("features", "first", first, schemas.features(first.shape[1], "m", "l")),
            "probabilities": vectors("probabilities", "prior", prior, schemas.probabilities(prior.shape[1])),
            "labels": publish("labels", "draw", draw),
        }
        if second is not None:
            inputs["second"] = vectors(
                "features", "second", second, schemas.features(second.shape[1], "n", "l")
            )
        out = tmp_path / f"made-{second is None}"
        out.mkdir()
        job = Job(store, plan(config, **inputs), out, out, Compute(), lambda event: None, lambda: False, {})
        build(job)
        return read_vectors(out)[1]

    return go


def test_a_second_network_joins_what_the_first_can_not_tell_apart(run) -> None:  # type: ignore[no-untyped-def]
    """The first network tells left from right, the second up from down. Each corner has one label."""
    x, corner = corners(60, 1)
    prior = np.full((60, 4), 0.25)
    labelled = {i: int(corner[i]) for i in range(4)}
    alone = run(x[:, :1], None, prior, labelled)
    together = run(x[:, :1], x[:, 1:], prior, labelled)
    assert (alone.argmax(axis=1) == corner).mean() < 0.75
    assert (together.argmax(axis=1) == corner).mean() > 0.95
