"""SimCLRv2's headline: a ResNet-50 that has seen 1 % of ImageNet's labels, distilled from the largest network.

For: 73.9 % top-1 of the final student (Chen et al., arXiv 2006.10029, abstract); of its teacher, ResNet-152 three times
as wide with selective kernels (795 M parameters), 74.9 % after fine-tuning on these labels (the paper's table 1).
Command: knowledge-transfer run simclrv2-imagenet --set data.train=folder:ILSVRC/train --set data.test=folder:ILSVRC/val
The row of the plain ResNet-50, 57.9 % fine-tuned: add --set pretext.backbone=resnet50 --set pretext.width=1
    --set finetune.learning_rate=0.16, and read the score of teacher-finetuned.
Needs: about 2,500 hours of an H100 by `--dry-run`, nearly all for the teacher's pretraining; GPU memory for a batch of
4096 at the teacher's width; 260 GB of disk for decoded images. Not run by us.

From the paper and its code: LARS, batch 4096, 800 epochs, rate 0.1 sqrt(4096) = 6.4, decay 1e-4, 5 % warm-up, temperature
0.1, head of three layers of which one is kept, 65536 negatives in memory; fine-tuning in 60 epochs of batch 1024 at
0.002 sqrt(1024) = 0.064, crop and flip only; distillation at temperature 1 for 400 epochs, without labels. The paper
first distils the teacher into itself (76.6 %), which this chain leaves out. Of 1 % of the labels a fifth is kept for
validation. The chain's clusters and the student trained on them are made as always, in one epoch, and not used by the
final student, which starts untrained.
"""

from typing import Any

from models.configs import Distill, Finetune, PseudoLabels, SimCLR
from tasks.config import Cluster, Config, Data, Embed, Predict, Student

LARS: dict[str, Any] = {"optimizer": "lars", "learning_rate": 6.4, "weight_decay": 1e-4, "warmup": 0.05}
PLAIN: dict[str, Any] = {"view_size": 224, "crop_min": 0.08, "jitter": 0.0, "grey": 0.0}

CONFIG = Config(
    data=Data(train="torchvision:ImageNet", test="torchvision:ImageNet", image_size=256, label_fraction=0.01),
    pretext=SimCLR(
        backbone="resnet152_sk", width=3, epochs=800, batch_size=4096, temperature=0.1, head_layers=3, memory=65_536,
        view_size=224, crop_min=0.08, jitter=1.0, grey=0.2, blur=0.5, **LARS,
    ),
    embed=Embed(layer="features", batch_size=256),
    cluster=Cluster(k=2000, iterations=20, pca=256),
    transfer=PseudoLabels(epochs=1, batch_size=4096, **PLAIN, **LARS),
    student=Student(backbone="resnet50"),
    finetune=Finetune(
        steps=600, batch_size=1024, **PLAIN, optimizer="lars", learning_rate=0.064, weight_decay=0.0, warmup=0.0,
    ),
    predict=Predict(neighbours=0),
    distill=Distill(epochs=400, batch_size=4096, temperature=1.0, alpha=1.0, init="scratch", **PLAIN, **LARS),
)  # fmt: skip
