import subprocess
import sys

import pytest

from data.errors import ConfigError
from models.configs.distill import Distill
from tasks.config import SECTIONS, Config
from tasks.overlay import merge, resolve

BASE = Config().model_dump()


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"cluster": {"kk": 3}}, r"unknown key cluster\.kk = 3; cluster has k, iterations"),
        ({"pretext": {"temprature": 3}}, r"unknown key pretext\.temprature = 3; pretext has method"),
        (
            {"pretext": {"method": "simsiam"}},
            r"pretext\.method = 'simsiam' is not known; choose one of simclr, jigsaw\+\+",
        ),
        ({"pretext": {"method": "jigsaw++", "temperature": 1}}, r"unknown key pretext\.temperature"),
        ({"pretext": "swav"}, r"^pretext = 'swav': a section has keys, such as pretext\.method$"),
        ({"pretext": {"temperature": 0}}, r"pretext\.temperature = 0: input should be greater than 0"),
        ({"clusters": {}}, r"unknown key clusters = \{\}; the configuration has"),
        ({"cluster": {"k": 0}}, r"cluster\.k = 0: input should be greater than or equal to 1"),
        ({"seed": "a"}, r"seed = 'a': input should be a valid integer"),
        ({"evaluate": {"protocols": "knn"}}, r"evaluate\.protocols = 'knn': give a list, such as \[knn\]"),
        ({"data": {"bands": "1,x"}}, r"data\.bands.* = 'x': input should be a valid integer"),
        ({"data": {"bands": [0, 1, 2]}}, r"data\.bands.* = 0: input should be greater than or equal to 1"),
        ({"data": {"bands": list(range(1, 18))}}, r"data\.bands.*at most 16"),
        (
            {"data": {"bands": "1,2"}, "pretext": {"method": "colorization"}},
            r"data\.bands has 2 bands, but pretext\.method = colorization needs colours; choose three",
        ),
        ({"data": {"value_range": [5, 5]}}, r"data\.value_range.* = .*low < high"),
        ({"data": {"value_range": [1]}}, r"data\.value_range.* = \[1\]: .*two numbers"),
        (
            {"data": {"label_fraction": 0.1, "labels_per_class": 3}},
            "give label_fraction or labels_per_class, not both",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_in_one_line(over: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        resolve(merge(BASE, over))
    assert "\n" not in str(caught.value)
    assert "JigsawPlusPlus" not in str(caught.value)


def test_another_method_drops_the_formers_parameters() -> None:
    config = resolve(
        merge(
            merge(BASE, {"pretext": {"temperature": 0.3}}), {"pretext": {"method": "jigsaw++", "epochs": 3}}
        )
    )
    assert (config.pretext.method, config.pretext.epochs) == ("jigsaw++", 3)
    same = resolve(
        merge(merge(BASE, {"pretext": {"temperature": 0.3}}), {"pretext": {"method": "simclr", "epochs": 3}})
    )
    assert same.pretext.model_dump()["temperature"] == 0.3


def test_one_way_to_draw_labels_takes_the_other_back() -> None:
    config = resolve(merge(merge(BASE, {"data": {"labels_per_class": 2}}), {"data": {"label_fraction": 0.1}}))
    assert (config.data.label_fraction, config.data.labels_per_class) == (0.1, None)


@pytest.mark.parametrize(
    ("given", "bands"),
    [("4,1,2", [4, 1, 2]), ("[4, 1, 2]", [4, 1, 2]), ((4, 1, 2), [4, 1, 2]), (2, [2]), ("2", [2])],
)
def test_bands_may_be_written_as_on_the_command_line(given: object, bands: list[int]) -> None:
    assert resolve(merge(BASE, {"data": {"bands": given}})).data.bands == bands


def test_a_value_range_is_two_numbers() -> None:
    for given in ("300,4000", [300, 4000], ["300", 4000.0]):
        assert resolve(merge(BASE, {"data": {"value_range": given}})).data.value_range == [300, 4000]


def test_a_configuration_survives_its_own_dump() -> None:
    config = resolve(merge(BASE, {"pretext": {"method": "jigsaw++"}, "cluster": {"pca": 64}}))
    assert resolve(config.model_dump(mode="json")) == config


def test_every_field_has_a_sentence_for_the_form() -> None:
    schema = Config.model_json_schema()
    for name, model in schema["$defs"].items():
        for key, field in model["properties"].items():
            assert field.get("description", "").endswith("."), f"{name}.{key}"
    assert set(SECTIONS) == set(schema["properties"]) - {"recipe", "seed", "until", "review", "store"}


def test_configuration_needs_no_heavy_library() -> None:
    code = (
        "import sys, tasks.config, flows.recipes.digits;"
        " print([m for m in ('torch', 'prefect', 'pyarrow', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("images", [1, 100, 230, 256, 300, 5000, 1_300_000])
@pytest.mark.parametrize("steps", [1, 2, 169, 170, 1000, 12_345])
def test_steps_are_divided_into_epochs_of_at_most_one_pass(images: int, steps: int) -> None:
    distill = Distill(batch_size=115, steps=steps)
    epochs, each = distill.length(images)
    assert 1 <= each <= max(1, images // 115)
    assert abs(epochs * each - steps) <= epochs / 2
    assert distill.seen(images) == epochs * each * 115


def test_without_steps_an_epoch_is_a_pass() -> None:
    assert Distill(batch_size=100, epochs=7).length(350) == (7, 3)
    assert Distill(batch_size=100, epochs=7).seen(350) == 7 * 350
