"""1-bit networks: gradients, scales, values, shapes, and the two forms of two-step binarisation."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.errors import ConfigError
from models.backbones import make_backbone
from models.backbones.reactnet import (
    BinaryConvolution,
    ReActBlock,
    RPReLU,
    RSign,
    binary,
    binary_convolutions,
    sign,
)
from models.network import Network, build_network


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block(inputs, outputs, stride, seed=0):
    """Return a block with random parameters and statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ReActBlock(inputs, outputs, stride)
        for name, tensor in made.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand_like(tensor) + 0.5 if "var" in name else 0.3 * torch.randn_like(tensor)
                )
    return made.eval()


def small(size=16, **options):
    return build_network("reactnet", size, seed=0, width=0.25, **options)


# Signs of activations


def polynomial(u):
    """Compute Bi-Real net's approximation of the sign."""
    return np.where(u < -1, -1, np.where(u < 0, 2 * u + u**2, np.where(u < 1, 2 * u - u**2, 1)))


def test_the_gradient_of_the_sign_is_the_slope_of_the_polynomial():
    u = torch.linspace(-2, 2, 801, dtype=torch.float64, requires_grad=True)
    s = sign(u)
    assert s.unique().tolist() == [-1, 1]
    assert torch.equal(s >= 0, u >= 0)
    assert sign(torch.tensor([0.0, -0.0])).tolist() == [1, 1]  # no third value
    weight = noise(801, seed=1).double()
    (s * weight).sum().backward()
    h, at = 1e-6, u.detach().numpy()
    slope = (polynomial(at + h) - polynomial(at - h)) / (2 * h)
    np.testing.assert_allclose(u.grad.numpy(), weight.numpy() * slope, atol=1e-5)


def test_the_gradient_of_the_sign_at_the_points_of_the_table():
    u = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5], requires_grad=True)
    sign(u).sum().backward()
    assert u.grad.tolist() == [0, 1, 2, 1, 0]


def test_the_threshold_is_per_channel_and_learns():
    layer, x = RSign(3), noise(4, 3, 5, 5)
    with torch.no_grad():
        layer.b.copy_(torch.tensor([0.0, 10.0, -10.0]))
    s = layer(x)
    assert torch.equal(s[:, 0], torch.where(x[:, 0] >= 0, 1.0, -1.0))
    assert (s[:, 1] == 1).all()
    assert (s[:, 2] == -1).all()
    s.sum().backward()
    assert layer.b.grad[0] > 0
    assert layer.b.grad[1:].tolist() == [0, 0]


def test_rprelu_is_two_shifts_around_a_slope():
    layer, x = RPReLU(2), noise(3, 2, 4, 4)
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([0.5, -0.2]))
        layer.slope.copy_(torch.tensor([0.1, 3.0]))
        layer.zeta.copy_(torch.tensor([1.0, -2.0]))
    v = x[:, 0] - 0.5
    torch.testing.assert_close(layer(x)[:, 0], torch.where(v > 0, v, 0.1 * v) + 1)
    v = x[:, 1] + 0.2
    torch.testing.assert_close(layer(x)[:, 1], torch.where(v > 0, v, 3 * v) - 2)


# Signs of weights


def test_weights_have_two_values_a_channel_and_their_gradient_passes_within_one():
    w = torch.tensor([[0.2, -0.4, 0.0, -1.4], [2.0, 1.0, -1.0, 0.5]], dtype=torch.float64).view(2, 1, 2, 2)
    w.requires_grad_()
    wb = binary(w)
    assert wb.flatten(1).tolist() == [[0.5, -0.5, 0.5, -0.5], [1.125, 1.125, -1.125, 1.125]]
    g = noise(2, 1, 2, 2).double()
    (wb * g).sum().backward()
    passes = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).view(2, 1, 2, 2)
    assert torch.equal(w.grad, g * passes)  # alpha does not affect it


def test_alpha_is_the_scale_that_comes_closest():
    """For fixed signs, mean |w| minimises the squared distance to w."""
    w = noise(4, 8, 3, 3).double()
    signs, norm = torch.where(w >= 0, 1.0, -1.0).double(), w[0].numel()
    closest = (w * signs).sum(dim=(1, 2, 3)) / norm
    torch.testing.assert_close(binary(w), closest.view(-1, 1, 1, 1) * signs)


@pytest.mark.parametrize("c", [3.0, -1.0])
def test_a_filter_times_c_gives_an_output_times_c(c):
    convolution, x = BinaryConvolution(4, 6, 3), sign(noise(2, 4, 5, 5))
    y = convolution(x)
    with torch.no_grad():
        convolution.weight *= c
    torch.testing.assert_close(convolution(x), c * y)


# Blocks


def slow_convolution(s, w, stride):
    """Convolve signs s (C, h, w) with latent weights w (out, in, k, k) in loops. Both are float64 arrays."""
    out, k = len(w), w.shape[2]
    pad = k // 2
    padded = np.pad(s, ((0, 0), (pad, pad), (pad, pad)))
    h = -(-s.shape[1] // stride)
    y = np.zeros((out, h, h))
    for o in range(out):
        alpha, signs = np.abs(w[o]).mean(), np.where(w[o] >= 0, 1, -1)
        for i in range(h):
            for j in range(h):
                y[o, i, j] = (
                    alpha
                    * (padded[:, i * stride : i * stride + k, j * stride : j * stride + k] * signs).sum()
                )
    return y


def slow_norm(norm, x):
    mean, var, weight, bias = (
        getattr(norm, n).detach().double().numpy()[:, None, None]
        for n in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + norm.eps) * weight + bias


def slow_prelu(layer, x):
    gamma, slope, zeta = (
        p.detach().double().numpy()[:, None, None] for p in (layer.gamma, layer.slope, layer.zeta)
    )
    v = x - gamma
    return np.where(v > 0, v, slope * v) + zeta


def slow_sign(layer, x):
    return np.where(x + layer.b.detach().double().numpy()[:, None, None] >= 0, 1.0, -1.0)


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride", "side"), [(4, 4, 1, 5), (4, 8, 1, 4), (4, 8, 2, 6), (4, 8, 2, 5)]
)
def test_a_block_is_its_slow_rewrite(inputs, outputs, stride, side):
    made, x = block(inputs, outputs, stride), noise(2, inputs, side, side, seed=3)
    y = made(x).detach().numpy()
    for image, expected in zip(x.double().numpy(), y, strict=True):
        shortcut = image
        if stride == 2:
            half = -(-side // 2)
            shortcut = np.stack(
                [
                    [
                        [plane[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(half)]
                        for i in range(half)
                    ]
                    for plane in image
                ]
            )
        w = made.conv3x3.weight.detach().double().numpy()
        a = slow_norm(made.norm3x3, slow_convolution(slow_sign(made.sign1, image), w, stride)) + shortcut
        a = slow_prelu(made.prelu1, a)
        s = slow_sign(made.sign2, a)
        copies = [
            slow_norm(norm, slow_convolution(s, convolution.weight.detach().double().numpy(), 1)) + a
            for convolution, norm in zip(made.conv1x1, made.norm1x1, strict=True)
        ]
        np.testing.assert_allclose(
            slow_prelu(made.prelu2, np.concatenate(copies)), expected, rtol=1e-4, atol=1e-5
        )


def test_the_shortcut_is_real_valued():
    """Without its convolutions, a block repeats its averaged input and applies the two activations."""
    made, x = block(4, 8, 2), noise(2, 4, 6, 6)
    for norm in (made.norm3x3, *made.norm1x1):
        torch.nn.init.zeros_(norm.weight)
        torch.nn.init.zeros_(norm.bias)
    once = made.prelu1(F.avg_pool2d(x, 2))
    torch.testing.assert_close(made(x), made.prelu2(torch.cat([once, once], dim=1)))


# The network


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        (8, [8, 8, 4, 2, 1, 1]),
        (25, [25, 25, 13, 7, 4, 2]),
        (32, [32, 32, 16, 8, 4, 2]),
        (64, [32, 32, 16, 8, 4, 2]),
        (224, [112, 112, 56, 28, 14, 7]),
    ],
)
def test_maps_have_the_papers_sides_and_channels(size, sides):
    with torch.device("meta"):
        backbone = make_backbone("reactnet", size)
        maps = backbone.eval().layers(torch.empty(1, 3, size, size))
    assert [m.shape[3] for m in maps.values()] == sides
    assert (
        [m.shape[1] for m in maps.values()]
        == [32, 64, 128, 256, 512, 1024]
        == list(backbone.channels.values())
    )
    blocks = [m for m in backbone.modules() if isinstance(m, ReActBlock)]
    assert len(blocks) == 13
    assert (
        len(binary_convolutions(backbone)) == 13 + 13 + 4 + 1
    )  # 3 x 3; 1 x 1, and a second 1 x 1 if channels double


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_at_inference_only_signs_meet_only_signs(precision):
    network, seen = small().eval(), []

    def look(module, inputs, output):
        seen.append(module)
        assert inputs[0].unique().tolist() == [-1, 1]
        assert output.dtype == torch.float32
        for row, alpha in zip(
            binary(module.weight).flatten(1), module.weight.abs().mean(dim=(1, 2, 3)), strict=True
        ):
            assert row.abs().unique().tolist() == pytest.approx([alpha.item()])

    convolutions = binary_convolutions(network)
    for convolution in convolutions:
        convolution.register_forward_hook(look)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        network(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert set(seen) == set(convolutions)
    assert len(seen) == 31


def test_no_filter_starts_with_all_signs_alike():
    for convolution in binary_convolutions(small()):
        share = (convolution.weight > 0).float().mean()
        assert 0.4 < share < 0.6
        assert convolution.weight.abs().max() < 1  # within the clip, so that all get a gradient


def test_every_parameter_takes_a_gradient():
    network = small(classes=3)
    F.cross_entropy(network(torch.rand(8, 3, 16, 16)), torch.arange(8) % 3).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


# Two-step binarisation


def test_both_forms_share_their_weights_and_differ_in_what_they_use_of_them():
    real, x = small(real_weights=True).eval(), torch.rand(4, 3, 16, 16)
    both = real.with_weights(real=False).eval()
    assert list(real.state_dict()) == list(both.state_dict()) == list(small().state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(real.state_dict().values(), both.state_dict().values(), strict=True)
    )
    assert (real.description()["real_weights"], both.description()["real_weights"]) == (True, False)
    assert not torch.allclose(real(x), both(x))
    with torch.no_grad():  # if the latent weights are binary, both forms agree
        for convolution in binary_convolutions(real):
            convolution.weight.copy_(binary(convolution.weight))
    torch.testing.assert_close(real(x), real.with_weights(real=False).eval()(x))


def test_the_form_survives_model_json_and_a_new_classifier():
    for wanted in (True, False):
        network = Network.from_description(small(real_weights=wanted).description()).with_classifier(
            3, seed=0
        )
        assert {c.real_weights for c in binary_convolutions(network)} == {wanted}
    older = {k: v for k, v in small().description().items() if k not in ("real_weights", "projection")}
    assert Network.from_description(older).state_dict().keys() == small().state_dict().keys()


def test_real_weights_are_refused_where_there_are_no_others():
    with pytest.raises(ConfigError, match="resnet18 has no 1-bit weights"):
        build_network("resnet18", 16, seed=0, real_weights=True)


def test_a_projection_head_is_published_and_dropped_by_a_classifier():
    plain = small()
    network = plain.with_projection(12, seed=1)
    assert network.layer_names()[-2:] == ["features", "projection"]
    assert network.projection_dim == network.layer_dim("projection") == 12
    assert plain.projection_dim is None
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network.eval().features(x), plain.eval().features(x))
    torch.testing.assert_close(network(x), network.projection(plain(x)))
    again = Network.from_description(network.description())
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(x), network(x))
    assert torch.equal(plain.with_projection(12, seed=1).projection[0].weight, network.projection[0].weight)
    assert not torch.equal(
        plain.with_projection(12, seed=2).projection[0].weight, network.projection[0].weight
    )
    assert network.with_classifier(3, seed=0).layer_names() == plain.with_classifier(3, seed=0).layer_names()
