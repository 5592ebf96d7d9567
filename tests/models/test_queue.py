"""The first-in, first-out queue against a deque and lightly's memory bank."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch

from models.queue import Queue


def rows(n, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def held(queue):
    """The rows, oldest first."""
    return torch.roll(queue.contents(), -int(queue.pointer), dims=0)


@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 5, 5, 5], [10], [3, 13, 1, 9], [25]])
def test_first_in_first_out_with_any_batch(sizes):
    queue = Queue(10, 3)
    expected = deque(queue.contents(), maxlen=10)
    for seed, n in enumerate(sizes):
        z = rows(n, seed=seed)
        queue.push(z)
        expected.extend(z)
        assert torch.equal(held(queue), torch.stack(list(expected)))
    assert int(queue.filled) == min(10, sum(sizes))
    if sum(sizes) < 20 and max(sizes) < 10:
        assert int(queue.pointer) == sum(sizes) % 10


def test_as_lightlys_bank_where_batches_fill_it_evenly():
    from lightly.models.modules.memory_bank import MemoryBankModule

    queue, bank = Queue(12, 3), MemoryBankModule(size=(12, 3))
    bank.bank.copy_(queue.contents())
    for seed in range(5):
        z = torch.nn.functional.normalize(rows(4, seed=seed), dim=1)
        queue.push(z)
        bank(z, update=True)
        assert torch.equal(queue.contents(), bank.bank)
        assert int(queue.pointer) == int(bank.bank_ptr)


def test_it_begins_with_random_unit_rows():
    torch.manual_seed(0)
    contents = Queue(2000, 8).contents()
    torch.testing.assert_close(contents.norm(dim=1), torch.ones(2000))
    assert contents.mean(dim=0).abs().max() < 4 / np.sqrt(8 * 2000)


def test_contents_are_a_copy():
    queue = Queue(6, 3)
    contents = queue.contents()
    kept = contents.clone()
    queue.push(rows(6))
    assert torch.equal(contents, kept)
    assert not torch.equal(queue.contents(), kept)


def test_all_of_it_survives_a_state_dict():
    queue, other = Queue(10, 3), Queue(10, 3)
    queue.push(rows(7))
    other.load_state_dict(queue.state_dict())
    for q in (queue, other):
        q.push(rows(5, seed=1))
    assert torch.equal(queue.contents(), other.contents())
    assert (int(queue.pointer), int(queue.filled)) == (int(other.pointer), int(other.filled)) == (2, 10)


def test_half_precision_and_gradients_stay_outside():
    queue = Queue(4, 3)
    queue.push(rows(2).requires_grad_().bfloat16())
    assert queue.contents().dtype == torch.float32
    assert not queue.contents().requires_grad
