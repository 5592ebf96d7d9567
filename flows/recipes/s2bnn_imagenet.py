"""S2-BNN (Shen et al. 2021) on ImageNet: a 1-bit ReActNet-A learns a ResNet-50's embeddings.

For: the paper's headline row, 61.5 % top-1 by a linear classifier on the frozen 1-bit student (`linear`,
`student-transferred`). For the same network, the paper has 46.9 % with MoCo v2, 52.5 % with its best
contrastive training, and 56.0 % with contrastive training and distillation together.

Command: knowledge-transfer run s2bnn-imagenet --set data.train=folder:ILSVRC/train
    --set data.test=folder:ILSVRC/val

Needs: a GPU with at least 48 GB, and 350 GB of disk for decoded images. `--dry-run` estimates the hours. We
have not run it yet.

From the authors' code: the teacher is MoCo v2 trained for 800 epochs (71.1 %), and is frozen. The loss is
distillation alone at tau = 0.2. The optimizer is Adam at 3e-4 for 256 images, without weight decay, decaying
linearly to 0. Views have crops from 0.2, jitter (0.4, 0.4, 0.4, 0.1) with probability 0.6 and blur with
probability 0.2. The student is trained for 200 epochs with binary activations, and then for 200 epochs with
binary weights too.

For the other rows, set transfer.strategy to contrastive or contrastive+distill, with transfer.queue=65536 and
transfer.momentum=0.999. As in the paper, the teacher shows 128 coordinates of its head.
docs/methods/s2bnn.md lists the differences. All stages after the transfer are ours.
"""

from models.configs.distill import Distill
from models.configs.finetune import Finetune
from models.configs.moco import MoCo
from models.configs.s2bnn import S2BNN
from tasks.config import Config, Data, Embed, Evaluate, Predict, Student

CONFIG = Config(
    data=Data(train="torchvision:ImageNet", test="torchvision:ImageNet", image_size=256, label_fraction=0.01),
    pretext=MoCo(
        backbone="resnet50",
        epochs=800,
        batch_size=256,
        view_size=0.875,
        crop_min=0.2,
        jitter=0.5,
        grey=0.2,
        blur=0.5,
        queue=65_536,
        temperature=0.2,
        momentum=0.999,
        momentum_final=0.999,
        norm_groups=8,
        optimizer="sgd",
        learning_rate=0.03,
        weight_decay=1e-4,
        warmup=0.0,
    ),
    embed=Embed(layer="features", batch_size=256),
    transfer=S2BNN(
        strategy="distill",
        teacher="offline",
        temperature=0.2,
        epochs=200,
        batch_size=256,
        view_size=0.875,
        crop_min=0.2,
        jitter=0.5,
        jitter_probability=0.6,
        grey=0.2,
        blur=0.2,
        optimizer="adamw",
        learning_rate=3e-4,
        weight_decay=0.0,
        warmup=0.0,
        schedule="linear",
    ),
    student=Student(backbone="reactnet"),
    finetune=Finetune(
        steps=12_000,
        batch_size=256,
        view_size=0.875,
        jitter=0.0,
        grey=0.0,
        optimizer="adamw",
        learning_rate=3e-4,
        learning_rates=[1e-4, 3e-4, 1e-3],
        weight_decay=0.0,
    ),
    predict=Predict(neighbours=0),
    distill=Distill(
        epochs=90,
        batch_size=256,
        view_size=0.875,
        jitter=0.0,
        grey=0.0,
        optimizer="adamw",
        learning_rate=3e-4,
        weight_decay=0.0,
        schedule="linear",
        init="finetuned",
    ),
    evaluate=Evaluate(knn_neighbours=[20, 200]),
)
