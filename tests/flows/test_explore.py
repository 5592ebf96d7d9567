"""The stage `explore` in whole runs: its table, its pictures, and runs without labels or clusters."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from in_process import Made, photographs, run_chain, small
from PIL import Image

from data import schemas
from data.preprocessing import stored_size
from data.tables import column, read_table, read_vectors
from flows.estimate import estimate
from flows.recipes import override, recipe
from tasks.rows import drawn_rows, manifest_rows

MAP = {"protocols": ["few-label", "explore"], "explore": {"points": 100}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explore")
    photographs(folder / "photographs", each=120)
    return folder


@pytest.fixture(scope="module")
def ran(place: Path) -> Made:
    return run_chain(small(place, evaluate=MAP), "explore")


def points(ran: Made) -> dict[str, np.ndarray]:
    table = read_table(ran.path("explore") / "points.parquet", schemas.MAP)
    return {name: column(table, name) for name in table.column_names}


def test_the_images_are_chosen_as_the_settings_say(ran: Made) -> None:
    found = points(ran)
    assert (np.diff(found["index"]) > 0).all()
    assert found["random"].sum() == 100
    drawn, label = drawn_rows(ran.path("labels"))
    assert np.array_equal(found["index"][found["labelled"]], drawn)
    assert np.array_equal(found["label"][found["labelled"]], label)
    answers = read_table(ran.path("answers") / "answers.parquet", schemas.ANSWERS)
    wrong = column(answers, "index")[column(answers, "label") != column(answers, "predicted")]
    assert len(wrong)
    assert np.isin(wrong, found["index"]).all()
    assert ran.store.meta(ran.made["explore"])["of"] == 240


def test_places_are_the_principal_components_of_the_features(ran: Made) -> None:
    from sklearn.decomposition import PCA

    found = points(ran)
    features = dict(zip(*read_vectors(ran.path("embed")), strict=True))
    features |= dict(zip(*read_vectors(ran.path("embed-teacher-test")), strict=True))
    x = np.stack([features[i] for i in found["index"].tolist()]).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = PCA(2, svd_solver="full").fit(x)
    places = np.stack([found["x"], found["y"]], axis=1)
    signs = np.sign((places * expected.transform(x)).sum(axis=0))
    assert np.allclose(places, expected.transform(x) * signs, atol=1e-4)
    explained = ran.store.meta(ran.made["explore"])["explained"]
    assert explained == pytest.approx(expected.explained_variance_ratio_, rel=1e-3)


def test_clusters_and_answers_are_those_of_the_run(ran: Made) -> None:
    found = points(ran)
    test_index, _ = manifest_rows(ran.path("manifest"), ("test",))
    test = np.isin(found["index"], test_index)
    assigned = read_table(ran.path("assign"), schemas.ASSIGNMENTS)
    cluster_of = dict(zip(column(assigned, "index"), column(assigned, "cluster"), strict=True))
    own = [cluster_of[i] for i in found["index"][~test].tolist()]
    assert found["cluster"][~test].tolist() == own
    # A test image has the nearest centroid's cluster; here clustering space is the unit sphere.
    centroids = read_table(ran.path("cluster") / "centroids.parquet")
    centres = np.stack(centroids["vector"].to_pylist())[np.argsort(column(centroids, "cluster"))]
    index, x = read_vectors(ran.path("embed-teacher-test"))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True))[np.isin(index, found["index"])]
    squares = ((x[:, None].astype(np.float64) - centres[None]) ** 2).sum(axis=-1)
    assert found["cluster"][test].tolist() == squares.argmin(axis=1).tolist()
    assert np.allclose(found["distance"][test], squares.min(axis=1), atol=1e-4)
    answers = read_table(ran.path("answers") / "answers.parquet", schemas.ANSWERS)
    said = dict(zip(column(answers, "index"), column(answers, "predicted"), strict=True))
    assert found["predicted"][test].tolist() == [said[i] for i in found["index"][test].tolist()]
    assert (found["predicted"][~test] == -1).all()
    assert np.isnan(found["confidence"][~test]).all()


def test_each_picture_is_the_image_s(ran: Made, place: Path) -> None:
    from data import images

    meta, found = ran.store.meta(ran.made["explore"]), points(ran)
    sheet = Image.open(BytesIO((ran.path("explore") / "sprite.webp").read_bytes())).convert("RGB")
    pixels = np.asarray(sheet).astype(int)
    side, columns = meta["side"], meta["columns"]
    assert side == stored_size(16)
    table = read_table(ran.path("manifest") / "images.parquet", schemas.MANIFEST)
    source = {"train": f"folder:{place / 'photographs'}"}
    opened = images.open_images(table, source, side, cache=ran.store.cache("images"))
    stored = opened.read(found["index"]).astype(int)
    for i in range(len(stored)):
        y, x = i // columns * side, i % columns * side
        assert np.array_equal(pixels[y : y + side, x : x + side], stored[i])


def test_the_report_shows_the_map_and_a_second_run_takes_all_from_the_store(ran: Made, place: Path) -> None:
    page = (ran.folder / "report.html").read_text()
    assert len(re.findall(r'<path d="M\d+ \d+h0" class=', page)) == len(points(ran)["index"])
    assert "script-src &#39;sha256-" in page
    again = run_chain(small(place, evaluate=MAP), "again")
    assert again.made == ran.made
    assert all(row["cached"] for row in again.result["stages"])
    planned = {row.stage: row for row in estimate(small(place, evaluate=MAP)).rows}
    assert {"manifest", "embed", "embed-teacher-test", "answers"} <= set(planned["explore"].reads)


def test_a_run_without_labels_or_clusters_has_a_map_too(place: Path) -> None:
    teacher = {"method": "simclr", "backbone": "smallconv", "width": 0.25, "epochs": 1, "batch_size": 32}
    bare = small(
        place,
        evaluate=MAP,
        data={"train": f"folder:{place / 'photographs'}?folders=none", "labels_per_class": None},
        pretext=teacher,
        transfer={"method": "seed", "epochs": 1, "queue": 64},
    )
    ran = run_chain(bare, "bare")
    found = points(ran)
    assert set(ran.inputs("explore")) == {"manifest", "embedded"}
    for name in ("label", "cluster", "predicted"):
        assert (found[name] == -1).all()
    page = (ran.folder / "report.html").read_text()
    assert 'id="explore-plane"' in page
    assert 'type="radio"' not in page


def test_images_that_were_clustered_elsewhere_have_no_cluster_on_the_map(place: Path) -> None:
    flowers = f"folder:{place / 'photographs' / 'flower'}"
    elsewhere = small(place, evaluate=MAP, cluster={"data": flowers}, until="transfer")
    ran = run_chain(elsewhere, "elsewhere")
    assert not {"clusters", "assignments"} & set(ran.inputs("explore"))
    assert (points(ran)["cluster"] == -1).all()


def test_the_recipes_for_a_first_look_draw_a_map() -> None:
    for name in ("digits", "photos", "cifar10"):
        assert "explore" in recipe(name).evaluate.protocols


def test_a_map_by_tsne_says_so_and_changes_no_other_stage(ran: Made, place: Path) -> None:
    pytest.importorskip("openTSNE")
    evaluate = {**MAP, "explore": {"points": 100, "projection": "tsne"}}
    again = run_chain(small(place, evaluate=evaluate), "tsne")
    assert {row["stage"] for row in again.result["stages"] if not row["cached"]} == {"explore", "report"}
    assert again.store.meta(again.made["explore"])["explained"] is None
    found = points(again)
    assert np.array_equal(found["index"], points(ran)["index"])
    assert np.isfinite(found["x"]).all()
    assert np.ptp(found["x"]) > 3  # PCA of rows of length 1 has at most 2
    assert "This is t-SNE" in (again.folder / "report.html").read_text()


def test_tsne_is_refused_in_one_line_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from data.errors import ConfigError

    monkeypatch.setattr("models.configs.evaluations.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package openTSNE; install it with: pip install 'know"):
        override(recipe("digits"), {"evaluate": {"explore": {"projection": "tsne"}}})
