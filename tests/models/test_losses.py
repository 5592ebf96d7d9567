import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch.nn import functional as F

from models.losses.contrastive import candidates
from models.losses.distill import labelled_cross_entropy, sharpen, soft_cross_entropy


def projections(n=6, d=16, seed=0):
    return torch.randn(2 * n, d, generator=torch.Generator().manual_seed(seed))


def nt_xent(z, tau):
    """Compute the loss as `SimCLRMethod.loss` does."""
    return F.cross_entropy(*candidates(z, tau))


def slow_nt_xent(z, tau):
    """Compute SimCLR eq. 1 view by view, in float64."""
    z = z.double().numpy()
    n = len(z) // 2
    losses = []
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        s = [z[i] @ z[k] / np.linalg.norm(z[i]) / np.linalg.norm(z[k]) / tau for k in others]
        losses.append(logsumexp(s) - s[others.index((i + n) % (2 * n))])
    return np.mean(losses)


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_nt_xent_is_cross_entropy_over_the_2n_minus_1_other_views(tau):
    z = projections()
    assert nt_xent(z, tau).item() == pytest.approx(slow_nt_xent(z, tau), rel=1e-5)


@pytest.mark.slow  # importing lightly takes 10 s
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_nt_xent_and_its_gradient_equal_lightlys():
    loss = pytest.importorskip("lightly.loss.ntx_ent_loss")
    ours, theirs = projections().requires_grad_(), projections().requires_grad_()
    a = nt_xent(ours, 0.2)
    b = loss.NTXentLoss(temperature=0.2)(*theirs.chunk(2))
    a.backward()
    b.backward()
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("n", [2, 128, 256])
def test_collapsed_projections_cost_the_logarithm_of_the_candidates(n):
    assert nt_xent(torch.ones(2 * n, 8), 0.5).item() == pytest.approx(math.log(2 * n - 1), rel=1e-5)


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_aligned_pairs_with_orthogonal_negatives_have_a_closed_form(tau):
    n = 8
    z = torch.eye(n).repeat(2, 1)
    expected = -1 / tau + math.log(math.exp(1 / tau) + 2 * n - 2)
    assert nt_xent(z, tau).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_independent_projections_cost_slightly_more_than_chance():
    n, d, tau = 256, 128, 0.5
    assert nt_xent(projections(n, d), tau).item() == pytest.approx(
        math.log(2 * n - 1) + 1 / (2 * d * tau**2), abs=0.02
    )


def test_nt_xent_does_not_see_scale_rotation_order_or_which_view_is_first():
    z = projections()
    value = nt_xent(z, 0.3)
    n, d = len(z) // 2, z.shape[1]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1)))[0]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2))
    scales = torch.linspace(0.1, 10, 2 * n)[:, None]
    for same in (z * scales, z @ rotation, z.roll(n, 0), z[torch.cat([order, order + n])]):
        torch.testing.assert_close(nt_xent(same, 0.3), value)


def test_under_bf16_autocast_similarities_are_still_float32():
    z = projections(32, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        s, _ = candidates(z, 0.05)
    torch.testing.assert_close(s, candidates(z, 0.05)[0], rtol=0, atol=0)
    assert s.dtype == torch.float32


def test_the_gradient_is_finite_although_the_diagonal_is_not():
    z = projections().requires_grad_()
    nt_xent(z, 0.01).backward()
    assert z.grad.isfinite().all()


def test_candidates_name_the_positive():
    z = projections()
    z[6:] = z[:6] + 1e-3
    s, positive = candidates(z, 0.5)
    assert (s.diagonal() == -torch.inf).all()
    assert (s.argmax(dim=1) == positive).all()


@pytest.mark.parametrize("tau", [0.1, 1.0, 4.0])
def test_sharpening_probabilities_is_dividing_logits(tau):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    p = torch.from_numpy(softmax(logits.double().numpy(), axis=1)).float()
    expected = softmax(logits.double().numpy() / tau, axis=1)
    np.testing.assert_allclose(sharpen(p, tau).numpy(), expected, rtol=2e-4, atol=1e-7)


def test_half_precision_rows_with_zeros_stay_distributions():
    p = torch.tensor([[0.0, 0.25, 0.7505], [1.0, 0.0, 0.0]], dtype=torch.float16)
    for tau in (0.05, 1.0, 20.0):
        sharp = sharpen(p, tau)
        torch.testing.assert_close(sharp.sum(dim=1), torch.ones(2))
        assert sharp.argmax(dim=1).tolist() == [2, 0]


@pytest.mark.parametrize("tau", [0.1, 1.0, 3.0])
def test_a_student_that_equals_its_teacher_pays_the_entropy_and_has_no_gradient(tau):
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    p = logits.detach().softmax(dim=1)
    loss = soft_cross_entropy(logits, p, tau)
    loss.backward()
    at_tau = softmax(logits.detach().double().numpy() / tau, axis=1)
    entropy = -(at_tau * np.log(at_tau)).sum(axis=1).mean()
    assert loss.item() == pytest.approx(entropy, rel=1e-4)
    assert logits.grad.abs().max() < 1e-5


def test_soft_cross_entropy_with_one_hot_rows_is_cross_entropy():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 2, 1, 1])
    torch.testing.assert_close(
        soft_cross_entropy(logits, F.one_hot(label).float(), 1.0), F.cross_entropy(logits, label)
    )


def test_no_gradient_reaches_the_teacher_by_mistake():
    p = torch.tensor([[0.2, 0.8]])
    assert not sharpen(p, 0.5).requires_grad


def test_the_labelled_loss_is_the_mean_over_labelled_rows_and_zero_without_any():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.tensor([2, -1, 0, -1])
    expected = F.cross_entropy(logits[[0, 2]], label[[0, 2]])
    torch.testing.assert_close(labelled_cross_entropy(logits, label), expected)
    none = labelled_cross_entropy(logits, torch.full((4,), -1))
    none.backward()
    assert none.item() == 0
    assert (logits.grad == 0).all()
