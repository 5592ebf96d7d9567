"""The training loop: order of hooks, resuming, divergence, adversaries, log, reports."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.draws import Draws
from data.errors import ArtifactError, ConfigError, DivergedError, Interrupted
from models import engine, progress
from models.configs.shared import Optimization
from models.device import resolve_device, resolve_precision
from models.engine import train
from models.method import Batch, Loss, Method, Progress, Sweep
from models.optim import make_optimizer
from models.progress import History, State, TrainingReport
from models.schedules import warmup_cosine

N, B, SIDE = 20, 4, 8
CPU = torch.device("cpu")


class Feed:
    """Twenty images in shuffled batches of four."""

    steps_per_epoch = N // B

    def __init__(self, delay: float = 0.0) -> None:
        self.images = torch.randint(
            0, 256, (N, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(1)
        ).byte()
        self.delay = delay

    def batch(self, epoch: int, step: int) -> Batch:
        time.sleep(self.delay)
        index = torch.from_numpy(np.random.default_rng(epoch).permutation(N)[step * B : (step + 1) * B])
        return Batch(self.images[index], index, index % 3)

    def sweep(self) -> Iterator[Batch]:
        for start in range(0, N, 8):
            yield Batch(self.images[start : start + 8], torch.arange(start, min(start + 8, N)))


class Toy(Method):
    """A convolution, batch norm, dropout and an EMA buffer. Targets are relabelled before every epoch."""

    average: Tensor
    labels: Tensor

    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 3))
        self.config = Optimization(optimizer=optimizer, learning_rate=0.05 if optimizer != "lars" else 5.0)
        self.register_buffer("average", torch.zeros(3, 6))
        self.register_buffer("labels", torch.full((N,), -1))
        self.relabelled: list[int] = []

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        self.relabelled.append(progress.epoch)
        self.eval()
        with torch.no_grad():
            for batch in sweep():
                x = batch.images.permute(0, 3, 1, 2) / 255
                noise = torch.randint(0, 2, (len(x),))
                self.labels[batch.index] = (
                    self.head(self.body(x).mean((2, 3))).argmax(1) + batch.index + noise
                ) % 3

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        shift = torch.from_numpy(draws.uniform("shift", 1)).float().view(-1, 1, 1, 1)
        batch.views = batch.images.permute(0, 3, 1, 2).float() / 255 + 0.1 * shift
        return batch

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        logits = self.head(self.body(batch.views).mean((2, 3)))
        loss = nn.functional.cross_entropy(logits.float(), self.labels[batch.index])
        return Loss(loss, {"twice": 2 * loss.detach(), "fixed": 3.0})

    def after_update(self, progress: Progress) -> None:
        with torch.no_grad():
            self.average.lerp_(self.head[1].weight, 0.1)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"main": make_optimizer(self.config, self.parameters())}


def fit(method: Method, feed: Feed | None = None, epochs: int = 4, **kwargs: object) -> History:
    feed = feed or Feed()
    given = {
        "schedule": partial(warmup_cosine, warmup=0.1),
        "device": CPU,
        "precision": "fp32",
        "sweep": feed.sweep,
    }
    return train(method, feed, epochs=epochs, seed=3, stage="toy", **{**given, **kwargs})  # type: ignore[arg-type]


def toy(seed: int = 0, optimizer: str = "sgd") -> Toy:
    torch.manual_seed(seed)
    return Toy(optimizer)


def packed(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpacked(saved: bytes) -> State:
    return torch.load(io.BytesIO(saved), weights_only=True)


def assert_same(left: object, right: object, where: str = "") -> None:
    assert type(left) is type(right), where
    if isinstance(left, Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for i, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert left == right, where


def every_state(method: Method, **kwargs: object) -> list[State]:
    saved: list[bytes] = []
    fit(method, save=lambda state: saved.append(packed(state)), save_every=0.0, **kwargs)
    states = [unpacked(s) for s in saved]
    for state in states:
        del state["clock"]
    return states


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("stop", [10, 7])
def test_resumed_training_ends_bit_identical(optimizer: str, precision: str, stop: int) -> None:
    undisturbed = every_state(toy(optimizer=optimizer), precision=precision)
    assert [state["step"] for state in undisturbed] == list(range(1, 21))

    saved: list[bytes] = []
    with pytest.raises(Interrupted, match=f"step {stop} of 20"):
        fit(
            toy(optimizer=optimizer),
            precision=precision,
            save=lambda state: saved.append(packed(state)),
            save_every=1e9,
            interrupted=iter([False] * _polls(stop) + [True]).__next__,
        )
    assert len(saved) == 1

    resumed = toy(seed=99, optimizer=optimizer)
    torch.rand(7)  # the global generator has another state
    states = every_state(resumed, precision=precision, resume=unpacked(saved[0]))
    assert [state["step"] for state in states] == list(range(stop + 1, 21))
    assert_same(states[-1], undisturbed[-1])
    assert resumed.relabelled == [2, 3]  # not epoch 1 again, which contains step 7


def _polls(stop: int) -> int:
    """How often `interrupted` is polled before the last step: at each step and each of 3 sweep batches."""
    return stop - 1 + 3 * math.ceil(stop / Feed.steps_per_epoch)


def test_killed_anywhere_goes_on_from_the_last_state() -> None:
    undisturbed = every_state(toy())
    saved: list[bytes] = []

    class Killed(Exception):
        pass

    class Breaking(Feed):
        def batch(self, epoch: int, step: int) -> Batch:
            if (epoch, step) == (2, 3):
                raise Killed
            return super().batch(epoch, step)

    with pytest.raises(Killed):
        fit(toy(), Breaking(), save=lambda state: saved.append(packed(state)), save_every=0.0)
    assert len(saved) == 13
    for at in (0, 4, 12):
        assert_same(every_state(toy(5), resume=unpacked(saved[at]))[-1], undisturbed[-1])


def test_resuming_a_finished_training_changes_nothing() -> None:
    method = toy()
    saved: list[bytes] = []
    rows = fit(method, save=lambda state: saved.append(packed(state)), save_every=0.0).rows
    again = toy(1)
    assert fit(again, resume=unpacked(saved[-1])).rows == rows
    assert_same(dict(again.state_dict()), dict(method.state_dict()))


def test_state_of_another_length_is_refused() -> None:
    saved: list[bytes] = []
    fit(toy(), epochs=1, save=lambda state: saved.append(packed(state)), save_every=0.0)
    with pytest.raises(ArtifactError, match="5 steps, this training has 20"):
        fit(toy(), resume=unpacked(saved[-1]))


def test_interrupted_in_a_sweep_stops_without_saving() -> None:
    saved: list[State] = []
    with pytest.raises(Interrupted, match="sweep before epoch 0"):
        fit(toy(), save=saved.append, interrupted=lambda: True)
    assert saved == []


def test_results_do_not_depend_on_a_slow_feed_and_leave_the_global_generator_alone() -> None:
    fast, slow = toy(), toy()
    torch.manual_seed(8)
    before = torch.get_rng_state()
    fit(fast, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    fit(slow, Feed(delay=0.005), epochs=1)
    assert_same(dict(fast.state_dict()), dict(slow.state_dict()))


def test_prefetch_thread_ends_with_the_training() -> None:
    fit(toy(), epochs=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


class Recorder(Method):
    """A scalar weight that records the calls of its hooks."""

    def __init__(self, losses: list[float] | None = None, gradient: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.calls: list[str] = []
        self.given = losses or []
        self.gradient = gradient

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        self.calls.append("prepare")
        return batch

    def losses(self, batch: Batch, progress: Progress) -> Iterator[Loss]:
        self.calls.append(f"loss at rate {self.optimizer.param_groups[0]['lr']:.2f}")
        value = self.given[progress.step] if self.given else 0.0
        total = (self.weight - self.weight.detach()) * self.gradient + value
        total.register_hook(lambda _: self.calls.append("backward"))
        yield Loss(total)
        self.calls.append(f"resumed at weight {self.weight.item():.2f}")

    def before_epoch(self, progress: Progress, sweep: Sweep) -> None:
        self.calls.append(f"epoch {progress.epoch}")

    def before_update(self, progress: Progress) -> None:
        assert self.weight.grad is not None
        self.calls.append(f"before at weight {self.weight.item():.2f}")

    def after_update(self, progress: Progress) -> None:
        self.calls.append(f"after at weight {self.weight.item():.2f}")

    def optimizers(self) -> dict[str, Optimizer]:
        self.optimizer = torch.optim.SGD([self.weight], lr=0.5)
        return {"main": self.optimizer}


def test_hooks_come_in_order() -> None:
    method = Recorder()
    fit(method, epochs=1, schedule=lambda step, steps: 1 - step / steps)

    def step(rate: str, before: str, after: str) -> list[str]:
        start = ["prepare", f"loss at rate {rate}", "backward", f"before at weight {before}"]
        return [*start, f"after at weight {after}", f"resumed at weight {after}"]

    first, second = step("0.50", "1.00", "0.50"), step("0.40", "0.50", "0.10")
    assert method.calls[:13] == ["epoch 0", *first, *second]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_before_the_update(value: float) -> None:
    method = Recorder(losses=[0.0, 0.0, value, 0.0, 0.0])
    with pytest.raises(
        DivergedError, match=rf"toy.*step 2 of 5.*loss {value}.*learning_rate.*warmup.*batch_size"
    ):
        fit(method, epochs=1)
    assert method.calls.count("backward") == 3
    assert len([call for call in method.calls if call.startswith("after")]) == 2


def test_gradient_that_is_not_finite_stops_before_the_update() -> None:
    method = Recorder(gradient=math.inf)
    with pytest.raises(DivergedError, match=r"gradient norm inf"):
        fit(method, epochs=1)
    assert method.weight.item() == 1.0


class Adversaries(Method):
    """Minimise x y over x and maximise it over y, in turns. Each uses the current value of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(1.0))
        self.y = nn.Parameter(torch.tensor(1.0))
        self.updates = 0

    def prepare(self, batch: Batch, draws: Draws) -> Batch:
        return batch

    def losses(self, batch: Batch, progress: Progress) -> Iterator[Loss]:
        yield Loss(self.x * self.y)
        yield Loss(-self.x * self.y, {"product": self.x * self.y}, optimizer="adversary")

    def after_update(self, progress: Progress) -> None:
        self.updates += 1

    def optimizers(self) -> dict[str, Optimizer]:
        return {"main": torch.optim.SGD([self.x], lr=0.1), "adversary": torch.optim.SGD([self.y], lr=0.1)}


def test_adversaries_alternate_within_a_step() -> None:
    method = Adversaries()
    history = fit(method, epochs=1, schedule=lambda step, steps: 1.0)
    x = y = 1.0
    for _ in range(Feed.steps_per_epoch):
        x -= 0.1 * y
        y += 0.1 * x
    assert (method.x.item(), method.y.item()) == pytest.approx((x, y), rel=1e-6)
    assert method.updates == 2 * Feed.steps_per_epoch
    last = {row.name: row.value for row in history.rows if row.step == Feed.steps_per_epoch}
    assert last.keys() == {
        "loss",
        "gradient_norm",
        "loss_adversary",
        "gradient_norm_adversary",
        "product",
        "learning_rate",
    }
    assert last["loss_adversary"] == -last["product"]


class Rates(Adversaries):
    """Two groups with different peak rates."""

    def losses(self, batch: Batch, progress: Progress) -> Iterator[Loss]:
        self.seen = [group["lr"] for group in self.optimizer.param_groups]
        yield Loss(self.x + self.y)

    def optimizers(self) -> dict[str, Optimizer]:
        groups = [{"params": [self.x], "lr": 1.0, "peak": 1.0}, {"params": [self.y], "lr": 0.25}]
        self.optimizer = torch.optim.SGD(groups, lr=1.0)
        return {"main": self.optimizer}


def test_schedule_multiplies_each_groups_peak() -> None:
    method = Rates()
    fit(method, epochs=2, schedule=lambda step, steps: (step + 1) / steps)
    assert method.seen == [1.0, 0.25]
    fit(method, epochs=2, schedule=lambda step, steps: 0.5)
    assert method.seen == [0.5, 0.125]


def test_log_averages_windows_and_names_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [1.0, 2.0, 4.0, 8.0, 16.0] * 2
    single = fit(Recorder(losses=given), epochs=2).rows
    assert [row.value for row in single if row.name == "loss"] == given
    assert [row.epoch for row in single if row.name == "loss"] == pytest.approx([i / 5 for i in range(1, 11)])

    monkeypatch.setattr(progress, "LOG_ROWS", 4)
    rows = [row for row in fit(Recorder(losses=given), epochs=2).rows if row.name == "loss"]
    assert [row.step for row in rows] == [3, 6, 9, 10]
    assert [row.value for row in rows] == pytest.approx([7 / 3, 25 / 3, 14 / 3, 16])


def test_log_windows_survive_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_ROWS", 4)
    undisturbed = every_state(toy())
    assert len(undisturbed[-1]["log"]["rows"]) == 4 * len({row[2] for row in undisturbed[-1]["log"]["rows"]})
    states = every_state(toy(1), resume={**undisturbed[6], "clock": [0, 0.0, 0.0]})
    assert states[-1]["log"] == undisturbed[-1]["log"]


def test_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0.0)
    seen: list[TrainingReport] = []
    fit(toy(), Feed(delay=0.01), epochs=2, report=seen.append)
    assert [report.step for report in seen] == list(range(1, 11))
    assert [report.epoch for report in seen] == [0] * 5 + [1] * 5
    assert {(report.steps, report.epochs) for report in seen} == {(10, 2)}
    assert seen[-1].eta == 0
    assert all(report.eta > 0 for report in seen[:-1])
    assert all(0 < report.data_share <= 1 and 0 < report.images_per_second < B / 0.001 for report in seen)


def test_reports_are_rare_but_the_last_step_is_reported() -> None:
    seen: list[TrainingReport] = []
    fit(toy(), epochs=1, report=seen.append)
    assert [report.step for report in seen][-1] == 5
    assert len(seen) < 5


def test_history_sums_up_over_resumes() -> None:
    saved: list[bytes] = []
    history = fit(toy(), save=lambda state: saved.append(packed(state)), save_every=0.0)
    resumed = fit(toy(), resume=unpacked(saved[10]))
    assert history.images == resumed.images == 4 * N
    assert history.steps == resumed.steps == 20
    assert 0 < resumed.data_seconds < resumed.seconds


def test_draws_differ_between_repeats_and_steps_but_not_with_the_company() -> None:
    def drawn(step: int, index: list[int]) -> np.ndarray:
        return engine._draws(3, "toy", step, np.array(index)).uniform("crop", 2)

    repeated = drawn(0, [5, 7, 5, 5, 9])
    assert len(np.unique(repeated[:, 0])) == 5
    np.testing.assert_array_equal(repeated[[0, 1, 4]], drawn(0, [5, 7, 9]))
    np.testing.assert_array_equal(drawn(0, [9, 7, 5]), drawn(0, [5, 7, 9])[::-1])
    assert not np.isin(drawn(1, [5, 7, 9]), drawn(0, [5, 7, 9])).any()


def test_method_that_sweeps_needs_a_sweep() -> None:
    with pytest.raises(ValueError, match="sweep"):
        fit(toy(), sweep=None)


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match=r"compute\.device"):
        resolve_device("cuda")
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert resolve_precision("auto", CPU) == ("bf16" if native else "fp32")
        assert resolve_precision("fp32", CPU) == "fp32"
        assert resolve_precision("bf16", CPU) == "bf16"


def test_networks_with_depthwise_convolutions_train_in_fp32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    one_channel = nn.Conv2d(1, 8, 3, groups=1)
    depthwise, grouped = nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(8, 16, 3, groups=4)
    for network, on_cpu in ((one_channel, "bf16"), (grouped, "bf16"), (depthwise, "fp32")):
        trained = nn.Sequential(nn.Identity(), nn.Sequential(network))
        assert resolve_precision("auto", CPU, trained) == on_cpu
        assert resolve_precision("bf16", CPU, trained) == "bf16"
        assert resolve_precision("auto", torch.device("cuda"), trained) == "bf16"
