"""A teacher that is loaded badly is noticed, and one that is loaded well is not complained about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.evaluation.soundness import (
    Show,
    as_good_as_shuffled,
    examine,
    found_again,
    found_alike,
    norm_distances,
    normalised_as,
    others,
    paired,
    remembered,
    stability,
    unlearned,
    untrained,
)
from models.network import MEAN, STD, Description, Network, seeded

SIZE, CLASSES = 32, 4
HALF = (0.5, 0.5, 0.5)
VIT = "timm:vit_tiny_patch16_224?depth=3&embed_dim=48&num_heads=3&init_values=0.1&patch_size=8&pool=own"


def pictures(n: int, seed: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Stripes of four directions in random colours and phases: (n, 3, S, S) in [0, 1], and classes."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, n)
    at = np.arange(SIZE)
    angle = label[:, None, None] * np.pi / CLASSES + rng.normal(0, 0.05, (n, 1, 1))
    phase, width = rng.uniform(0, 6.28, (n, 1, 1)), rng.uniform(0.6, 0.9, (n, 1, 1))
    wave = np.sin(width * (np.cos(angle) * at[:, None] + np.sin(angle) * at) + phase)
    colour = rng.uniform(0.2, 0.8, (n, 3, 1, 1))
    x = colour + 0.25 * rng.uniform(0.5, 1, (n, 3, 1, 1)) * wave[:, None]
    x = np.clip(x + rng.normal(0, 0.05, x.shape), 0, 1)
    return torch.from_numpy(x.astype(np.float32)), label


def trained(backbone: str, width: float, steps: int, rate: float) -> Network:
    """A network that was trained on such pictures with mean and std 0.5."""
    with seeded(0, "trained"):
        network = Network(
            Description(
                backbone=backbone,
                width=width,
                image_size=SIZE,
                mean=HALF,
                std=HALF,
                classes=CLASSES,
                resized=SIZE,
            )
        )
    x, label = pictures(512, 1)
    y = torch.from_numpy(label)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=draws)
        optimizer.zero_grad()
        F.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    bare = Network.from_description(network.description() | {"classes": None})
    kept = {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith("classifier")
    }
    bare.load_state_dict(kept)
    return bare.eval()


@pytest.fixture(scope="module")
def conv() -> Network:
    return trained("smallconv", 0.25, steps=120, rate=3e-3)


@pytest.fixture(scope="module")
def vit() -> Network:
    return trained(VIT, 1.0, steps=250, rate=2e-3)


IMAGES, LABEL = pictures(120, 2)


def show(view: str | None) -> Iterator[Tensor]:
    """The pictures, or views of them that are moved, mirrored and brighter or darker."""
    if view is None:
        yield from IMAGES.split(50)
        return
    rng = np.random.default_rng(sum(view.encode()))
    for part in IMAGES.split(50):
        moved = torch.stack([image.roll(tuple(rng.integers(-6, 7, 2).tolist()), (1, 2)) for image in part])
        gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(part), 1, 1, 1)).astype(np.float32))
        yield (moved * gain).clamp(0, 1)


def warned(network: Network, label: Any = LABEL, shown: Show = show) -> list[str]:
    return examine(network, shown, label, "features").warnings


def changed(network: Network, change: Callable[[str, Tensor], Tensor]) -> Network:
    """A copy with other tensors."""
    other = Network.from_description(network.description())
    other.load_state_dict(
        {name: change(name, tensor.clone()) for name, tensor in network.state_dict().items()}
    )
    return other.eval()


def shuffled(part: str, network: Network) -> Network:
    """A copy in which the weights of one layer are in random order."""
    draws = torch.Generator().manual_seed(3)

    def change(name: str, tensor: Tensor) -> Tensor:
        if part not in name or tensor.ndim < 2:
            return tensor
        return tensor.flatten()[torch.randperm(tensor.numel(), generator=draws)].view(tensor.shape)

    return changed(network, change)


def test_a_network_that_is_loaded_well_gets_no_warning(conv: Network, vit: Network) -> None:
    for network in (conv, vit):
        assert warned(network) == []
        found = examine(network, show, LABEL, "features")
        rows = {(who, measure): value for who, measure, value, _ in found.rows}
        assert (
            rows["teacher", "images of the same class"] > rows["random weights", "images of the same class"]
        )


def test_without_labels_either(conv: Network) -> None:
    found = examine(conv, show, None, "features")
    rows = {(who, measure): value for who, measure, value, _ in found.rows}
    assert 0 <= rows["teacher", "agreement of clusters"] <= 1
    assert not [text for text in found.warnings if "agree less" in text]


def test_a_wrong_mean_and_std_are_noticed(conv: Network) -> None:
    for values in ((MEAN, STD), ((0.0,) * 3, (1.0,) * 3)):
        said = warned(normalised_as(conv, *values))
        assert any("check pretext.mean and pretext.std" in text and "0.5,0.5,0.5" in text for text in said), (
            said
        )


@pytest.mark.parametrize("label", [LABEL, None])
def test_a_shuffled_layer_of_a_network_with_norms_is_noticed(conv: Network, label: Any) -> None:
    fits = remembered(conv, show(None))
    parts = [name for name, tensor in conv.state_dict().items() if tensor.ndim == 4]
    for part, norm in zip(parts, fits, strict=True):
        said = warned(shuffled(part, conv), label)
        assert any(f"before its norm {norm} " in text and "damaged" in text for text in said), (part, said)


def test_a_dropped_layer_scale_is_noticed(vit: Network) -> None:
    scales = [name for name in vit.state_dict() if name.endswith("gamma")]
    assert len(scales) == 6
    assert not unlearned(vit)
    said = warned(changed(vit, lambda name, x: torch.ones_like(x) if name in scales else x))
    assert any("ls1.gamma" in text and "and 3 more have one value everywhere" in text for text in said), said


def test_random_weights_are_no_better_than_random_weights(conv: Network) -> None:
    said = warned(Network.from_description(conv.description()).eval())
    assert any("no better than the same network with random weights" in text for text in said)


# The measures


def test_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    draws = torch.Generator().manual_seed(0)
    x, label = torch.randn(30, 5, generator=draws), np.arange(30) % 3
    found = found_alike(x, label)
    z = F.normalize(x - x.mean(dim=0), dim=1)
    for i in range(30):
        rest = np.arange(30) != i
        expected = average_precision_score(label[rest] == label[i], (z[rest] @ z[i]).numpy())
        assert found[i] == pytest.approx(expected, abs=1e-6)


def test_the_other_view_is_ranked_among_all() -> None:
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    assert found_again(x, x).tolist() == [1.0] * 20
    assert found_again(x, x.roll(1, 0)).max() <= 0.5


def test_equal_clusters_agree_fully() -> None:
    from sklearn.metrics import normalized_mutual_info_score

    draws = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 16, generator=draws).repeat(10, 1)
    x, y = (centres + 0.01 * torch.randn(80, 16, generator=draws) for _ in range(2))
    labels = np.arange(80) % 8
    assert normalized_mutual_info_score(labels, labels) == pytest.approx(1)
    assert stability(x, x) == pytest.approx(1)
    assert stability(x, y) > 0.8
    assert stability(x, torch.randn(80, 16, generator=draws)) < 0.6


def test_paired_differences() -> None:
    lead = paired(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.5, 0.6]))
    assert lead.mean == pytest.approx(0.2)
    assert lead.error == pytest.approx(0.1 / 3**0.5)
    assert lead.clear
    assert not paired(np.array([0.5, 0.1]), np.array([0.4, 0.3])).clear


def test_norms_compare_with_what_they_remember(conv: Network) -> None:
    one = Network.from_description(conv.description())
    one.load_state_dict(conv.state_dict())
    one.eval()
    first = next(name for name, layer in one.named_modules() if isinstance(layer, nn.BatchNorm2d))
    before = norm_distances(one, show(None))
    layer: Any = one.get_submodule(first)
    x: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, given: x.append(given[0].detach()))
    for view in show(None):
        one.features(view)
    flat = torch.cat(x).transpose(0, 1).flatten(1).double()
    theirs = torch.distributions.Normal(flat.mean(dim=1), flat.std(dim=1, correction=0))
    own = torch.distributions.Normal(layer.running_mean.double(), layer.running_var.double().sqrt())
    expected = float(torch.distributions.kl_divergence(theirs, own).median())
    assert before[first] == pytest.approx(expected, abs=1e-4)
    assert before[first] < 0.25
    layer.running_var *= 9.0
    assert norm_distances(one, show(None))[first] > before[first] + 0.25
    assert others(conv).keys() == {name for name in others(conv) if "0.5,0.5,0.5" not in name}
    assert not untrained(conv).training


def test_weights_in_their_order_fit_a_norm_better_than_shuffled_ones(conv: Network) -> None:
    fits = remembered(conv, show(None))
    norms = [name for name, layer in conv.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert list(fits) == norms  # each follows a convolution
    assert min(fits.values()) > 0.9
    assert as_good_as_shuffled(fits) is None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_channels_in_another_order_are_found_in_their_layer(conv: Network, number: int) -> None:
    """Their values are all there, so a look at the weights alone would not tell."""
    name = [name for name, tensor in conv.state_dict().items() if tensor.ndim == 4][number]
    wrong = changed(conv, lambda each, x: x.flip(0) if each == name else x)
    fits = remembered(wrong, show(None))
    assert next(norm for norm, fit in fits.items() if fit < 0.75) == list(fits)[number]
    said = as_good_as_shuffled(fits)
    assert said is not None
    assert f"before its norm {list(fits)[number]} " in said


def test_norms_that_know_nothing_of_the_weights_are_fitted_by_chance(conv: Network) -> None:
    """Their mean and deviation are random, so own weights are nearer in half of all cases."""
    draws = torch.Generator().manual_seed(0)
    other = Network.from_description(conv.description()).eval()
    for layer in other.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(generator=draws)
            layer.running_var.uniform_(0.1, 2, generator=draws)
    fits = list(remembered(other, show(None)).values())
    assert 0.4 < np.mean(fits) < 0.6
    assert as_good_as_shuffled({}) is None
