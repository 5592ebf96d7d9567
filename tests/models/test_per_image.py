"""Values for every image: lookups by index, and sizes after a sweep or a resume."""

from __future__ import annotations

import pytest
import torch

from models.augment import centre
from models.method import Batch
from models.network import build_network
from models.per_image import UNSEEN, PerImage, embed_all

INDEX = torch.tensor([2, 3, 11, 40, 41])


def test_rows_are_found_by_the_manifests_index():
    memory = PerImage(heads=2, banks=2, dim=3)
    memory.allot(INDEX)
    assert memory.rows(torch.tensor([40, 2, 41, 11])).tolist() == [3, 0, 4, 2]
    assert memory.labels.shape == (2, 5)
    assert (memory.labels == UNSEEN).all()
    assert memory.bank.shape == (2, 5, 3)
    assert not memory.bank.any()


def test_a_new_one_takes_its_length_from_a_state():
    memory, new = PerImage(heads=2, banks=1, dim=3), PerImage(heads=2, banks=1, dim=3)
    memory.allot(INDEX)
    memory.labels.random_(9)
    memory.bank.normal_()
    holder = torch.nn.ModuleDict({"memory": new})
    holder.load_state_dict({f"memory.{name}": tensor for name, tensor in memory.state_dict().items()})
    for name, tensor in memory.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name])
    assert new.rows(torch.tensor([41])).item() == 4


def test_a_state_without_it_is_refused():
    with pytest.raises(RuntimeError, match="Missing key"):
        PerImage(heads=1).load_state_dict({})


@pytest.mark.parametrize("index", [[3, 2], [1, 1, 2]])
def test_images_out_of_order_are_refused(index):
    with pytest.raises(ValueError, match="ascending"):
        PerImage(heads=1).allot(torch.tensor(index))


def test_embedding_all_is_the_network_on_the_centre_of_each_image():
    network = build_network("smallconv", 16, seed=0, width=0.25).train()
    images = torch.randint(0, 256, (5, 20, 20, 3), dtype=torch.uint8)

    def sweep():
        for rows in (slice(0, 2), slice(2, 5)):
            yield Batch(images[rows], INDEX[rows])

    statistics = {name: b.clone() for name, b in network.named_buffers()}
    index, h = embed_all(network, sweep, 16)
    assert torch.equal(index, INDEX)
    assert not h.requires_grad
    torch.testing.assert_close(h, network.eval()(centre(images, 16)).detach())
    assert all(torch.equal(b, statistics[name]) for name, b in network.named_buffers())
