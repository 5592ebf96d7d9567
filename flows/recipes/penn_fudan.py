"""Segmentation of pedestrians, pretrained on photographs without labels, sized for two CPU cores.

For: seeing what transfer is worth if only a few dozen photographs have masks. The same network is also
trained from scratch, for comparison.

Command: knowledge-transfer run penn-fudan --set data.train=parquet:imagenette-train.parquet
    --set data.test=parquet:imagenette-test.parquet --set evaluate.voc=voc:PennFudanPed

The student is the one of `bccd`. If `bccd` was run in the same store, only the training on masks is computed.
"""

from flows.recipes import bccd
from models.configs.evaluations import Segmentation
from tasks.config import Evaluate

CONFIG = bccd.CONFIG.model_copy(
    update={
        "evaluate": Evaluate(
            protocols=["knn", "linear", "segmentation"],
            voc="voc:PennFudanPed",
            segmentation=Segmentation(side=320, steps=300, batch_size=4, learning_rate=0.02, warmup=0.1),
        )
    }
)
