"""A detector of blood cells, pretrained on photographs without labels, sized for two CPU cores.

For: seeing what transfer is worth if only a few hundred photographs have boxes. The same detector is also
trained from scratch, for comparison.

Command: knowledge-transfer run bccd --set data.train=parquet:imagenette-train.parquet
    --set data.test=parquet:imagenette-test.parquet --set evaluate.voc=voc:BCCD

Needs: any photographs as data.train, and BCCD (Shenggan's, 364 photographs, 3 classes) as evaluate.voc.
"""

from typing import Any

from models.configs.evaluations import Detection
from models.configs.pseudo_labels import PseudoLabels
from models.configs.simclr import SimCLR
from tasks.config import Cluster, Config, Data, Embed, Evaluate, Student

PHOTO: dict[str, Any] = {
    "view_size": 0.75,
    "flip": 0.5,
    "jitter": 0.5,
    "jitter_probability": 0.8,
    "grey": 0.2,
}
MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 0.06, "weight_decay": 0.0, "warmup": 0.1}

CONFIG = Config(
    data=Data(train="torchvision:Imagenette", test="torchvision:Imagenette", image_size=64),
    pretext=SimCLR(
        backbone="smallconv",
        width=1.25,
        epochs=12,
        batch_size=128,
        temperature=0.2,
        crop_min=0.2,
        **PHOTO,
        **MUON,
    ),
    embed=Embed(layer="features"),
    cluster=Cluster(k=100, iterations=20, pca=64, whitening=0.5),
    transfer=PseudoLabels(epochs=12, batch_size=128, crop_min=0.3, **PHOTO, **MUON),
    student=Student(backbone="smallconv", width=1.0),
    evaluate=Evaluate(
        protocols=["knn", "linear", "detection"],
        voc="voc:BCCD",
        detection=Detection(
            side=320, steps=300, batch_size=4, anchors=[16, 32, 64, 128], learning_rate=0.02, warmup=0.1
        ),
    ),
    until="transfer",
)
