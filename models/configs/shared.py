"""What the configurations of several methods have in common. Bases are listed with the general ones last.

The fields of the last base come first in forms.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from data.types import Frozen

BACKBONES: dict[str, str] = {
    "smallconv": "three to four residual stages of our own, for minutes on a CPU",
    "alexnet": "AlexNet in one tower (Krizhevsky 2014)",
    "vgg16": "VGG-16 without batch norm",
    "vgg16_bn": "VGG-16 with batch norm",
    "resnet18": "ResNet of 18 layers",
    "resnet34": "ResNet of 34 layers",
    "resnet50": "ResNet of 50 layers",
    "resnet101": "ResNet of 101 layers",
    "resnet152": "ResNet of 152 layers",
    "resnet50_sk": "ResNet of 50 layers with selective kernels, as in SimCLRv2",
    "resnet101_sk": "the same of 101 layers",
    "resnet152_sk": "the same of 152 layers",
    "mobilenet_v3": "MobileNetV3-Large",
    "vit_tiny": "vision transformer, 192 features; patches of 2 to 16 px, by the size of the images",
    "vit_small": "vision transformer, 384 features; patches of 2 to 16 px, by the size of the images",
    "reactnet": "ReActNet-A, 1-bit weights and activations (Liu et al. 2020)",
}
"""Backbones by name, with a line that tells people what they are; `models.backbones` makes them."""

TIMM = "timm:"
"""Before the name of a network of the package timm, an optional extra."""


def _known(name: str) -> str:
    if name in BACKBONES:
        return name
    if not name.removeprefix(TIMM) or not name.startswith(TIMM):
        raise ValueError(f"is unknown; choose one of {', '.join(BACKBONES)}, or timm:NAME")
    if find_spec("timm") is None:
        raise ValueError("needs the package timm; install it with: pip install 'knowledge-transfer[timm]'")
    return name


Backbone = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(BACKBONES)})]
"""A drop-down in the forms; the command line and YAML may give `timm:NAME` too."""
OptimizerName = Literal["sgd", "lars", "adamw", "muon"]


CropMin = Annotated[
    float,
    Field(
        ge=0.01, le=1, description="Smallest area of a random crop, as a share of the image (0.01 to 1; 1 = no crop)."
    ),
]
Jitter = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Strength s of colour jitter: brightness, contrast, saturation 0.8 s, hue 0.2 s (0 to 1).",
    ),
]
Grey = Annotated[float, Field(ge=0, le=1, description="Probability of dropping colour (0 to 1).")]
Blur = Annotated[float, Field(ge=0, le=1, description="Probability of Gaussian blur, sigma 0.1 to 2 px (0 to 1).")]
SmallCropCount = Annotated[
    int, Field(ge=0, le=32, description="Small crops an image, besides the two large ones (0 to 32).")
]
SmallCropMax = Annotated[
    float, Field(ge=0.01, le=1, description="Largest area of a small crop, as a share of the image (0.01 to 1).")
]
SmallBlur = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="Probability of Gaussian blur of a small crop (0 to 1); empty: as of the first large one.",
    ),
]
MomentumFinal = Annotated[
    float, Field(ge=0, le=1, description="The same at the end (0 to 1), reached along half a cosine.")
]
TeacherNorm = Annotated[
    Literal["batch", "split", "momentum"],
    Field(
        description="Batch norm of the teacher: statistics of the batch, of shuffled groups of it (as on several GPUs), or MomentumBN's moving ones with the lazy update."
    ),
]
Optimizer = Annotated[
    OptimizerName,
    Field(description="sgd (Nesterov momentum 0.9), lars (large batches), adamw, or muon (short trainings)."),
]
LearningRate = Annotated[
    float,
    Field(
        gt=0, le=100, description="Peak learning rate, after warm-up (above 0, up to 100). Not rescaled by batch size."
    ),
]
WeightDecay = Annotated[float, Field(ge=0, le=1, description="Weight decay, not on biases and norms (0 to 1).")]
Warmup = Annotated[float, Field(ge=0, lt=1, description="Share of the steps with linearly rising rate (0 to below 1).")]
Schedule = Annotated[
    Literal["cosine", "linear", "constant"],
    Field(description="How the rate goes on after the warm-up: half a cosine or a line to 0, or as it is."),
]
Epochs = Annotated[int, Field(ge=1, le=100_000, description="Passes over train and unlabelled images (1 to 100000).")]
BatchSize = Annotated[int, Field(ge=2, le=65_536, description="Images a step (2 to 65536).")]
"""Fields that several methods have, each with a default of its own: limits and words have one home."""


class Views(Frozen):
    """How an image becomes a random view. Zero switches a part off."""

    view_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Side of the views, px (8 to 1024); empty: data.image_size. Smaller ones train faster.",
    )
    crop_min: CropMin = 0.08
    crop_max: float = Field(
        1.0, ge=0.01, le=1, description="Largest area of a random crop, as a share of the image (0.01 to 1)."
    )
    flip: float = Field(
        0.5, ge=0, le=1, description="Probability of a left-right flip (0 to 1). 0 for digits and text."
    )
    rotate: float = Field(0.0, ge=0, le=180, description="Largest random rotation, in degrees either way (0 to 180).")
    shear: float = Field(0.0, ge=0, le=60, description="Largest random shear, in degrees either way (0 to 60).")
    shift: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Largest random shift along each axis, as a share of the side (0 to 0.5); what comes in is black.",
    )
    zoom: float = Field(
        1.0, ge=1, le=4, description="Largest random zoom, in and out (1 to 4; 1 = none); what comes in is black."
    )
    stretch: float = Field(
        1.0, ge=1, le=4, description="Largest random change of the ratio of width to height (1 to 4; 1 = none)."
    )
    jitter: Jitter = 0.5
    jitter_probability: float = Field(0.8, ge=0, le=1, description="Probability of colour jitter (0 to 1).")
    grey: Grey = 0.2
    blur: Blur = 0.0
    solarize: float = Field(
        0.0, ge=0, le=1, description="Probability of inverting all values of 0.5 and above (0 to 1)."
    )
    noise: float = Field(
        0.0, ge=0, le=1, description="Standard deviation of Gaussian noise on each value, which lie in 0 to 1 (0 to 1)."
    )


class AsymmetricViews(Views):
    """Two views drawn differently, as in BYOL: the second is rarely blurred and sometimes solarised."""

    blur: Annotated[Blur, Field(description="Probability of Gaussian blur of the first view (0 to 1).")] = 1.0
    solarize: float = Field(
        0.0, ge=0, le=1, description="Probability of inverting values of 0.5 and above in the first view (0 to 1)."
    )
    second_blur: float = Field(0.1, ge=0, le=1, description="Probability of blur of the second view (0 to 1).")
    second_solarize: float = Field(0.2, ge=0, le=1, description="The same of solarising the second view (0 to 1).")

    @property
    def second(self) -> Views:
        """How the second view is drawn."""
        shared = self.model_dump(include=set(Views.model_fields))
        return Views(**shared | {"blur": self.second_blur, "solarize": self.second_solarize})


class SmallCrops(Frozen):
    """Multi-crop (SwAV, section 3.3): besides the two views of usual size, small ones of small parts."""

    small_crops: SmallCropCount = 6
    small_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Side of a small crop, px (8 to 1024); empty: 3/7 of a large one's (96 of 224).",
    )
    small_crop_min: float = Field(
        0.05, ge=0.01, le=1, description="Smallest area of a small crop, as a share of the image (0.01 to 1)."
    )
    small_crop_max: SmallCropMax = 0.14
    small_blur: SmallBlur = None


class MomentumTeacher(Frozen):
    """A second network that follows the first as an exponential moving average of its weights."""

    momentum: float = Field(
        0.99, ge=0, le=1, description="Weight of the teacher's old weights in its moving average, at first (0 to 1)."
    )
    momentum_final: MomentumFinal = 1.0
    teacher_norm: TeacherNorm = "batch"
    lazy_update: bool = Field(
        True,
        description="MomentumBN writes its statistics once an iteration, for all views; false: at every view, as an ordinary moving average.",
    )
    norm_groups: int = Field(8, ge=1, le=1024, description="Groups of the batch for split batch norm (1 to 1024).")


class Optimization(Frozen):
    """How weights move."""

    optimizer: Optimizer = "sgd"
    learning_rate: LearningRate = 0.1
    weight_decay: WeightDecay = 0.0005
    warmup: Warmup = 0.05
    schedule: Schedule = "cosine"


class Pretext(Frozen):
    """What every pretext method has: a name, by which configurations are told apart."""

    method: str


class Teacher(Pretext):
    """What every pretext method has that trains a network.

    Attributes:
        trainer: `module:class` of the `Method` that this configures; called with (config, image_size, seed).
        codes: whether the method labels images itself, which transfer may learn from instead of clusters.
    """

    trainer: ClassVar[str]
    codes: ClassVar[bool] = False

    backbone: Backbone = Field("smallconv", description="Teacher network.")
    width: float = Field(1.0, gt=0, le=8, description="Multiplies the backbone's channels (above 0, up to 8).")
    epochs: Epochs = 100
    batch_size: BatchSize = 256
    stop_on_collapse: bool = Field(
        False, description="Stop where all outputs have become alike; else it is only said, in the log and the report."
    )


class Descriptor(Pretext):
    """What every pretext method has that trains nothing and makes features of an image's pixels: HOG.

    Attributes:
        descriptor: `module:function`, called with (images (B, S, S, 3) uint8 tensor, S = data.image_size; this
            configuration) -> (B, D) float32 on the same device. A row depends on its image alone.
    """

    descriptor: ClassVar[str]


class Transfer(Frozen):
    """What every transfer method has.

    Attributes:
        trainer: `module:class` of the `Method` that this configures; called with (config, network) where the student
            learns labels: `network` then has a classifier of them; with (config, network, teacher, seed=...) where it
            learns from the teacher: `network` then has none, and `teacher` is frozen, on the device, in evaluation mode.
        reads: what the student learns from: `assignments`, or the `teacher` itself.
        phases: names of the trainings that this consists of, one stage each; each goes on with the network that the one
            before has published. With more than one, the trainer is also told its `phase` (by that keyword).
    """

    trainer: ClassVar[str]
    reads: ClassVar[Literal["assignments", "teacher"]] = "assignments"
    phases: ClassVar[tuple[str, ...]] = ("transfer",)

    method: str
    epochs: Annotated[Epochs, Field(description="Passes: each draws as many images as there are (1 to 100000).")] = 100
    batch_size: BatchSize = 256

    @property
    def learns_from(self) -> Literal["assignments", "codes", "teacher"]:
        """What the student learns from in this configuration: `reads`, unless it leaves a choice."""
        return self.reads
