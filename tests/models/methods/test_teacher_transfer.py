"""SEED, S2-BNN and SimReg, which learn from the teacher itself."""

import math

import pytest
import torch
from method_checks import (
    lowers_the_loss,
    prepared,
    progress,
    teacher_takes_no_gradient,
    toy,
    trained,
)
from torch.nn import functional as F

from data.errors import ConfigError
from models.augment import centre
from models.backbones.reactnet import binary, binary_convolutions
from models.configs.s2bnn import S2BNN
from models.configs.seed import Seed
from models.configs.simreg import SimReg
from models.losses.embeddings import cross_entropy, entropy, over_coordinates, over_places
from models.method import Batch
from models.methods.s2bnn import S2BNNMethod
from models.methods.seed import SeedMethod
from models.methods.simreg import SimRegMethod
from models.methods.teacher_embedding import TeacherEmbedding
from models.mixup import partners
from models.network import Network, build_network
from models.two_sizes import Seen, blended

FAST = {"optimizer": "adamw", "learning_rate": 3e-3, "crop_min": 0.6, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
N = 16
IMAGES, LABEL = toy(N)
STRATEGIES = [
    ("distill", "offline"),
    ("distill", "online"),
    ("contrastive+distill", "offline"),
    ("contrastive+distill", "online"),
    ("contrastive", "offline"),
]


def a_teacher(head=1, **options):
    return build_network("smallconv", 16, seed=9, width=0.25, head=head, **options)


def a_student(seed=0, backbone="reactnet"):
    return build_network(backbone, 16, seed=seed, width=0.25)


def a_seed(seed=0, teacher=None, **options):
    student = a_student(seed, "smallconv")
    return SeedMethod(Seed(queue=64, **{**FAST, **options}), student, teacher or a_teacher(), seed=seed)


def a_s2bnn(strategy="distill", online="offline", seed=0, phase="weights", teacher=None, network=None):
    config = S2BNN(strategy=strategy, teacher=online, queue=64, projection=24, **FAST)
    return S2BNNMethod(config, network or a_student(seed), teacher or a_teacher(), phase=phase, seed=seed)


def a_simreg(seed=0, teacher=None, **options):
    student = a_student(seed, "smallconv")
    return SimRegMethod(SimReg(**{**FAST, **options}), student, teacher or a_teacher(), seed=seed)


def sweep():
    for start in range(0, N, 6):
        yield Batch(IMAGES[start : start + 6], torch.arange(N)[start : start + 6])


def key_encoders(method):
    return [c.key for c in (method.contrast, method.contrast_online) if c is not None]


# What the teacher sees


def test_embeddings_are_unit_vectors_around_the_mean_of_all_images():
    teacher = a_teacher()
    embedding = TeacherEmbedding(teacher)
    embedding.measure(sweep)
    x = centre(IMAGES, 16)
    h = teacher.features(x, "head1").detach()
    torch.testing.assert_close(embedding.mean, h.mean(dim=0))
    t = embedding(x)
    torch.testing.assert_close(t, F.normalize(h - h.mean(dim=0), dim=1))
    torch.testing.assert_close(t.norm(dim=1), torch.ones(N))
    assert list(embedding.state_dict()) == ["mean"]


def test_a_projection_head_is_taken_as_it_is():
    teacher = a_teacher(head=0).with_projection(10, seed=0)
    embedding = TeacherEmbedding(teacher)
    embedding.measure(sweep)
    x = centre(IMAGES, 16)
    assert (embedding.dim, embedding.projected) == (10, True)
    assert not embedding.mean.any()
    torch.testing.assert_close(embedding(x), F.normalize(teacher(x), dim=1))


@pytest.mark.parametrize(
    ("options", "layer"), [({"head": 1}, "head1"), ({"head": 0}, "features"), ({"classes": 3}, "head1")]
)
def test_the_last_layer_below_a_classifier_is_what_is_shown(options, layer):
    teacher = a_teacher(**options)
    embedding, x = TeacherEmbedding(teacher), centre(IMAGES, 16)
    torch.testing.assert_close(embedding(x), F.normalize(teacher.features(x, layer), dim=1))
    assert embedding.dim == teacher.layer_dim(layer)


@pytest.mark.parametrize("make", [a_seed, a_s2bnn, a_simreg])
def test_the_teacher_stays_frozen_in_evaluation_mode_and_out_of_the_state(make):
    teacher = a_teacher()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    method = make(teacher=teacher).train()
    method.loss(prepared(method, IMAGES), progress()).total.backward()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    own = {id(p) for p in method.parameters()}
    assert not own & {id(p) for p in teacher.parameters()}
    assert not any(name.startswith("teacher.") and name != "teacher.mean" for name in method.state_dict())


# SEED


def test_seeds_loss_is_that_of_both_networks_on_the_same_views():
    method = a_seed(teacher_temperature=0.05).train()
    method.teacher.measure(sweep)
    batch, queue = prepared(method, IMAGES[:8]), method.queue.contents().double()
    loss = method.loss(batch, progress())
    s = F.normalize(method.network(batch.views.student).detach().double(), dim=1)
    t = method.teacher(batch.views.teacher).double()
    expected = 0.0
    for a, b in zip(s, t, strict=True):
        candidates = [b, *queue]
        p_s = torch.stack([a @ c / 0.2 for c in candidates]).softmax(dim=0)
        p_t = torch.stack([b @ c / 0.05 for c in candidates]).softmax(dim=0)
        expected -= (p_t * p_s.log()).sum().item() / 8
    assert loss.total.item() == pytest.approx(expected, abs=1e-5)
    assert float(loss.terms["divergence"]) == pytest.approx(expected - float(loss.terms["entropy"]), abs=1e-5)
    assert float(loss.terms["cosine"]) == pytest.approx((s * t).sum(dim=1).mean().item(), abs=1e-5)


def test_seed_enqueues_the_teachers_embeddings_after_the_update():
    method = a_seed().train()
    batch, before = prepared(method, IMAGES[:8]), method.queue.contents()
    method.loss(batch, progress())
    assert torch.equal(method.queue.contents(), before)
    method.after_update(progress())
    torch.testing.assert_close(method.queue.contents()[:8], method.teacher(batch.views.teacher))
    assert torch.equal(method.queue.contents()[8:], before[8:])


def test_seed_starts_at_chance():
    loss = a_seed().train()
    loss.teacher.measure(sweep)
    total, d = loss.loss(prepared(loss, IMAGES), progress()).total.item(), loss.teacher.dim
    assert 0.9 * math.log(65) < total < math.log(65) + 1 / (2 * d * 0.2**2) + 0.3


def test_mix_up_blends_what_both_networks_see_in_the_same_way():
    small, large = torch.rand(6, 3, 8, 8), torch.rand(6, 3, 12, 12)
    torch.manual_seed(0)
    share, other = partners(6, 1.0)
    torch.manual_seed(0)
    seen = blended(Seen(small, large), 1.0)
    assert 0 < share < 0.5
    for before, after in zip((small, large), seen, strict=True):
        torch.testing.assert_close(after, (1 - share) * before + share * before[other])
    one = blended(Seen(small, small), 1.0)
    assert one.teacher is one.student
    assert blended(one, 0.0) is one


@pytest.mark.parametrize("make", [a_seed, a_simreg])
def test_mix_up_is_the_loss_of_blended_views(make):
    method, plain = make(mixup=1.0).eval(), make().eval()
    batch = prepared(method, IMAGES)
    torch.manual_seed(0)
    found = method.loss(batch, progress()).total
    torch.manual_seed(0)
    batch.views = blended(batch.views, 1.0)
    torch.testing.assert_close(found, plain.loss(batch, progress()).total)
    assert not torch.equal(found, plain.loss(prepared(plain, IMAGES), progress()).total)


def test_the_dense_loss_compares_places_on_the_teachers_grid():
    teacher = build_network("smallconv", 32, seed=9, width=0.25)
    student = build_network("smallconv", 25, seed=0, width=0.25)
    method = SeedMethod(Seed(queue=64, dense=2.0, dense_temperature=0.1, **FAST), student, teacher).eval()
    seen = Seen(torch.rand(N, 3, 25, 25), torch.rand(N, 3, 32, 32))
    batch = Batch(IMAGES, torch.arange(N), views=seen)
    own, shown = method.network.last_map(seen.student), teacher.last_map(seen.teacher)
    assert own.shape[2] < shown.shape[2]
    own = F.interpolate(own, shown.shape[2:], mode="bilinear")
    p = over_places(shown, 0.1).exp()
    expected = (p * (p.log() - over_places(own, 0.1))).sum(dim=2).mean()
    with torch.no_grad():
        loss = method.loss(batch, progress())
        without = SeedMethod(Seed(queue=64, **FAST), student, teacher).eval().loss(batch, progress())
    torch.testing.assert_close(loss.terms["dense"], expected.detach())
    torch.testing.assert_close(loss.total, without.total + 2 * loss.terms["dense"])


def test_a_student_that_equals_its_teacher_has_no_dense_loss():
    teacher = a_student(0, "smallconv").with_projection(24, seed=0)
    loss = (
        SeedMethod(Seed(dense=1.0, **FAST), teacher, teacher)
        .eval()
        .loss(prepared(a_seed(), IMAGES), progress())
    )
    assert float(loss.terms["dense"]) == pytest.approx(0, abs=1e-6)


def test_maps_of_one_place_have_no_dense_loss():
    teacher = build_network("resnet18", 8, seed=0, width=0.25)
    with pytest.raises(ConfigError, match=r"transfer\.dense: .* 4 x 4 \(student\) and 1 x 1 \(teacher\)"):
        a_seed(teacher=teacher, dense=1.0)


def test_new_settings_leave_the_names_of_older_students():
    assert not {"mixup", "dense", "dense_temperature"} & Seed().settings(32).keys()
    assert Seed(dense=1.0).settings(32)["dense"] == 1.0


# SimReg


def test_simreg_is_the_squared_distance_of_unit_vectors():
    method = a_simreg().train()
    method.teacher.measure(sweep)
    batch = prepared(method, IMAGES)
    loss = method.loss(batch, progress())
    t = method.teacher(batch.views.teacher)
    g = F.normalize(method.head(method.network.features(batch.views.student)), dim=1)
    torch.testing.assert_close(loss.total, (g - t).pow(2).sum(dim=1).mean())
    assert float(loss.terms["cosine"]) == pytest.approx(1 - loss.total.item() / 2, abs=1e-5)


@pytest.mark.parametrize(("layers", "widths"), [(1, [32]), (2, [64, 32]), (4, [64, 32, 64, 32])])
def test_simregs_head_has_the_papers_widths_and_is_not_published(layers, widths):
    method = a_simreg(layers=layers)
    linear = [module for module in method.head.modules() if isinstance(module, torch.nn.Linear)]
    assert (method.network.output_dim, method.teacher.dim) == (32, 32)
    assert [module.out_features for module in linear] == widths
    assert method.network.description() == a_student(0, "smallconv").description()


# S2-BNN


def test_distillation_is_the_cross_entropy_of_softmaxed_embeddings():
    method = a_s2bnn().train()
    method.teacher.measure(sweep)
    batch = prepared(method, IMAGES)
    assert batch.views.student.shape == (N, 3, 16, 16)
    loss = method.loss(batch, progress())
    s, t = method.network(batch.views.student).detach(), method.teacher(batch.views.teacher)
    d = t.shape[1]
    assert d != 128
    tau = 0.2 * math.sqrt(128 / d)
    p = F.softmax(t / tau, dim=1)
    expected = -(p * F.log_softmax(F.normalize(s, dim=1) / tau, dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss.total.detach(), expected)
    # Opposite vectors are four times as far apart as a vector and a flat one.
    assert 0 < float(loss.terms["divergence"]) < 4 / (2 * 128 * 0.2**2)
    least = -(p * p.log()).sum(dim=1).mean()
    assert loss.total.item() > least.item()
    assert float(loss.terms["flatness"]) == pytest.approx(least.item() / math.log(d), abs=1e-6)


def test_the_strategies_add_up():
    """With the same draws and weights, the combined loss is the sum of contrast and distillation."""
    both = a_s2bnn("contrastive+distill").train()
    batch = prepared(both, IMAGES)
    assert batch.views.student.shape == (2 * N, 3, 16, 16)
    loss = both.loss(batch, progress())
    assert loss.total.item() == pytest.approx(
        float(loss.terms["contrast"]) + float(loss.terms["distillation"]), abs=1e-5
    )
    alone = a_s2bnn().train()
    first = prepared(alone, IMAGES)
    assert torch.equal(
        first.views.student, batch.views.student[:N]
    )  # the teacher sees the same view whether or not there is contrast
    torch.testing.assert_close(alone.loss(first, progress()).total.detach(), loss.terms["distillation"])


def test_contrast_starts_near_chance_and_knows_no_teacher():
    method = a_s2bnn("contrastive").train()
    assert method.teacher is None
    assert method.network.projection_dim == 24
    for seed in range(1, 5):  # the queue holds keys of images, not only random vectors
        method.loss(prepared(method, toy(N, seed=seed)[0]), progress())
        method.after_update(progress())
    assert method.contrast.queue.filled == 64
    loss = method.loss(prepared(method, IMAGES), progress())
    assert 0.5 * math.log(65) < loss.total.item() < math.log(65) + 1 / (2 * 24 * 0.2**2) + 0.3
    assert set(loss.terms) == {"spread", "effective_rank", "outside", "contrast"}


def test_a_query_is_contrasted_with_the_key_of_the_other_view():
    method = a_s2bnn("contrastive").train()
    batch = prepared(method, IMAGES)
    found = method.loss(batch, progress()).total.detach()
    x_1, x_2 = batch.views.student.chunk(2)
    with torch.no_grad():  # the statistics are those of the batch, so a second pass gives the same result
        q, k = F.normalize(method.network(x_1), dim=1), F.normalize(method.contrast.key(x_2), dim=1)
    logits = (
        torch.cat([(q * k).sum(dim=1, keepdim=True), q @ method.contrast.queue.contents().T], dim=1) / 0.2
    )
    torch.testing.assert_close(found, F.cross_entropy(logits, torch.zeros(N, dtype=torch.int64)))


def test_a_student_that_equals_its_teacher_is_at_the_floor():
    teacher = a_student().with_projection(24, seed=0)
    method = a_s2bnn(teacher=teacher, network=a_student())
    method.eval()
    loss = method.loss(prepared(method, IMAGES), progress())
    assert float(loss.terms["divergence"]) == pytest.approx(0, abs=1e-6)
    assert float(loss.terms["cosine"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("strategy", "online"), STRATEGIES[1:])
def test_no_gradient_reaches_key_encoders(strategy, online):
    method = a_s2bnn(strategy, online)
    teacher_takes_no_gradient(
        method, toy(32)[0], *key_encoders(method)
    )  # split batch norm needs a few images per group


@pytest.mark.parametrize(("strategy", "online"), [STRATEGIES[1], STRATEGIES[2], STRATEGIES[4]])
def test_students_learn_by_every_strategy(strategy, online):
    """test_every_method.py has the two other strategies."""
    method, images = a_s2bnn(strategy, online), toy(32)[0]
    terms = method.loss(prepared(method, images), progress()).terms
    least = float(terms["distillation"]) - float(terms["divergence"]) if "distillation" in terms else 0.0
    lowers_the_loss(method, images, floor=least, steps=12, to=0.85)


def test_an_online_teacher_learns_from_contrast_alone():
    """The distance to the student gives the teacher no gradient."""
    method = a_s2bnn("distill", "online").train()
    batch = prepared(method, IMAGES)
    method.loss(batch, progress()).total.backward()
    found = {name: p.grad.clone() for name, p in method.online.named_parameters()}
    method.zero_grad()
    x_1, x_2 = batch.views.student.chunk(2)
    method.contrast_online.loss(method.online(x_1), x_2, progress()).backward()
    for name, p in method.online.named_parameters():
        torch.testing.assert_close(found[name], p.grad)


def test_key_encoders_follow_and_queues_take_the_keys():
    method = a_s2bnn("contrastive").train()
    encoder, contrast = method.network, method.contrast
    with torch.no_grad():
        for p in encoder.parameters():
            p += 1
    before = [p.clone() for p in contrast.key.parameters()]
    method.loss(prepared(method, IMAGES), progress())
    assert not contrast.queue.filled
    method.after_update(progress())
    for old, new, student in zip(before, contrast.key.parameters(), encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * student)
    assert contrast.queue.filled == N


@pytest.mark.parametrize(("strategy", "online"), STRATEGIES)
def test_alike_outputs_are_a_collapse_unless_a_frozen_teacher_holds_them_apart(strategy, online):
    measure = a_s2bnn(strategy, online).collapsed({"spread": 0.01})
    assert (measure is None) == ((strategy, online) == ("distill", "offline"))


# Two trainings


def test_the_second_phase_goes_on_from_what_the_first_has_published():
    first = a_s2bnn(phase="activations")
    assert all(convolution.real_weights for convolution in binary_convolutions(first.network))
    trained(first, IMAGES, batch_size=N // 2, epochs=1)
    published = Network.from_description(first.network.description())
    published.load_state_dict(first.network.state_dict())
    second = a_s2bnn(phase="weights", network=published, seed=3)
    assert list(second.state_dict()) == list(first.state_dict())
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
    assert not any(convolution.real_weights for convolution in binary_convolutions(second.network))
    moved = a_s2bnn(phase="activations").network.state_dict()["projection.2.weight"]
    assert not torch.equal(second.network.state_dict()["projection.2.weight"], moved)


def test_what_is_published_in_the_end_has_binary_weights():
    method = a_s2bnn()
    trained(method, IMAGES, batch_size=N // 2, epochs=1)
    used = []
    convolutions = binary_convolutions(method.network)
    for convolution in convolutions:
        convolution.register_forward_pre_hook(
            lambda module, inputs: used.append((module, inputs[0].unique().tolist()))
        )
    method.network.eval()(centre(IMAGES, 16))
    assert [values for _, values in used] == [[-1, 1]] * len(convolutions)
    assert method.network.description()["real_weights"] is False
    for convolution in convolutions:
        assert all(len(row.unique()) == 2 for row in binary(convolution.weight).flatten(1))


def test_students_without_one_bit_convolutions_are_refused():
    with pytest.raises(
        ConfigError, match=r"student\.backbone: s2bnn trains 1-bit networks.*transfer\.method=seed"
    ):
        a_s2bnn(network=a_student(backbone="smallconv"))


def test_the_seed_decides_the_queues_first_rows():
    for make in (a_seed, lambda seed: a_s2bnn("contrastive+distill", "online", seed)):
        a, other = make(0).state_dict(), make(1).state_dict()
        assert not all(torch.equal(a[name], other[name]) for name in a if "queue.rows" in name)


def test_distance_to_a_random_teacher_is_in_the_known_range():
    """At d = 128 an untrained student is within 0.2 nats of the floor."""
    teacher = a_teacher(head=0).with_projection(128, seed=0)
    method = a_s2bnn(teacher=teacher).train()
    batch = prepared(method, IMAGES)
    loss = method.loss(batch, progress())
    t = method.teacher(batch.views.teacher)
    assert 4.7 < entropy(over_coordinates(t, 0.2)).item() < math.log(128)
    assert 4.7 < loss.total.item() < 5.2
    s = method.network(batch.views.student)
    expected = cross_entropy(over_coordinates(s, 0.2), over_coordinates(t, 0.2))
    torch.testing.assert_close(loss.total.detach(), expected.detach())
