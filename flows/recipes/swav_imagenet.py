"""SwAV (Caron et al. 2020) on ImageNet: ResNet-50, 800 epochs with multi-crop, a ResNet-18 as the student.

For: the paper's headline row, 75.3 % top-1 by a linear classifier on the frozen teacher (batches of 4096 on
64 GPUs).

Command: knowledge-transfer run swav-imagenet --set data.train=folder:ILSVRC/train
    --set data.test=folder:ILSVRC/val

For the row that fits one GPU with 80 GB (74.3 % after 400 epochs in batches of 256 with a queue), add
    --set pretext.epochs=400 --set pretext.batch_size=256 --set pretext.learning_rate=0.6
    --set pretext.warmup=0 --set pretext.queue=3840

Needs: GPU memory for a batch of 4096, except for that other row. 260 GB of disk for decoded images.
`--dry-run` estimates the hours. We have not run it.

From the paper and its code: 2 crops of 224 px and 6 of 96 px, colour jitter of strength 1, blur; 3000
prototypes that are frozen in the first epoch, head 2048 -> 2048 -> 128, tau 0.1, epsilon 0.05; LARS at 4.8,
10 epochs of warm-up, cosine schedule, weight decay 1e-6.

docs/methods/swav.md lists the differences. All stages after the teacher are ours: clusters, student, and 1 %
of the labels.
"""

from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.pseudo_labels import PseudoLabels
from models.configs.swav import SwAV
from tasks.config import Cluster, Config, Data, Embed, Evaluate, Predict, Student

CONFIG = Config(
    data=Data(train="torchvision:ImageNet", test="torchvision:ImageNet", image_size=256, label_fraction=0.01),
    pretext=SwAV(
        backbone="resnet50",
        epochs=800,
        batch_size=4096,
        view_size=0.875,
        crop_min=0.14,
        jitter=1.0,
        grey=0.2,
        blur=0.5,
        small_crops=6,
        small_size=3 / 7,
        small_crop_min=0.05,
        small_crop_max=0.14,
        prototypes=3000,
        hidden=2048,
        projection=128,
        temperature=0.1,
        epsilon=0.05,
        freeze_epochs=1,
        queue_epoch=15,
        optimizer="lars",
        learning_rate=4.8,
        weight_decay=1e-6,
        warmup=10 / 800,
    ),
    embed=Embed(layer="features", batch_size=256),
    cluster=Cluster(k=2000, iterations=20, pca=256),
    transfer=PseudoLabels(
        epochs=90,
        batch_size=256,
        view_size=0.875,
        crop_min=0.08,
        jitter=0.0,
        grey=0.0,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=1e-4,
    ),
    student=Student(backbone="resnet18"),
    finetune=Finetune(
        steps=12_000,
        batch_size=256,
        view_size=0.875,
        jitter=0.0,
        grey=0.0,
        learning_rate=0.01,
        learning_rates=[0.003, 0.01, 0.03],
        weight_decay=1e-4,
    ),
    predict=Predict(neighbours=0),
    distill=Distill(
        epochs=90,
        batch_size=256,
        view_size=0.875,
        jitter=0.0,
        grey=0.0,
        learning_rate=0.1,
        weight_decay=1e-4,
        init="finetuned",
    ),
    evaluate=Evaluate(knn_neighbours=[20, 200]),
)
