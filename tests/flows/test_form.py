"""The flow's parameters: the schema that Prefect builds its forms from, and how they resolve."""

from __future__ import annotations

import json
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml
from conftest import ROOT

from data.errors import ConfigError
from flows.recipes import NAMES, borrowed_test, recipe
from models.configs import PRETEXT
from tasks.config import SECTIONS, Config


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return schema_of("flows.knowledge_transfer:knowledge_transfer")


def schema_of(flow: str) -> dict[str, Any]:
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(resolve_name(flow).fn).model_dump()


def resolved(**given: Any) -> Config:
    from flows.knowledge_transfer import knowledge_transfer, resolve_parameters

    return resolve_parameters(knowledge_transfer.validate_parameters({"recipe": "digits", **given}))


def test_every_section_is_a_parameter_and_the_recipe_a_choice(schema: dict[str, Any]) -> None:
    assert {
        *SECTIONS,
        "recipe",
        "seed",
        "minutes",
        "train",
        "test",
        "until",
        "review",
        "store",
        "method",
        "k",
        "epochs",
        "label_fraction",
        "labels_per_class",
    } == schema["properties"].keys()
    assert schema["properties"]["recipe"]["enum"] == list(NAMES)
    assert not schema.get("required")


def test_pretext_is_a_plain_union(schema: dict[str, Any]) -> None:
    branches = [
        branch.get("$ref", "").rpartition("/")[2] for branch in schema["properties"]["pretext"]["anyOf"]
    ]
    assert branches == [*(model.__name__ for model in PRETEXT.values()), ""]
    assert "discriminator" not in json.dumps(schema)  # Prefect's forms show those as an empty JSON editor
    for name in branches[:-1]:
        assert "const" in schema["definitions"][name]["properties"]["method"]


@pytest.mark.parametrize(
    "flow",
    ["flows.knowledge_transfer:knowledge_transfer", "flows.evaluate:evaluate", "flows.predict:predict"],
)
def test_every_field_says_what_it_is(flow: str) -> None:
    described = schema_of(flow)
    fields = dict(described["properties"])
    for name, model in described["definitions"].items():
        assert model["additionalProperties"] is False
        fields |= {f"{name}.{field}": value for field, value in model["properties"].items()}
    assert not [name for name, field in fields.items() if not field.get("description")]


def test_limits_of_numbers_stand_in_the_description(schema: dict[str, Any]) -> None:
    """The forms show descriptions but no limits."""
    silent = []
    for name, model in schema["definitions"].items():
        for field, value in model["properties"].items():
            options = value.get("anyOf", [value])
            limits = {o[key] for o in options for key in ("maximum", "exclusiveMaximum") if key in o}
            if limits and not any(
                f"{limit:g}" in value["description"] or str(limit) in value["description"] for limit in limits
            ):
                silent.append(f"{name}.{field}")
    assert not silent


def test_what_is_not_given_is_as_in_the_recipe() -> None:
    base = recipe("digits")
    assert resolved() == base
    assert resolved(cluster={"k": 5}) == base.model_copy(
        update={"cluster": base.cluster.model_copy(update={"k": 5})}
    )
    assert resolved(recipe="imagenet-paper") == recipe("imagenet-paper")


def sent(schema: dict[str, Any], model: str, **filled: Any) -> dict[str, Any]:
    """What a form sends for an opened section: the defaults, and the fields filled in by hand."""
    values: dict[str, Any] = {}
    for name, field in schema["definitions"][model]["properties"].items():
        nested = field.get("$ref", "").rpartition("/")[2]
        if "default" in field:
            values[name] = field["default"]
        elif nested and (below := sent(schema, nested)):
            values[name] = below
    return values | filled


def changed(base: dict[str, Any], other: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The keys in which two configurations differ, with the other one's values."""
    found: dict[str, Any] = {}
    for name in base.keys() | other.keys():
        one, two = base.get(name), other.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found |= changed(one, two, f"{above}{name}.")
        elif one != two:
            found[f"{above}{name}"] = two
    return found


def test_an_opened_section_keeps_what_is_not_filled_in(schema: dict[str, Any]) -> None:
    config = resolved(data=sent(schema, "Data", labels_per_class=5))
    assert changed(recipe("digits").model_dump(), config.model_dump()) == {"data.labels_per_class": 5}
    for name in NAMES:
        base = recipe(name)
        opened = {
            section: sent(schema, type(getattr(base, section)).__name__)
            for section in SECTIONS
            if section != "plan"
        }
        config = resolved(recipe=name, **opened)
        # A form says which method a section is of. A plan counts that as set by hand, to the recipe's value.
        assert changed(base.model_dump(), config.model_dump()).keys() <= {"plan.keep"}
        assert set(config.plan.keep) <= {"pretext.method", "transfer.method"}
        assert all(value.keys() <= {"method"} for value in opened.values())


def test_fields_of_sections_are_checked_with_the_recipes_values() -> None:
    given = {"protocols": ["detection"]}  # needs photographs, which this recipe has
    assert resolved(recipe="penn-fudan", evaluate=given).evaluate.voc is not None
    with pytest.raises(ConfigError, match=r"evaluate\.voc"):
        resolved(evaluate=given)
    with pytest.raises(ConfigError, match=r"cluster\.k = 0"):
        resolved(cluster={"k": 0})
    with pytest.raises(ConfigError, match=r"unknown key cluster\.kk"):
        resolved(cluster={"kk": 3})


def test_null_in_a_section_means_none() -> None:
    assert recipe("digits").data.test == "digits"
    assert resolved(data={"test": None}).data.test is None
    assert resolved(data={"labels_per_class": None}).data.labels_per_class is None
    assert resolved(test="none").data.test is None
    assert resolved(data={"test": "folder:elsewhere"}, test="none").data.test is None
    assert resolved(test=None).data.test == "digits"


def test_the_form_says_what_the_recipes_have(schema: dict[str, Any]) -> None:
    data = schema["definitions"]["Data"]["properties"]
    said = data["image_size"]["description"]
    for name in NAMES:
        assert str(recipe(name).data.image_size) in said.partition("Recipes:")[2]
    assert "2 (digits" in data["labels_per_class"]["description"]
    simclr = schema["definitions"]["SimCLR"]["properties"]
    assert str(recipe("digits").pretext.epochs) in simclr["epochs"]["description"]
    byol = schema["definitions"]["BYOL"]["properties"]
    assert byol["epochs"]["description"].endswith(f"Without a value: {PRETEXT['byol']().epochs}.")


def test_labels_per_class_is_short() -> None:
    config = resolved(labels_per_class=5)
    assert changed(recipe("digits").model_dump(), config.model_dump()) == {"data.labels_per_class": 5}
    config = resolved(recipe="cifar10", labels_per_class=5)
    assert (config.data.labels_per_class, config.data.label_fraction) == (5, None)
    with pytest.raises(ConfigError, match="not both"):
        resolved(labels_per_class=5, label_fraction=0.1)


def test_the_plan_keeps_what_sections_give() -> None:
    config = resolved(recipe="photos", minutes=5, cluster={"k": 7}, epochs=3)
    assert {"cluster.k", "pretext.epochs"} <= set(config.plan.keep)


def test_minutes_go_with_a_teacher_of_others() -> None:
    config = resolved(recipe="photos", minutes=5, pretext={"method": "pretrained", "weights": "vit"})
    assert (config.pretext.method, config.plan.minutes) == ("pretrained", 5)
    continued = resolved(recipe="photos", minutes=5, pretext={"method": "simclr", "weights": "vit"})
    assert (continued.pretext.model_dump()["weights"], continued.plan.minutes) == ("vit", 5)


def test_a_borrowed_test_is_said() -> None:
    own = resolved(train="folder:mine")
    assert own.data.test == "digits"
    (line,) = borrowed_test(own)
    assert "data.test=digits" in line
    assert "data.test=null" in line
    assert borrowed_test(resolved()) == []
    assert borrowed_test(resolved(train="folder:mine", test="none")) == []
    assert borrowed_test(resolved(train="folder:mine", test="folder:other")) == []


def test_nightly_does_not_borrow_the_recipes_test() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (given,) = (row["parameters"] for row in deployments if row["name"] == "nightly")
    config = resolved(**{**given, "train": "folder:mine"})
    assert (config.data.train, config.data.test) == ("folder:mine", None)


def test_shortcuts_go_over_sections() -> None:
    config = resolved(cluster={"k": 5}, k=6, epochs=3, label_fraction=0.5)
    assert (config.cluster.k, config.pretext.epochs) == (6, 3)
    assert (config.data.label_fraction, config.data.labels_per_class) == (0.5, None)


def test_the_method_is_a_choice_of_names(schema: dict[str, Any]) -> None:
    (choice,) = [option for option in schema["properties"]["method"]["anyOf"] if "enum" in option]
    assert choice["enum"] == list(PRETEXT)
    config = resolved(method="swav", epochs=3)
    assert (config.pretext.method, config.pretext.epochs) == ("swav", 3)
    assert resolved(method="simclr") == recipe("digits")
    with pytest.raises(ConfigError, match=r"pretext\.method"):
        resolved(method="clip")


def test_another_method_drops_the_formers_parameters() -> None:
    assert recipe("digits").pretext.method == "simclr"
    config = resolved(pretext={"method": "jigsaw++", "tile": 8})
    assert config.pretext.method == "jigsaw++"
    assert not hasattr(config.pretext, "temperature")


def test_a_section_without_its_method_is_of_the_recipes() -> None:
    assert resolved(recipe="imagenet-paper", pretext={"grey": 0.5}).pretext.method == "jigsaw++"
    with pytest.raises(ConfigError, match=r"pretext\.permutations"):
        resolved(pretext={"permutations": 100})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("deployment run knowledge-transfer", "deployment run knowledge-transfer/knowledge-transfer"),
        ("deployment run -p k=3 nightly --watch", "deployment run -p k=3 knowledge-transfer/nightly --watch"),
        ("--no-prompt deployment run evaluate", "--no-prompt deployment run evaluate/evaluate"),
        ("deployment run --tag nightly evaluate", "deployment run --tag nightly evaluate/evaluate"),
        ("deployment run predict -p model=x", "deployment run predict/predict -p model=x"),
        ("deployment run other/nightly", "deployment run other/nightly"),
        ("deployment run theirs", "deployment run theirs"),
        ("deployment inspect nightly", "deployment inspect nightly"),
        ("flow ls", "flow ls"),
    ],
)
def test_bare_names_of_our_deployments(given: str, wanted: str) -> None:
    from knowledge_transfer.prefect_cli import completed  # imports Prefect

    assert completed(given.split()) == wanted.split()
