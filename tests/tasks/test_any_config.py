"""Properties of the configuration: whatever is refused, one line names the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config_fields import fields
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigError, UserError
from flows.recipes import override, parse_settings, recipe
from tasks.config import Config
from tasks.overlay import merge, methods, resolve

BASE = Config().model_dump()


ALL = fields(Config())
WHOLE = st.sampled_from([-(2**63), -1, 0, 1, 2, 7, 10**6, 2**63 - 1, 2**63, 10**30]) | st.integers()
SIMPLE = (
    st.none()
    | st.booleans()
    | WHOLE
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from(["", " ", "simclr", "auto", "digits", "../x", "a\x00b", "sgd", "1e3", "x" * 300])
    | st.text(max_size=20)
)
ANYTHING = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
)


def nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def attempt(make: Callable[[], Config]) -> tuple[Any, str]:
    """(configuration, ""), or (None, why it is refused). Any other error fails the test."""
    try:
        return make(), ""
    except UserError as refusal:
        return None, str(refusal)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(ALL)), ANYTHING)
def test_a_refusal_names_the_key_in_one_line(key: str, value: Any) -> None:
    config, refusal = attempt(lambda: resolve(merge(BASE, nested(key, value))))
    if refusal:
        assert key in refusal or key.rpartition(".")[2] in refusal
        assert "\n" not in refusal
    else:
        assert resolve(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("section", ["pretext", "transfer"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=ANYTHING)
def test_any_method_is_known_or_refused(section: str, value: Any) -> None:
    config, refusal = attempt(lambda: resolve(merge(BASE, {section: {"method": value}})))
    if refusal:
        assert f"{section}.method" in refusal
    else:
        assert getattr(config, section).method in methods(section)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.text(max_size=30) | st.sampled_from(["a=*x", "a=&x [*x]", "a={", "=", "data.train="]), max_size=3
    )
)
def test_any_setting_is_parsed_or_refused(given_settings: list[str]) -> None:
    config, refusal = attempt(lambda: override(recipe("digits"), parse_settings(given_settings)))
    assert refusal or config


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\x00", "can't be read"),
        (BOMB.encode(), r"aliases \(\*name\) are not allowed"),
        (b"a: &a [*a]\n", "aliases"),
        (b"recipe: ../../elsewhere\n", "recipe = '../../elsewhere'"),
        (b"recipe: /tmp/x\n", "recipe = '/tmp/x'"),
        (b"3: 4\n", "the key 3 is not a name"),
        (b"[1, 2]\n", "is not a configuration"),
        (b"seed: 9223372036854775808\n", "seed = 9223372036854775808"),
        (b"evaluate: {knn_neighbours: [0]}\n", r"evaluate\.knn_neighbours\.0 = 0"),
        (b"evaluate: {label_fractions: [1.5]}\n", r"evaluate\.label_fractions\.0 = 1\.5"),
        (b"evaluate: {labels_per_class: [0]}\n", r"evaluate\.labels_per_class\.0 = 0"),
        (b"pretext: {method: {}}\n", r"pretext\.method = \{\} is not known"),
        (b"- " * 5000 + b"\n", "can't be read|not a configuration"),
    ],
)
def test_a_file_that_can_not_serve_is_refused_in_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as refusal:
        recipe(str(path))
    assert "\n" not in str(refusal.value)
