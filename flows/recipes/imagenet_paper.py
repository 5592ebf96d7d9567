"""The setting of Noroozi et al. 2018: Jigsaw++ on VGG-16 over ImageNet's 1.28 million images, 2000 clusters, AlexNet.

For: the paper's table (docs/methods/jigsaw++.md), then 1 % of the labels as in SimCLRv2.
Command: knowledge-transfer run imagenet-paper --set data.train=folder:ILSVRC/train --set data.test=folder:ILSVRC/val
Needs: a GPU of 24 GB or more, 350 GB of disk for decoded images; `--dry-run` estimates hours. Not run by us yet.

From the paper: 255 px crops in cells of 85 px, tiles of 64 px, 701 permutations, up to two occluding tiles, 70 % grey,
k = 2000, AlexNet from scratch on the clusters. Not in the paper's text, and chosen here: conv4 as the layer that is
clustered, after PCA-whitening to 256 dimensions and L2 normalisation (as DeepCluster does); batch norm in VGG-16; the
student's schedule, which is AlexNet's usual one.
"""

from models.configs import Distill, Finetune, JigsawPlusPlus, PseudoLabels
from tasks.config import Cluster, Config, Data, Embed, Predict, Student

CONFIG = Config(
    data=Data(train="torchvision:ImageNet", test="torchvision:ImageNet", image_size=255, label_fraction=0.01),
    pretext=JigsawPlusPlus(
        backbone="vgg16_bn", epochs=70, batch_size=256, permutations=701, occluders=2, grey=0.7, tile=64,
        optimizer="sgd", learning_rate=0.01, weight_decay=5e-4,
    ),
    embed=Embed(layer="conv4", batch_size=256),
    cluster=Cluster(k=2000, iterations=20, pca=256),
    transfer=PseudoLabels(
        epochs=90, batch_size=256, crop_min=0.08, jitter=0.0, grey=0.0,
        optimizer="sgd", learning_rate=0.01, weight_decay=5e-4,
    ),
    student=Student(backbone="alexnet"),
    finetune=Finetune(
        steps=12_000, batch_size=256, jitter=0.0, grey=0.0, learning_rate=0.01,
        learning_rates=[0.003, 0.01, 0.03], weight_decay=5e-4,
    ),
    predict=Predict(neighbours=0),
    distill=Distill(
        epochs=90, batch_size=256, jitter=0.0, grey=0.0, learning_rate=0.01, weight_decay=5e-4, init="finetuned",
    ),
)  # fmt: skip
