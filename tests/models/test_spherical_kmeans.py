"""Spherical k-means against loops, and its invariants."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.spherical_kmeans import spherical_kmeans


def points(n, d=6, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def slow(z, k, iterations, start):
    centroids = [z[i].double() for i in start]
    for iteration in range(iterations + 1):
        label = [max(range(k), key=lambda c: float(x.double() @ centroids[c])) for x in z]
        if iteration == iterations:
            return torch.stack(centroids), torch.tensor(label)
        for c in range(k):
            members = [z[i].double() for i in range(len(z)) if label[i] == c]
            if members:
                mean = sum(members) / len(members)
                centroids[c] = mean / mean.norm()
    raise AssertionError


@pytest.mark.parametrize("iterations", [1, 4, 10])
def test_as_in_loops(iterations):
    z = points(60)
    start = torch.randperm(60, generator=generator())[:5].tolist()
    expected, label = slow(z, 5, iterations, start)
    C, found = spherical_kmeans(z, 5, iterations, generator())
    assert torch.equal(found, label)
    torch.testing.assert_close(C.double(), expected, rtol=1e-5, atol=1e-6)


def test_mean_cosine_never_falls_labels_are_nearest_and_centroids_unit():
    z, before = points(200, seed=3), 0.0
    for iterations in range(1, 12):
        C, label = spherical_kmeans(z, 9, iterations, generator())
        cosine = (z * C[label]).sum(dim=1)
        torch.testing.assert_close(cosine, (z @ C.T).amax(dim=1))
        torch.testing.assert_close(C.norm(dim=1), torch.ones(9))
        assert cosine.mean() >= before - 1e-6
        before = cosine.mean()


def test_separate_groups_are_found():
    truth = torch.arange(90) % 3
    z = F.normalize(10 * torch.eye(6)[truth] + points(90, seed=5), dim=1)
    z = torch.cat([z[:3], z])  # the loop finds a seed that starts in all three groups
    for seed in range(2000):
        start = torch.randperm(93, generator=generator(seed))[:3]
        if len({int(torch.cat([truth[:3], truth])[i]) for i in start}) == 3:
            break
    C, label = spherical_kmeans(z, 3, 5, generator(seed))
    groups = torch.cat([truth[:3], truth])
    assert all(len(label[groups == g].unique()) == 1 for g in range(3))
    assert len(label.unique()) == 3
    assert (C @ F.normalize(torch.eye(6), dim=1)[:3].T).amax(dim=0).min() > 0.9


def test_an_empty_centroid_stays_where_it_was():
    z = torch.cat(
        [points(1).expand(3, -1), points(3, seed=2)]
    )  # the points are equal, so the lower centroid takes them all
    seed = next(
        s for s in range(1000) if {0, 1} <= set(torch.randperm(6, generator=generator(s))[:3].tolist())
    )
    C, label = spherical_kmeans(z, 3, 3, generator(seed))
    assert len(label.unique()) < 3
    assert C.isfinite().all()
    empty = next(c for c in range(3) if c not in label)
    assert any(torch.equal(C[empty], x) for x in z)
