"""Signs of collapse against closed forms at both extremes, and numpy's singular values in between."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.collapse import ROWS, alike, effective_rank, few_used, signs, spread
from models.evaluation.health import health


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_spread_is_one_on_the_sphere_and_zero_where_all_point_one_way():
    assert spread(rows(2000, 32)).item() == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(10, 4) * torch.arange(1, 11)[:, None]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (4 * ROWS, 20), (4 * ROWS, 3 * ROWS)])
def test_effective_rank_is_that_of_the_singular_values(shape):
    z = rows(*shape) * torch.logspace(0, -3, shape[1])
    p = np.linalg.svd(z[:ROWS].double().numpy(), compute_uv=False)
    p /= p.sum()
    assert effective_rank(z).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_signs_are_what_the_evaluation_says_of_the_same_vectors():
    z = rows(ROWS, 24) * torch.logspace(0, -2, 24)
    found = {name: value.item() for name, value in signs(z).items()}
    assert health(z.numpy()) == pytest.approx(found, rel=1e-5)


def test_effective_rank_counts_equal_dimensions():
    assert effective_rank(torch.eye(16)).item() == pytest.approx(16)
    assert effective_rank(torch.eye(16)[[0, 1, 2, 0, 1, 2]]).item() == pytest.approx(3)


def test_all_on_a_line_is_seen_by_the_rank_where_spread_sees_nothing():
    line = torch.outer(torch.tensor([1.0, -1, 1, -1]), torch.ones(8))
    found = signs(line)
    assert found["spread"].item() == pytest.approx(8**0.5 * 8**-0.5)
    assert found["effective_rank"].item() == pytest.approx(1)
    assert "effective rank of the outputs 1.00" in alike(
        {name: value.item() for name, value in found.items()}
    )


@pytest.mark.parametrize(
    "z", [torch.zeros(6, 4), torch.full((6, 4), torch.nan), torch.full((6, 4), torch.inf)]
)
def test_what_has_no_rank_raises_nothing(z):
    assert effective_rank(z).item() in (0, 1)


def test_measured_without_a_gradient_and_in_half_precision_too():
    z = rows(64, 16).requires_grad_()
    assert not any(value.requires_grad for value in signs(F.relu(z)).values())
    exact = effective_rank(z).item()
    assert effective_rank(z.bfloat16()).item() == pytest.approx(exact, rel=1e-2)


def test_outputs_count_as_alike_by_either_measure():
    assert alike({"spread": 0.8, "effective_rank": 20.0}) is None
    assert alike({}) is None
    assert (
        alike({"spread": 0.01, "effective_rank": 20.0}) == "spread of the outputs 0.010, healthy is 0.3 to 1"
    )


def test_codes_collapse_where_few_are_used():
    assert few_used({"codes_used": 0.02}) == "share of labels used 0.020, healthy is 0.3 to 1"
    assert few_used({"codes_used": 0.3}) is None
    assert few_used({}) is None
