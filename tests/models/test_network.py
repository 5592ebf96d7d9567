import json

import pytest
import torch

from data.errors import ArtifactError, ConfigError
from models.backbones import BACKBONES, make_backbone
from models.network import MEAN, STD, Network, build_network

MAPS = {  # side of each map, by backbone and side of the image
    ("smallconv", 8): [8, 4, 4],
    ("smallconv", 16): [16, 8, 4],
    ("smallconv", 25): [13, 6, 3],
    ("smallconv", 32): [16, 8, 4],
    ("smallconv", 96): [48, 24, 12, 6],
    ("alexnet", 24): [12, 6, 3, 3, 3],
    ("alexnet", 32): [16, 8, 4, 4, 4],
    ("alexnet", 57): [29, 15, 8, 8, 8],
    ("alexnet", 64): [15, 7, 3, 3, 3],
    ("alexnet", 96): [23, 11, 5, 5, 5],
    ("alexnet", 224): [55, 27, 13, 13, 13],
    ("vgg16", 24): [24, 12, 6, 3, 3],
    ("vgg16", 64): [64, 32, 16, 8, 4],
    ("vgg16_bn", 32): [32, 16, 8, 4, 2],
    ("vgg16_bn", 96): [96, 48, 24, 12, 6],
    ("resnet18", 8): [8, 8, 4, 2, 1],
    ("resnet18", 32): [32, 32, 16, 8, 4],
    ("resnet18", 96): [48, 24, 12, 6, 3],
    ("resnet34", 32): [32, 32, 16, 8, 4],
    ("resnet50", 24): [24, 24, 12, 6, 3],
    ("mobilenet_v3", 32): [32, 32, 16, 8, 4, 4],
    ("mobilenet_v3", 8): [8, 8, 4, 2, 1, 1],
    ("mobilenet_v3", 224): [112, 56, 28, 14, 7, 7],
    ("vit_small", 32): [8, 8, 8, 8, 8],
    ("resnet50", 224): [112, 56, 28, 14, 7],
}


def images(n, size, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small(**options):
    return build_network("smallconv", 16, seed=0, width=0.25, **options).eval()


@pytest.mark.parametrize(("name", "size"), MAPS)
def test_maps_have_the_documented_sides_and_channels(name, size):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        backbone = make_backbone(name, size, width=0.25).eval()
        maps = backbone.layers(images(1, size))
        assert [m.shape[2] for m in maps.values()] == [m.shape[3] for m in maps.values()] == MAPS[name, size]
        assert {layer: m.shape[1] for layer, m in maps.items()} == backbone.channels
        features = backbone(images(2, size))
        assert features.shape == (2, backbone.feature_dim)
        assert features.std() > 1e-4  # neither faded nor constant
        if backbone.fc is not None:
            x = list(maps.values())[-1]
            for layer in backbone.fc().values():
                x = layer.eval()(x)
                assert x.shape == (1, backbone.fc_dim)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["alexnet", "vgg16_bn", "resnet18", "resnet50"])
def test_from_64_px_up_they_are_torchvisions(name):
    """torchvision's weights must fit ours in order.

    We have our own versions because importing torchvision costs each process seconds.
    """
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        theirs = torchvision.models.get_model(name, weights=None).eval()
        ours = make_backbone(name, 64).eval()
        trunk = theirs.features if hasattr(theirs, "features") else theirs
        tensors = [t for key, t in trunk.state_dict().items() if not key.startswith("fc.")]
        ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
        x = images(2, 64)
        if name.startswith("resnet"):
            x_theirs = torch.nn.Sequential(*list(theirs.children())[:-1])(x).flatten(1)
        else:
            x_theirs = theirs.features[:-1](x).mean(dim=(2, 3))
        torch.testing.assert_close(ours(x), x_theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_alexnet_with_its_fully_connected_layers_is_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        theirs = torchvision.models.alexnet(weights=None, num_classes=10).eval()
        ours = build_network("alexnet", 224, seed=0, classes=10).eval()
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
        x = images(1, 224)
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        torch.testing.assert_close(ours(x), theirs((x - mean) / std))


@pytest.mark.parametrize(("name", "size"), [("alexnet", 15), ("smallconv", 7), ("resnet18", 4)])
def test_images_too_small_for_a_backbone_are_refused(name, size):
    with pytest.raises(ConfigError, match=f"{name} needs images .* not {size} px"):
        make_backbone(name, size)


def test_an_unknown_backbone_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"'resnet19'.*resnet18"):
        make_backbone("resnet19", 32)


def test_width_scales_channels_in_steps_of_eight():
    assert list(make_backbone("smallconv", 16, width=0.3).channels.values()) == [8, 16, 40]
    assert make_backbone("resnet18", 16, width=2).feature_dim == 1024


@pytest.mark.parametrize("name", BACKBONES)
def test_a_description_builds_the_same_network_again(name):
    network = build_network(name, 32, seed=1, width=0.25, form=24, classes=5).eval()
    described = json.loads(json.dumps(network.description()))
    again = Network.from_description(described).eval()
    again.load_state_dict(network.state_dict())
    x = images(2, 32)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)
    assert again.description() == described
    assert described["feature_dim"] == network.backbone.feature_dim


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"colour": 1}, "colour"), ({"image_size": "big"}, "image_size"), ({"feature_dim": 7}, "feature_dim 7")],
)
def test_a_spoilt_description_is_refused(change, complaint):
    with pytest.raises(ArtifactError, match=complaint):
        Network.from_description({**small().description(), **change})


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (build_network("smallconv", 16, seed=seed, width=0.25, head=1, classes=3) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    for part in ("backbone.stages.conv1.0.weight", "head.head1.0.weight", "classifier.weight"):
        assert not torch.equal(a.get_parameter(part), c.get_parameter(part))


def test_every_layer_by_name_has_the_dimension_it_says():
    for network in (
        small(head=1, classes=5),
        build_network("alexnet", 32, seed=0, width=0.25, classes=5).eval(),
    ):
        x = images(3, network.image_size)
        for layer in network.layer_names():
            features = network.features(x, layer)
            assert features.shape == (3, network.layer_dim(layer))
            assert features.dtype == torch.float32
        torch.testing.assert_close(network.features(x, "logits"), network(x))
    assert network.layer_names()[-4:] == ["features", "fc6", "fc7", "logits"]


def test_features_are_averaged_maps_of_normalised_images():
    network, x = small(head=1), images(3, 16)
    normalised = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    maps = network.backbone.layers(normalised)
    torch.testing.assert_close(network.features(x), maps["conv3"].mean(dim=(2, 3)))
    torch.testing.assert_close(network.features(x, "conv2"), maps["conv2"].mean(dim=(2, 3)))
    torch.testing.assert_close(network.features(x, "head1"), network.head["head1"](network.features(x)))
    assert (network.features(x, "head1") >= 0).all()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "features"),
        ({"head": 2}, "head2"),
        ({"classes": 3}, "features"),
        ({"head": 1, "classes": 3}, "head1"),
    ],
)
def test_the_last_layer_is_what_lies_below_the_classifier(options, name):
    network = build_network("smallconv", 16, seed=0, width=0.25, **options).eval()
    x = torch.rand(2, 3, 16, 16)
    assert network.last_layer == name
    assert network.layer_dim("last") == network.layer_dim(name)
    torch.testing.assert_close(network.features(x, "last"), network.features(x, name), rtol=0, atol=0)


def test_an_unknown_layer_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"conv9.*conv1, conv2, conv3, features, head1"):
        small(head=1).features(images(1, 16), "conv9")


def test_features_stay_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {
            small(head=1, classes=2).features(images(2, 16), n).dtype for n in ("conv1", "head1", "logits")
        } == {torch.float32}


def test_a_new_classifier_keeps_the_head_and_starts_at_chance():
    teacher = small(head=1, classes=7)
    network = teacher.with_classifier(4, seed=1).eval()
    x = images(64, 16)
    torch.testing.assert_close(network.features(x, "head1"), teacher.features(x, "head1"))
    assert network(x).softmax(dim=1).sub(1 / 4).abs().max() < 0.1
    assert "head1" not in teacher.with_classifier(4, seed=1, keep_head=0).layer_names()
    assert network.classes == 4
    assert teacher.classes == 7


def test_fully_connected_layers_are_drawn_anew_unless_kept():
    student = build_network("alexnet", 32, seed=0, width=0.25, classes=20)
    renewed, kept = student.with_classifier(5, seed=1), student.with_classifier(5, seed=1, keep_fc=True)
    weight = student.fc["fc7"][1].weight
    assert torch.equal(kept.fc["fc7"][1].weight, weight)
    assert not torch.equal(renewed.fc["fc7"][1].weight, weight)
    for network in (renewed, kept):
        conv1 = network.backbone.stages["conv1"][0].weight
        assert torch.equal(conv1, student.backbone.stages["conv1"][0].weight)
        assert conv1.data_ptr() != student.backbone.stages["conv1"][0].weight.data_ptr()
    trunk = build_network("alexnet", 32, seed=0, width=0.25)
    assert list(trunk.with_classifier(5, seed=1).fc) == ["fc6", "fc7"]
    assert list(trunk.with_classifier(5, seed=1, keep_fc=True).fc) == []


def test_a_network_formed_for_tiles_takes_whole_images():
    network = build_network("vgg16", 96, seed=0, width=0.25, form=24).eval()
    assert network.backbone.layers(images(1, 24))["conv5"].shape[2] == 3
    assert network(images(2, 96)).shape == (2, network.output_dim)


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_networks_for_bands_take_them_and_say_so(channels):
    from models.cost import operations
    from models.network import seeing

    with seeing(channels):
        made = build_network("smallconv", 16, seed=0, width=0.25, classes=3)
        with pytest.raises(ConfigError, match=f"{channels} bands have no lightness"):
            build_network("smallconv", 16, seed=0, input="lightness")
    assert build_network("smallconv", 16, seed=0).channels == 3  # outside, nothing has changed
    assert made(torch.rand(2, channels, 16, 16)).shape == (2, 3)
    described = json.loads(json.dumps(made.description()))
    assert (described["input"], len(described["mean"])) == ("bands", channels)
    for again in (Network.from_description(described), made.with_classifier(5, seed=1)):
        assert again.channels == channels
    assert operations(made).real > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_takes_other_bands(name):
    network = make_backbone(name, 64, 0.25, 5).eval()
    assert list(network.outputs(torch.rand(1, 5, 64, 64)))[-1][1].ndim == 4


@pytest.mark.parametrize("backbone", ["smallconv", "vgg16"])
def test_vectors_and_the_last_map_come_from_one_pass(backbone):
    network = build_network(backbone, 32, seed=0, width=0.25, classes=3).eval()
    x = images(2, 32)
    vector, last = network.features_and_map(x, "last")
    torch.testing.assert_close(vector, network.features(x, "last"))
    torch.testing.assert_close(last, network.last_map(x))
