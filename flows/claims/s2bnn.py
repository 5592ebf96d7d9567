"""S2-BNN (Shen et al., arXiv 2102.08946): how a 1-bit network learns best."""

from __future__ import annotations

from typing import Any

from flows.claims.claim import Arm, Claim, Scale, Score, Statement, above
from flows.claims.settings import at_both, chain, teacher

_STUDENT = Score("linear", "student-transferred")
_PAPER = "S2-BNN"


def _binary(scale: Scale, **own: Any) -> dict[str, Any]:
    """A 1-bit student of a frozen MoCo teacher, which shows the 128 coordinates of its head.

    As in the authors' code, Adam's learning rate decays linearly to 0 (from 3e-4 at gpu scale) and views are
    mild.
    """
    usual = {"cpu": {"epochs": 2, "view_size": 24}, "gpu": {"epochs": 100}}[scale]
    transfer = {
        "method": "s2bnn",
        "batch_size": 256,
        "learning_rate": 1e-3 if scale == "cpu" else 3e-4,
        **usual,
        **own,
    }
    student = {"backbone": "reactnet", "width": 0.25 if scale == "cpu" else 0.5}
    return chain(scale, until="transfer", pretext=teacher(scale, "moco"), transfer=transfer, student=student)


STRATEGIES = Claim(
    name="s2bnn-strategies",
    paper=_PAPER,
    statement="A 1-bit network learns most from a real-valued teacher alone. "
    "An additional contrastive loss makes it worse, and a contrastive loss alone is worst.",
    figure="ImageNet, linear: 61.5 % with distillation, 56.0 % with distillation and a contrastive loss, "
    "52.5 % with a contrastive loss alone",
    score=_STUDENT,
    settings=at_both(_binary),
    arms=(
        Arm("distill", {"transfer": {"strategy": "distill"}}),
        Arm("contrastive+distill", {"transfer": {"strategy": "contrastive+distill"}}),
        Arm("contrastive", {"transfer": {"strategy": "contrastive"}}),
    ),
    tests=(above("distill", "contrastive+distill"), above("contrastive+distill", "contrastive")),
    caution="We train two epochs with binary activations and two more with binary weights. "
    "The paper has 200 of each, and the contrastive loss needs long training most.",
)

OPTIMIZER = Claim(
    name="s2bnn-optimizer",
    paper=_PAPER,
    statement="With a contrastive loss in a 1-bit network, Adam with a linear schedule beats momentum SGD "
    "with a cosine schedule.",
    figure="ImageNet, linear: 52.5 % against 46.9 %; a part of the difference comes from different augmented "
    "views and from training in two steps",
    score=_STUDENT,
    settings=at_both(lambda scale: _binary(scale, strategy="contrastive")),
    arms=(
        Arm("adam", {}),
        Arm(
            "sgd",
            {
                "transfer": {
                    "optimizer": "sgd",
                    "learning_rate": 0.03,
                    "weight_decay": 1e-4,
                    "schedule": "cosine",
                }
            },
        ),
    ),
    tests=(above("adam", "sgd"),),
)

_LAST = "layer5"
_SGD = OPTIMIZER.arms[1].settings


def _probed(rate: float) -> Score:
    return Score("layers", "student-transferred", "top1_at_rate", f"layer={_LAST} rate={rate:g}")


PROBE_RATE = Claim(
    name="s2bnn-probe-rate",
    paper=_PAPER,
    statement="A linear probe needs a small learning rate on a 1-bit network trained with Adam, "
    "and a large one on a network trained with SGD.",
    figure="with SGD, accuracy falls as the rate is lowered; with Adam, it falls as the rate is raised; "
    "the chosen rate is 0.1 instead of MoCo's 30",
    score=_probed(0.1),
    settings=at_both(
        lambda scale: (
            _binary(scale, strategy="contrastive")
            | {
                "evaluate": {
                    "protocols": ["layers"],
                    "layer_epochs": 3,
                    "layer_rates": [0.03, 0.1, 0.3, 1.0, 3.0, 30.0],
                    "layer_standardise": False,
                }
            }
        )
    ),
    arms=tuple(
        Arm(f"{name}-{rate:g}", settings, _probed(rate))
        for name, settings in (("adam", {}), ("sgd", _SGD))
        for rate in (0.1, 30.0)
    ),
    tests=(
        Statement(
            "the small rate gains more on Adam's network than on SGD's",
            {"adam-0.1": 1.0, "adam-30": -1.0, "sgd-0.1": -1.0, "sgd-30": 1.0},
            low=0.0,
        ),
    ),
    caution="Features are not standardised, because the finding is about their scale. "
    "The probe trains for three passes, with a cosine schedule.",
)

CLAIMS = (STRATEGIES, OPTIMIZER, PROBE_RATE)
