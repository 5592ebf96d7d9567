"""The cost of 1-bit networks against published numbers and counts by hand."""

import pytest
import torch

from models.cost import operations, weight_bits
from models.network import build_network


def on_meta(name, size, **options):
    with torch.device("meta"):
        return build_network(name, size, seed=0, **options)


def test_reactnet_a_costs_what_its_paper_says():
    cost = operations(on_meta("reactnet", 224, classes=1000))
    assert cost.binary == pytest.approx(4.82e9, rel=0.001)
    assert cost.real == pytest.approx(0.12e8, rel=0.02)
    assert cost.total == pytest.approx(0.87e8, rel=0.005)


def test_resnet18_has_its_well_known_multiply_adds():
    cost = operations(on_meta("resnet18", 224, classes=1000))
    assert cost.binary == 0
    assert cost.total == cost.real == pytest.approx(1.814e9, rel=0.001)


def test_operations_by_hand():
    """Count at 16 px and a quarter of the width. A convolution costs side² x channels² x kernel."""
    network = build_network("reactnet", 16, seed=0, width=0.25, classes=3)
    binary, channels, side = 0, 8, 16
    for blocks, stride in ((1, 1), (2, 2), (2, 2), (6, 2), (2, 2)):
        side //= stride
        binary += side**2 * channels**2 * (9 + 2)
        channels *= 2
        binary += (blocks - 1) * side**2 * channels**2 * (9 + 1)
    cost = operations(network)
    assert cost.binary == binary
    assert cost.real == 16**2 * 3 * 8 * 9 + 256 * 3
    assert cost.total == binary / 64 + cost.real
    assert next(network.parameters()).device.type == "cpu"
    assert network.training  # as it was


def test_in_step_one_nothing_is_binary():
    step_1, step_2 = (
        build_network("reactnet", 16, seed=0, width=0.25, real_weights=real) for real in (True, False)
    )
    one, two = operations(step_1), operations(step_2)
    assert (one.binary, one.real) == (0, two.binary + two.real)
    floats = sum(t.numel() for t in step_1.state_dict().values() if t.is_floating_point())
    assert weight_bits(step_1) == 32 * floats
    weights = [
        p
        for name, p in step_2.named_parameters()
        if "conv" in name and p.ndim == 4 and "stages.conv1" not in name
    ]
    saved = sum(31 * w.numel() - 32 * len(w) for w in weights)
    assert len(weights) == 31
    assert weight_bits(step_2) == 32 * floats - saved


def test_a_one_bit_network_is_smaller_by_an_order():
    network = on_meta("reactnet", 224)
    real = weight_bits(on_meta("reactnet", 224, real_weights=True))
    assert 28.2e6 < weight_bits(network) < 34e6  # 28.2 million signs, and a few real numbers per channel
    assert 25 < real / weight_bits(network) < 32
