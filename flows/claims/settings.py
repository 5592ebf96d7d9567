"""Settings that claims share: the sources of images, and the trainings at each scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.claims.claim import Scale

Settings = dict[str, Any]

SOURCES: dict[str, str] = {
    "cifar10": "torchvision:CIFAR10",
    "cifar10-test": "torchvision:CIFAR10",
    "imagenette": "torchvision:Imagenette",
    "imagenette-test": "torchvision:Imagenette",
    "bccd": "voc:BCCD",
    "penn-fudan": "voc:PennFudanPed",
}
"""The default source of each set of images. Settings of claims refer to a set by its name in braces."""

PHOTO: Settings = {"view_size": 24, "flip": 0.5, "jitter": 0.5, "jitter_probability": 0.8, "grey": 0.2}
MUON: Settings = {"optimizer": "muon", "learning_rate": 0.06, "weight_decay": 0.0, "warmup": 0.1}
SGD: Settings = {"optimizer": "sgd", "learning_rate": 0.24, "weight_decay": 5e-4, "warmup": 0.05}
"""lightly's setting for these data: 0.06 for 128 images per step, scaled to 512 images per step."""

EVALUATE: Settings = {"knn_neighbours": [20, 200]}
CIFAR10: Settings = {"train": "{cifar10}", "test": "{cifar10-test}", "image_size": 32, "labels_per_class": 50}
IMAGENETTE: Settings = {
    "train": "{imagenette}",
    "test": "{imagenette-test}",
    "image_size": 96,
    "labels_per_class": 50,
}


def teacher(scale: Scale, method: str, **own: Any) -> Settings:
    """Settings of a pretext training: a small network for a few minutes, or a ResNet-18 for 200 epochs.

    Args:
        scale: scale of the training.
        method: name of the pretext method.
        **own: parameters of the method, and values that replace the usual ones.
    """
    usual: dict[Scale, Settings] = {
        "cpu": {
            "backbone": "smallconv",
            "width": 1.0,
            "epochs": 8,
            "batch_size": 256,
            "crop_min": 0.2,
            **PHOTO,
            **MUON,
        },
        "gpu": {
            "backbone": "resnet18",
            "epochs": 200,
            "batch_size": 512,
            "crop_min": 0.2,
            "jitter": 0.5,
            **SGD,
        },
    }
    return {"method": method, **usual[scale], **own}


def simclr(scale: Scale, **own: Any) -> Settings:
    """Settings of SimCLR, with the temperature that works at this scale."""
    return teacher(scale, "simclr", **{"temperature": 0.2 if scale == "cpu" else 0.5, **own})


def chain(scale: Scale, *, until: str, pretext: Settings, **sections: Settings) -> Settings:
    """All settings of a run on CIFAR-10.

    Args:
        scale: scale of the trainings.
        until: the last stage of the chain.
        pretext: settings of the teacher.
        **sections: section -> settings laid over the usual ones. A section that names a method replaces them
            all.
    """
    usual: dict[Scale, dict[str, Settings]] = {
        "cpu": {
            "cluster": {"k": 300, "pca": 64, "whitening": 0.5},
            "transfer": {
                "method": "pseudo-labels",
                "epochs": 3,
                "batch_size": 256,
                "crop_min": 0.3,
                **PHOTO,
                **MUON,
            },
            "student": {"backbone": "smallconv", "width": 0.5},
            "finetune": {
                "steps": 300,
                "batch_size": 64,
                "crop_min": 0.3,
                "head_learning_rate": 0.015,
                **PHOTO,
                **MUON,
            },
            "distill": {
                "epochs": 4,
                "batch_size": 256,
                "crop_min": 0.3,
                "init": "transferred",
                **PHOTO,
                **MUON,
            },
        },
        "gpu": {
            "cluster": {"k": 300, "pca": 128},
            "transfer": {"method": "pseudo-labels", "epochs": 100, "batch_size": 512, "crop_min": 0.3, **SGD},
            "student": {"backbone": "resnet18", "width": 0.5},
            "finetune": {"steps": 2000, "batch_size": 128, "crop_min": 0.3, **SGD, "learning_rate": 0.03},
            "distill": {"epochs": 100, "batch_size": 512, "crop_min": 0.3, "init": "transferred", **SGD},
        },
    }
    predict = {"neighbours": 0, "mirror": True}
    found: Settings = {"data": CIFAR10, **usual[scale], "predict": predict, "evaluate": EVALUATE}
    for name, section in sections.items():
        found[name] = {**found.get(name, {}), **section} if section.get("method") is None else section
    return {**found, "pretext": pretext, "until": until}


def at_both(make: Any) -> Mapping[Scale, Settings]:
    """`make(scale)` for each scale."""
    return {"cpu": make("cpu"), "gpu": make("gpu")}
