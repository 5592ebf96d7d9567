"""Regression of stored features: the loss in closed form, and what the student learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.configs.regression import Regression
from models.heads import prediction
from models.method import Batch, Progress
from models.methods.regression import RegressionMethod
from models.network import build_network

PROGRESS = Progress(step=0, steps=10, epoch=0, epochs=1)


def method(dim: int = 5, **options: object) -> RegressionMethod:
    network = build_network("smallconv", 16, seed=0, width=0.25)
    return RegressionMethod(Regression(**options), network, dim=dim, seed=0)


def test_the_loss_is_the_squared_distance_of_unit_vectors() -> None:
    made = method().train()
    random = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 16, 16, generator=random)
    t = torch.nn.functional.normalize(torch.randn(8, 5, generator=random), dim=1)
    batch = Batch(images=torch.zeros(8, 16, 16, 3, dtype=torch.uint8), index=torch.arange(8), target=t)
    batch.views = x
    found = made.loss(batch, PROGRESS)
    g = made.head(made.network(x)).detach().double().numpy()
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    expected = ((g - t.double().numpy()) ** 2).sum(axis=1).mean()
    assert found.total.item() == pytest.approx(expected, abs=1e-5)
    assert found.terms["cosine"].item() == pytest.approx(1 - expected / 2, abs=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_head_is_as_wide_as_the_features_and_is_not_published(layers: int) -> None:
    made = method(dim=7, layers=layers)
    assert made.head(torch.rand(4, made.network.output_dim)).shape == (4, 7)
    assert made.network.classes is None
    assert not any(name.startswith("head") for name in made.network.state_dict())
    linear = [m for m in prediction(6, 7, layers).modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == layers
