"""The whole chain on scikit-learn's 1797 handwritten digits: no download, no server, a laptop's CPU.

For: a first look, and to test that everything works. There are 1437 train images, of which 2 per class are
labelled, and 360 test images.

Command: knowledge-transfer run digits

The hyper-parameters were chosen on train images. docs/results.md has the results and compares them.
"""

from typing import Any

from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.pseudo_labels import PseudoLabels
from models.configs.simclr import SimCLR
from tasks.config import Cluster, Config, Data, Embed, Evaluate, Predict, Student

STRONG: dict[str, Any] = {
    "crop_min": 1.0,
    "flip": 0.0,
    "rotate": 25,
    "shear": 20,
    "shift": 0.18,
    "zoom": 1.5,
    "stretch": 1.3,
    "jitter": 0.6,
    "jitter_probability": 1.0,
    "grey": 0.0,
    "noise": 0.14,
}
"""Augmentation for contrastive learning. Digits are not flipped: mirrored, they are other shapes."""
MEDIUM: dict[str, Any] = STRONG | {
    "rotate": 20,
    "shear": 15,
    "shift": 0.12,
    "zoom": 1.3,
    "stretch": 1.15,
    "jitter": 0.5,
    "noise": 0.07,
}
"""Augmentation for learning labels. Stronger augmentation costs accuracy there."""
ADAMW: dict[str, Any] = {"optimizer": "adamw", "weight_decay": 1e-4, "warmup": 0.1}

CONFIG = Config(
    data=Data(train="digits", test="digits", image_size=16, labels_per_class=2),
    pretext=SimCLR(
        backbone="smallconv",
        width=0.5,
        epochs=130,
        batch_size=256,
        temperature=0.2,
        projection=64,
        **STRONG,
        **ADAMW | {"learning_rate": 5e-3, "warmup": 0.05},
    ),
    embed=Embed(layer="last"),
    cluster=Cluster(k=60, iterations=30, restarts=3),
    transfer=PseudoLabels(epochs=36, batch_size=128, **MEDIUM, **ADAMW, learning_rate=3e-3),
    student=Student(backbone="smallconv", width=0.5),
    finetune=Finetune(
        steps=100,
        batch_size=40,
        **MEDIUM,
        **ADAMW,
        learning_rate=1e-3,
        head_learning_rate=3e-3,
        baseline_learning_rate=3e-3,
    ),
    predict=Predict(neighbours=10, alpha=0.97, prior=0.0, balance=True),
    distill=Distill(
        epochs=27,
        batch_size=128,
        **MEDIUM,
        **ADAMW,
        learning_rate=3e-3,
        temperature=0.05,
        init="transferred",
    ),
    evaluate=Evaluate(
        protocols=["knn", "linear", "few-label", "clusters", "explore"], knn_neighbours=[10, 20]
    ),
)
