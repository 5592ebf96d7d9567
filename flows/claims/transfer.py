"""Knowledge transfer (Noroozi et al., arXiv 1805.00385): clusters carry what a deep network knows into a shallow one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flows.claims.claim import Arm, Claim, Scale, Score, above, alike, gains_less
from flows.claims.settings import EVALUATE, IMAGENETTE, MUON, SGD, at_both, chain, simclr
from flows.recipes import bccd, penn_fudan

_PAPER = "Knowledge transfer"
_STUDENT = Score("linear", "student-transferred")


def _puzzle(scale: Scale) -> dict[str, Any]:
    """A puzzle on photographs large enough for nine tiles."""
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
        # Jigsaw is Jigsaw++ without what was added to it.
        Arm("jigsaw", {"pretext": {"occluders": 0, "grey": 0.3, "projection": 0.0, "permutations": 100}}),
    ),
    tests=(above("jigsaw++", "jigsaw"),),
    caution="The harder task needs longer training; the network is small, and the score is a linear probe on the same images.",
)


def _student(scale: Scale) -> dict[str, Any]:
    """A narrow student of the clusters of a SimCLR teacher, trained for as many epochs as the teacher."""
    pretext = simclr(scale)
    return chain(scale, until="transfer", pretext=pretext, transfer={"epochs": pretext["epochs"]})


_OWN = {"pretext": {"width": 0.5}}

DEEPER = Claim(
    name="transfer-deeper",
    paper=_PAPER,
    statement="A shallow student of a deep network's clusters beats the shallow network trained on the pretext task itself; clusters of a network of its own size give it nothing.",
    figure="VOC07 classification, AlexNet by Jigsaw++: 69.8 mAP without clusters, 69.9 with its own, 72.5 with VGG-16's",
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
    caution="The pretext task is SimCLR, and the larger network is wider by three times, not deeper. Students are trained for as many epochs as their teachers.",
)

NUMBER = Claim(
    name="transfer-clusters",
    paper=_PAPER,
    statement="The number of clusters matters little.",
    figure="VOC07 detection with k from 1000 to 10000: nearly unchanged (figure 4)",
    score=_STUDENT,
    settings=at_both(_student),
    arms=tuple(Arm(f"k-{k}", {"cluster": {"k": k}}) for k in (100, 300, 1000)),
    tests=(alike("k-100", "k-300", 0.02), alike("k-1000", "k-300", 0.02)),
)

ACROSS = Claim(
    name="transfer-across",
    paper=_PAPER,
    statement="Centroids found on another data set cost little.",
    figure="VOC07 classification: about 1.5 mAP less with clusters of ImageNet given to the images of Places",
    score=_STUDENT,
    settings=at_both(_student),
    arms=(
        Arm("own-centroids", {}),
        Arm("other-centroids", {"cluster": {"data": "{imagenette}"}, "assign": {"data": "{cifar10}"}}),
    ),
    tests=(alike("other-centroids", "own-centroids", 0.03),),
    caution="Imagenette is shrunk to 32 px; it has ten classes of its own and a quarter as many images.",
)

HOG = Claim(
    name="transfer-hog",
    paper=_PAPER,
    statement="Hand-made features go through the same chain, and teach less than learned ones.",
    figure="the paper compares HOG's clusters with those of networks on the same AlexNet",
    score=_STUDENT,
    settings=at_both(_student),
    arms=(Arm("learned", {}), Arm("hog", {"pretext": {"method": "hog"}})),
    tests=(above("learned", "hog"),),
    caution="Eight epochs are little for a network, and at 32 px edges say much.",
)


def _downstream(scale: Scale) -> dict[str, Any]:
    """The student of `bccd` and `penn-fudan`, which is a wider network's clusters' on photographs."""
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
    "classification": (Score("multi-label", "", "voc_map"), {"protocols": ["multi-label"], "multi_label": {"steps": 400}}),
    "detection": (Score("detection", "", "voc_map"), {"protocols": ["detection"]}),
    "detection-multi-scale": (Score("detection", "", "voc_map"), {"protocols": ["detection"], "detection": {"scales": [0.75, 1.0]}}),
    "segmentation": (Score("segmentation", "", "miou"), {"protocols": ["segmentation"], "voc": "{penn-fudan}", **_CUT}),
}  # fmt: skip
"""The paper's four rows: what counts, and how it is asked for."""

DOWNSTREAM = Claim(
    name="transfer-downstream",
    paper=_PAPER,
    statement="The student is a better start than random weights for classification, detection at one and several scales, and segmentation.",
    figure="AlexNet by Jigsaw++ with VGG-16's clusters: VOC07 classification 72.5, detection 56.5 (multi-scale 57.2) mAP, VOC12 segmentation 42.6 mIoU",
    score=Score("detection", "student-transferred", "voc_map"),
    settings=at_both(_downstream),
    arms=tuple(
        Arm(f"{row}-{name}", {"evaluate": asked}, replace(score, model=model))
        for row, (score, asked) in _ROWS.items()
        for name, model in (("student", "student-transferred"), ("scratch", "scratch"))
    ),
    tests=tuple(above(f"{row}-student", f"{row}-scratch") for row in _ROWS),
    caution="A small network on cells and pedestrians, some hundreds of steps; the paper's rows in shape, not in size.",
)

CLAIMS = (JIGSAW, DEEPER, NUMBER, ACROSS, HOG, DOWNSTREAM)
