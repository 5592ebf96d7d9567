"""SwAV (Caron et al., arXiv 2006.09882): equal shares of images per prototype, many crops, and queues."""

from __future__ import annotations

from typing import Any

from flows.claims.claim import Arm, Claim, Scale, Score, above
from flows.claims.settings import at_both, chain, teacher

_PAPER = "SwAV"
_TEACHER = Score("linear", "teacher")


def _swav(scale: Scale, **own: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "prototypes": 300,
        "epsilon": 0.03,
        "freeze_epochs": 0.25 if scale == "cpu" else 1.0,
    }
    return chain(scale, until="pretext", pretext=teacher(scale, "swav", **{"small_crops": 0, **usual, **own}))


SINKHORN = Claim(
    name="swav-sinkhorn",
    paper=_PAPER,
    statement="The same training collapses if prototypes need not get equal shares of the images.",
    figure="section 3.1: only the equal partition among prototypes prevents the trivial solution",
    score=_TEACHER,
    settings=at_both(_swav),
    arms=(
        Arm("sinkhorn", {}),
        Arm("softmax", {"pretext": {"sinkhorn_iterations": 0}}),
    ),
    tests=(above("sinkhorn", "softmax"),),
    caution="A linear probe scores above chance even on a collapsed network, "
    "as it does on a network with random weights.",
)

MULTICROP = Claim(
    name="swav-multicrop",
    paper=_PAPER,
    statement="Small crops in addition to the two large ones help, "
    "even if the training sees the same number of pixels.",
    figure="ImageNet, linear, 400 epochs: 74.6 % with small crops, 70.1 % without (table 5, same epochs)",
    score=_TEACHER,
    settings=at_both(_swav),
    arms=(
        Arm(
            "two-and-four-small",
            {
                "pretext": {
                    "small_crops": 4,
                    "crop_min": 0.3,
                    "small_crop_min": 0.08,
                    "small_crop_max": 0.3,
                    "small_size": 12,
                }
            },
        ),
        Arm("two", {"pretext": {"epochs": 12}}),
    ),
    tests=(above("two-and-four-small", "two"),),
    caution="Large crops have 24 px here and small ones 12 px, so a small crop shows very little.",
)

CODES = Claim(
    name="swav-codes",
    paper=_PAPER,
    statement="When codes are computed online, soft codes are better than rounded ones.",
    figure="section 3.1: with rounded codes, training converges too fast to a worse solution",
    score=_TEACHER,
    settings=at_both(_swav),
    arms=(Arm("soft", {}), Arm("hard", {"pretext": {"hard_codes": True}})),
    tests=(above("soft", "hard"),),
)

QUEUE = Claim(
    name="swav-queue",
    paper=_PAPER,
    statement="With batches smaller than the number of prototypes, a queue of past embeddings helps.",
    figure="ImageNet, batch 256, 3000 prototypes: 72.0 % after 200 epochs with a queue of 3840",
    score=_TEACHER,
    settings=at_both(lambda scale: _swav(scale, batch_size=64, **({"epochs": 6} if scale == "cpu" else {}))),
    arms=(Arm("queue", {"pretext": {"queue": 1024, "queue_epoch": 1}}), Arm("none", {})),
    tests=(above("queue", "none"),),
)

WIDER = Claim(
    name="swav-wider",
    paper=_PAPER,
    statement="Wider networks learn better features.",
    figure="ImageNet, linear: 75.3 % with ResNet-50, 77.3 % twice as wide, 78.5 % five times as wide "
    "(figure 3)",
    score=_TEACHER,
    settings=at_both(_swav),
    arms=(Arm("wide", {"pretext": {"width": 1.5}}), Arm("narrow", {"pretext": {"width": 0.5}})),
    tests=(above("wide", "narrow"),),
)

CLAIMS = (SINKHORN, MULTICROP, CODES, QUEUE, WIDER)
