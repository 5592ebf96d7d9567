"""1-bit networks: gradients, scales, values, shapes, and the two forms of two-step binarisation."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data.errors import ConfigError
from models.backbones import make_backbone
from models.backbones.reactnet import (
    BinaryConvolution,
    FirstConvolution,
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


# Gradients of a 1-bit convolution


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 1, 4), (3, 2, 5), (3, 2, 6), (1, 1, 4)])
def test_the_gradients_of_a_convolution_are_those_of_its_slow_rewrite(kernel, stride, side):
    """Those of y = x * wb in loops, with the gradient of wb = alpha sign(w) passed on where |w| <= 1."""
    layer, s = BinaryConvolution(3, 4, kernel, stride), sign(noise(2, 3, side, side, seed=5))
    with torch.no_grad():
        layer.weight.copy_(0.9 * noise(*layer.weight.shape, seed=6))  # some are outside -1 to 1
    s.requires_grad_()
    y = layer(s)
    g = noise(*y.shape, seed=7)
    y.backward(g)

    w, pad = layer.weight.detach().double().numpy(), kernel // 2
    wb = np.abs(w).mean(axis=(1, 2, 3), keepdims=True) * np.where(w >= 0, 1, -1)
    x = np.pad(s.detach().double().numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    of_x, of_w = np.zeros_like(x), np.zeros_like(w)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            rows, columns = (slice(k * stride, k * stride + kernel) for k in (i, j))
            each = g[:, :, i, j].double().numpy()
            of_x[:, :, rows, columns] += np.einsum("no,ocab->ncab", each, wb)
            of_w += np.einsum("no,ncab->ocab", each, x[:, :, rows, columns])
    of_x = of_x[:, :, pad : pad + side, pad : pad + side]
    assert 0.05 < (np.abs(w) > 1).mean() < 0.7
    np.testing.assert_allclose(s.grad.numpy(), of_x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.weight.grad.numpy(), of_w * (np.abs(w) <= 1), rtol=1e-5, atol=1e-5)


def test_sums_of_signs_are_whole_numbers_whatever_the_scale():
    layer, s = BinaryConvolution(512, 8, 3), sign(noise(2, 512, 6, 6) + 0.5)
    with torch.no_grad():
        layer.weight.copy_(0.013 * (noise(*layer.weight.shape, seed=1) + 0.5))
        scale = layer.weight.abs().mean(dim=(1, 2, 3)).double()
        whole = F.conv2d(s.double(), torch.where(layer.weight >= 0, 1.0, -1.0).double(), padding=1)
        assert torch.equal(whole, whole.round())
        assert whole.abs().max() > 512  # beyond what bf16 can hold
        # One multiplication by the scale is the only rounding.
        assert torch.equal(layer(s), whole.float() * scale.float()[:, None, None])


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


def as_if_trained(size, width, seed, real=False):
    """A network with random parameters of the size that training gives them, and statistics of real batches.

    Thresholds, slopes and shifts are not at their initial values, so all comparisons are at different places.
    """
    network = build_network("reactnet", size, seed=seed, width=width, real_weights=real)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            values = torch.randn(p.shape, generator=g)
            if name.endswith((".b", ".gamma", ".zeta", "bias")):
                p.copy_(0.3 * values)
            elif name.endswith(("slope", "norm3x3.weight")) or ".norm1x1." in name:
                p.add_(0.2 * values)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
        for _ in range(2):
            network.train()(torch.rand(16, 3, size, size, generator=g))
    return network.eval()


@pytest.mark.parametrize(
    ("size", "width", "real"),
    [(16, 0.25, False), (33, 0.25, False), (64, 0.5, False), (16, 1.0, False), (16, 0.25, True)],
)
def test_under_bf16_no_sign_flips_at_any_depth(size, width, real):
    """At width 1, sums have up to 9216 terms: bf16 can't hold all of their values."""
    network = as_if_trained(size, width, seed=size, real=real)
    x = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(1))
    signs, features, maps = {}, {}, {}
    for low in (False, True):
        seen = signs[low] = []
        hooks = [
            layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
            for layer in network.modules()
            if isinstance(layer, RSign)
        ]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            maps[low] = dict(network.maps(x))
            features[low] = network.features(x)
        for hook in hooks:
            hook.remove()
    assert len(signs[True]) == len(signs[False]) == 2 * 2 * 13
    flipped = [(a != b).float().mean().item() for a, b in zip(signs[False], signs[True], strict=True)]
    assert flipped == [0.0] * len(flipped)
    assert {m.dtype for m in maps[True].values()} == {torch.float32}
    cosine = F.cosine_similarity(features[False], features[True]).min().item()
    assert cosine == pytest.approx(1, abs=5e-5)
    assert features[False].std(dim=0).max() > 0.01  # images differ


def test_gradients_under_bf16_are_those_of_float32():
    network, x = small(classes=3), torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    found = {}
    for low in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            maps = dict(network.maps(x))["layer5"]
        maps.square().mean().backward()
        found[low] = {
            name: p.grad.clone() for name, p in network.backbone.named_parameters() if p.grad is not None
        }
    assert found[True].keys() == found[False].keys() == dict(network.backbone.named_parameters()).keys()
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient, msg=name)


def test_the_first_convolution_has_no_tf32_and_leaves_it_as_it_was():
    layer, during = FirstConvolution(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), []
    layer[0].register_forward_hook(lambda *_: during.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    try:
        for outside in (True, False):
            torch.backends.cudnn.allow_tf32 = outside
            layer(torch.rand(2, 3, 8, 8))
            assert torch.backends.cudnn.allow_tf32 is outside
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert during == [False, False]


@pytest.mark.gpu
@pytest.mark.parametrize("low", [False, True])
def test_a_gpu_gives_the_features_of_the_cpu(low):
    """Rounding may turn over a sign whose sum is almost 0. One in ten thousand would be too many."""
    network = as_if_trained(32, 1.0, seed=3)
    x, signs = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)), {}
    for device in ("cpu", "cuda"):
        seen = signs[device] = []
        network.to(device)
        hook = network.backbone.stages["layer1"][0].sign1.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output.cpu())
        )
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=low):
            network.features(x.to(device))
        hook.remove()
    assert (signs["cpu"][0] != signs["cuda"][0]).float().mean() < 1e-4


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
