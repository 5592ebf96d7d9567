"""Linear and non-linear probes of layers, against logistic regression. The network must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.errors import ConfigError, DataError
from models.augment import centre
from models.configs.evaluations import NonLinear
from models.evaluation.layers import layer_probes, pooled_map
from models.evaluation.nonlinear import AboveLayer, middle_layer, mlp_probe
from models.method import Batch, Progress
from models.network import build_network

N, C = 400, 3


def pictures(seed: int, n: int = N) -> tuple[np.ndarray, torch.Tensor]:
    """Noisy images whose class is a hue."""
    g = np.random.default_rng(seed)
    y = g.integers(0, C, n)
    images = g.integers(0, 160, (n, 16, 16, 3)).astype(np.float64)
    images[np.arange(n), :, :, y] += 25
    return images.clip(0, 255).astype(np.uint8), torch.from_numpy(y)


@pytest.fixture(scope="module")
def data():
    (x, y), (t, u) = pictures(0), pictures(1)
    every = np.concatenate([x, t])
    return every, (np.arange(N), y), (np.arange(N, 2 * N), u)


def probe(data, network, **over):
    images, train, test = data
    return layer_probes(
        network, lambda index: images[index], train, test, C, **{"size": 16, "epochs": 20, **over}
    )


def test_each_layer_is_read_as_well_as_logistic_regression_reads_it(data):
    from sklearn.linear_model import LogisticRegression

    images, (_, y), (_, u) = data
    network = build_network("smallconv", 16, seed=0, width=0.5)
    found = probe(data, network)
    assert [score.layer for score in found] == ["conv1", "conv2", "conv3"]
    with torch.no_grad():
        maps = dict(network.eval().maps(centre(torch.from_numpy(images), 16)))
    for score in found:
        x = pooled_map(maps[score.layer])
        assert x.shape[1] == score.values <= 9216
        x = ((x - x[:N].mean(0)) / x[:N].std(0).clamp_min(1e-6)).numpy()
        best = max(
            LogisticRegression(C=c, max_iter=500).fit(x[:N], y).score(x[N:], u) for c in (1e-3, 1e-2, 0.1)
        )
        assert score.right.mean() > 0.6  # of three classes
        assert score.right.mean() > best - 0.06
        assert score.right.shape == (N,)


def test_accuracy_at_each_rate_and_the_one_that_counts(data):
    network = build_network("smallconv", 16, seed=0, width=0.25)
    for score in probe(data, network, epochs=3, rates=(0.1, 3.0)):
        assert list(score.at_rates) == [0.1, 3.0]
        assert score.at_rates[score.rate] == score.right.mean()


def test_layers_as_they_are_want_rates_by_their_scale(data):
    """A probe of a map ten times as large learns as much at a hundredth of the rate.

    If maps are standardised, it learns as much at the same rate.
    """
    network = build_network("smallconv", 16, seed=0, width=0.25).eval()
    larger = build_network("smallconv", 16, seed=0, width=0.25).eval()
    with torch.no_grad():
        norm = next(m for m in larger.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
        norm.weight.mul_(10)
        norm.bias.mul_(10)
    usual, other = (
        probe(data, n, epochs=3, standardise=False, rates=(0.01, 1e-4))[0] for n in (network, larger)
    )
    assert other.at_rates[1e-4] == pytest.approx(usual.at_rates[0.01], abs=0.02)
    usual, other = (probe(data, n, epochs=3, rates=(1.0,))[0] for n in (network, larger))
    assert other.at_rates[1.0] == pytest.approx(usual.at_rates[1.0], abs=0.02)


def test_the_network_is_left_as_it_is_to_the_bit(data):
    network = build_network("smallconv", 16, seed=0, width=0.25).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probe(data, network, epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


def test_test_labels_choose_nothing(data):
    images, train, (other, u) = data
    network = build_network("smallconv", 16, seed=0, width=0.25)
    honest = probe(data, network, epochs=2)
    swapped = probe((images, train, (other, (u + 1) % C)), network, epochs=2)
    assert [s.rate for s in honest] == [s.rate for s in swapped]
    assert [s.validation for s in honest] == [s.validation for s in swapped]
    twice = probe(data, network, epochs=2)
    assert all(np.array_equal(a.right, b.right) for a, b in zip(honest, twice, strict=True))


def test_a_class_needs_images_to_set_aside(data):
    images, (index, y), test = data
    network = build_network("smallconv", 16, seed=0, width=0.25)
    with pytest.raises(DataError, match="set one aside"):
        probe((images, (index[:9], y[:9]), test), network)


def test_maps_are_averaged_down_to_the_papers_size():
    assert pooled_map(torch.zeros(2, 256, 13, 13)).shape == (2, 9216)  # AlexNet's conv5
    assert pooled_map(torch.zeros(2, 64, 55, 55)).shape == (2, 9216)
    assert pooled_map(torch.zeros(2, 192, 27, 27)).shape == (2, 192 * 36)
    assert pooled_map(torch.zeros(2, 2048, 7, 7)).shape == (2, 8192)
    assert pooled_map(torch.zeros(2, 16, 4, 4)).shape == (2, 256)


def test_what_is_above_a_layer_is_new_and_what_is_below_stands_still():
    given = build_network("smallconv", 16, seed=0, width=0.25)
    method = AboveLayer(NonLinear(learning_rate=0.05), given, "conv2", C, seed=1)
    stages = method.network.backbone.stages
    same = {}
    for name, stage in stages.items():
        pairs = zip(stage.parameters(), given.backbone.stages[name].parameters(), strict=True)
        same[name] = all(torch.equal(p, q) for p, q in pairs)
    assert same == {"conv1": True, "conv2": True, "conv3": False}
    images, y = pictures(0, 32)
    before = {name: value.clone() for name, value in method.network.state_dict().items()}
    (optimizer,) = method.optimizers().values()
    method.train()
    batch = Batch(torch.from_numpy(images), torch.arange(32), y)
    batch.views = centre(batch.images, 16)
    losses = []
    for step in range(20):
        loss = method.loss(batch, Progress(step, 20, 0, 1)).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    moved = {
        name for name, value in method.network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved
    assert not any("conv1" in name or "conv2" in name for name in moved)
    assert middle_layer(given) == "conv2"
    with pytest.raises(ConfigError, match="conv9"):
        AboveLayer(NonLinear(), given, "conv9", C, seed=1)


def test_an_mlp_learns_what_no_line_can_tell():
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=g)
    y = (x[:, 0] * x[:, 1] > 0).long()
    state = torch.random.get_rng_state()
    found = mlp_probe(x[:1000], y[:1000], x[1000:], 2, hidden=64, epochs=30, batch_size=64, seed=0)
    assert (found == y[1000:]).float().mean() > 0.9
    line = (
        LogisticRegression().fit(x[:1000].numpy(), y[:1000].numpy()).score(x[1000:].numpy(), y[1000:].numpy())
    )
    assert line < 0.6
    assert torch.equal(
        found, mlp_probe(x[:1000], y[:1000], x[1000:], 2, hidden=64, epochs=30, batch_size=64, seed=0)
    )
    assert torch.equal(state, torch.random.get_rng_state())
