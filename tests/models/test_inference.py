"""Streamed inference: order, memory, modes, averaging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from data.draws import Draws
from models.augment import centre, random_view
from models.configs.shared import Views
from models.inference import augmented, mirrored, run

CPU = torch.device("cpu")
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 12, 12, 3), dtype=np.uint8)
INDEX = np.random.default_rng(1).permutation(50)[:37].astype(np.int64)


def read(index: NDArray[np.int64]) -> NDArray[np.uint8]:
    return PIXELS[index]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    net = nn.Sequential(body, nn.Linear(5 * 8 * 8, 4), nn.Softmax(dim=1))
    net(torch.rand(16, 3, 10, 10))  # batch statistics that are not the initial ones
    return net


def outputs(
    network: nn.Module, batch_size: int, **kwargs: object
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    given = {"device": CPU, "precision": "fp32", "size": 10, **kwargs}
    parts = list(run(network, network, read, INDEX, batch_size=batch_size, **given))  # type: ignore[arg-type]
    assert all(len(index) <= batch_size for index, _ in parts)
    return np.concatenate([index for index, _ in parts]), np.concatenate([out for _, out in parts])


@pytest.mark.parametrize("batch_size", [1, 5, 37, 64])
def test_outputs_are_in_order_and_independent_of_batching(network: nn.Module, batch_size: int) -> None:
    index, out = outputs(network, batch_size)
    np.testing.assert_array_equal(index, INDEX)
    assert out.dtype == np.float32
    network.eval()
    with torch.no_grad():
        expected = network(centre(torch.from_numpy(PIXELS[INDEX]), 10)).numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_modes_come_back_also_when_the_reader_stops_early(network: nn.Module) -> None:
    network.train()
    network[0][1].eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stream = run(network, network, read, INDEX, batch_size=5, device=CPU, precision="fp32", size=10)
    next(stream)
    assert not any(module.training for module in network.modules())
    stream.close()  # type: ignore[attr-defined]
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_more_than_a_few_batches_are_read_ahead(network: nn.Module) -> None:
    asked: list[int] = []

    def counting(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.append(len(index))
        return PIXELS[index]

    stream = run(network, network, counting, INDEX, batch_size=2, device=CPU, precision="fp32", size=10)
    for done in range(1, 10):
        next(stream)
        assert sum(asked) <= 2 * (done + 2)
    stream.close()  # type: ignore[attr-defined]


def test_views_are_averaged_and_belong_to_the_image(network: nn.Module) -> None:
    config = Views(crop_min=0.3, jitter=0.5)
    views = augmented(config, 3, seed=4, stage="predict", size=10)
    _, out = outputs(network, 37, views=views)
    _, other = outputs(network, 6, views=views)
    np.testing.assert_allclose(out, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
    network.eval()
    pixels, draws = torch.from_numpy(PIXELS[INDEX]), Draws(4, "predict", 0, INDEX)
    with torch.no_grad():
        each = [network(random_view(pixels, draws, f"view {i}", config, 10)).numpy() for i in range(3)]
    np.testing.assert_allclose(out, np.mean(each, axis=0), rtol=1e-5, atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-3


def test_bf16_is_close_and_comes_back_as_float32(network: nn.Module) -> None:
    _, full = outputs(network, 8)
    _, half = outputs(network, 8, precision="bf16")
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.02


def test_no_images_no_output(network: nn.Module) -> None:
    none = np.zeros(0, np.int64)
    assert list(run(network, network, read, none, batch_size=4, device=CPU, precision="fp32", size=10)) == []


def test_mirrored_views_are_averaged_with_their_mirror_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), dtype=np.uint8)
    left = lambda x: x[:, :, :, :3].mean((1, 2, 3))[:, None]  # noqa: E731
    both = run(
        nn.Identity(),
        left,
        lambda i: pixels[i],
        np.arange(5),
        batch_size=2,
        device=CPU,
        precision="fp32",
        size=8,
        views=mirrored(8),
    )
    found = np.concatenate([block for _, block in both])[:, 0]
    sides = (pixels[:, :, :3].mean((1, 2, 3)) + pixels[:, :, 5:].mean((1, 2, 3))) / 2 / 255
    np.testing.assert_allclose(found, sides, rtol=1e-5)
