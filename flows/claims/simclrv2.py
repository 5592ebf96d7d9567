"""SimCLR and SimCLRv2 (Chen et al., arXiv 2002.05709 and 2006.10029): contrastive learning and few labels."""

from __future__ import annotations

from typing import Any

from flows.claims.claim import Arm, Claim, Scale, Score, Statement, above
from flows.claims.settings import at_both, chain, simclr

_V1, _V2 = "SimCLR", "SimCLRv2"
_TEACHER = Score("linear", "teacher")
_ONE_PERCENT = {"label_fraction": 0.01, "labels_per_class": None}


def _teacher(scale: Scale) -> dict[str, Any]:
    return chain(scale, until="pretext", pretext=simclr(scale))


def _distilled(scale: Scale, width: float) -> dict[str, Any]:
    """Distillation as in section 2.3: the student starts untrained and learns the teacher's probabilities.

    It sees all images and no labels.
    """
    own = {"init": "scratch", "temperature": 1.0} | ({"epochs": 6} if scale == "cpu" else {})
    return chain(
        scale,
        until="distill",
        pretext=simclr(scale),
        data=_ONE_PERCENT,
        student={"width": width},
        transfer={"epochs": 1},
        finetune={"baseline": False},
        distill=own,
    )


DISTILLATION = Claim(
    name="simclrv2-distillation",
    paper=_V2,
    statement="With 1 % of the labels, a small student that learns from the fine-tuned teacher on all images "
    "is better than the same student fine-tuned on the labels.",
    figure="ImageNet, 1 % of labels, ResNet-50: 68.9 % distilled, 57.9 % fine-tuned "
    "(12.3 % trained on labels alone)",
    score=Score("few-label", "student"),
    settings=at_both(lambda scale: _distilled(scale, 0.5)),
    arms=(
        Arm("distilled", {}),
        Arm("fine-tuned", {}, Score("few-label", "student-finetuned")),
        Arm("teacher", {}, Score("few-label", "teacher-finetuned")),
    ),
    tests=(above("distilled", "fine-tuned"),),
    caution="The fine-tuned student was first trained for one epoch on clusters. "
    "The distilled student starts untrained.",
)

SELF_DISTILLATION = Claim(
    name="simclrv2-self-distillation",
    paper=_V2,
    statement="The fine-tuned teacher improves if it is distilled into a network of the same architecture.",
    figure="ImageNet, 1 % of labels, ResNet-152 3x with selective kernels: 76.6 % against 74.9 %",
    score=Score("few-label", "student"),
    settings=at_both(lambda scale: _distilled(scale, 1.0)),
    arms=(
        Arm("distilled", {"distill": {"temperature": 0.1}}),
        Arm("teacher", {"distill": {"temperature": 0.1}}, Score("few-label", "teacher-finetuned")),
    ),
    tests=(above("distilled", "teacher"),),
)


def _bigger(scale: Scale) -> dict[str, Any]:
    return chain(
        scale, until="finetune", pretext=simclr(scale), transfer={"epochs": 1}, finetune={"baseline": False}
    )


def _sized(width: float, fraction: float) -> dict[str, Any]:
    steps = {"steps": 300 if fraction < 1 else 2000}
    return {
        "pretext": {"width": width},
        "data": {"label_fraction": fraction, "labels_per_class": None},
        "finetune": steps,
    }


BIGGER = Claim(
    name="simclrv2-bigger",
    paper=_V2,
    statement="The fewer the labels, the more a bigger network gains.",
    figure="ImageNet, from ResNet-50 to ResNet-152 3x with selective kernels: +17.0 points with 1 % of the "
    "labels, +3.9 points supervised with all labels",
    score=Score("few-label", "teacher-finetuned"),
    settings=at_both(_bigger),
    arms=tuple(
        Arm(f"{name}-{labels}", _sized(width, fraction))
        for name, width in (("small", 0.5), ("big", 1.5))
        for labels, fraction in (("1", 0.01), ("100", 1.0))
    ),
    tests=(
        above("big-1", "small-1", "the big network is better at 1 % of the labels"),
        Statement(
            "it gains more at 1 % than at all labels",
            {"big-1": 1.0, "small-1": -1.0, "big-100": -1.0, "small-100": 1.0},
            low=0.0,
        ),
    ),
    caution="Both networks are trained for the same few epochs. The big one has nine times as many "
    "parameters as the small one; in the paper it has thirty times as many.",
)

HEAD = Claim(
    name="simclrv2-head",
    paper=_V2,
    statement="A deeper projection head is better: in a linear probe of the features, and with few labels "
    "if fine-tuning starts from the head's middle layer.",
    figure="ImageNet, 1 % of labels: three layers are some points better than two, "
    "with fine-tuning from the first layer (figure 5)",
    score=Score("few-label", "teacher-finetuned"),
    settings=at_both(_bigger),
    arms=(
        Arm("three-layers", {"pretext": {"head_layers": 3}}),
        Arm("two-layers", {"pretext": {"head_layers": 2}}),
        Arm("three-layers-from-features", {"pretext": {"head_layers": 3}, "finetune": {"keep_head": 0}}),
        Arm("three-layers-probe", {"pretext": {"head_layers": 3}}, _TEACHER),
        Arm("two-layers-probe", {"pretext": {"head_layers": 2}}, _TEACHER),
    ),
    tests=(
        above("three-layers", "two-layers"),
        above(
            "three-layers",
            "three-layers-from-features",
            "the middle layer is a better start than the features",
        ),
        above("three-layers-probe", "two-layers-probe"),
    ),
    caution="Fine-tuning keeps the first layer of a three-layer head. "
    "It keeps no layer of a two-layer head, as in SimCLR.",
)

AUGMENTATION = Claim(
    name="simclr-augmentation",
    paper=_V1,
    statement="Random crops and colour distortion together matter most.",
    figure="ImageNet, linear, ResNet-50 (figure 5): 55.8 % with both, 33.1 % and 18.8 % with one of them",
    score=_TEACHER,
    settings=at_both(_teacher),
    arms=(
        Arm("crop-and-colour", {}),
        Arm("crop", {"pretext": {"jitter": 0.0, "grey": 0.0}}),
        Arm("colour", {"pretext": {"crop_min": 1.0}}),
    ),
    tests=(above("crop-and-colour", "crop"), above("crop-and-colour", "colour")),
)

_SUPERVISED = {"pretext": {"method": "hog"}, "transfer": {"epochs": 1}, "until": "finetune"}
"""Only the baseline trained from scratch on all labels is scored. So the other trainings are kept short."""
_BASELINE = Score("few-label", "scratch")


def _stronger(scale: Scale) -> dict[str, Any]:
    steps = {"cpu": 1500, "gpu": 20_000}[scale]
    data = {"label_fraction": 1.0, "labels_per_class": None}
    return chain(scale, until="pretext", pretext=simclr(scale), data=data, finetune={"steps": steps})


STRONGER = Claim(
    name="simclr-stronger",
    paper=_V1,
    statement="Contrastive learning gains from stronger colour distortion than supervised training does.",
    figure="ImageNet, linear, from strength 1/8 to 1 (table 1): 59.6 to 63.2 %; supervised 77.0 to 75.7 %",
    score=_TEACHER,
    settings=at_both(_stronger),
    arms=(
        Arm("contrast-strong", {"pretext": {"jitter": 1.0}}),
        Arm("contrast-mild", {"pretext": {"jitter": 0.125}}),
        Arm("supervised-strong", {**_SUPERVISED, "finetune": {"jitter": 1.0}}, _BASELINE),
        Arm("supervised-mild", {**_SUPERVISED, "finetune": {"jitter": 0.125}}, _BASELINE),
    ),
    tests=(
        Statement(
            "strength gives contrast more than it gives supervised training",
            {
                "contrast-strong": 1.0,
                "contrast-mild": -1.0,
                "supervised-strong": -1.0,
                "supervised-mild": 1.0,
            },
            low=0.0,
        ),
    ),
    caution="The supervised network is the student, which is narrower. "
    "At 32 px, colour says less than on large photographs.",
)

TEMPERATURE = Claim(
    name="simclr-temperature",
    paper=_V1,
    statement="The temperature matters: a suitable tau below 1 is better than tau = 1.",
    figure="ImageNet, linear (table 5): 64.4 % at tau 0.1, 60.7 % at 0.5, 58.0 % at 1",
    score=_TEACHER,
    settings=at_both(_teacher),
    arms=tuple(Arm(f"tau-{tau:g}", {"pretext": {"temperature": tau}}) for tau in (0.1, 0.5, 1.0)),
    tests=(above("tau-0.1", "tau-1"), above("tau-0.5", "tau-1")),
)

LONGER = Claim(
    name="simclr-batch-epochs",
    paper=_V1,
    statement="More epochs help. With few epochs, larger batches help too.",
    figure="ImageNet, linear (figure 9): at 100 epochs about 57 % with batch 256 and 64 % with batch 2048; "
    "at 1000 epochs about 69 % with every batch size",
    score=_TEACHER,
    settings=at_both(_teacher),
    arms=(
        Arm("batch-256", {}),
        Arm("batch-64", {"pretext": {"batch_size": 64}}),
        Arm("half-the-epochs", {"pretext": {"epochs": 4}}),
    ),
    tests=(above("batch-256", "half-the-epochs"), above("batch-256", "batch-64")),
    caution="Smaller batches take more steps in the same epochs. The learning rate is the same.",
)

CLAIMS = (DISTILLATION, SELF_DISTILLATION, BIGGER, HEAD, AUGMENTATION, STRONGER, TEMPERATURE, LONGER)
