"""Foreign networks: their features are those of the library that wrote them, and bad files are refused."""

from __future__ import annotations

import io
import json
import pickle
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_weights import photograph, seen, shaken, timm_folder
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.lite import SIDES, lite_file, lite_folder
from data.errors import ConfigError
from data.preprocessing import Preprocessing
from data.weights import locate, stamp
from models.backbones.timm_network import named, parsed
from models.configs.pretrained import Pretrained
from models.network import Network
from models.pretrained import load_pretrained
from models.saved import ABOUT

FILES = [photograph(seed=0), photograph(64, 80, seed=1), photograph(50, 50, seed=2)]
TINY_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("test_resnet", {}),
    "efficientnet-lite": ("tf_efficientnet_lite0", {}),
    "mobilenet, features after its pool": ("mobilenetv3_small_050", {}),
    "convnext with layer scale": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
    "vit": ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64}),
    "vit, mean of its tokens": ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64, "global_pool": "avg"}),
    "dinov2": ("vit_small_patch14_dinov2", {**TINY_VIT, "img_size": 56}),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {**TINY_VIT, "img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", {**TINY_VIT, "img_size": 64}),
    "dinov3, class token": ("vit_small_patch16_dinov3", {**TINY_VIT, "img_size": 64, "global_pool": "token"}),
    "siglip": ("vit_base_patch16_siglip_224", {**TINY_VIT, "img_size": 64}),
    "clip": ("vit_base_patch32_clip_224", {**TINY_VIT, "img_size": 64}),
}


def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(file)).convert("RGB") for file in FILES]


def close(ours: Any, theirs: Tensor) -> None:
    expected = theirs.numpy()
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_timm(family: str, tmp_path: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    name, options = FAMILIES[family]
    timm_folder(tmp_path / "weights", name, **options)
    loaded = load_pretrained(Pretrained(weights=str(tmp_path / "weights")))
    theirs = timm.create_model(f"local-dir:{tmp_path / 'weights'}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_model_data_config(theirs), is_training=False)
    with torch.inference_mode():
        x = torch.stack([transform(picture) for picture in pictures()])
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    close(seen(loaded.network, FILES), expected)
    assert loaded.left_out  # its classifier
    assert loaded.network.classes is None
    again = Network.from_description(loaded.network.description())
    again.load_state_dict(loaded.network.state_dict())
    close(seen(again, FILES), expected)
    classifier = loaded.network.with_classifier(3, seed=0)
    assert classifier.eval()(torch.rand(2, 3, *[loaded.network.image_size] * 2)).shape == (2, 3)


@pytest.mark.parametrize("size", SIDES)
def test_features_of_real_weights_are_those_of_timm(size: int, tmp_path: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    file = lite_file(size)
    if file is None:
        pytest.skip("needs the extra weights")
    folder = lite_folder(tmp_path / "lite", file, size)
    loaded = load_pretrained(Pretrained(weights=str(folder)))
    assert (loaded.network.image_size, loaded.left_out) == (
        SIDES[size],
        ("classifier.bias", "classifier.weight"),
    )
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_model_data_config(theirs), is_training=False)
    with torch.inference_mode():
        x = torch.stack([transform(picture) for picture in pictures()])
        close(seen(loaded.network, FILES), theirs.forward_head(theirs.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v3"])
def test_features_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    import torchvision

    made = "mobilenet_v3_large" if name == "mobilenet_v3" else name
    theirs: Any = shaken(torchvision.models.get_model(made, weights=None))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    loaded = load_pretrained(Pretrained(weights=str(tmp_path / "weights.pth"), backbone=name))
    transform = torchvision.models.get_model_weights(made)["IMAGENET1K_V1"].transforms()
    with torch.inference_mode():
        x = torch.stack([transform(picture) for picture in pictures()])
        if name == "mobilenet_v3":
            expected = theirs.avgpool(theirs.features(x)).flatten(1)
        else:
            theirs.fc = nn.Identity()
            expected = theirs(x)
    close(seen(loaded.network, FILES), expected)
    heads = {"fc.bias", "fc.weight"} if name != "mobilenet_v3" else {"classifier.0.bias", "classifier.3.bias"}
    assert heads <= set(loaded.left_out)


def test_torchvision_weights_also_fit_the_network_of_timm(tmp_path: Path) -> None:
    import torchvision

    theirs: Any = shaken(torchvision.models.resnet18(weights=None))
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    given = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": 64, "crop": 1.0}
    loaded = load_pretrained(
        Pretrained(weights=str(tmp_path / "weights.safetensors"), backbone="timm:resnet18", **given)
    )
    rule = loaded.network.rule
    assert (rule.size, rule.stored, rule.mean, rule.std) == (64, 64, (0.5,) * 3, (0.5,) * 3)
    theirs.fc = nn.Identity()
    x = torch.from_numpy(np.stack([rule.normalised(rule.square(file)[None])[0] for file in FILES]))
    with torch.inference_mode():
        close(seen(loaded.network, FILES), theirs(x))


def test_the_mean_over_places_can_be_chosen(tmp_path: Path) -> None:
    import timm

    timm_folder(tmp_path, "vit_small_patch14_dinov2", **TINY_VIT, img_size=56)
    loaded = load_pretrained(Pretrained(weights=str(tmp_path), layer="mean"))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    rule = loaded.network.rule
    x = torch.from_numpy(np.concatenate([rule.normalised(rule.square(file)[None]) for file in FILES]))
    with torch.inference_mode():
        tokens = theirs.forward_features(x)
    close(seen(loaded.network, FILES), tokens[:, 1:].mean(dim=1))


def test_positions_are_resampled_for_another_size(tmp_path: Path) -> None:
    """A ViT that was trained at 56 px and sees 84 px has the positions that timm gives it."""
    import timm

    network = timm_folder(tmp_path, "vit_small_patch14_dinov2", **TINY_VIT, img_size=56)
    loaded = load_pretrained(Pretrained(weights=str(tmp_path), input_size=84))
    theirs = timm.create_model("vit_small_patch14_dinov2", **TINY_VIT, img_size=84, num_classes=0)
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(dict(network.state_dict()), theirs)
    theirs.load_state_dict({k: v for k, v in filtered.items() if not k.startswith("head")})
    rule = loaded.network.rule
    x = torch.from_numpy(np.concatenate([rule.normalised(rule.crop(rule.square(f)[None])) for f in FILES]))
    with torch.inference_mode():
        close(seen(loaded.network, FILES), theirs.eval()(x))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", [0.875, 0.95, 1.0])
def test_images_are_prepared_as_timm_does(crop_mode: str, interpolation: str, crop: float) -> None:
    from timm.data import create_transform

    rule = Preprocessing(
        60,
        (0.5, 0.4, 0.3),
        (0.2, 0.3, 0.4),
        interpolation=interpolation,
        resized=int(60 / crop),
        fit="shorter" if crop_mode == "center" else "squash",
    )
    transform: Any = create_transform(
        (3, 60, 60),
        is_training=False,
        interpolation=interpolation,
        mean=rule.mean,
        std=rule.std,
        crop_pct=crop,
        crop_mode=crop_mode,
    )
    for file in (*FILES, photograph(131, 64), photograph(64, 133)):
        ours = rule.normalised(rule.crop(rule.square(file)[None]))[0]
        theirs = transform(Image.open(io.BytesIO(file)).convert("RGB")).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_equal_tensors_have_equal_hashes_in_every_form(tmp_path: Path) -> None:
    network = timm_folder(tmp_path / "folder", "test_resnet")
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "b.pth")
    save_file(network.state_dict(), tmp_path / "c.safetensors")
    forms = [Pretrained(weights=str(tmp_path / "folder"))] + [
        Pretrained(weights=str(tmp_path / name), backbone="timm:test_resnet")
        for name in ("a.pth", "b.pth", "c.safetensors")
    ]
    found = [load_pretrained(form) for form in forms]
    assert len({each.tensors for each in found}) == 1
    assert len({json.dumps(each.network.description(), sort_keys=True) for each in found}) == 1
    timm_folder(tmp_path / "other", "test_resnet", seed=1)
    assert load_pretrained(Pretrained(weights=str(tmp_path / "other"))).tensors != found[0].tensors


def test_licence_name_and_hash_are_told(tmp_path: Path) -> None:
    from data.files import file_sha256
    from models.pretrained import told

    timm_folder(tmp_path, "test_resnet")
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"].pop("license", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    unknown = load_pretrained(Pretrained(weights=str(tmp_path)))
    assert unknown.about["licence"] is None
    assert "nothing says their licence" in told(unknown)[-1]
    (tmp_path / "README.md").write_text("---\ntags:\n- vision\nlicense: cc-by-nc-4.0\n---\n# Model\n")
    assert load_pretrained(Pretrained(weights=str(tmp_path))).about["licence"] == "cc-by-nc-4.0"
    given = load_pretrained(Pretrained(weights=str(tmp_path), licence="MIT"))
    assert given.about["licence"] == "MIT"
    assert given.about["sha256"] == file_sha256(tmp_path / "model.safetensors")
    assert given.about["name"].startswith("test_resnet")
    assert "left out the classifier: fc.bias, fc.weight" in told(given)[0]


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("layer2.0.conv1", "layer2.0.first"): value for name, value in tensors.items()}


def _lost(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name != "layer3.0.bn1.running_mean"}


def _wide(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"conv1.0.weight": torch.zeros(5, 3, 3, 3)}


def _endless(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "layer1.0.conv1.weight"
    return tensors | {name: torch.full_like(tensors[name], torch.nan)}


def _more(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"projector.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            _renamed,
            r"1 tensor of timm:test_resnet is missing \(layer2.0.conv1.weight\); 1 tensor is left over",
        ),
        (_lost, r"missing \(layer3.0.bn1.running_mean\)"),
        (_wide, r"another shape \(conv1.0.weight is \(5, 3, 3, 3\), not"),
        (_endless, "layer1.0.conv1.weight has values that are not finite"),
        (_more, r"left over \(projector.weight\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], says: str, tmp_path: Path
) -> None:
    network = timm_folder(tmp_path, "test_resnet")
    save_file(change(dict(network.state_dict())), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=says) as refused:
        load_pretrained(Pretrained(weights=str(tmp_path)))
    assert "\n" not in str(refused.value)


def test_counters_of_batch_norms_may_be_missing(tmp_path: Path) -> None:
    network = timm_folder(tmp_path, "test_resnet")
    tensors = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(tensors) < len(network.state_dict())
    save_file(tensors, tmp_path / "model.safetensors")
    load_pretrained(Pretrained(weights=str(tmp_path)))


def test_a_layer_scale_that_the_network_lacks_is_refused(tmp_path: Path) -> None:
    network = timm_folder(tmp_path, "vit_small_patch14_dinov2", **TINY_VIT, img_size=56)
    save_file(dict(network.state_dict()), tmp_path / "alone.safetensors")
    name = f"timm:{named('vit_tiny_patch16_224', {**TINY_VIT, 'patch_size': 14})}"
    with pytest.raises(ConfigError, match=r"left over \(blocks.0.ls1.gamma, "):
        load_pretrained(Pretrained(weights=str(tmp_path / "alone.safetensors"), backbone=name, input_size=56))


def _nothing(place: Path) -> None:
    return None


def _half(place: Path) -> None:
    content = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(content[: len(content) // 2])


def _half_header(place: Path) -> None:
    (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:40])


def _pointer(place: Path) -> None:
    (place / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def _no_tensors(place: Path) -> None:
    (place / "model.safetensors").unlink()


def _no_config(place: Path) -> None:
    (place / "config.json").unlink()


def _broken_config(place: Path) -> None:
    (place / "config.json").write_text("{")


def _in_parts(place: Path) -> None:
    (place / "model.safetensors").rename(place / "model-00001-of-00002.safetensors")
    (place / "model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_half, r"model.safetensors has [\d,]+ of [\d,]+ bytes; the download may have stopped"),
        (_half_header, "has no whole header"),
        (_pointer, "a pointer of Git LFS"),
        (_no_tensors, "the folder has none of model.safetensors"),
        (_no_config, "the folder has no config.json"),
        (_broken_config, "config.json can't be read"),
        (_in_parts, "in several files"),
    ],
)
def test_broken_folders_are_refused_before_a_tensor_is_read(
    spoil: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    timm_folder(tmp_path, "test_resnet")
    assert locate(str(tmp_path)).file == tmp_path / "model.safetensors"
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=says) as refused:
        locate(str(tmp_path))
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match=says):
        stamp(str(tmp_path))


def test_half_a_pickled_file_is_refused(tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=r"a.pth ends too early \([\d,]+ bytes\)"):
        locate(str(tmp_path / "a.pth"))
    (tmp_path / "b.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match="ends too early"):
        locate(str(tmp_path / "b.pth"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_pickled_objects_are_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(ConfigError, match=r"pretext\.weights") as refused:
        load_pretrained(Pretrained(weights=str(tmp_path / "evil.pth"), backbone="resnet18"))
    assert "\n" not in str(refused.value)
    assert "executed" not in capsys.readouterr().out


def test_what_the_weights_are_of_must_be_clear(tmp_path: Path) -> None:
    timm_folder(tmp_path / "folder", "test_resnet")
    alone = str(tmp_path / "folder" / "model.safetensors")
    for given, says in (
        ({"weights": str(tmp_path / "gone.pth")}, "there is no such file or folder"),
        ({"weights": alone}, "say which network it is, with pretext.backbone"),
        ({"weights": alone, "backbone": "resnet18"}, r"only \d+ of the 120 tensors of resnet18 are in it"),
        ({"weights": alone, "backbone": "timm:test_vit"}, "another network"),
        ({"weights": alone, "backbone": "smallconv"}, "foreign weights are of timm:NAME"),
        ({"weights": alone, "backbone": "timm:no_such_net"}, "timm has no network 'no_such_net'"),
        (
            {"weights": str(tmp_path / "folder"), "backbone": "timm:resnet18"},
            "config.json says test_resnet, but pretext.backbone = timm:resnet18",
        ),
    ):
        with pytest.raises(ConfigError, match=says) as refused:
            load_pretrained(Pretrained(**given))
        assert "\n" not in str(refused.value)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": 48}))
    save_file({"x": torch.zeros(1)}, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model_type is dinov2.*pretext.method=external"):
        load_pretrained(Pretrained(weights=str(tmp_path / "hf")))
    with pytest.raises(ConfigError, match="4 bands"):
        load_pretrained(Pretrained(weights=str(tmp_path / "folder")), channels=4)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that something tried to reach, other than this machine. None of them is reached."""
    tried: list[Any] = []
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            tried.append(address)
            raise OSError("no connection but to this machine")
        connect(self, address)

    def no_names(host: Any, *rest: Any, **more: Any) -> Any:
        tried.append(host)
        raise socket.gaierror("no names but this machine's")

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setattr(socket.socket, "connect_ex", only_here)
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    return tried


def test_nothing_leaves_the_machine(attempts: list[Any], tmp_path: Path) -> None:
    import torchvision

    timm_folder(tmp_path / "folder", "test_vit")
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    load_pretrained(Pretrained(weights=str(tmp_path / "folder")))
    load_pretrained(Pretrained(weights=str(tmp_path / "resnet.pth"), backbone="resnet18"))
    with pytest.raises(ConfigError, match=r"not on this machine; set pretext.download=true"):
        load_pretrained(Pretrained(weights="timm:test_resnet.r160_in1k"))
    with pytest.raises(ConfigError, match="timm has no network 'no_such_net'"):
        load_pretrained(Pretrained(weights="timm:no_such_net"))
    assert not attempts


def test_a_download_that_is_allowed_and_fails_is_one_line(
    attempts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _refusing)
    with pytest.raises(ConfigError, match="the download failed: no way out") as refused:
        load_pretrained(Pretrained(weights="timm:test_resnet.r160_in1k", download=True))
    assert "\n" not in str(refused.value)


def _refusing(repo: str, name: str) -> str:
    raise OSError("no way\nout")


def test_a_download_is_read_like_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timm_folder(tmp_path, "test_resnet")
    expected = load_pretrained(Pretrained(weights=str(tmp_path))).tensors
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name: str(tmp_path / name))
    hub = load_pretrained(Pretrained(weights="timm:test_resnet.r160_in1k", download=True))
    assert hub.tensors == expected
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: str(tmp_path / name))
    assert load_pretrained(Pretrained(weights="timm:test_resnet.r160_in1k")).tensors == expected


@pytest.mark.parametrize(
    "options",
    [{}, {"depth": 2, "pool": "own"}, {"a": "1", "b": [1, 2], "c": None, "d": 1e-05, "e": "x y&=?"}],
)
def test_names_keep_their_options(options: dict[str, Any]) -> None:
    assert parsed(named("vit", options)) == ("vit", options)
    assert re.fullmatch(r"\S+", named("vit", options))


def test_descriptions_of_before_are_unchanged() -> None:
    """model.json of an earlier version lacks the new keys, and means the usual preparation."""
    from models.network import build_network

    described = build_network("smallconv", 64, seed=0, width=0.25).description()
    old = {k: v for k, v in described.items() if k not in ("interpolation", "resized", "fit")}
    again = Network.from_description(old)
    assert again.description() == described
    assert not again.own_input
    assert again.rule.shape.key == Preprocessing.of(old).shape.key
    assert not set(ABOUT) & set(described)
