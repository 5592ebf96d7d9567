"""CIFAR-10 with 50 labels per class, sized for two CPU cores.

For: the whole chain on photographs, in a quarter of an hour without a GPU.

Command: knowledge-transfer run cifar10 --set data.train=parquet:cifar10-train.parquet
    --set data.test=parquet:cifar10-test.parquet

The hyper-parameters were chosen on train images. docs/results.md has the results and compares them.
"""

from typing import Any

from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.pseudo_labels import PseudoLabels
from models.configs.simclr import SimCLR
from tasks.config import Cluster, Config, Data, Embed, Evaluate, Predict, Student

PHOTO: dict[str, Any] = {
    "view_size": 0.75,
    "flip": 0.5,
    "jitter": 0.5,
    "jitter_probability": 0.8,
    "grey": 0.2,
}
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 0.06, "weight_decay": 0.0, "warmup": 0.1}
"""By far the best optimizer we tried for these short trainings, both for the chain and for its baseline."""

CONFIG = Config(
    data=Data(train="torchvision:CIFAR10", test="torchvision:CIFAR10", image_size=32, labels_per_class=50),
    pretext=SimCLR(
        backbone="smallconv",
        width=1.5,
        epochs=12,
        batch_size=256,
        temperature=0.2,
        crop_min=0.2,
        **PHOTO,
        **MUON,
    ),
    embed=Embed(layer="features"),
    cluster=Cluster(k=300, iterations=20, pca=64, whitening=0.5),
    transfer=PseudoLabels(epochs=2, batch_size=256, crop_min=0.3, **PHOTO, **MUON),
    student=Student(backbone="smallconv", width=1.25),
    finetune=Finetune(
        steps=300,
        batch_size=64,
        crop_min=0.3,
        **PHOTO,
        **MUON,
        learning_rates=[0.06, 0.03],
        head_learning_rate=0.015,
    ),
    predict=Predict(
        mirror=True, student=True, neighbours=20, alpha=0.8, prior=1.0, balance=True, joint=True, probe=True
    ),
    distill=Distill(
        epochs=7, batch_size=256, crop_min=0.3, **PHOTO, **MUON, temperature=0.33, init="transferred"
    ),
    evaluate=Evaluate(
        protocols=["knn", "linear", "few-label", "clusters", "explore"], knn_neighbours=[20, 200]
    ),
)
