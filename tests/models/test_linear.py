import numpy as np
import pytest
import torch

from data.errors import ArtifactError, DataError
from models.evaluation import linear
from models.evaluation.linear import linear_probe
from models.evaluation.validation import held_back


def make(n=600, d=10, classes=4, seed=0, noise=1.5):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    x = torch.randn(classes, d, generator=g)[y] + noise * torch.randn(n, d, generator=g)
    x = x * torch.logspace(-2, 2, d) + 10  # the scales differ widely, and the probe standardises
    half = n // 2
    return x[:half], y[:half], x[half:], y[half:]


@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_equals_scikit_learn(strength):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y, t, u = make()
    found = linear_probe(x, y, t, u, 4, strengths=[strength])
    scaler = StandardScaler().fit(x.double())
    oracle = LogisticRegression(C=1 / (len(x) * strength), tol=1e-8, max_iter=2000).fit(
        scaler.transform(x.double()), y
    )
    logits = (t @ found.weight + found.bias).log_softmax(dim=1)
    np.testing.assert_allclose(logits, oracle.predict_log_proba(scaler.transform(t.double())), atol=5e-3)
    assert found.accuracy == pytest.approx(oracle.score(scaler.transform(t.double()), u), abs=0.004)
    assert found.strength == strength
    assert found.validation == {}


def test_gradient_is_that_of_autograd(monkeypatch):
    x, y, _, _ = make()
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    seen = {}

    class Once:
        def __init__(self, parameters, **_):
            (self.p,) = parameters

        def step(self, objective):
            seen.update(loss=objective(), gradient=self.p.grad, at=self.p.detach())

    monkeypatch.setattr(torch.optim, "LBFGS", Once)
    monkeypatch.setattr(linear, "_LOGITS", 4 * 70)  # several chunks, the last one short
    start = torch.randn(11, 4, generator=torch.Generator().manual_seed(1))
    values, vectors = linear._basis(x)
    assert torch.allclose(vectors * values @ vectors.T, x.T @ x / len(x), atol=1e-5)
    linear._fit(x, y, 4, 0.3, 1, start, 1e-5, (values, vectors))
    T = vectors / (3 / 16 * values + 0.3).sqrt()
    at = seen["at"].requires_grad_()
    weight, bias = T @ at[:-1], at[-1]
    torch.testing.assert_close(torch.cat([weight, bias[None]]).detach(), start)
    loss = torch.nn.functional.cross_entropy(x @ weight + bias, y) + 0.15 * weight.square().sum()
    loss.backward()
    torch.testing.assert_close(seen["loss"], loss.detach())
    torch.testing.assert_close(seen["gradient"], at.grad)


def test_strength_is_chosen_by_validation_and_matters():
    x, y, t, u = make(n=160, d=60, classes=3, noise=2.5)
    found = linear_probe(x, y, t, u, 3, strengths=[1.0, 1e-1, 1e-6])
    best = max(found.validation.values())
    assert list(found.validation) == [1.0, 1e-1, 1e-6]
    assert found.strength == max(s for s, accuracy in found.validation.items() if accuracy == best)
    alone = linear_probe(x, y, t, u, 3, strengths=[found.strength])
    assert found.accuracy == alone.accuracy  # refitted on all of train


def test_validation_part_is_stratified_and_leaves_small_classes_alone():
    y = torch.tensor([0] * 50 + [1] * 10 + [2] * 4)
    held = held_back(y.numpy(), 0.2, 0, "linear")
    assert y[torch.from_numpy(held)].bincount(minlength=3).tolist() == [10, 2, 0]
    assert not np.array_equal(held, held_back(y.numpy(), 0.2, 1, "linear"))


def test_same_bits_twice_and_test_labels_change_nothing_but_the_score():
    x, y, t, u = make()
    a, b = linear_probe(x, y, t, u, 4), linear_probe(x, y, t, 3 - u, 4)
    assert torch.equal(a.weight, b.weight)
    assert a.strength == b.strength


def test_constant_dimensions_and_too_few_labels_to_choose_by():
    x, y, t, u = make()
    with_constant = [torch.cat([v, torch.full((len(v), 1), 0.1)], dim=1) for v in (x, t)]
    found = linear_probe(with_constant[0], y, with_constant[1], u, 4, strengths=[1e-2])
    assert (found.weight[-1] == 0).all()
    assert found.accuracy == linear_probe(x, y, t, u, 4, strengths=[1e-2]).accuracy
    first = torch.cat([torch.nonzero(y == c)[:2, 0] for c in range(4)])
    few = linear_probe(x[first], y[first], t, u, 4, strengths=[1e-1, 1e-2, 1e-3])
    assert (few.strength, few.validation) == (1e-2, {})


def test_refuses_what_it_can_not_use():
    x, y, t, u = make()
    with pytest.raises(DataError, match="3 classes"):
        linear_probe(x, y, t, u, 3)
    with pytest.raises(DataError, match="no labelled test"):
        linear_probe(x, y, t[:0], u[:0], 4)
    x[0, 0] = torch.nan
    with pytest.raises(ArtifactError, match="train features"):
        linear_probe(x, y, t, u, 4)
