"""A student and a foreign teacher see the same view of an image, each in its own size."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from foreign_weights import photograph, timm_folder

from data.decode import decode, resize_square
from data.draws import Draws
from models.augment import centre, centre_within, random_view
from models.configs.pretrained import Pretrained
from models.configs.s2bnn import S2BNN
from models.configs.seed import Seed
from models.method import Batch
from models.methods.s2bnn import S2BNNMethod
from models.methods.seed import SeedMethod
from models.network import Network, build_network
from models.pretrained import load_pretrained
from models.two_sizes import for_both, shrunk


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Network:
    place = tmp_path_factory.mktemp("weights")
    timm_folder(place, "test_resnet")
    return load_pretrained(Pretrained(weights=str(place), input_size=96)).network.eval()


def squares(side: int, n: int = 6) -> torch.Tensor:
    files = [photograph(160, 120, seed) for seed in range(n)]
    return torch.from_numpy(np.stack([resize_square(decode(file), side) for file in files]))


def drawn(n: int = 6) -> Draws:
    return Draws(0, "transfer", 0, np.arange(n))


def test_both_see_the_same_part(teacher: Network) -> None:
    student = build_network("smallconv", 32, seed=0, width=0.25)
    config, images = Seed(queue=16), squares(110)
    seen = for_both(student, teacher, config, partial(random_view, images, drawn(), "view"))
    assert seen.student.shape == (6, 3, 32, 32)
    assert seen.teacher.shape == (6, 3, 96, 96)
    torch.testing.assert_close(shrunk(seen.teacher, 32), seen.student)
    # Drawn at the student's size at once, the view shows the same part of the image, with the same changes.
    small = random_view(images, drawn(), "view", config.model_copy(update={"blur": 0.0}), 32)
    plain = for_both(
        student,
        teacher,
        config.model_copy(update={"blur": 0.0}),
        partial(random_view, images, drawn(), "view"),
    )
    assert (small - plain.student).abs().mean() < 0.02
    other = random_view(images, drawn(), "another", config.model_copy(update={"blur": 0.0}), 32)
    assert (small - other).abs().mean() > 0.05


def test_a_teacher_of_our_own_sees_what_the_student_sees() -> None:
    student, ours = (build_network("smallconv", 32, seed=seed, width=0.25) for seed in (0, 1))
    config, images = Seed(queue=16, view_size=0.75), squares(37)
    seen = for_both(student, ours, config, partial(random_view, images, drawn(), "view"))
    assert seen.student is seen.teacher
    assert torch.equal(seen.student, random_view(images, drawn(), "view", config, 32))
    assert seen.student.shape[-1] == 24


def test_a_larger_student_gets_the_sharper_view(teacher: Network) -> None:
    student = build_network("smallconv", 128, seed=0, width=0.25)
    seen = for_both(student, teacher, Seed(queue=16), partial(random_view, squares(146), drawn(), "view"))
    assert (seen.student.shape[-1], seen.teacher.shape[-1]) == (128, 96)
    torch.testing.assert_close(shrunk(seen.student, 96), seen.teacher)


def test_the_centre_of_other_squares_is_the_same_part() -> None:
    usual, large = squares(110), squares(220)
    exact = centre(usual, 96)
    assert torch.equal(centre_within(usual, 96, 110), exact)
    found = centre_within(large, 96, 110)
    assert found.shape == exact.shape
    assert (found - exact).abs().mean() < 0.02


@pytest.mark.parametrize("size", [16, 32])
def test_seed_learns_from_a_teacher_of_another_size(teacher: Network, size: int) -> None:
    student = build_network("smallconv", size, seed=0, width=0.25)
    method = SeedMethod(Seed(queue=16), student, teacher).train()
    batch = method.prepare(Batch(squares(110), torch.arange(6)), drawn())
    method.teacher.measure(lambda: iter([batch]))
    loss = method.loss(batch, None)  # type: ignore[arg-type]  # the progress is not read
    assert torch.isfinite(loss.total)
    loss.total.backward()
    expected = teacher.features(batch.views.teacher) - method.teacher.mean
    torch.testing.assert_close(method._t, torch.nn.functional.normalize(expected, dim=1))


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "distill"},
        {"strategy": "contrastive+distill"},
        {"strategy": "distill", "teacher": "online"},
    ],
)
def test_one_bit_students_learn_from_a_teacher_of_another_size(
    teacher: Network, options: dict[str, Any]
) -> None:
    from models.method import Progress

    student = build_network("reactnet", 32, seed=0, width=0.25)
    method = S2BNNMethod(S2BNN(queue=16, projection=8, **options), student, teacher).train()
    batch = method.prepare(Batch(squares(110, 16), torch.arange(16)), drawn(16))
    assert batch.views.teacher.shape[-1] == 96
    loss = method.loss(batch, Progress(0, 2, 0, 1))
    assert torch.isfinite(loss.total)
    loss.total.backward()
