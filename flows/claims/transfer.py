"""Knowledge transfer (Noroozi et al., arXiv 1805.00385): a shallow network learns a deep one's clusters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flows.claims.claim import Arm, Claim, Scale, Score, above, alike, gains_less
from flows.claims.settings import EVALUATE, IMAGENETTE, MUON, SGD, at_both, chain, simclr
from flows.recipes import bccd, penn_fudan

_PAPER = "Knowledge transfer"
_STUDENT = Score("linear", "student-transferred")


def _puzzle(scale: Scale) -> dict[str, Any]:
    """Jigsaw++ on photographs that are large enough for nine tiles."""
    usual = {
        "cpu": {
            "backbone": "smallconv",
            "tile_features": 128,
            "epochs": 14,
            "batch_size": 64,
            **MUON,
            "learning_rate": 0.02,
        },
        "gpu": {"backbone": "vgg16_bn", "epochs": 200, "batch_size": 128, "learning_rate": 0.03},
    }
    pretext = {"method": "jigsaw++", **usual[scale]}
    return {"data": IMAGENETTE, "pretext": pretext, "evaluate": EVALUATE, "until": "pretext"}


JIGSAW = Claim(
    name="transfer-jigsaw",
    paper=_PAPER,
    statement="Jigsaw++, a harder puzzle, teaches more than Jigsaw.",
    figure="VOC07 classification, AlexNet: 69.8 against 67.7 mAP; detection 55.5 against 53.2",
    score=Score("linear", "teacher"),
    settings=at_both(_puzzle),
    arms=(
        Arm("jigsaw++", {}),
        # Jigsaw is Jigsaw++ without its additions.
        Arm("jigsaw", {"pretext": {"occluders": 0, "grey": 0.3, "projection": 0.0, "permutations": 100}}),
    ),
    tests=(above("jigsaw++", "jigsaw"),),
    caution="The harder task needs longer training. The network is small, "
    "and the score is a linear probe on the same images.",
)


def _student(scale: Scale) -> dict[str, Any]:
    """A narrow student that learns the clusters of a SimCLR teacher, for as many epochs as the teacher."""
    pretext = simclr(scale)
    return chain(scale, until="transfer", pretext=pretext, transfer={"epochs": pretext["epochs"]})


_OWN = {"pretext": {"width": 0.5}}

DEEPER = Claim(
    name="transfer-deeper",
    paper=_PAPER,
    statement="A shallow student that learns a deep network's clusters beats the shallow network trained on "
    "the pretext task itself. Clusters of a network of the student's own size give no gain.",
    figure="VOC07 classification, AlexNet with Jigsaw++: 69.8 mAP without clusters, "
    "69.9 with its own clusters, 72.5 with the clusters of VGG-16",
    score=_STUDENT,
    settings=at_both(_student),
    arms=(
        Arm("deep-clusters", {"pretext": {"width": 1.5}}),
        Arm("own-clusters", _OWN),
        Arm("pretext-itself", _OWN, Score("linear", "teacher")),
    ),
    tests=(
        above("deep-clusters", "pretext-itself"),
        above("deep-clusters", "own-clusters"),
        gains_less("own-clusters", "pretext-itself", 0.01),
    ),
    caution="The pretext task is SimCLR. The larger network is three times as wide, but not deeper. "
    "Students are trained for as many epochs as their teachers.",
)

NUMBER = Claim(
    name="transfer-clusters",
    paper=_PAPER,
    statement="The number of clusters matters little.",
    figure="VOC07 detection is nearly the same for k from 1000 to 10000 (figure 4)",
    score=_STUDENT,
    settings=at_both(_student),
    arms=tuple(Arm(f"k-{k}", {"cluster": {"k": k}}) for k in (100, 300, 1000)),
    tests=(alike("k-100", "k-300", 0.02), alike("k-1000", "k-300", 0.02)),
)

ACROSS = Claim(
    name="transfer-across",
    paper=_PAPER,
    statement="Centroids from another data set cost little accuracy.",
    figure="VOC07 classification: about 1.5 mAP less if the images of Places get clusters of ImageNet",
    score=_STUDENT,
    settings=at_both(_student),
    arms=(
        Arm("own-centroids", {}),
        Arm("other-centroids", {"cluster": {"data": "{imagenette}"}, "assign": {"data": "{cifar10}"}}),
    ),
    tests=(alike("other-centroids", "own-centroids", 0.03),),
    caution="Imagenette is shrunk to 32 px. It has ten other classes and a quarter as many images.",
)

HOG = Claim(
    name="transfer-hog",
    paper=_PAPER,
    statement="Hand-made features work in the same chain, but teach less than learned features.",
    figure="the same AlexNet is trained on clusters of HOG and on clusters of networks",
    score=_STUDENT,
    settings=at_both(_student),
    arms=(Arm("learned", {}), Arm("hog", {"pretext": {"method": "hog"}})),
    tests=(above("learned", "hog"),),
    caution="Eight epochs are few for a network. At 32 px, edges alone say a lot.",
)


def _downstream(scale: Scale) -> dict[str, Any]:
    """The student of the recipes `bccd` and `penn-fudan`, which learns a wider network's clusters."""
    found = bccd.CONFIG.model_dump(include={"pretext", "embed", "cluster", "transfer", "student"})
    evaluate = {"voc": "{bccd}", **bccd.CONFIG.evaluate.model_dump(include={"detection"})}
    if scale == "gpu":
        found |= {"pretext": simclr(scale), "student": {"backbone": "alexnet"}}
        found["transfer"] |= {"epochs": 100, **SGD}
        evaluate["detection"] |= {"steps": 5000, "side": 640, "anchors": [32, 64, 128, 256]}
    side = {"cpu": 64, "gpu": 128}[scale]
    return {**found, "data": {**IMAGENETTE, "image_size": side}, "evaluate": evaluate, "until": "transfer"}


_CUT = penn_fudan.CONFIG.evaluate.model_dump(include={"segmentation"})
_ROWS: dict[str, tuple[Score, dict[str, Any]]] = {
    "classification": (
        Score("multi-label", "", "voc_map"),
        {"protocols": ["multi-label"], "multi_label": {"steps": 400}},
    ),
    "detection": (Score("detection", "", "voc_map"), {"protocols": ["detection"]}),
    "detection-multi-scale": (
        Score("detection", "", "voc_map"),
        {"protocols": ["detection"], "detection": {"scales": [0.75, 1.0]}},
    ),
    "segmentation": (
        Score("segmentation", "", "miou"),
        {"protocols": ["segmentation"], "voc": "{penn-fudan}", **_CUT},
    ),
}
"""The four rows of the paper's table -> the score, and the settings of `evaluate` that produce it."""

DOWNSTREAM = Claim(
    name="transfer-downstream",
    paper=_PAPER,
    statement="The student is a better start than random weights for classification, "
    "detection at one and several scales, and segmentation.",
    figure="AlexNet with the Jigsaw++ clusters of VGG-16: VOC07 classification 72.5 mAP, "
    "detection 56.5 mAP (multi-scale 57.2), VOC12 segmentation 42.6 mIoU",
    score=Score("detection", "student-transferred", "voc_map"),
    settings=at_both(_downstream),
    arms=tuple(
        Arm(f"{row}-{name}", {"evaluate": asked}, replace(score, model=model))
        for row, (score, asked) in _ROWS.items()
        for name, model in (("student", "student-transferred"), ("scratch", "scratch"))
    ),
    tests=tuple(above(f"{row}-student", f"{row}-scratch") for row in _ROWS),
    caution="We train a small network for some hundreds of steps on images of cells and pedestrians. "
    "The rows are the paper's, but at a much smaller scale.",
)

CLAIMS = (JIGSAW, DEEPER, NUMBER, ACROSS, HOG, DOWNSTREAM)
