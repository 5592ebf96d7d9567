import numpy as np
import pytest
import torch

from data.errors import ArtifactError, DataError
from models.evaluation.knn import knn_classes


def knn_accuracy(bank, bank_labels, queries, query_labels, *, temperature=0.07, **given):
    """Return, for each k, the share of the queries that are classified correctly."""
    found = knn_classes(bank, bank_labels, queries, temperatures=(temperature,), **given)
    return {k: (predicted == query_labels).double().mean().item() for (k, _), predicted in found.items()}


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 5, (500,), generator=g)
    x = torch.randn(5, 8, generator=g)[y] + 1.2 * torch.randn(500, 8, generator=g)
    return x[:400], y[:400], x[400:], y[400:]


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_scikit_learn(data, temperature):
    from sklearn.neighbors import KNeighborsClassifier

    x, y, q, t = data
    unit = [torch.nn.functional.normalize(v, dim=1).numpy() for v in (x, q)]
    found = knn_accuracy(*data, ks=(1, 7, 50), temperature=temperature)
    for k, accuracy in found.items():
        oracle = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp(-d / temperature))
        assert accuracy == pytest.approx(oracle.fit(unit[0], y.numpy()).score(unit[1], t.numpy()))
    assert list(found) == [1, 7, 50]


def test_equals_a_loop_over_the_formula(data):
    x, y, q, t = data
    right = 0
    for query, target in zip(q, t, strict=True):
        s = torch.stack([query @ b / query.norm() / b.norm() for b in x])
        score = [0.0] * 5
        for j in s.argsort(descending=True)[:20].tolist():
            score[y[j]] += float(torch.exp(s[j] / 0.1))
        right += max(range(5), key=lambda c: score[c]) == target
    assert knn_accuracy(x, y, q, t, ks=[20], temperature=0.1) == {20: right / len(q)}


def test_each_temperature_of_one_pass_is_as_alone(data):
    x, y, q, _ = data
    together = knn_classes(x, y, q, (1, 20, 200), (0.02, 0.07, 1.0))
    assert set(together) == {(k, T) for k in (1, 20, 200) for T in (0.02, 0.07, 1.0)}
    for T in (0.02, 0.07, 1.0):
        for place, alone in knn_classes(x, y, q, (1, 20, 200), (T,)).items():
            assert torch.equal(together[place], alone)
    assert not torch.equal(together[200, 0.02], together[200, 1.0])


def test_one_neighbour_on_the_bank_itself_is_perfect(data):
    x, y, _, _ = data
    assert knn_accuracy(x, y, x, y, ks=[1]) == {1: 1.0}


def test_scale_and_chunks_do_not_matter_and_a_small_temperature_does_not_overflow(data):
    x, y, q, t = data
    expected = knn_accuracy(*data, ks=(5, 200))
    assert knn_accuracy(7 * x, y, 0.01 * q, t, ks=(5, 200)) == expected
    assert knn_accuracy(*data, ks=(200, 5), chunk=7) == expected
    assert knn_accuracy(*data, ks=[50], temperature=1e-3) == {50: knn_accuracy(*data, ks=[1])[1]}


def test_high_temperature_is_majority_voting(data):
    x, y, q, t = data
    sorted_labels = y[
        (torch.nn.functional.normalize(q, dim=1) @ torch.nn.functional.normalize(x, dim=1).T).argsort(
            dim=1, descending=True
        )[:, :9]
    ]
    votes = torch.nn.functional.one_hot(sorted_labels, 5).sum(dim=1)
    clear = votes.topk(2).values.diff().squeeze(1) != 0
    found = knn_accuracy(x, y, q[clear], t[clear], ks=[9], temperature=1e6)
    assert found == {9: (votes.argmax(dim=1) == t)[clear].double().mean().item()}


def test_more_neighbours_than_bank_images_are_left_out(data):
    assert list(knn_accuracy(*data, ks=(10, 400, 401))) == [10, 400]
    with pytest.raises(DataError, match="400"):
        knn_accuracy(*data, ks=[401])


def test_refuses_nan(data):
    x, y, q, t = data
    q[0, 0] = torch.nan
    with pytest.raises(ArtifactError, match="queries"):
        knn_accuracy(x, y, q, t)
