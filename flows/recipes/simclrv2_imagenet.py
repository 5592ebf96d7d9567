"""SimCLRv2 (Chen et al. 2020) on ImageNet: a ResNet-50 with 1 % of the labels, distilled from a larger one.

For: the final student's 73.9 % top-1 (arXiv 2006.10029, abstract). Its teacher is a ResNet-152 three times as
wide with selective kernels (795 M parameters), which has 74.9 % after fine-tuning on these labels (table 1).

Command: knowledge-transfer run simclrv2-imagenet --set data.train=folder:ILSVRC/train
    --set data.test=folder:ILSVRC/val

For the row of the plain ResNet-50 (57.9 % fine-tuned), read the score of teacher-finetuned and add
    --set pretext.backbone=resnet50 --set pretext.width=1 --set finetune.learning_rate=0.16

Needs: about 2,500 hours of an H100 according to `--dry-run`, nearly all of it for the teacher's pretraining.
GPU memory for a batch of 4096 at the teacher's width. 260 GB of disk for decoded images. We have not run it.

From the paper and its code, pretraining: LARS, batch 4096, 800 epochs, learning rate 0.1 sqrt(4096) = 6.4,
weight decay 1e-4, 5 % warm-up, temperature 0.1, a head of three layers of which one is kept, and 65536
negatives in memory. Fine-tuning: 60 epochs with batch 1024 at learning rate 0.002 sqrt(1024) = 0.064, with
crop and flip only. Distillation: 400 epochs at temperature 1, without labels.

The paper first distils the teacher into itself (76.6 %). This chain leaves that out. A fifth of the 1 % of
labels is kept for validation. The chain also computes clusters and trains a student on them for one epoch, as
always. The final student does not use them, because it starts untrained.
"""

from typing import Any

from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.pseudo_labels import PseudoLabels
from models.configs.simclr import SimCLR
from tasks.config import Cluster, Config, Data, Embed, Predict, Student

LARS: dict[str, Any] = {"optimizer": "lars", "learning_rate": 6.4, "weight_decay": 1e-4, "warmup": 0.05}
PLAIN: dict[str, Any] = {"view_size": 0.875, "crop_min": 0.08, "jitter": 0.0, "grey": 0.0}

CONFIG = Config(
    data=Data(train="torchvision:ImageNet", test="torchvision:ImageNet", image_size=256, label_fraction=0.01),
    pretext=SimCLR(
        backbone="resnet152_sk",
        width=3,
        epochs=800,
        batch_size=4096,
        temperature=0.1,
        head_layers=3,
        memory=65_536,
        view_size=0.875,
        crop_min=0.08,
        jitter=1.0,
        grey=0.2,
        blur=0.5,
        **LARS,
    ),
    embed=Embed(layer="features", batch_size=256),
    cluster=Cluster(k=2000, iterations=20, pca=256),
    transfer=PseudoLabels(epochs=1, batch_size=4096, **PLAIN, **LARS),
    student=Student(backbone="resnet50"),
    finetune=Finetune(
        steps=600,
        batch_size=1024,
        **PLAIN,
        optimizer="lars",
        learning_rate=0.064,
        weight_decay=0.0,
        warmup=0.0,
    ),
    predict=Predict(neighbours=0),
    distill=Distill(epochs=400, batch_size=4096, temperature=1.0, alpha=1.0, init="scratch", **PLAIN, **LARS),
)
