import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.draws import Draws
from data.errors import ConfigError
from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.jigsaw import JigsawPlusPlus
from models.configs.pseudo_labels import PseudoLabels
from models.configs.simclr import SimCLR
from models.method import Batch, Progress, make_pretext
from models.methods import jigsaw
from models.methods.distill import DistillMethod
from models.methods.finetune import FinetuneMethod
from models.methods.jigsaw import JigsawMethod
from models.methods.pseudo_labels import PseudoLabelsMethod
from models.methods.simclr import SimCLRMethod
from models.mixup import partners
from models.network import build_network

CLASSES = 4


def toy(n, size=16, seed=0):
    """Images of four classes with stripes in different directions and brightness; (n, S, S, 3) uint8."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % CLASSES
    y, x = np.mgrid[:size, :size] / size
    angle = label[:, None, None] * np.pi / CLASSES + rng.normal(0, 0.1, (n, 1, 1))
    wave = np.sin(2 * np.pi * (3 * (np.cos(angle) * x + np.sin(angle) * y) + rng.random((n, 1, 1))))
    tint = rng.uniform(0.3, 1, (n, 1, 1, 3)) * 110
    pixels = 128 + wave[..., None] * tint + rng.normal(0, 5, (n, size, size, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), torch.from_numpy(label)


def batch_of(images, target=None, index=None):
    return Batch(images, torch.arange(len(images)) if index is None else index, target)


def draws(batch, epoch=0):
    return Draws(7, "test", epoch, batch.index.numpy())


def progress(step=0, steps=20):
    return Progress(step, steps, 0, 1)


def student(**options):
    return build_network("smallconv", 16, seed=0, width=0.25, **options)


def make(name, images=None):
    """Return a method and a target for 64 toy images."""
    images, label = toy(64, 32 if name == "jigsaw++" else 16)
    fast = {"optimizer": "adamw", "learning_rate": 3e-3, "crop_min": 0.6, "jitter": 0.0, "grey": 0.0}
    if name == "jigsaw++":
        config = JigsawPlusPlus(
            backbone="smallconv",
            width=0.25,
            permutations=10,
            tile_features=32,
            optimizer="adamw",
            learning_rate=3e-3,
        )
        return make_pretext(config, 32, seed=0), images, None
    if name == "simclr":
        return make_pretext(SimCLR(width=0.25, projection=32, **fast), 16, seed=0), images, None
    if name == "pseudo-labels":
        return PseudoLabelsMethod(PseudoLabels(**fast), student(classes=CLASSES)), images, label
    if name == "finetune":
        return FinetuneMethod(Finetune(**fast), student(classes=CLASSES)), images, label
    p = F.one_hot(label, CLASSES) * 0.9 + 0.025
    labels = torch.where(torch.arange(64) < 8, label, -1)
    return DistillMethod(Distill(alpha=0.5, **fast), student(classes=CLASSES), labels), images, p


STAGES = ["finetune", "distill"]
METHODS = ["jigsaw++", "simclr", "pseudo-labels", *STAGES]
"""Pretext and transfer methods are tested further in methods/test_promises.py."""


@pytest.mark.parametrize("name", STAGES)
def test_twenty_steps_lower_the_loss(name):
    method, images, target = make(name)
    method.train()
    batch = method.prepare(batch_of(images, target), draws(batch_of(images)))
    optimizer = method.optimizers()["main"]
    losses = []
    for step in range(20):
        loss = method.loss(batch, progress(step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
        assert all(np.isfinite(float(value)) for value in loss.terms.values())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_views_belong_to_images_and_not_to_batches(name):
    method, images, target = make(name)
    if name == "jigsaw++":  # only the occluding tiles come from the batch
        method.config = method.config.model_copy(update={"occluders": 0})

    def views(rows):
        batch = batch_of(images[rows], None if target is None else target[rows], torch.tensor(rows))
        made = method.prepare(batch, draws(batch)).views
        if name == "jigsaw++":
            return made.tiles.unflatten(0, (-1, 9))
        return made.unflatten(0, (2, -1)).transpose(0, 1) if name == "simclr" else made

    together, apart = views([3, 5, 9, 11]), views([9, 3])
    torch.testing.assert_close(together[[2, 0]], apart, rtol=0, atol=0)
    again, later = batch_of(images[:4]), batch_of(images[:4])
    a = method.prepare(again, draws(again, 0)).views
    b = method.prepare(later, draws(later, 1)).views
    assert not torch.equal(*((v.tiles if name == "jigsaw++" else v) for v in (a, b)))


@pytest.mark.parametrize("name", STAGES)
def test_the_same_seed_makes_the_same_method(name):
    a, b = make(name)[0].state_dict(), make(name)[0].state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("name", "chance"), [("jigsaw++", math.log(10)), ("finetune", math.log(CLASSES))])
def test_classification_starts_at_chance(name, chance):
    method, images, target = make(name)
    batch = batch_of(images, target)
    loss = method.loss(method.prepare(batch, draws(batch)), progress()).total.item()
    assert 0.9 * chance < loss < chance + 0.3


def test_simclr_starts_near_chance_and_reports_what_it_should():
    method, images, _ = make("simclr")
    batch = batch_of(images)
    loss = method.loss(method.prepare(batch, draws(batch)), progress())
    chance, tau, d = math.log(2 * 64 - 1), 0.5, 32
    assert 0.8 * chance < loss.total.item() < chance + 1 / (2 * d * tau**2) + 0.3
    assert 0 <= float(loss.terms["accuracy"]) <= 1
    assert 0.3 < float(loss.terms["spread"]) < 1.05


# SimCLR


def test_simclr_pairs_the_two_views_of_each_image():
    method, images, _ = make("simclr")
    batch = batch_of(images)
    views = method.prepare(batch, draws(batch)).views
    assert views.shape == (128, 3, 16, 16)
    first, second = views.flatten(1).chunk(2)
    assert not torch.equal(first, second)
    distance = torch.cdist(F.normalize(first - first.mean(0)), F.normalize(second - second.mean(0)))
    assert distance.diagonal().mean() < distance.mean()


@pytest.mark.parametrize("layers", [2, 3])
def test_simclr_publishes_the_first_layer_of_its_head(layers):
    method = SimCLRMethod(SimCLR(width=0.25, head_layers=layers, projection=16), 16, seed=0)
    assert method.network.layer_names()[-2:] == ["features", "head1"]
    linear = [m for m in method.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == layers
    assert linear[-1].out_features == 16
    assert all(m.bias is None for m in linear)


# Jigsaw++


def jigsaw_method(size=96, **options):
    config = JigsawPlusPlus(backbone="smallconv", width=0.25, tile_features=16, **options)
    return JigsawMethod(config, size, seed=0)


@pytest.mark.parametrize(
    ("size", "cell", "tile", "shift", "jitter"),
    [(255, 85, 64, 2, 19), (256, 85, 64, 2, 19), (96, 32, 24, 2, 6), (32, 10, 8, 1, 1)],
)
def test_puzzles_have_the_papers_proportions(size, cell, tile, shift, jitter):
    method = jigsaw_method(size)
    assert (method.cell, method.tile, method.channel_shift, method.jitter) == (cell, tile, shift, jitter)
    assert method.tile + method.jitter + method.channel_shift <= method.cell
    assert method.network.image_size == size


@pytest.mark.parametrize(("size", "tile"), [(24, None), (96, 33)])
def test_tiles_that_do_not_fit_are_refused(size, tile):
    with pytest.raises(ConfigError, match=rf"pretext.tile: .* data.image_size {size}"):
        jigsaw_method(size, tile=tile)


def coordinates(B=40, size=96):
    """Images whose red is the row, green the column and blue the image, so that tiles show their origin."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = torch.arange(B).view(B, 1, 1)
    return torch.stack([y.expand(B, -1, -1), x.expand(B, -1, -1), image.expand(-1, size, size)], -1).to(
        torch.uint8
    )


@pytest.fixture
def raw_tiles(monkeypatch):
    """Make puzzles keep the pixel values of the image."""
    monkeypatch.setattr(jigsaw, "normalise", lambda tiles: tiles)
    monkeypatch.setattr(jigsaw, "recolour", lambda tiles, grey, project: tiles)


@pytest.mark.usefixtures("raw_tiles")
def test_each_slot_shows_the_cell_that_the_permutation_says():
    method = jigsaw_method(97, occluders=0)
    batch = batch_of(coordinates(size=97))
    views = method.prepare(batch, draws(batch)).views
    tiles = views.tiles.unflatten(0, (-1, 9))
    rows, columns, source = tiles[:, :, 0], tiles[:, :, 1], tiles[:, :, 2]
    assert (source == torch.arange(40).view(-1, 1, 1, 1)).all()
    # At most one of 97 px is cropped away, so a tile's centre lies in its cell even then.
    centre_row, centre_column = rows.mean(dim=(2, 3)), columns.mean(dim=(2, 3))
    cell = 3 * ((centre_row - 0.5) // 32) + (centre_column - 0.5) // 32
    assert torch.equal(cell.long(), method.permutations[views.permutation])
    inverse = method.permutations[views.permutation].argsort(dim=1)
    assert (cell.gather(1, inverse) == torch.arange(9)).all()
    offsets = rows.amin(dim=(2, 3)) - 32 * (cell // 3)
    assert offsets.min() >= 0
    assert offsets.max() <= 9
    assert offsets.unique().numel() > 5
    assert views.permutation.unique().numel() > 30


@pytest.mark.usefixtures("raw_tiles")
def test_channels_are_shifted_against_each_other_by_up_to_two_px():
    ramp = torch.arange(96, dtype=torch.uint8).view(1, 96, 1, 1).expand(30, 96, 96, 3)
    batch = batch_of(ramp)
    tiles = jigsaw_method(occluders=0).prepare(batch, draws(batch)).views.tiles
    shift = tiles[:, 0, 0, 0] - tiles[:, 1, 0, 0]
    assert shift.unique().tolist() == [-2, -1, 0, 1, 2]


@pytest.mark.usefixtures("raw_tiles")
def test_the_number_of_replaced_tiles_is_uniform_and_the_source_another_image():
    method, counts = jigsaw_method(), []
    for epoch in range(15):
        batch = batch_of(coordinates(120))
        source = (
            method.prepare(batch, draws(batch, epoch))
            .views.tiles[:, 2]
            .unflatten(0, (-1, 9))
            .mean(dim=(2, 3))
        )
        foreign = source != torch.arange(120).view(-1, 1)
        counts += foreign.sum(dim=1).tolist()
        for row, mask in zip(source, foreign, strict=True):
            assert len(row[mask].unique()) <= 1
    n = len(counts)
    sigma = math.sqrt(n * (1 / 3) * (2 / 3))
    assert set(counts) == {0, 1, 2}
    assert all(abs(counts.count(c) - n / 3) < 4 * sigma for c in range(3))


def test_occlusion_leaves_other_tiles_bit_for_bit():
    g = torch.Generator().manual_seed(0)
    tiles = torch.randn(4, 9, 3, 5, 5, generator=g)
    slots, sources = torch.rand(2, 4, 9, generator=g).argsort(dim=2)
    count, others = torch.tensor([[0], [1], [2], [2]]), torch.tensor([3, 2, 0, 1])
    out = jigsaw.occlude(tiles, count, others, slots, sources)
    for b in range(4):
        replaced = slots[b, : count[b, 0]].tolist()
        for j in range(9):
            if j in replaced:
                assert torch.equal(out[b, j], tiles[others[b], sources[b, replaced.index(j)]])
            else:
                assert torch.equal(out[b, j], tiles[b, j])


@pytest.mark.usefixtures("raw_tiles")
@pytest.mark.parametrize("B", [1, 2])
def test_an_image_is_never_its_own_occluder(B):
    """Two images occlude each other. A single one has no occluder, because its own tile would show twice."""
    method, foreign, images = jigsaw_method(), [], coordinates(B)
    for epoch in range(60):
        batch = batch_of(images)
        tiles = method.prepare(batch, draws(batch, epoch)).views.tiles.unflatten(0, (-1, 9))
        foreign += (tiles[:, :, 2].mean(dim=(2, 3)) != torch.arange(B).view(-1, 1)).any(dim=1).tolist()
    share = (B > 1) * 2 / 3
    assert abs(np.mean(foreign) - share) <= 4 * math.sqrt(share * (1 - share) / len(foreign))


def test_tiles_are_normalised_each_by_itself_and_flat_ones_stay_finite():
    method = jigsaw_method()
    images, _ = toy(20, 96)
    images[0] = 77
    batch = batch_of(images)
    tiles = method.prepare(batch, draws(batch)).views.tiles
    assert tiles.isfinite().all()
    assert tiles.is_contiguous(memory_format=torch.channels_last)
    deviation, mean = torch.std_mean(tiles, dim=(1, 2, 3), correction=0)
    assert mean.abs().max() < 1e-5
    flat = deviation < 0.5
    assert 7 <= flat.sum() <= 11  # image 0: fewer for its occluded tiles, more for those that it occludes
    assert (deviation[~flat] - 1).abs().max() < 1e-3


def test_colour_is_dropped_as_often_as_asked_and_half_of_the_rest_projected():
    images, _ = toy(4, 96)
    tiles = images.permute(0, 3, 1, 2).unsqueeze(1).float()
    grey, project = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    out = jigsaw.recolour(tiles, grey, project)
    assert torch.equal(out[3], tiles[3])
    for b in (0, 1):
        torch.testing.assert_close(out[b, 0, 0], out[b, 0, 2])
        luma = 0.2989 * tiles[b, 0, 0] + 0.587 * tiles[b, 0, 1] + 0.114 * tiles[b, 0, 2]
        torch.testing.assert_close(out[b, 0, 0], luma)
    rows = torch.tensor([[5 / 6, 1 / 3, -1 / 6], [1 / 3, 1 / 3, 1 / 3], [-1 / 6, 1 / 3, 5 / 6]])
    torch.testing.assert_close(out[2, 0], torch.einsum("ij,jyx->iyx", rows, tiles[2, 0]))


def test_all_tiles_of_a_share_of_the_images_are_grey():
    method = jigsaw_method(occluders=0, channel_shift=0, grey=0.7)
    images, _ = toy(60, 96)
    greys = 0
    for epoch in range(5):
        batch = batch_of(images)
        tiles = method.prepare(batch, draws(batch, epoch)).views.tiles.unflatten(0, (-1, 9))
        grey = (tiles[:, :, 0] - tiles[:, :, 2]).abs().amax(dim=(2, 3)) < 1e-4
        assert torch.equal(grey.all(dim=1), grey.any(dim=1))
        greys += grey.all(dim=1).sum().item()
    assert abs(greys - 0.7 * 300) < 4 * math.sqrt(300 * 0.7 * 0.3)


def test_slots_share_their_weights_and_only_their_order_tells_them_apart():
    method = jigsaw_method().eval()
    tile = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    each = method.head.fc6(method.network.backbone(tile.expand(9, -1, -1, -1)))
    torch.testing.assert_close(each, each[:1].expand(9, -1))
    features = torch.randn(9, method.network.output_dim, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(method.head(features), method.head(features.roll(1, 0)))


def test_the_untrained_head_is_at_chance_over_701_permutations():
    method = jigsaw_method()
    images, _ = toy(16, 96)
    batch = batch_of(images)
    loss = method.loss(method.prepare(batch, draws(batch)), progress())
    assert 0.9 * math.log(701) < loss.total.item() < math.log(701) + 0.3
    assert float(loss.terms["accuracy"]) < 0.2


def test_what_jigsaw_publishes_is_the_trunk_without_the_puzzles_head():
    method = jigsaw_method()
    assert method.network.layer_names()[-1] == "features"
    assert method.network(torch.rand(2, 3, 96, 96)).shape == (2, method.network.output_dim)


# Fine-tuning


@pytest.mark.parametrize("keep_fc", [False, True])
def test_a_frozen_backbone_neither_moves_nor_updates_its_statistics(keep_fc):
    teacher = build_network("vgg16_bn", 16, seed=0, width=0.25, classes=9)
    network = teacher.with_classifier(CLASSES, seed=1, keep_fc=keep_fc)
    config = Finetune(freeze=True, keep_fc=keep_fc, head_learning_rate=0.5, learning_rate=0.1, jitter=0.0)
    method = FinetuneMethod(config, network).train()
    before = copy.deepcopy(network.state_dict())
    images, label = toy(16)
    batch = batch_of(images, label)
    loss = method.loss(method.prepare(batch, draws(batch)), progress())
    loss.total.backward()
    optimizer = method.optimizers()["main"]
    optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    new = {
        name for name in before if name.startswith("classifier.") or (name.startswith("fc.") and not keep_fc)
    }
    assert moved == new
    assert {name for name, p in network.named_parameters() if p.grad is not None} == new
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert not method.eval().network.fc.training


def test_without_freezing_everything_moves_and_new_layers_have_their_own_rate():
    network = student(head=1, classes=9).with_classifier(CLASSES, seed=1)
    method = FinetuneMethod(Finetune(learning_rate=0.1, head_learning_rate=1.0), network).train()
    groups = method.optimizers()["main"].param_groups
    new = {id(p) for p in network.classifier.parameters()}
    assert {id(p) for g in groups if g["lr"] == 1.0 for p in g["params"]} == new
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in network.parameters()}
    images, label = toy(16)
    batch = batch_of(images, label)
    method.loss(method.prepare(batch, draws(batch)), progress()).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


# Distillation


def distill_loss(alpha, labels=None, target=None, tau=1.0):
    config = Distill(alpha=alpha, temperature=tau, jitter=0.0)
    method = DistillMethod(config, student(classes=CLASSES), labels).eval()
    images, label = toy(12)
    batch = batch_of(images, F.one_hot(label, CLASSES).float() if target is None else target)
    batch = method.prepare(batch, draws(batch))
    return method.loss(batch, progress()), method.network(batch.views), label


def test_alpha_zero_is_cross_entropy_on_the_labelled_and_one_is_the_teacher_alone():
    labels = torch.full((12,), -1)
    labels[[2, 5]] = toy(12)[1][[2, 5]]
    wrong = F.one_hot((toy(12)[1] + 1) % CLASSES, CLASSES).float()
    loss, logits, label = distill_loss(0.0, labels, wrong)
    torch.testing.assert_close(loss.total, F.cross_entropy(logits[[2, 5]], label[[2, 5]]))
    loss, logits, label = distill_loss(1.0, None, wrong)
    torch.testing.assert_close(loss.total, F.cross_entropy(logits, (label + 1) % CLASSES))


def test_the_mix_is_linear_in_alpha():
    labels = toy(12)[1]
    ends = [
        distill_loss(alpha, labels, torch.full((12, CLASSES), 1 / CLASSES))[0].total for alpha in (0.0, 1.0)
    ]
    middle = distill_loss(0.3, labels, torch.full((12, CLASSES), 1 / CLASSES))[0]
    torch.testing.assert_close(middle.total, 0.7 * ends[0] + 0.3 * ends[1])
    assert set(middle.terms) == {"agreement", "distillation", "labelled"}


def test_mix_up_blends_images_and_probabilities_alike():
    """A slow rewrite: every image, and every target, keeps its share and gets the rest of another one's."""
    images, label = toy(12)
    target = F.one_hot(label, CLASSES).float()
    method = DistillMethod(Distill(jitter=0.0, mixup=0.7), student(classes=CLASSES)).eval()
    batch = batch_of(images, target)
    batch = method.prepare(batch, draws(batch))
    torch.manual_seed(5)
    share, other = partners(12, 0.7)
    blended = (1 - share) * batch.views + share * batch.views[other]
    logits = method.network(blended)
    told = (1 - share) * target + share * target[other]
    torch.manual_seed(5)
    loss = method.loss(batch, progress())
    torch.testing.assert_close(loss.total, -(told * torch.log_softmax(logits, 1)).sum(1).mean())
    assert 0.01 < share < 0.5


def test_the_labelled_loss_needs_labels():
    with pytest.raises(ValueError, match="needs labels"):
        distill_loss(0.5)


def test_labels_are_an_input_and_not_part_of_the_state():
    method = DistillMethod(Distill(alpha=0.5), student(classes=CLASSES), torch.zeros(5, dtype=torch.int64))
    assert not any("labels" in name for name in method.state_dict())
