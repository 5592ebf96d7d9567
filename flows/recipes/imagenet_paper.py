"""Noroozi et al. 2018 on ImageNet: Jigsaw++ with VGG-16, 2000 clusters, and AlexNet as the student.

For: the paper's table (docs/methods/jigsaw++.md), and then 1 % of the labels as in SimCLRv2.

Command: knowledge-transfer run imagenet-paper --set data.train=folder:ILSVRC/train
    --set data.test=folder:ILSVRC/val

Needs: a GPU with at least 24 GB, and 350 GB of disk for 1.28 million decoded images. `--dry-run` estimates
the hours. We have not run it yet.

From the paper: 255 px crops in cells of 85 px, tiles of 64 px, 701 permutations, up to two occluding tiles,
70 % grey images, k = 2000, and AlexNet trained from scratch on the clusters.

The paper does not say the following, so we chose it. The clustered layer is conv4, after PCA-whitening to 256
dimensions and L2 normalisation, as in DeepCluster. VGG-16 has batch norm. The student has AlexNet's usual
schedule.
"""

from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.jigsaw import JigsawPlusPlus
from models.configs.pseudo_labels import PseudoLabels
from tasks.config import Cluster, Config, Data, Embed, Predict, Student

CONFIG = Config(
    data=Data(train="torchvision:ImageNet", test="torchvision:ImageNet", image_size=255, label_fraction=0.01),
    pretext=JigsawPlusPlus(
        backbone="vgg16_bn",
        epochs=70,
        batch_size=256,
        permutations=701,
        occluders=2,
        grey=0.7,
        tile=64 / 85,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=5e-4,
    ),
    embed=Embed(layer="conv4", batch_size=256),
    cluster=Cluster(k=2000, iterations=20, pca=256),
    transfer=PseudoLabels(
        epochs=90,
        batch_size=256,
        crop_min=0.08,
        jitter=0.0,
        grey=0.0,
        optimizer="sgd",
        learning_rate=0.01,
        weight_decay=5e-4,
    ),
    student=Student(backbone="alexnet"),
    finetune=Finetune(
        steps=12_000,
        batch_size=256,
        jitter=0.0,
        grey=0.0,
        learning_rate=0.01,
        learning_rates=[0.003, 0.01, 0.03],
        weight_decay=5e-4,
    ),
    predict=Predict(neighbours=0),
    distill=Distill(
        epochs=90,
        batch_size=256,
        jitter=0.0,
        grey=0.0,
        learning_rate=0.01,
        weight_decay=5e-4,
        init="finetuned",
    ),
)
