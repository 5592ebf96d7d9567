"""Fields and base classes that the configurations of several methods share.

A configuration lists its most general base last, because forms show the fields of the last base first.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from data.types import Frozen

BACKBONES: dict[str, str] = {
    "smallconv": "our own small ResNet of three to four stages, which trains in minutes on a CPU",
    "alexnet": "AlexNet in one tower (Krizhevsky 2014)",
    "vgg16": "VGG-16 without batch norm",
    "vgg16_bn": "VGG-16 with batch norm",
    "resnet18": "ResNet with 18 layers",
    "resnet34": "ResNet with 34 layers",
    "resnet50": "ResNet with 50 layers",
    "resnet101": "ResNet with 101 layers",
    "resnet152": "ResNet with 152 layers",
    "resnet50_sk": "ResNet with 50 layers and selective kernels, as in SimCLRv2",
    "resnet101_sk": "ResNet with 101 layers and selective kernels",
    "resnet152_sk": "ResNet with 152 layers and selective kernels",
    "mobilenet_v3": "MobileNetV3-Large",
    "vit_tiny": "vision transformer with 192 features; patches of 2 to 16 px, depending on the image size",
    "vit_small": "vision transformer with 384 features; patches of 2 to 16 px, depending on the image size",
    "reactnet": "ReActNet-A with 1-bit weights and activations (Liu et al. 2020)",
}
"""Backbones by name, each with a line of description for users. `models.backbones` builds them."""

REVISIONS: dict[str, int] = {"reactnet": 2}
"""Backbones whose outputs have changed since they were added -> how many forms they have had."""

TIMM = "timm:"
"""Prefix for networks of the package timm, which is an optional extra."""


def _known(name: str) -> str:
    if name in BACKBONES:
        return name
    if not name.removeprefix(TIMM) or not name.startswith(TIMM):
        raise ValueError(f"is unknown; choose one of {', '.join(BACKBONES)}, or timm:NAME")
    if find_spec("timm") is None:
        raise ValueError("needs the package timm; install it with: pip install 'knowledge-transfer[timm]'")
    return name


Backbone = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(BACKBONES)})]
"""Forms show a drop-down of `BACKBONES`. The command line and YAML also accept `timm:NAME`."""
OptimizerName = Literal["sgd", "lars", "adamw", "muon"]


SMALLEST, LARGEST = 8, 1024
"""Limits of a length, px."""


def _share_or_px(value: int | float) -> int | float:
    if 0 < value <= 1:
        return value
    if SMALLEST <= value <= LARGEST and value == int(value):
        return int(value)
    raise ValueError(f"should be a share (above 0, up to 1) or whole px ({SMALLEST} to {LARGEST})")


Length = Annotated[int | float, AfterValidator(_share_or_px), WithJsonSchema({"type": "number"})]
"""A length: a share of another length (above 0, up to 1), or px (an int from 8 to 1024)."""


def px(length: float, of: int, least: int = SMALLEST) -> int:
    """Resolve a `Length` to px.

    Args:
        length: a share of `of`, or px.
        of: the length that a share refers to, px.
        least: a share gives at least this, px.
    """
    return max(least, round(length * of)) if length <= 1 else int(length)


def revision_of(backbone: str) -> dict[str, int]:
    """The key that a request adds for a backbone: its revision, unless that is 1.

    Requests for a network from scratch have it. So networks whose backbone has changed are trained again, and
    all others keep their names.
    """
    return {"revision": REVISIONS[backbone]} if backbone in REVISIONS else {}


Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A seed: 0 to 9223372036854775807, so that Parquet's int64 holds it."""
CropMin = Annotated[
    float,
    Field(
        ge=0.01,
        le=1,
        description="Smallest area of a random crop, as a share of the image (0.01 to 1; 1 = no crop).",
    ),
]
Jitter = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description=(
            "Strength s of colour jitter (0 to 1): 0.8 s for "
            "brightness, contrast and saturation, 0.2 s for hue."
        ),
    ),
]
Grey = Annotated[float, Field(ge=0, le=1, description="Probability of making a view grey (0 to 1).")]
Blur = Annotated[
    float, Field(ge=0, le=1, description="Probability of Gaussian blur with a sigma of 0.1 to 2 px (0 to 1).")
]
SmallCropCount = Annotated[
    int,
    Field(
        ge=0,
        le=32,
        description="Number of small crops per image, in addition to the two large ones (0 to 32).",
    ),
]
SmallCropMax = Annotated[
    float,
    Field(ge=0.01, le=1, description="Largest area of a small crop, as a share of the image (0.01 to 1)."),
]
SmallBlur = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description=(
            "Probability of Gaussian blur of a small crop (0 to "
            "1); empty: the same as for the first large crop."
        ),
    ),
]
MomentumFinal = Annotated[
    float, Field(ge=0, le=1, description="Final momentum (0 to 1), reached along half a cosine.")
]
TeacherNorm = Annotated[
    Literal["batch", "split", "momentum"],
    Field(
        description=(
            "Batch-norm statistics of the teacher: batch uses the whole batch, split uses each of "
            "norm_groups groups of it (as on several GPUs), momentum uses MomentumBN's moving statistics."
        )
    ),
]
Optimizer = Annotated[
    OptimizerName,
    Field(
        description=(
            "sgd (Nesterov momentum 0.9), lars (for large batches), adamw, or muon (for short trainings)."
        )
    ),
]
LearningRate = Annotated[
    float,
    Field(
        gt=0,
        le=100,
        description=(
            "Peak learning rate, reached after the warm-up (above "
            "0, up to 100). It is not scaled with the batch size."
        ),
    ),
]
WeightDecay = Annotated[
    float, Field(ge=0, le=1, description="Weight decay (0 to 1). Biases and norms have none.")
]
Warmup = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="Share of the steps during which the learning rate rises linearly (0 to below 1).",
    ),
]
Schedule = Annotated[
    Literal["cosine", "linear", "constant"],
    Field(
        description=(
            "Learning rate after the warm-up: it falls to 0 along half a cosine or a line, or stays constant."
        )
    ),
]
Epochs = Annotated[
    int,
    Field(
        ge=1, le=100_000, description="Number of passes over the train and unlabelled images (1 to 100000)."
    ),
]
BothBlended = Annotated[
    float,
    Field(
        ge=0,
        le=10,
        description=(
            "Mix-up of what both networks see: blend each image with another one of the batch. Each step "
            "draws the share of the other one from a Beta distribution with both parameters equal to this "
            "(0 to 10), folded at a half. 1 draws it uniformly. 0: images are not blended."
        ),
    ),
]
BatchSize = Annotated[int, Field(ge=2, le=65_536, description="Images per step (2 to 65536).")]
"""Limits and descriptions of fields that several methods have. Each method sets its own default."""


class Sized(Frozen):
    """A configuration that a stage's request contains.

    A length may be a share of another one. Requests always have it in px, so a share and the px that it
    stands for name the same artifact.

    Attributes:
        later: fields that requests leave out while they have their default. A field that is added to an old
            configuration belongs here if its default changes nothing. Then old artifacts keep their names.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    def lengths(self, image_size: int) -> dict[str, int]:
        """The lengths that are given, in px: field -> length. `image_size` is data.image_size, px."""
        return {}

    def settings(self, image_size: int, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The settings for a request, as JSON values.

        Args:
            image_size: side of the images, px.
            exclude: fields to leave out.
        """
        fields = type(self).model_fields
        later = {name for base in type(self).__mro__ for name in vars(base).get("later", ())}
        usual = {name for name in later if getattr(self, name) == fields[name].default}
        given = self.model_dump(exclude={*exclude, *usual})
        return given | {k: v for k, v in self.lengths(image_size).items() if k in given}


class Views(Sized):
    """Random augmentations that turn an image into a view. One with probability or strength 0 is off.

    Attributes:
        later: see `Sized`.
    """

    later: ClassVar[frozenset[str]] = frozenset({"turn", "uncovered"})

    view_size: Length | None = Field(
        None,
        description=(
            "Side of the views, as a share of data.image_size (above 0, up to 1) or in px (8 to 1024); "
            "empty: data.image_size. Smaller views train faster."
        ),
    )
    crop_min: CropMin = 0.08
    crop_max: float = Field(
        1.0, ge=0.01, le=1, description="Largest area of a random crop, as a share of the image (0.01 to 1)."
    )
    flip: float = Field(
        0.5, ge=0, le=1, description="Probability of a left-right flip (0 to 1). 0 for digits and text."
    )
    turn: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Probability of a quarter turn by 90, 180 or 270 degrees (0 to 1). At 0.75 all four directions "
            "are equally likely. For images without an upright position, such as satellite images."
        ),
    )
    rotate: float = Field(
        0.0, ge=0, le=180, description="Largest random rotation, in degrees either way (0 to 180)."
    )
    shear: float = Field(
        0.0, ge=0, le=60, description="Largest random shear, in degrees either way (0 to 60)."
    )
    shift: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Largest random shift along each axis, as a share of the side (0 to 0.5).",
    )
    zoom: float = Field(
        1.0,
        ge=1,
        le=4,
        description="Largest random zoom, in or out (1 to 4; 1 = none).",
    )
    stretch: float = Field(
        1.0, ge=1, le=4, description="Largest random change of the aspect ratio (1 to 4; 1 = none)."
    )
    uncovered: Literal["black", "edge"] = Field(
        "black",
        description=(
            "What fills the area that rotation, shear, shift, zoom and stretch uncover. black: black pixels. "
            "edge: the pixels of the image's edge, continued outwards."
        ),
    )
    jitter: Jitter = 0.5
    jitter_probability: float = Field(0.8, ge=0, le=1, description="Probability of colour jitter (0 to 1).")
    grey: Grey = 0.2
    blur: Blur = 0.0
    solarize: float = Field(
        0.0, ge=0, le=1, description="Probability of inverting all pixel values of 0.5 and above (0 to 1)."
    )
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Standard deviation of Gaussian noise on each pixel "
            "value (0 to 1). Pixel values are between 0 and 1."
        ),
    )

    def mild(self) -> Views:
        """The same views with crops, flips and quarter turns alone. Crops keep at least half of the image."""
        return Views(
            view_size=self.view_size,
            crop_min=max(self.crop_min, 0.5),
            crop_max=max(self.crop_max, 0.5),
            flip=self.flip,
            turn=self.turn,
            jitter=0,
            jitter_probability=0,
            grey=0,
        )

    def alternatives(self) -> dict[str, Views]:
        """Views that the labels may choose from, by name.

        chain: as configured. mild: `Views.mild`. colours: as configured, and colours change, too. The last
        ones are left out if they change already.
        """
        chain = Views.model_validate(self.model_dump(include=set(Views.model_fields)))
        found = {"chain": chain, "mild": chain.mild()}
        if not chain.jitter:
            found["colours"] = chain.model_copy(
                update={"jitter": 0.5, "jitter_probability": 0.8, "grey": 0.2}
            )
        return found

    def side(self, image_size: int) -> int:
        """Side of the views, px. `image_size` is the side of the images that the network is for, px."""
        return image_size if self.view_size is None else px(self.view_size, image_size)

    def lengths(self, image_size: int) -> dict[str, int]:
        """See `Sized`."""
        given = {} if self.view_size is None else {"view_size": self.side(image_size)}
        return super().lengths(image_size) | given


class AsymmetricViews(Views):
    """Two views with different augmentations, as in BYOL.

    By default, the second view is rarely blurred and sometimes solarised.
    """

    blur: Annotated[Blur, Field(description="Probability of Gaussian blur of the first view (0 to 1).")] = 1.0
    solarize: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of inverting all pixel values of 0.5 and above in the first view (0 to 1).",
    )
    second_blur: float = Field(
        0.1, ge=0, le=1, description="Probability of Gaussian blur of the second view (0 to 1)."
    )
    second_solarize: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Probability of inverting all pixel values of 0.5 and above in the second view (0 to 1).",
    )

    @property
    def second(self) -> Views:
        """The augmentations of the second view."""
        shared = self.model_dump(include=set(Views.model_fields))
        return Views(**shared | {"blur": self.second_blur, "solarize": self.second_solarize})


class SmallCrops(Sized):
    """Multi-crop (SwAV, section 3.3): further small views that show small parts of the image."""

    small_crops: SmallCropCount = 6
    small_size: Length | None = Field(
        None,
        description=(
            "Side of a small crop, as a share of a large crop's side (above 0, up to 1) or in px (8 to "
            "1024); empty: 3/7 of a large crop's side (96 of 224)."
        ),
    )
    small_crop_min: float = Field(
        0.05, ge=0.01, le=1, description="Smallest area of a small crop, as a share of the image (0.01 to 1)."
    )
    small_crop_max: SmallCropMax = 0.14
    small_blur: SmallBlur = None

    def small_side(self, large: int) -> int:
        """Side of the small crops, px. `large` is the side of the large crops, px."""
        return px(3 / 7 if self.small_size is None else self.small_size, large)

    def lengths(self, image_size: int) -> dict[str, int]:
        """See `Sized`. A class must list the base with the large crops' size after this one."""
        others = super().lengths(image_size)
        if self.small_size is None:
            return others
        return others | {"small_size": self.small_side(others.get("view_size", image_size))}


class MomentumTeacher(Frozen):
    """A teacher network whose weights are an exponential moving average of the student's."""

    momentum: float = Field(
        0.99,
        ge=0,
        le=1,
        description=(
            "Initial momentum, the weight of the teacher's old weights in its moving average (0 to 1)."
        ),
    )
    momentum_final: MomentumFinal = 1.0
    teacher_norm: TeacherNorm = "batch"
    lazy_update: bool = Field(
        True,
        description=(
            "Whether MomentumBN updates its statistics once per step for all views "
            "(true) or after every view, like an ordinary moving average (false)."
        ),
    )
    norm_groups: int = Field(
        8, ge=1, le=1024, description="Number of groups of the batch for split batch norm (1 to 1024)."
    )


class Optimization(Frozen):
    """The optimizer and its learning rate."""

    optimizer: Optimizer = "sgd"
    learning_rate: LearningRate = 0.1
    weight_decay: WeightDecay = 0.0005
    warmup: Warmup = 0.05
    schedule: Schedule = "cosine"


class Lasting(Sized):
    """How long a training takes: passes over the images, or steps. The classes below add `epochs`."""

    later: ClassVar[frozenset[str]] = frozenset({"steps"})

    steps: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Optimisation steps (1 to 100000000), in place of epochs. Empty: epochs count.",
    )

    def length(self, images: int) -> tuple[int, int]:
        """Divide the training into epochs.

        Args:
            images: number of images N.

        Returns:
            Number of epochs, and number of steps in each. If `steps` is set, an epoch is at most one pass
            over the images. The total differs from `steps` by at most half a step per epoch.
        """
        settings: Any = self
        whole = max(1, images // settings.batch_size)
        if self.steps is None:
            return settings.epochs, whole
        epochs = -(-self.steps // whole)
        return epochs, max(1, round(self.steps / epochs))

    def seen(self, images: int) -> int:
        """The number of images that the training sees, out of `images` different ones. Repeats count."""
        epochs, steps = self.length(images)
        settings: Any = self
        return epochs * (images if self.steps is None else steps * settings.batch_size)


class Chosen(Sized):
    """Base class of the methods that a section can choose from. `method` is the method's name.

    Attributes:
        revision: raised by hand if the method computes something else than before. From 2 on, requests for a
            training contain it, so what the method has trained before is trained again. Raising the version
            of the stage would do this to all methods.
    """

    revision: ClassVar[int] = 1

    method: str

    def revisions(self) -> dict[str, Any]:
        """Keys that requests for a training have besides the settings; none in most cases."""
        return {"revision": self.revision} if self.revision > 1 else {}


class Pretext(Chosen):
    """Base class of the configurations of all pretext methods."""


class WithNetwork(Pretext):
    """Base class of the configurations of pretext methods that give a network, later stages' teacher."""


class Teacher(Lasting, WithNetwork):
    """Base class of the configurations of pretext methods that train a network.

    Attributes:
        later: see `Sized`.
        trainer: `module:class` of the `Method` that this configures, called with (config, image_size, seed).
        codes: whether the method labels the images itself. Transfer can then learn these labels instead of
            clusters.
        needs_colours: whether the method works only on images of three channels: red, green and blue.
        invariant: whether the method learns to ignore what differs between the views of an image. If not, a
            kind of pictures (`data.kind`) changes only the geometry of its views.
    """

    later: ClassVar[frozenset[str]] = frozenset({"weights", "continue_rate", "continue_decay"})

    trainer: ClassVar[str]
    codes: ClassVar[bool] = False
    needs_colours: ClassVar[bool] = False
    invariant: ClassVar[bool] = True

    backbone: Backbone = Field(
        "smallconv", description="Teacher network, by name. timm:NAME is a network of the package timm."
    )
    width: float = Field(
        1.0, gt=0, le=8, description="Factor on the number of channels of the backbone (above 0, up to 8)."
    )
    epochs: Epochs = 100
    batch_size: BatchSize = 256
    stop_on_collapse: bool = Field(
        False,
        description=(
            "Stop training if all outputs have become alike. "
            "Otherwise the log and the report only warn of it."
        ),
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description=(
            "Weights of others that the training starts from, as for method pretrained. pretext.backbone "
            "names their network, and data.image_size is its size. Empty: random weights."
        ),
    )
    continue_rate: float = Field(
        0.1,
        gt=0,
        le=10,
        description="With weights: factor on learning_rate (above 0, up to 10).",
    )
    continue_decay: float = Field(
        0.75,
        gt=0,
        le=1,
        description=(
            "With weights: factor on the rate from each layer to the layer below it (above 0, up to 1). At 1 "
            "all layers have the same rate."
        ),
    )

    def revisions(self) -> dict[str, Any]:
        """See `Chosen`."""
        backbone = revision_of(self.backbone)
        return super().revisions() | ({"backbone": backbone} if backbone else {})


class Descriptor(Pretext):
    """Base class of the configurations of pretext methods that need no training, such as HOG.

    Attributes:
        descriptor: `module:function` of the form (images, config) -> features. `images` is a uint8 tensor of
            shape (B, S, S, C) with S = data.image_size, `config` is this configuration, and `features` is a
            float32 tensor of shape (B, D) on the same device. Each row depends only on its own image.
    """

    descriptor: ClassVar[str]


LearnsFrom = Literal["assignments", "codes", "features", "teacher"]
"""What a student learns from: clusters, a pretext method's codes, stored features, or the teacher itself."""


class Transfer(Lasting, Chosen):
    """Base class of the configurations of all transfer methods.

    Attributes:
        trainer: `module:class` of the `Method` that this configures. If the student learns labels, it is
            called with (config, network), and `network` has a classifier for the labels. Otherwise `network`
            has no classifier. If the student learns features, the call is (config, network, dim=...,
            seed=...), and the targets of a batch are unit vectors of length `dim`. If it learns from the
            teacher, the call is (config, network, teacher, seed=...), and `teacher` is frozen, on the device
            and in evaluation mode.
        reads: what the student learns from: `assignments`, `features`, or the `teacher` itself.
        phases: names of the method's trainings. Each is a stage and continues with the network that the
            previous one published. If there is more than one, the trainer also gets the keyword argument
            `phase`.
    """

    trainer: ClassVar[str]
    reads: ClassVar[LearnsFrom] = "assignments"
    phases: ClassVar[tuple[str, ...]] = ("transfer",)

    epochs: Annotated[
        Epochs, Field(description="Epochs (1 to 100000). Each epoch draws as many images as there are.")
    ] = 100
    batch_size: BatchSize = 256

    @property
    def learns_from(self) -> LearnsFrom:
        """What the student learns from in this configuration. Methods that offer a choice override this."""
        return self.reads

    @property
    def clusters(self) -> bool:
        """Whether the teacher's features are clustered, for the student or for the report alone."""
        return self.learns_from in ("assignments", "features")
