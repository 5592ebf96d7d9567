"""Own photos: any folder of images, a few labels, and a number of minutes. Everything else is planned.

For: your own images. The plan chooses the image size, the augmentations and the length of every training
from the images, the machine and the minutes. All classifiers that the chain can make are compared on your
labels, and the best one is shipped.

Command: knowledge-transfer run photos --minutes 20 --set data.train=folder:PATH

docs/decisions/0018-own-photos.md says how the settings were chosen.
"""

from typing import Any

from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.pseudo_labels import PseudoLabels
from models.configs.simclr import SimCLR
from tasks.config import Cluster, Config, Data, Embed, Evaluate, Plan, Predict, Ship, Student

MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 0.06, "weight_decay": 0.0, "warmup": 0.1}
VIEWS: dict[str, Any] = {"view_size": 0.75, "flip": 0.5, "jitter": 0.5, "grey": 0.2}

CONFIG = Config(
    plan=Plan(minutes=20),
    data=Data(train="digits", image_size=64, kind="auto"),
    pretext=SimCLR(
        backbone="smallconv", width=1.0, batch_size=128, temperature=0.2, crop_min=0.2, **VIEWS, **MUON
    ),
    embed=Embed(layer="features"),
    cluster=Cluster(k=100, iterations=20, pca=64, whitening=0.5),
    transfer=PseudoLabels(batch_size=128, crop_min=0.3, **VIEWS, **MUON),
    student=Student(backbone="smallconv", width=0.75),
    finetune=Finetune(
        steps=150,
        batch_size=64,
        crop_min=0.3,
        **VIEWS,
        **MUON | {"learning_rate": 0.01},
        head_first=True,
        head_learning_rate=0.005,
        baseline_learning_rate=0.06,
        baseline_mixup=0.4,
    ),
    predict=Predict(neighbours=10, alpha=0.9),
    distill=Distill(
        batch_size=128,
        crop_min=0.3,
        **VIEWS,
        **MUON,
        temperature=1.0,
        rounds=2,
        init="favoured",
        transferred_learning_rate=0.02,
        transferred_mixup=0.4,
        precise_bn=True,
    ),
    ship=Ship(compare=True, folds=3),
    evaluate=Evaluate(protocols=["knn", "few-label", "clusters", "explore"], knn_neighbours=[10]),
)
