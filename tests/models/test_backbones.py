"""The larger backbones against published sizes, torchvision and timm."""

from __future__ import annotations

import builtins
import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data.errors import ConfigError
from models.backbones import BACKBONES, make_backbone
from models.backbones.resnet import Residual, SelectiveKernel
from models.configs.shared import BACKBONES as DESCRIBED
from models.configs.simclr import SimCLR
from models.cost import classifier_cost, pretext_cost
from models.network import Network, build_network
from tasks.overlay import resolve

imported = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)


def images(n, size, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def millions(name, width=1.0, size=224):
    with torch.device("meta"):
        return sum(p.numel() for p in make_backbone(name, size, width).parameters()) / 1e6


def fill(module, seed=0):
    """Fill in random weights and statistics, so that no symmetry hides a mistake."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=g)
            tensor.copy_(
                values.abs() + 0.5 if name.endswith("running_var") else 0.05 * values + (tensor.ndim == 1)
            )
    return module.eval()


@pytest.mark.parametrize(
    ("name", "width", "published"),
    [  # SimCLRv2's README, the encoders alone
        ("resnet50", 1, 24), ("resnet50_sk", 1, 35), ("resnet50", 2, 94), ("resnet50_sk", 2, 140),
        ("resnet101", 1, 43), ("resnet101_sk", 1, 65), ("resnet101", 2, 170), ("resnet101_sk", 2, 257),
        ("resnet152", 1, 58), ("resnet152_sk", 1, 89), ("resnet152", 2, 233), ("resnet152_sk", 2, 354),
        ("resnet152_sk", 3, 795),
        ("vit_small", 1, 21),  # DINO, table 1
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones(name, width, published):
    assert abs(millions(name, width) - published) < 1


def test_every_backbone_is_described_and_every_described_one_is_made():
    assert set(DESCRIBED) == set(BACKBONES)


@pytest.mark.parametrize("name", ["resnet18", "resnet50_sk", "mobilenet_v3", "vit_tiny", "reactnet"])
def test_costs_are_counted_without_weights(name):
    cost = classifier_cost(name, 0.25, 32, classes=10)
    assert cost.forward > 2 * cost.widths["features"] * 10
    teacher = pretext_cost(SimCLR(backbone=name, width=0.25), 32)
    assert teacher.step > 6 * teacher.forward  # two views, forward and backward


# torchvision


@imported
@pytest.mark.parametrize("name", ["resnet34", "resnet101"])
def test_from_64_px_up_resnets_are_torchvisions(name):
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        theirs = fill(torchvision.models.get_model(name, weights=None))
        ours = make_backbone(name, 64).eval()
        tensors = [t for key, t in theirs.state_dict().items() if not key.startswith("fc.")]
        ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
        x = images(1, 64)
        expected = nn.Sequential(*list(theirs.children())[:-1])(x).flatten(1)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@imported
def test_mobilenet_is_torchvisions_with_its_classifier():
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        theirs = fill(torchvision.models.mobilenet_v3_large(weights=None))
        ours = build_network("mobilenet_v3", 64, seed=0, classes=1000).eval()
        assert sum(p.numel() for p in ours.parameters()) == 5_483_032
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
        x = images(2, 64)
        torch.testing.assert_close(ours(x), theirs((x - ours.mean) / ours.std), rtol=1e-4, atol=1e-4)


@imported
@pytest.mark.parametrize("width", [0.5, 0.75])
def test_thin_mobilenets_have_torchvisions_channels(width):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v3_large(weights=None, width_mult=width).features
    assert millions("mobilenet_v3", width) == pytest.approx(
        sum(p.numel() for p in theirs.parameters()) / 1e6, rel=0.03
    )


# Selective kernels


def test_a_selective_kernel_is_the_paper_read_slowly():
    with torch.no_grad():
        kernel = fill(SelectiveKernel(5, 8, stride=2).double())
        x = images(2, 7, seed=1).double().repeat(1, 2, 1, 1)[:, :5]
        convolution, norm, _ = kernel.streams
        u = F.relu(norm(F.conv2d(x, convolution.weight, stride=2, padding=1)))
        first, second = u[:, :8], u[:, 8:]
        squeezed = (first + second).mean(dim=(2, 3))
        narrow, narrow_norm, _ = kernel.squeeze
        normed = F.batch_norm(
            (squeezed @ narrow.weight[:, :, 0, 0].T)[:, :, None],
            narrow_norm.running_mean,
            narrow_norm.running_var,
            narrow_norm.weight,
            narrow_norm.bias,
        )
        middle = F.relu(normed)[:, :, 0]
        logits = middle @ kernel.gate.weight[:, :, 0, 0].T
        assert narrow.weight.shape[0] == 32
        expected = torch.empty(2, 8, 4, 4, dtype=torch.float64)
        for b in range(2):
            for c in range(8):
                a = 1 / (1 + torch.exp(logits[b, c + 8] - logits[b, c]))
                expected[b, c] = a * first[b, c] + (1 - a) * second[b, c]
        torch.testing.assert_close(kernel(x), expected, rtol=0, atol=1e-10)


def test_with_a_gate_of_zero_the_streams_are_averaged():
    with torch.no_grad():
        kernel = fill(SelectiveKernel(4, 6, stride=1))
        kernel.gate.weight.zero_()
        x = images(2, 5, seed=2).repeat(1, 2, 1, 1)[:, :4]
        torch.testing.assert_close(kernel(x), kernel.streams(x).unflatten(1, (2, -1)).mean(dim=1))


@pytest.mark.parametrize("side", [6, 7])
def test_shortcuts_of_selective_resnets_are_means_of_four_places(side):
    with torch.no_grad():
        block = fill(Residual(4, 3, stride=2, bottleneck=True, selective=True))
        x = images(1, side, seed=3).repeat(1, 2, 1, 1)[:, :4]
        padded = F.pad(x, (0, side % 2, 0, side % 2), mode="replicate")  # the mean of the available values
        half = padded.shape[2] // 2
        mean = padded.reshape(1, 4, half, 2, half, 2).mean(dim=(3, 5))
        _, convolution, norm = block.shortcut
        torch.testing.assert_close(block.shortcut(x), norm(convolution(mean)))
        assert block(x).shape == (1, 12, half, half)


def test_selective_resnets_begin_with_three_convolutions_and_keep_small_images_large():
    kernels = [
        m.kernel_size
        for m in make_backbone("resnet50_sk", 64, 0.25).stages["conv1"]
        if isinstance(m, nn.Conv2d)
    ]
    assert kernels == [(3, 3)] * 3
    maps = make_backbone("resnet50_sk", 32, 0.25).eval().layers(images(1, 32))
    assert [m.shape[2] for m in maps.values()] == [32, 32, 16, 8, 4]
    maps = make_backbone("resnet50_sk", 96, 0.25).eval().layers(images(1, 96))
    assert [m.shape[2] for m in maps.values()] == [48, 24, 12, 6, 3]


# Vision transformers


@pytest.mark.parametrize(("size", "grid"), [(8, 4), (16, 8), (32, 8), (64, 8), (96, 12), (128, 8), (224, 14)])
def test_patches_leave_at_least_eight_a_side(size, grid):
    backbone = make_backbone("vit_tiny", size, width=1 / 3).eval()
    assert {tuple(m.shape[1:]) for m in backbone.layers(images(1, size)).values()} == {(64, grid, grid)}


@imported
@pytest.mark.parametrize(
    ("name", "theirs"), [("vit_tiny", "vit_tiny_patch16_224"), ("vit_small", "vit_small_patch16_224")]
)
def test_vision_transformers_are_timms_without_a_class_token(name, theirs):
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = timm.create_model(
            theirs,
            pretrained=False,
            num_classes=0,
            class_token=False,
            global_pool="avg",
            fc_norm=False,
            dynamic_img_size=True,
        )
        fill(network)
        ours = make_backbone(name, 224).eval()
        tensors = network.state_dict()
        positions = tensors.pop("pos_embed")
        assert sum(t.numel() for t in tensors.values()) + positions.numel() == 1e6 * millions(name)
        mine = {key: value for key, value in ours.state_dict().items() if not key.endswith("positions")}
        order = {"patches.embed": "patch_embed.proj"}
        for block in range(12):
            own = f"layer{block // 3 + 1}.blocks.{block % 3}"
            for part, same in (
                ("norm1", "norm1"),
                ("qkv", "attn.qkv"),
                ("project", "attn.proj"),
                ("norm2", "norm2"),
                ("mlp.0", "mlp.fc1"),
                ("mlp.2", "mlp.fc2"),
            ):
                order[f"{own}.{part}"] = f"blocks.{block}.{same}"
        order["layer4.norm"] = "norm"
        for own, same in order.items():
            for kind in ("weight", "bias"):
                mine.pop(f"stages.{own}.{kind}").copy_(tensors.pop(f"{same}.{kind}"))
        assert not mine
        assert not tensors
        ours.stages["patches"].positions.copy_(positions.transpose(1, 2).unflatten(2, (14, 14)))
        x = images(1, 224)
        torch.testing.assert_close(ours(x), network(x), rtol=1e-4, atol=1e-4)
        small = images(1, 96)
        # Both interpolate positions in the same way.
        torch.testing.assert_close(ours(small), network(small), rtol=1e-4, atol=1e-4)


def test_positions_tell_places_apart_and_other_sizes_can_be_fed():
    backbone = make_backbone("vit_tiny", 32, width=1 / 3).eval()
    assert torch.isfinite(backbone(images(2, 14))).all()
    assert backbone.layers(images(1, 14))["layer4"].shape[2:] == (3, 3)
    same = backbone.layers(torch.full((1, 3, 32, 32), 0.5))["layer4"]
    assert (same - same[..., :1, :1]).abs().max() > 1e-3
    with torch.no_grad():
        backbone.stages["patches"].positions.zero_()
    x = images(1, 32)
    mirrored = x.unflatten(3, (8, 4)).flip(3).flatten(3)
    torch.testing.assert_close(
        backbone(x), backbone(mirrored)
    )  # without positions, the order of patches does not matter


# timm by name


@imported
@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]
)
def test_networks_of_timm_end_with_timms_own_features(name):
    timm = pytest.importorskip("timm")
    network = build_network(f"timm:{name}", 64, seed=0, classes=3).eval()
    again = Network.from_description(network.description()).eval()
    again.load_state_dict(network.state_dict())
    x = images(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
        for layer in network.layer_names():
            assert network.features(x, layer).shape == (2, network.layer_dim(layer))
        theirs = network.backbone.stages["network"]
        last = theirs.forward_features((x - network.mean) / network.std)
        if last.ndim == 3:
            last = last[:, theirs.num_prefix_tokens :].mean(dim=1)
        else:
            last = last.mean(dim=(1, 2) if name.startswith("swin") else (2, 3))
        torch.testing.assert_close(network.features(x), last, rtol=1e-4, atol=1e-5)
    assert network.layer_dim("features") == timm.create_model(name, num_classes=0).num_features


@imported
@pytest.mark.parametrize(
    ("name", "width", "complaint"),
    [
        ("timm:resnet19", 1.0, r"no network 'resnet19'; near it is .*resnet18"),
        ("timm:resnet18", 0.5, r"width of its name"),
    ],
)
def test_what_timm_does_not_have_is_refused(name, width, complaint):
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=complaint):
        make_backbone(name, 32, width)


def test_without_timm_one_line_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "timm":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'knowledge-transfer\[timm\]'"):
        make_backbone("timm:resnet18", 32)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "models.configs.shared.find_spec", lambda name: None if name == "timm" else find(name)
    )
    with pytest.raises(ConfigError, match=r"student.backbone = 'timm:resnet18': needs the package timm"):
        resolve({"student": {"backbone": "timm:resnet18"}})


@pytest.mark.parametrize("name", ["resnet19", "timm:", "timm", ""])
def test_the_configuration_refuses_unknown_names_with_the_list(name):
    with pytest.raises(
        ConfigError, match=r"pretext.backbone = .* is unknown; choose one of smallconv.*timm:NAME"
    ):
        resolve({"pretext": {"method": "simclr", "backbone": name}})
