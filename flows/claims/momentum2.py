"""Momentum² Teacher (Li et al., arXiv 2101.07525): batch statistics if batches are small."""

from __future__ import annotations

from typing import Any

from flows.claims.claim import Arm, Claim, Scale, Score, above, alike
from flows.claims.settings import at_both, chain, teacher

_PAPER = "Momentum² Teacher"
_TEACHER = Score("linear", "teacher")


def _byol(scale: Scale, **own: Any) -> dict[str, Any]:
    """BYOL whose batches are normalised in groups of 16 images, as on several unsynchronised devices."""
    usual: dict[str, dict[str, Any]] = {
        "cpu": {"momentum": 0.9, "blur": 0.0, "second_blur": 0.0, "second_solarize": 0.0, "norm_groups": 16},
        "gpu": {"norm_groups": 16},
    }
    return chain(scale, until="pretext", pretext=teacher(scale, "byol", **usual[scale], **own))


def _norms(student: str, teacher_norm: str, **own: Any) -> dict[str, Any]:
    return {"pretext": {"student_norm": student, "teacher_norm": teacher_norm, **own}}


NORMS = Claim(
    name="momentum2-norms",
    paper=_PAPER,
    statement="BYOL is worse without whole-batch statistics. "
    "They matter more in the teacher than in the student. "
    "MomentumBN in the teacher makes up for the missing statistics.",
    figure="STL-10, linear: 88.06 with statistics synchronised in both networks, 84.16 in neither, "
    "87.80 in the teacher only, 87.12 in the student only, 88.18 with MomentumBN",
    score=_TEACHER,
    settings=at_both(_byol),
    arms=(
        Arm("both", _norms("batch", "batch")),
        Arm("none", _norms("split", "split")),
        Arm("teacher-only", _norms("split", "batch")),
        Arm("student-only", _norms("batch", "split")),
        Arm("momentum", _norms("split", "momentum")),
    ),
    tests=(
        above("both", "none", "whole-batch statistics in both are better than in none"),
        above("teacher-only", "student-only", "they matter more in the teacher"),
        above("momentum", "none", "MomentumBN is better than statistics of groups"),
        alike("momentum", "both", 0.015, "MomentumBN equals the whole batch's within 1.5 points"),
    ),
    caution="BYOL learns slowly, so the differences after so few epochs are those of early training. "
    "[performance](performance.md) shows how much time synchronised statistics cost: "
    "see the step of BYOL in two processes.",
)

LAZY = Claim(
    name="momentum2-lazy",
    paper=_PAPER,
    statement="MomentumBN is worse without the lazy update, that is, if each view updates the statistics.",
    figure="shown in the ablation on the update of the statistics",
    score=_TEACHER,
    settings=at_both(_byol),
    arms=(
        Arm("lazy", _norms("split", "momentum")),
        Arm("eager", _norms("split", "momentum", lazy_update=False)),
    ),
    tests=(above("lazy", "eager"),),
)

BATCH = Claim(
    name="momentum2-batch",
    paper=_PAPER,
    statement="Batches of 32 teach as much as batches of 512.",
    figure="ImageNet: Momentum² Teacher with batches of 32 matches BYOL with batches of 512, "
    "while BYOL gets worse with smaller batches",
    score=_TEACHER,
    settings=at_both(_byol),
    arms=(
        Arm("momentum-32", _norms("batch", "momentum", batch_size=32)),
        Arm("byol-32", _norms("batch", "batch", batch_size=32)),
        Arm("byol-512", _norms("batch", "batch", batch_size=512)),
    ),
    tests=(alike("momentum-32", "byol-512", 0.015), above("momentum-32", "byol-32")),
    caution="All arms have the same epochs and the same learning rate, "
    "so the small batches take sixteen times as many steps.",
)

CLAIMS = (NORMS, LAZY, BATCH)
