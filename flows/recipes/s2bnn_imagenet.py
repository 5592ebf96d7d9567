"""S2-BNN (Shen et al. 2021) on ImageNet: a 1-bit ReActNet-A learns a ResNet-50's embeddings, twice 200 epochs.

For: the paper's headline row, 61.5 % top-1 by a linear classifier on the frozen 1-bit student (`linear`,
`student-transferred`); 46.9 % for the same network by MoCo v2, 52.5 % by their best contrast, 56.0 % by both.
Command: knowledge-transfer run s2bnn-imagenet --set data.train=folder:ILSVRC/train --set data.test=folder:ILSVRC/val
Needs: a GPU of 48 GB or more, 350 GB of disk for decoded images; `--dry-run` estimates hours. Not run by us yet.

From the authors' code: teacher MoCo v2, 800 epochs (71.1 %), frozen; distillation alone at tau = 0.2; Adam at 3e-4 for
256 images, no weight decay, a line to 0; crops from 0.2, jitter (0.4, 0.4, 0.4, 0.1) with probability 0.6, blur with
0.2; binary activations first, then binary weights too. Other rows: transfer.strategy=contrastive or contrastive+distill
with transfer.queue=65536 transfer.momentum=0.999. What differs: docs/methods/s2bnn.md; above all, the teacher shows its
2048 features around their mean instead of 128 coordinates of its head. All after the transfer is ours.
"""

from models.configs import S2BNN, Distill, Finetune, MoCo
from tasks.config import Config, Data, Embed, Evaluate, Predict, Student

CONFIG = Config(
    data=Data(train="torchvision:ImageNet", test="torchvision:ImageNet", image_size=256, label_fraction=0.01),
    pretext=MoCo(
        backbone="resnet50", epochs=800, batch_size=256, view_size=224, crop_min=0.2, jitter=0.5, grey=0.2, blur=0.5,
        queue=65_536, temperature=0.2, momentum=0.999, momentum_final=0.999, norm_groups=8,
        optimizer="sgd", learning_rate=0.03, weight_decay=1e-4, warmup=0.0,
    ),
    embed=Embed(layer="features", batch_size=256),
    transfer=S2BNN(
        strategy="distill", teacher="offline", temperature=0.2, epochs=200, batch_size=256, view_size=224,
        crop_min=0.2, jitter=0.5, jitter_probability=0.6, grey=0.2, blur=0.2,
        optimizer="adamw", learning_rate=3e-4, weight_decay=0.0, warmup=0.0, schedule="linear",
    ),
    student=Student(backbone="reactnet"),
    finetune=Finetune(
        steps=12_000, batch_size=256, view_size=224, jitter=0.0, grey=0.0, optimizer="adamw", learning_rate=3e-4,
        learning_rates=[1e-4, 3e-4, 1e-3], weight_decay=0.0,
    ),
    predict=Predict(neighbours=0),
    distill=Distill(
        epochs=90, batch_size=256, view_size=224, jitter=0.0, grey=0.0, optimizer="adamw", learning_rate=3e-4,
        weight_decay=0.0, schedule="linear", init="finetuned",
    ),
    evaluate=Evaluate(knn_neighbours=[20, 200]),
)  # fmt: skip
