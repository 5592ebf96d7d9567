"""`show` explains every key, what it prints gives the same configuration, and docs/settings.md is current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, settings

from data.errors import ConfigError
from data.types import Frozen
from flows.__main__ import main
from flows.as_yaml import changed, explained, plain
from flows.recipes import NAMES, override, parse_settings, recipe
from flows.settings import page
from flows.settings import settings as settings_of
from models.configs import PRETEXT, TRANSFER
from tasks.config import Config

CHANGES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "a key": ("cluster.k=7",),
    "another pretext method": ("pretext.method=swav", "pretext.epochs=3"),
    "a method like the old one": ("pretext.method=moco", "pretext.temperature=0.5"),
    "a method with a key that must be given": ("pretext.method=external", "pretext.features=parquet:x"),
    "another transfer method": ("pretext.method=byol", "transfer.method=s2bnn", "transfer.queue=64"),
    "labels of one's own, and a draw": ("data.labels=csv:x", "data.labels_per_class=2"),
    "labels of one's own": ("data.labels=csv:x",),
    "the other way to draw": ("data.label_fraction=0.1",),
    "the default draw": ("data.labels_per_class=null", "data.label_fraction=null"),
    "options": ("evaluate.detection.scales=[0.5, 1]", "evaluate.knn_temperatures=[1e-3]"),
    "a label": ("recipe=mine", "seed=3"),
    "text that YAML could misread": (
        'data.train="folder:a # b: c\\n  d 😀"',
        'data.unlabelled="folder: x"',
        'embed.layer="null"',
        'store="1e3"',
    ),
}
NO_TEACHER = [(name, "a method with a key that must be given") for name in ("s2bnn-imagenet", "photos")]
"""The first recipe's student learns from the teacher, the second plans its training; this method has none."""


def all_settings() -> dict[str, Any]:
    """Every key of every section and method, with its setting."""
    found = {}

    def walk(model: type[Frozen], above: str, place: str) -> None:
        for name, setting in settings_of(model, above).items():
            found[f"{place}{name}"] = setting
        for name, field in model.model_fields.items():
            if isinstance(field.default, Frozen) and name not in ("pretext", "transfer"):
                walk(type(field.default), f"{above}{name}.", f"{place}{name}.")

    walk(Config, "", "")
    for section, known in (("pretext", PRETEXT), ("transfer", TRANSFER)):
        for method, model in known.items():
            walk(model, f"{section}.", f"{section}[{method}].")
    return found


def read_again(text: str, folder: Path) -> Config:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return recipe(str(path))


@pytest.mark.parametrize(
    ("name", "change"),
    [(name, change) for name in NAMES for change in CHANGES if (name, change) not in NO_TEACHER],
)
def test_what_show_prints_gives_the_same_configuration(name: str, change: str, tmp_path: Path) -> None:
    over = parse_settings(list(CHANGES[change]))
    config = override(recipe(name), over)
    against = [None, name] if change == "nothing" else [name if config.recipe == name else None]
    texts = [explained(config), plain(config)]
    texts += [changed(config, base, comments) for base in against for comments in (True, False)]
    for text in texts:
        assert read_again(text, tmp_path) == config, text
        assert all(len(line) <= 100 for line in text.splitlines() if line.lstrip().startswith("#"))


def test_the_command_compares_with_what_the_configuration_started_from(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def show(*words: str) -> str:
        assert main(["show", *words]) == 0
        return capsys.readouterr().out

    assert yaml.safe_load(show("digits", "--plain")) == recipe("digits").model_dump()
    own = show("digits", "--changed")
    assert own.startswith("# Compared with the defaults")
    assert "k: 60  # instead of 2000" in own
    one = show("digits", "--changed", *settings("cluster.k=7"))
    assert one.startswith("# Compared with the recipe digits")
    assert "k: 7  # instead of 60" in one
    assert yaml.safe_load(one) == {"recipe": "digits", "cluster": {"k": 7}}
    (tmp_path / "file.yaml").write_text(one)
    assert show(str(tmp_path / "file.yaml"), "--changed") == one
    other = show("digits", "--changed", "--plain", *settings("pretext.method=hog", "pretext.cell=4"))
    assert yaml.safe_load(other) == {"recipe": "digits", "pretext": {"method": "hog", "cell": 4}}


def test_every_key_is_explained_with_its_range_once() -> None:
    found = all_settings()
    assert len(found) > 500
    for place, setting in found.items():
        text = setting.sentence
        assert re.match(r"[A-Za-z0-9].*[.]$", text), f"{place}: {text!r}"
        assert text.count(". ") < 9, place
        if setting.range:
            assert len(re.findall(rf"(?<![\w.]){re.escape(setting.range)}(?!\w)", text)) == 1, (
                f"{place}: {text}"
            )
        for value in setting.values:
            assert value in text, f"{place}: {text}"
        assert setting.allowed, place


@pytest.mark.parametrize(
    ("key", "within", "beyond"),
    [
        ("cluster.k", ("1", "1000000"), ("0", "1000001")),
        ("cluster.tolerance", ("0", "0.99"), ("-0.1", "1")),
        ("predict.alpha", ("0.01", "0.99"), ("0", "1")),
        ("student.width", ("0.01", "8"), ("0", "8.1")),
        ("cluster.sample", ("1", "123456789"), ("0",)),
    ],
)
def test_ranges_say_what_is_accepted(key: str, within: tuple[str, ...], beyond: tuple[str, ...]) -> None:
    said = {
        "cluster.k": "1 to 1000000",
        "cluster.tolerance": "0 to below 1",
        "predict.alpha": "above 0, below 1",
        "student.width": "above 0, up to 8",
        "cluster.sample": "1 or more",
    }
    assert all_settings()[key].range == said[key]
    for value in within:
        override(Config(), parse_settings([f"{key}={value}"]))
    for value in beyond:
        with pytest.raises(ConfigError, match=key):
            override(Config(), parse_settings([f"{key}={value}"]))


def test_the_page_of_settings_is_current() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == page(), "out of date; write it with: python -m flows.settings docs/settings.md"


def test_the_page_has_every_key_of_every_method() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \| (.+) \|$", page(), flags=re.MULTILINE)
    wanted = [setting.key for place, setting in all_settings().items() if not place.endswith("].method")]
    assert sorted(row[0] for row in rows) == sorted(wanted)


PARTIAL = {"recipe": "digits", "cluster": {"k": 7}, "pretext": {"epochs": 3}}


def test_a_file_inherits_from_the_recipe_that_it_names(tmp_path: Path) -> None:
    def read(values: dict[str, Any]) -> Config:
        return read_again(yaml.safe_dump(values), tmp_path)

    digits = recipe("digits")
    assert read({"recipe": "digits"}) == digits
    assert read(PARTIAL) == override(digits, {"cluster": {"k": 7}, "pretext": {"epochs": 3}})
    over = {"cluster": {"k": 9}}  # --set wins over the file, and the file over the recipe
    config = override(read(PARTIAL), over)
    assert (config.cluster.k, config.cluster.restarts, config.pretext.model_dump()["epochs"]) == (9, 3, 3)
    for values in ({"pretext": {"method": "swav"}}, {"data": {"unlabelled": "folder:x"}}):
        assert read({"recipe": "digits", **values}) == override(digits, values)
    with pytest.raises(ConfigError, match=r"cluster\.kk"):
        read({"recipe": "digits", "cluster": {"kk": 7}})


def test_any_other_name_is_a_label_and_inherits_nothing(tmp_path: Path) -> None:
    text = yaml.safe_dump({"cluster": {"k": 7}})
    wanted = override(Config(), {"cluster": {"k": 7}})
    assert read_again(text, tmp_path) == wanted.model_copy(update={"recipe": "mine"})
    assert read_again(f"recipe: other\n{text}", tmp_path) == wanted.model_copy(update={"recipe": "other"})


def test_a_misspelled_recipe_in_a_file_is_refused_unless_the_file_is_complete(tmp_path: Path) -> None:
    partial, whole = tmp_path / "partial.yaml", tmp_path / "whole.yaml"
    partial.write_text("recipe: digts\ncluster: {k: 50}\n")
    with pytest.raises(ConfigError, match="recipe: digits to take the rest"):
        recipe(str(partial))
    whole.write_text(plain(recipe("digits")).replace("recipe: digits", "recipe: digts"))
    assert recipe(str(whole)).recipe == "digts"
