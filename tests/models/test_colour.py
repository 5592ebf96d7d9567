import numpy as np
import pytest
import torch

from models.colour import lab, lightness, srgb
from models.network import Network, build_network

color = pytest.importorskip("skimage.color")


def colours(n=4096, dtype=torch.float64):
    """Random colours, greys, the cube's corners and values near the line's ends."""
    g = torch.Generator().manual_seed(0)
    random = torch.rand(n, 3, generator=g, dtype=torch.float64)
    corners = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0], dtype=torch.float64)])
    grey = torch.linspace(0, 1, 256, dtype=torch.float64)[:, None].expand(-1, 3)
    return torch.cat([random, random * 0.02, corners, grey]).to(dtype)


def test_lab_is_scikit_images():
    x = colours()
    ours, theirs = lab(x), torch.from_numpy(color.rgb2lab(x.numpy()))
    torch.testing.assert_close(
        ours, theirs, atol=2e-4, rtol=0
    )  # it rounds CIE's 841/108 and (6/29)^3 to four digits
    on_curve = (x > 0.1).all(dim=1)
    torch.testing.assert_close(ours[on_curve], theirs[on_curve], atol=1e-9, rtol=0)


def test_srgb_is_scikit_images_where_the_colour_exists():
    y = torch.from_numpy(color.rgb2lab(colours().numpy()))
    expected = torch.from_numpy(color.lab2rgb(y.numpy()))
    torch.testing.assert_close(srgb(y), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_round_trip_returns_what_it_was_given(dtype):
    x = colours(dtype=dtype)
    assert (srgb(lab(x)) - x).abs().max() < (1e-9 if dtype == torch.float64 else 1e-4)
    y = lab(x)
    assert (lab(srgb(y)) - y).abs().max() < (1e-3 if dtype == torch.float64 else 0.05)


def test_white_black_and_greys_have_no_colour():
    y = lab(colours()[-256:])
    assert y[:, 1:].abs().max() < 0.01
    torch.testing.assert_close(
        y[[0, -1], 0], torch.tensor([0.0, 100.0], dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_lightness_is_l_of_lab_on_maps_too():
    x = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert lightness(x).shape == (2, 1, 5, 4)
    torch.testing.assert_close(lightness(x), lab(x)[:, :1] / 100)


def test_gradients_are_finite_at_black():
    x = torch.zeros(1, 3, requires_grad=True)
    (lab(x).sum() + lightness(x).sum() + srgb(lab(x)).sum()).backward()
    assert x.grad.isfinite().all()


def test_a_network_on_lightness_takes_rgb_and_does_not_see_colour():
    network = build_network("smallconv", 16, seed=0, width=0.25, input="lightness").eval()
    assert next(network.backbone.parameters()).shape[1] == 1
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grey = srgb(torch.cat([lab(x)[:, :1], torch.zeros(3, 2, 16, 16)], dim=1))
    assert (grey - x).abs().max() > 0.2
    torch.testing.assert_close(network(x), network(grey), atol=1e-4, rtol=1e-4)
    L = color.rgb2lab(x.permute(0, 2, 3, 1).numpy())[..., 0]
    seen = torch.from_numpy((L / 100 - 0.5) / 0.25).float()[:, None]
    torch.testing.assert_close(network(x), network.backbone(seen), atol=1e-4, rtol=1e-4)


def test_lightness_survives_description_and_fine_tuning_and_is_absent_from_older_ones():
    network = build_network("vgg16_bn", 16, seed=0, width=0.25, input="lightness")
    described = network.description()
    assert described["input"] == "lightness"
    x = torch.rand(2, 3, 16, 16)
    for other in (Network.from_description(described), network.with_classifier(5, seed=1)):
        assert other.description()["input"] == "lightness"
        other.backbone.load_state_dict(network.backbone.state_dict())
        np.testing.assert_array_equal(
            other.eval().features(x).detach().numpy(), network.eval().features(x).detach().numpy()
        )
    old = build_network("smallconv", 16, seed=0, width=0.25).description()
    del old["input"]
    assert Network.from_description(old).description()["input"] == "rgb"


@pytest.mark.parametrize(("name", "side"), [("smallconv", 4), ("alexnet", 4), ("vgg16", 2), ("resnet18", 4)])
def test_the_last_map_is_what_features_average(name, side):
    network = build_network(name, 32, seed=0, width=0.25).eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = network.last_map(x)
    assert maps.shape[2:] == (side, side)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), network.features(x))
