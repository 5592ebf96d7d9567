"""Exported files answer as the network does, wherever they are loaded."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.preprocessing import Preprocessing
from models.augment import centre
from models.export import FORMATS, checks, int8, runtime, safetensors_folder
from models.export.answering import About, Answering, probabilities
from models.network import Network, build_network

TEMPERATURE = 1.5
CLASSES = tuple("abcdefghij")
NOTHING = np.zeros((0,), np.uint8)
OURS = ("models", "data", "tasks", "flows", "knowledge_transfer")


def network(name: str, size: int, width: float = 0.25, **options: Any) -> Network:
    """Random weights with running statistics of random images, so that outputs are neither alike nor huge."""
    built = build_network(name, size, seed=0, width=width, classes=len(CLASSES), **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in built.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # the plain mean over the batches below
        built.train()
        with torch.no_grad():
            for _ in range(3):
                built(torch.rand(32, built.channels, size, size))
        assert built.classifier is not None
        nn.init.normal_(built.classifier.weight, std=0.5)
    return built.eval()


def rule(built: Network) -> Preprocessing:
    described = built.description()
    return Preprocessing(
        built.image_size, described["mean"], described["std"], described["input"], TEMPERATURE
    )


def model(built: Network) -> tuple[Answering, About]:
    return Answering(built, rule(built)), About(CLASSES, rule(built))


def squares(made: Answering, count: int, seed: int = 1) -> np.ndarray:
    """Random images with structure: coarse squares and noise."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (count, 4, 4, made.channels))
    times = -(-made.side // 4)
    image = coarse.repeat(times, 1).repeat(times, 2)[:, : made.side, : made.side]
    noise = draws.integers(-20, 21, (count, made.side, made.side, made.channels))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def expected(built: Network, images: np.ndarray) -> np.ndarray:
    """The probabilities by the evaluation's own way: the centre view, logits, softmax in float64."""
    with torch.no_grad():
        logits = built(centre(torch.from_numpy(images), built.image_size)).double()
    return torch.softmax(logits / TEMPERATURE, 1).numpy()


def features(built: Network, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return built.features(centre(torch.from_numpy(images), built.image_size), "last").numpy()


def written(name: str, built: Network, folder: Path, images: np.ndarray = NOTHING) -> dict[str, Any]:
    found: dict[str, Any] = importlib.import_module(FORMATS[name].module).write(*model(built), folder, images)
    return found


def assert_answers(name: str, built: Network, folder: Path) -> None:
    answer = importlib.import_module(FORMATS[name].module).answer(folder, 1)
    for count in (1, 3, 17):
        images = squares(model(built)[0], count)
        found, vectors = answer(images)
        assert found.dtype == np.float32
        assert found == pytest.approx(expected(built, images), abs=1e-4)  # logits of random weights are large
        if vectors.shape[1]:
            scale = float(np.abs(features(built, images)).max())
            assert vectors == pytest.approx(features(built, images), abs=1e-4 * scale)


SMALL = [("smallconv", 17)]
SLOW = [
    ("smallconv", 96),
    ("alexnet", 32),
    ("vgg16", 16),
    ("vgg16_bn", 64),
    ("resnet18", 64),
    ("resnet50", 32),
    ("resnet50_sk", 17),
    ("mobilenet_v3", 32),
    ("vit_tiny", 32),
    ("timm:resnet10t", 32),
]
BACKBONES = [*SMALL, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]


@pytest.mark.parametrize(("name", "size"), BACKBONES)
@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors"])
def test_every_file_answers_as_the_network(form: str, name: str, size: int, tmp_path: Path) -> None:
    built = network(name, size, 1.0 if ":" in name else 0.25)
    written(form, built, tmp_path)
    assert_answers(form, built, tmp_path)


@pytest.mark.parametrize("form", ["pt2", pytest.param("onnx", marks=pytest.mark.slow), "bits"])
def test_a_1_bit_network_answers_with_its_signs(form: str, tmp_path: Path) -> None:
    built = network("reactnet", 16)
    written(form, built, tmp_path)
    answer = importlib.import_module(FORMATS[form].module).answer(tmp_path, 1)
    images = squares(model(built)[0], 17)
    found = answer(images)[0]
    # Where a sum is almost 0, rounding turns a sign over. That may change a few images, but not most.
    same = np.abs(found - expected(built, images)).max(axis=1) < 1e-4
    assert same.mean() > 0.8


def test_bits_have_the_true_size(tmp_path: Path) -> None:
    from models.cost import weight_bits

    built = network("reactnet", 16)
    written("bits", built, tmp_path)
    with np.load(tmp_path / "bits" / "model.npz") as arrays:
        stored = sum(array.nbytes for name, array in arrays.items() if name != "config")
    assert 8 * stored == weight_bits(built)


def test_only_1_bit_networks_have_bits() -> None:
    from models.export import bits

    assert bits.refusal(model(network("smallconv", 16))[0]) == "the network has no 1-bit weights"
    assert bits.refusal(model(network("reactnet", 16))[0]) is None


def run_alone(code: str, folder: Path, *, unused: tuple[str, ...]) -> None:
    """Run code in a process that can't import our packages, and that does not import some others."""
    start = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OURS!r}:
            raise ModuleNotFoundError(f"absent: {{name}}")

sys.meta_path.insert(0, Absent())
import numpy as np
images, truth = np.load("images.npy"), np.load("truth.npy")
"""
    end = f"""
assert np.abs(np.asarray(probabilities) - truth).max() < 1e-5
assert not set({(*OURS, *unused)!r}) & sys.modules.keys(), sys.modules.keys()
print("same")
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + code + end],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "same\n", done.stderr


ALONE = {
    "onnx": (
        "import onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx')\n"
        "probabilities, _ = session.run(['probabilities', 'features'], {'images': images})",
        ("torch", "torchvision", "onnx", "onnxscript", "PIL"),
    ),
    "pt2": (
        "import torch\nprobabilities, _ = torch.export.load('model.pt2').module()(torch.from_numpy(images))",
        ("torchvision", "safetensors", "timm", "onnx"),
    ),
    "bits": (
        "from bits.reader import Reader\nprobabilities, _ = Reader('bits/model.npz').answer(images)",
        ("torch",),
    ),
    "safetensors": (
        "from weights.reader import Reader\nprobabilities, _ = Reader('weights').answer(images)",
        ("torchvision", "timm", "onnx"),
    ),
}


@pytest.mark.parametrize("form", ALONE)
def test_files_load_where_nothing_of_ours_is(form: str, tmp_path: Path) -> None:
    code, unused = ALONE[form]
    built = network("reactnet", 16) if form == "bits" else network("smallconv", 17)
    written(form, built, tmp_path)
    images = squares(model(built)[0], 5)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "truth.npy", expected(built, images))
    run_alone(code, tmp_path, unused=unused)


def test_readers_are_short() -> None:
    from models.export.readers import graph

    assert len(Path(graph.__file__).read_text().splitlines()) <= 60


def test_onnx_is_one_file_with_named_batch_and_metadata(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    written("onnx", network("smallconv", 64), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    found = onnx.load(tmp_path / "model.onnx")
    shape = found.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, *(dim.dim_value for dim in shape[1:])) == ("batch", 73, 73, 3)
    assert found.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert found.opset_import[0].version >= 18
    told = {entry.key: json.loads(entry.value) for entry in found.metadata_props}
    assert told["classes"] == list(CLASSES)
    assert told["preprocessing"]["stored_size"] == 73
    assert told["preprocessing"]["temperature"] == TEMPERATURE
    assert str(Path(__file__).parents[2]) not in (tmp_path / "model.onnx").read_bytes().decode("latin-1")


def test_space_to_depth_is_a_strided_convolution_in_onnx(tmp_path: Path) -> None:
    """Of an odd side, too, which is padded with zeros on one side only."""
    onnx = pytest.importorskip("onnx")
    built = network("smallconv", 25)
    written("onnx", built, tmp_path)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert [node.op_type for node in nodes].count("Transpose") == 1  # the pixels, once
    assert_answers("onnx", built, tmp_path)


SAME = [
    ("resnet18", 64, "torchvision"),
    ("resnet18", 32, "reader"),  # another first layer
    ("mobilenet_v3", 64, "torchvision"),
    ("mobilenet_v3", 32, "reader"),  # torchvision's loads the weights, but has other strides
    ("alexnet", 64, "reader"),  # other fully connected layers
    ("alexnet", 224, "torchvision"),
    ("vgg16", 64, "reader"),
    ("vgg16", 224, "torchvision"),
    ("vgg16_bn", 224, "torchvision"),
    ("resnet34", 64, "torchvision"),
    ("resnet50", 64, "torchvision"),
]
QUICK = {("mobilenet_v3", 64)}


@pytest.mark.parametrize(
    ("name", "size", "library"),
    [pytest.param(*row, marks=() if row[:2] in QUICK else pytest.mark.slow) for row in SAME],
)
def test_torchvision_has_the_same_network_at_some_sizes(
    name: str, size: int, library: str, tmp_path: Path
) -> None:
    built = build_network(name, size, seed=0, classes=len(CLASSES)).eval()
    found = safetensors_folder.as_torchvision(model(built)[0])
    assert (found is not None) == (library == "torchvision")
    if found is not None:
        x = torch.rand(2, 3, size, size)
        with torch.no_grad():
            theirs = found((x - built.mean) / built.std)
            ours = built(x).numpy()
            assert theirs.numpy() == pytest.approx(ours, rel=0, abs=1e-4 * float(np.abs(ours).max()))


def test_a_network_that_loads_into_torchvision_s_but_answers_otherwise_is_found_out() -> None:
    import torchvision

    built = build_network("mobilenet_v3", 32, seed=0, classes=len(CLASSES)).eval()
    theirs = torchvision.models.mobilenet_v3_large(num_classes=len(CLASSES))
    shapes = [tensor.shape for tensor in theirs.state_dict().values()]
    assert shapes == [tensor.shape for tensor in built.state_dict().values()]  # so it would load
    assert safetensors_folder.as_torchvision(model(built)[0]) is None


def test_timm_s_folder_loads_by_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    built = network("timm:resnet10t", 32, 1.0)
    assert written("safetensors", built, tmp_path) == {"library": "timm"}
    loaded = timm.create_model(f"local-dir:{tmp_path / 'weights'}", pretrained=True).eval()
    assert loaded.pretrained_cfg["label_names"] == list(CLASSES)
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert loaded((x - built.mean) / built.std).numpy() == pytest.approx(built(x).numpy(), abs=1e-4)


def test_int8_stays_near_the_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    built = network("smallconv", 16, 0.5)
    made, _ = model(built)
    images = squares(made, 300)
    told = written("int8", built, tmp_path, images)
    kinds = _operators(tmp_path / int8.FILE)
    assert "QuantizeLinear" in kinds
    assert [path.name for path in tmp_path.iterdir()] == [int8.FILE]
    found = probabilities(int8.answer(tmp_path, 1), images[int8.CALIBRATED :])
    agreement = (found.argmax(1) == expected(built, images[int8.CALIBRATED :]).argmax(1)).mean()
    assert agreement == told["chosen_by"]
    assert agreement > 0.8


def planted() -> Network:
    """A network with an unchanged answer, of which one channel is 100,000 times larger than the others."""
    built = network("smallconv", 16, 0.5)
    branch = built.backbone.stages["conv2"][-1].branch
    first, norm, second = branch[0], branch[1], branch[3]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        norm.bias.add_(0.1)
        norm.weight[0] *= 1e5
        norm.bias[0] *= 1e5
        second.weight[:, 0] *= 1e-5
    return built


def test_a_collapse_in_int8_is_seen_and_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    built = planted()
    images = squares(model(built)[0], 300)
    written("int8", built, tmp_path, images)
    truth = expected(built, images)
    found = probabilities(int8.answer(tmp_path, 1), images)
    label = truth.argmax(1)  # the network is always right
    compared = checks.compare(truth.astype(np.float32), found, label, TEMPERATURE)
    why = checks.refusal(compared, 1.0, 1.0, exact=False)
    assert why is not None
    assert f"{100 * (1 - compared.accuracy):.1f} points less" in why


def test_in_8_bits_nothing_is_rounded_twice(tmp_path: Path) -> None:
    """Rounding a map before and after its ReLU costs time, and the first time half of the range is lost."""
    onnx = pytest.importorskip("onnx")
    built = network("resnet18", 32)
    made, about = model(built)
    start = int8.prepared(made, about, tmp_path)
    int8.quantise(start, tmp_path / "all.onnx", squares(made, 8), [])
    nodes = onnx.load(tmp_path / "all.onnx").graph.node
    maker = {name: node.op_type for node in nodes for name in node.output}
    rounded = {maker.get(node.input[0]) for node in nodes if node.op_type == "QuantizeLinear"}
    assert {"Conv", "Add"} <= rounded
    assert "Relu" not in {node.op_type for node in nodes}
    assert "DequantizeLinear" not in rounded


def test_a_collapse_in_int8_is_mended_by_leaving_weak_parts_in_float(tmp_path: Path) -> None:
    """Planted: one logit is so low that 8 bits can't tell the others apart. The classifier is a weak part."""
    pytest.importorskip("onnxruntime")
    built = network("smallconv", 16, 0.5)
    assert built.classifier is not None
    with torch.no_grad():
        built.classifier.bias[-1] = -1e4  # a class that is never the answer
    made, about = model(built)
    images = squares(made, 300)
    truth = expected(built, images).astype(np.float32)

    def refusal(path: Path) -> str | None:
        found = probabilities(runtime.session(path, 1), images)
        seen = checks.compare(truth, found, truth.argmax(1), TEMPERATURE)
        return checks.refusal(seen, 1.0, 5.0, exact=False)  # random weights give many near ties

    start = int8.prepared(made, about, tmp_path)
    int8.quantise(start, tmp_path / "all.onnx", images[: int8.CALIBRATED], [])
    assert "points less" in str(refusal(tmp_path / "all.onnx"))
    told = written("int8", built, tmp_path, images)
    assert told["kept_in_float"]
    assert refusal(tmp_path / int8.FILE) is None


@pytest.mark.slow
def test_weak_parts_of_mobilenet_stay_in_float(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from models.export import onnx_file

    built = network("mobilenet_v3", 32)
    written("onnx", built, tmp_path)
    nodes = onnx.load(tmp_path / onnx_file.FILE).graph.node
    kept = set(int8.weak_parts(tmp_path / onnx_file.FILE))
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    depthwise = {node.name for node in convolutions if int8._groups(node) > 1}
    assert len(depthwise) == 15
    assert depthwise | {convolutions[0].name} <= kept
    gates = [node for node in nodes if node.op_type == "HardSigmoid" and node.name in kept]
    assert len(gates) == 8  # squeeze and excite
    pointwise = {node.name for node in convolutions} - kept
    assert len(pointwise) == 62 - 15 - 1 - 2 * 8


def _operators(path: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(path).graph.node}


def test_answers_are_compared() -> None:
    truth = np.array([[0.7, 0.3], [0.5 + 1e-6, 0.5 - 1e-6], [0.2, 0.8], [0.4, 0.6]], np.float32)
    found = np.array([[0.6, 0.4], [0.5 - 1e-6, 0.5 + 1e-6], [0.2, 0.8], [0.6, 0.4]], np.float32)
    compared = checks.compare(truth, found, np.array([0, 0, 1, -1]), 1.0)
    assert (compared.n, compared.labelled, compared.contradicted, compared.near) == (4, 3, 1, (1,))
    assert compared.difference == pytest.approx(0.2)
    assert compared.agreement == 0.5
    assert compared.accuracy == pytest.approx(2 / 3)


def test_a_temperature_moves_the_bound_of_what_rounding_may_decide() -> None:
    """The bound is on logits: at T = 100, these probabilities come from logits that differ by 0.04."""
    truth, found = np.array([[0.5001, 0.4999]], np.float32), np.array([[0.4999, 0.5001]], np.float32)
    assert checks.compare(truth, found, np.array([0]), 100.0).contradicted == 1
    assert checks.compare(truth, found, np.array([0]), 0.1).contradicted == 0


def compared(**changed: Any) -> checks.Compared:
    usual = {"n": 100, "difference": 0.0, "agreement": 1.0, "contradicted": 0, "near": (), "accuracy": 0.9}
    return checks.Compared(**{**usual, "labelled": 100, **changed})


@pytest.mark.parametrize(
    ("found", "exact", "said"),
    [
        (compared(), True, None),
        (compared(contradicted=1, agreement=0.99), True, "it contradicts the network on 1 of 100"),
        (compared(contradicted=1, agreement=0.99), False, None),
        (compared(accuracy=0.89), False, None),
        (compared(accuracy=0.85), False, "85.0% of 100 test images, the network about 90.0%: 5.0 points"),
        (compared(accuracy=None, agreement=0.95), False, "it agrees with the network on 95.0%"),
        (compared(accuracy=None, agreement=0.99), False, None),
        (compared(accuracy=0.95), False, None),
    ],
)
def test_what_is_refused(found: checks.Compared, exact: bool, said: str | None) -> None:
    own = None if found.accuracy is None else 0.9
    why = checks.refusal(found, own, 1.0, exact=exact)
    assert (why is None) if said is None else (why is not None and said in why)


def test_every_number_of_images_must_work() -> None:
    def fixed(images: np.ndarray) -> Any:
        if len(images) != 2:
            raise ValueError("the batch is 2")
        return np.ones((2, 3)), np.ones((2, 4))

    def normalising(images: np.ndarray) -> Any:
        x = images.reshape(len(images), -1)[:, :3].astype(np.float32)
        return x / x.sum(), x  # by the whole batch

    def good(images: np.ndarray) -> Any:
        x = images.reshape(len(images), -1)[:, :3].astype(np.float32) + 1
        return x / x.sum(1, keepdims=True), x

    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match="batch"):
        fixed(images)
    assert "differ from those for 17" in str(checks.batch_refusal(normalising, images, real=True))
    assert checks.batch_refusal(good, images, real=True) is None
    assert checks.batch_refusal(good, images[:2], real=True) is None

    def not_one(images: np.ndarray) -> Any:
        if len(images) == 1:
            raise ValueError("the batch is 1")
        return good(images)

    assert "fails for 1 images at a time: the batch is 1" in str(
        checks.batch_refusal(not_one, images, real=True)
    )
