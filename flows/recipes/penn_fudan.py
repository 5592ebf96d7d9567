"""Pedestrians cut out by a network whose layers come from photographs without labels, sized for two CPU cores.

For: what transfer is worth where a few dozen photographs have masks; the network from scratch is trained beside it.
Command: knowledge-transfer run penn-fudan --set data.train=parquet:imagenette-train.parquet --set data.test=parquet:imagenette-test.parquet --set evaluate.voc=voc:PennFudanPed
The same student as bccd's, so that in one store only the masks' training is left to do.
"""

from flows.recipes import bccd
from models.configs.downstream import Segmentation
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
