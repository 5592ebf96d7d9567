"""A stage holds the GPU slot while it computes, then releases it. Waiting for the slot can be interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data.errors import Interrupted
from tasks.config import Compute


class Limit:
    """A stand-in for Prefect's limit that refuses the slot a number of times and then grants it."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.held, self.asked = refusals, False, 0

    @contextmanager
    def __call__(self, name: str, timeout_seconds: float) -> Iterator[None]:
        self.asked += 1
        assert name == "gpu"
        if self.refusals:
            self.refusals -= 1
            raise TimeoutError
        self.held = True
        try:
            yield
        finally:
            self.held = False


def test_held_while_computing_and_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.server import gpu

    limit = Limit(refusals=2)
    monkeypatch.setattr(gpu, "concurrency", limit)
    with gpu.slot(lambda: False):
        assert limit.held
    assert not limit.held
    assert limit.asked == 3
    with pytest.raises(TimeoutError), gpu.slot(lambda: False):
        raise TimeoutError  # an error of the work, not of the waiting
    assert not limit.held
    assert limit.asked == 4


def test_who_waits_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.server import gpu

    monkeypatch.setattr(gpu, "concurrency", Limit(refusals=100))
    asked: list[int] = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Interrupted), gpu.slot(stopping):
        pytest.fail("there is no slot")


@pytest.mark.parametrize(
    ("device", "found", "expected"),
    [("cpu", True, False), ("cuda", False, True), ("auto", True, True), ("auto", False, False)],
)
def test_whether_there_is_a_gpu(
    device: Any, found: bool, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flows.server import gpu

    if found:
        (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(gpu, "DEVICES", tmp_path)
    assert gpu.on_gpu(Compute(device=device)) is expected
