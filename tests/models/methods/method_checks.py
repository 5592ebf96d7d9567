"""What every method promises, as plain functions that the tests in this folder import."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Container, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from data.draws import Draws
from models.engine import train
from models.method import Batch, Method, Progress
from models.progress import State
from models.schedules import warmup_cosine

CLASSES = 4


def toy(n: int, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make (n, S, S, 3) uint8 images with stripes, and (n,) int64 labels: the stripes' directions."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % CLASSES
    y, x = np.mgrid[:size, :size] / size
    angle = label[:, None, None] * np.pi / CLASSES + rng.normal(0, 0.1, (n, 1, 1))
    wave = np.sin(2 * np.pi * (3 * (np.cos(angle) * x + np.sin(angle) * y) + rng.random((n, 1, 1))))
    tint = rng.uniform(0.3, 1, (n, 1, 1, 3)) * 110
    pixels = 128 + wave[..., None] * tint + rng.normal(0, 5, (n, size, size, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), torch.from_numpy(label)


def prepared(method: Method, images: Tensor, step: int = 0, target: Tensor | None = None) -> Batch:
    """Return a batch of all the images, with the views of a step."""
    batch = Batch(images, torch.arange(len(images)), target)
    return method.prepare(batch, Draws(7, "test", step, batch.index.numpy()))


def progress(step: int = 0, steps: int = 20, epoch: int = 0, epochs: int = 1) -> Progress:
    """The progress of training at a step."""
    return Progress(step, steps, epoch, epochs)


def lowers_the_loss(
    method: Method,
    images: Tensor,
    *,
    target: Tensor | None = None,
    steps: int = 20,
    to: float = 0.8,
    floor: float = 0.0,
) -> None:
    """Check that steps on one fixed batch bring the loss to a share of its first value.

    Teacher, queue and codes stay as they are.

    Args:
        method: not trained yet.
        images: (B, S, S, 3) uint8.
        target: (B,) int64, for a method that learns labels.
        steps: the number of steps.
        to: the share, counted from `floor`.
        floor: the smallest possible loss.
    """
    method.train()
    batch = prepared(method, images, target=target)
    optimizer = method.optimizers()["main"]
    losses = []
    for _ in range(steps):
        loss = next(method.losses(batch, progress()))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item() - floor)
        assert all(math.isfinite(float(value)) for value in loss.terms.values())
    assert losses[-1] < to * losses[0], losses


def teacher_takes_no_gradient(method: Method, images: Tensor, *teachers: nn.Module) -> None:
    """Check that a step leaves the teachers as they are and gives all other parameters a gradient."""
    method.train()
    held = {id(p) for teacher in teachers for p in teacher.parameters()}
    assert held
    before = [p.clone() for teacher in teachers for p in teacher.parameters()]
    optimizer = method.optimizers()["main"]
    assert not held & {id(p) for group in optimizer.param_groups for p in group["params"]}
    method.loss(prepared(method, images), progress()).total.backward()
    for name, p in method.named_parameters():
        assert (p.grad is None) == (id(p) in held), name
    optimizer.step()
    after = [p for teacher in teachers for p in teacher.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def ignores_labels(make: Callable[[int], Method], images: Tensor, label: Tensor) -> None:
    """Check that the loss is the same with labels, with other labels, and without labels."""

    def loss(target: Tensor | None) -> Tensor:
        method = make(0)
        torch.manual_seed(0)
        method.before_epoch(progress(), Feed(images, len(images)).sweep)
        method.train()
        return next(method.losses(prepared(method, images, target=target), progress())).total

    assert torch.equal(loss(None), loss(label))
    assert torch.equal(loss(None), loss(label.flip(0) + 1))


class Feed:
    """Images, and targets if there are any. Each epoch has a different order."""

    def __init__(self, images: Tensor, batch_size: int, target: Tensor | None = None) -> None:
        self.images, self.batch_size, self.target = images, batch_size, target
        self.steps_per_epoch = len(images) // batch_size

    def batch(self, epoch: int, step: int) -> Batch:
        order = np.random.default_rng(epoch).permutation(len(self.images))
        index = torch.from_numpy(order[step * self.batch_size : (step + 1) * self.batch_size])
        return Batch(self.images[index], index, None if self.target is None else self.target[index])

    def sweep(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Batch(self.images[rows], torch.arange(len(self.images))[rows])


def trained(
    method: Method,
    images: Tensor,
    *,
    target: Tensor | None = None,
    batch_size: int = 16,
    epochs: int = 4,
    resume: State | None = None,
    keep: Container[int] | None = None,
) -> list[State]:
    """Train with the engine on the CPU.

    Args:
        method: what to train.
        images: (N, S, S, 3) uint8.
        target: (N,) int64, for a method that learns labels.
        batch_size: images per step.
        epochs: epochs of the whole training.
        resume: a state that an earlier call returned.
        keep: the steps whose whole state is returned, or None for all. Of other steps only the number is
            returned.

    Returns:
        The state after every step of this call, as read back from a file, without the clock.
    """
    saved: list[bytes] = []

    def save(state: State) -> None:
        whole = keep is None or state["step"] in keep
        buffer = io.BytesIO()
        torch.save(
            {name: value for name, value in state.items() if (whole and name != "clock") or name == "step"},
            buffer,
        )
        saved.append(buffer.getvalue())

    feed = Feed(images, batch_size, target)
    train(
        method,
        feed,
        epochs=epochs,
        seed=3,
        stage="toy",
        schedule=partial(warmup_cosine, warmup=0.1),
        device=torch.device("cpu"),
        precision="fp32",
        sweep=feed.sweep,
        resume=None if resume is None else {**resume, "clock": [0, 0.0, 0.0]},
        save=save,
        save_every=0.0,
    )
    return [torch.load(io.BytesIO(state), weights_only=True) for state in saved]


def resumes_bit_for_bit(
    make: Callable[[int], Method],
    images: Tensor,
    *,
    target: Tensor | None = None,
    batch_size: int = 16,
    epochs: int = 4,
) -> None:
    """Check that a training that stops halfway or within an epoch ends bit for bit as if undisturbed.

    Args:
        make: makes the method from a seed. A resumed method has the same seed, as in a run, but begins with
            other values in all parameters and buffers.
        images: (N, S, S, 3) uint8; at least two batches.
        target: (N,) int64, for a method that learns labels.
        batch_size: images per step.
        epochs: epochs of the whole training.
    """
    per_epoch = len(images) // batch_size
    half, last = epochs // 2 * per_epoch, epochs * per_epoch
    training = partial(trained, images=images, target=target, batch_size=batch_size, epochs=epochs)
    undisturbed = training(make(0), keep=(half, half + 1, last))
    for stop in (half, half + 1):
        torch.rand(stop)  # the global generator has another state
        fresh = make(0)
        for tensor in fresh.state_dict().values():
            tensor.copy_(tensor + 1)
        resumed = training(fresh, resume=undisturbed[stop - 1], keep=(last,))
        assert [state["step"] for state in resumed] == list(range(stop + 1, last + 1))
        _assert_same(resumed[-1], undisturbed[-1])


def _assert_same(left: object, right: object, where: str = "") -> None:
    assert type(left) is type(right), where
    if isinstance(left, Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            _assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for i, pair in enumerate(zip(left, right, strict=True)):
            _assert_same(*pair, f"{where}/{i}")
    else:
        assert left == right, where
