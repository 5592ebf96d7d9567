"""The configuration: one model for the flow's parameters, Prefect's forms, YAML files and `--set` keys.

This module imports neither torch nor prefect nor pyarrow. The descriptions repeat the limits of each value,
because Prefect's forms show only the descriptions. A recipe (flows/recipes) is a `Config`, and so is a YAML
file.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from data.reading import MAX_PIXELS
from data.secrets import mask
from data.types import Frozen
from models.configs import PRETEXT, PretextConfig, TransferConfig
from models.configs.distill import Distill
from models.configs.evaluations import Detection, Explore, MultiLabel, NonLinear, Segmentation
from models.configs.finetune import Finetune
from models.configs.kinds import KindName
from models.configs.pseudo_labels import PseudoLabels
from models.configs.shared import Backbone, Seed, Teacher, WithNetwork, revision_of
from models.configs.simclr import SimCLR


def _from_text(value: Any) -> Any:
    """Turn 1,2,3 from the command line into a list, and a single number into a list of one."""
    if isinstance(value, str) and value.strip():
        return [part.strip() for part in value.strip("[]() ").split(",")]
    return [value] if isinstance(value, int | float) else value


def _ascending(pair: list[float]) -> list[float]:
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise ValueError("should be two numbers, low,high with low < high")
    return pair


Source = Annotated[str, AfterValidator(mask)]
"""A source of images. Passwords and keys in its URL are masked; `data.secrets.reveal` unmasks them."""
_SOURCE = "digits, folder:PATH, parquet:PATH, torchvision:NAME or voc:PATH. PATH may be any fsspec URL"
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Data(Frozen):
    """The images, and which of their labels may be used."""

    train: Source = Field("digits", min_length=1, description=f"Training images: {_SOURCE}.")
    test: Source | None = Field(
        None,
        description="Test images, in the same forms as train. Empty: the test split of train, if its folders "
        "or files are named for splits. Otherwise 20 % of train is held out for testing.",
    )
    unlabelled: Source | None = Field(
        None,
        description="More training images, without labels, in the same forms as train. Empty: none, unless "
        "train has a split of unlabelled images.",
    )
    labels: Source | None = Field(
        None,
        min_length=1,
        description="Table of labels for the images of train and test: csv:PATH or parquet:PATH with a "
        "column label (names or numbers) and one of uri, path, file_name, filename or sha256. It replaces "
        "the labels of the sources. Empty: the sources' own labels.",
    )
    image_column: str | None = Field(
        None, min_length=1, description="parquet: the column of the images. Empty: image, or one like it."
    )
    label_column: str | None = Field(
        None, min_length=1, description="parquet: the column of the labels. Empty: label, or one like it."
    )
    image_size: int = Field(
        32, ge=8, le=1024, description="Side of the square images that the networks see, px (8 to 1024)."
    )
    kind: Literal[KindName, "auto"] | None = Field(
        None,
        description="Kind of pictures: photographs, symbols (no flips, no changes of colour), microscopy, "
        "satellite (all quarter turns), grey (such as X-rays) or drawings. It sets the views of all stages, "
        "but not the keys that you set. auto: a plan chooses the kind. Empty: the recipe's own views.",
    )
    label_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the training labels to use, the same in every class (above 0, up to 1). "
        "Give either this or labels_per_class. Both empty: all labels.",
    )
    labels_per_class: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Number of training labels to use per class (1 to 1000000). "
        "Give either this or label_fraction. Both empty: all labels.",
    )
    labels_short: Literal["refuse", "take"] = Field(
        "refuse",
        description="What happens if a class has fewer labels than labels_per_class. refuse: the run stops. "
        "take: the class gives all that it has.",
    )
    label_seed: Seed | None = Field(
        None,
        description="Seed of the random draw of labels (0 to 9223372036854775807). Empty: the run's seed.",
    )
    leaks: Literal["keep", "drop", "refuse"] = Field(
        "keep",
        description="What happens to training images that are copies, or near copies, of a test image. "
        "keep: they are used and reported. drop: they are left out. refuse: the run stops.",
    )
    max_rejected: float = Field(
        0.05,
        ge=0,
        le=1,
        description="The run stops if more than this share of the images is unreadable (0 to 1).",
    )

    bands: Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_from_text)] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="Bands to read from each image, such as 4,1,2 (1 to 16 of them). Numbers count from 1 in "
        "stored order, and transparency counts. Three bands are read as red, green and blue, and one band "
        "as grey. Other numbers of bands have no colours. Empty: only grey and RGB images are read; an image "
        "with other bands is refused.",
    )
    value_range: (
        Annotated[
            list[Annotated[float, Field(allow_inf_nan=False)]],
            BeforeValidator(_from_text),
            AfterValidator(_ascending),
        ]
        | None
    ) = Field(
        None,
        min_length=2,
        max_length=2,
        description="low,high: the values that become black and white, in images with more than 8 bits per "
        "value or with signed or float values. Empty: the range that leaves out 0.1 % of the values of train "
        "and unlabelled at each end. Images of 8 bits are read as they are.",
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1,
        le=4_294_836_225,
        description="Images with more pixels are refused (1 to 4294836225). Decoding an image takes about 8 "
        "bytes of memory per pixel, or 12 with 16 bits per value: 0.7 or 1.1 GB for 89478485 pixels.",
    )

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> Data:
        if self.label_fraction is not None and self.labels_per_class is not None:
            raise ValueError("give label_fraction or labels_per_class, not both")
        return self


class Embed(Frozen):
    """Which layer of the teacher gives the features of every image."""

    layer: str = Field(
        "features",
        min_length=1,
        description="Layer that gives the features. features: the pooled output of the backbone. "
        "last: the last layer that the method keeps of its head (head1 of a SimCLR teacher, projection "
        "of a MoCo teacher), or else the same as features. Other layers, such as conv4 or layer3, are "
        "averaged over positions. "
        "This setting has no effect if pretext trains no network.",
    )
    batch_size: int = Field(512, ge=1, le=65_536, description="Images per batch (1 to 65536).")


class Cluster(Frozen):
    """K-means on the features."""

    k: int = Field(
        2000,
        ge=1,
        le=1_000_000,
        description="Number of clusters (1 to 1000000, at most the number of images).",
    )
    iterations: int = Field(
        20, ge=1, le=1000, description="Maximum number of K-means iterations over all images (1 to 1000)."
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Stop when an iteration lowers the objective by at most this share (0 to below 1). "
        "0: stop when nothing changes. 0.0001 saves time on large sets.",
    )
    restarts: int = Field(
        1, ge=1, le=100, description="Number of K-means runs; the best one is kept (1 to 100)."
    )
    pca: int | None = Field(
        None, ge=1, le=8192, description="Number of dimensions that PCA keeps (1 to 8192). Empty: no PCA."
    )
    whitening: float = Field(
        1.0,
        ge=0,
        le=1,
        description="How far PCA scales its dimensions towards equal variance (0 to 1). 0: not at all. "
        "1: full whitening.",
    )
    normalise: bool = Field(True, description="Divide each vector by its length before clustering.")
    sample: int | None = Field(
        None, ge=1, description="Train K-means on this many random images. Empty: on all images."
    )
    seed: Seed | None = Field(
        None, description="Seed of this stage (0 to 9223372036854775807). Empty: the run's seed."
    )
    data: Source | None = Field(
        None,
        description="Cluster the images of another source instead of data.train and data.unlabelled. "
        "It takes the same forms as data.train.",
    )


class Assign(Frozen):
    """Pseudo-labels: the nearest centroid of each image."""

    data: Source | None = Field(
        None,
        description="Give pseudo-labels to the images of another source, and train the student on them. "
        "Empty: the images that were clustered.",
    )


class Student(Frozen):
    """The final network. It is trained from scratch on the pseudo-labels."""

    backbone: Backbone = Field(
        "alexnet", description="Student network, by name. timm:NAME is a network of the package timm."
    )
    width: float = Field(
        1.0, gt=0, le=8, description="Factor on the backbone's number of channels (above 0, up to 8)."
    )

    def settings(self) -> dict[str, Any]:
        """The settings for a request for a network from scratch, as JSON values."""
        return self.model_dump() | revision_of(self.backbone)


class Predict(Frozen):
    """The fine-tuned teacher's probabilities for all images, and how neighbouring images smooth them."""

    views: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of random views to average per image (1 to 64). 1: the centre crop only.",
    )
    mirror: bool = Field(
        False, description="Average the centre crop with its mirror image. Not suitable for digits or text."
    )
    student: bool = Field(
        False,
        description="Average the teacher's probabilities with the fine-tuned student's. "
        "Two networks make different mistakes.",
    )
    neighbours: int = Field(
        0,
        ge=0,
        le=1000,
        description="Propagate labels over the graph of this many nearest neighbours in clustering space "
        "(0 to 1000). 0: use the teacher's probabilities unchanged.",
    )
    alpha: float = Field(
        0.97,
        gt=0,
        lt=1,
        description="How far labels propagate: weight of the neighbours against the image's own label or "
        "prior (above 0, below 1).",
    )
    prior: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weight of the teacher's probabilities, relative to a label (0 to 100). They are the "
        "prior of the images without a label. 0: propagate the labels only.",
    )
    joint: bool = Field(
        False,
        description="Find neighbours in the features of two networks together: the teacher and the "
        "fine-tuned teacher. From the second round of distillation on, the second network is the student of "
        "the round before.",
    )
    probe: bool = Field(
        False,
        description="Mix in the probabilities of a logistic regression on the teacher's frozen features, "
        "with a weight of one third.",
    )
    balance: bool = Field(
        True, description="Scale the propagated probabilities to the classes' shares among the drawn labels."
    )


class Ship(Frozen):
    """Which of the trained classifiers is shipped."""

    compare: bool = Field(
        False,
        description="Compare all classifiers on the drawn labels, out of fold: the fine-tuned networks, "
        "linear classifiers on the frozen ones, labels spread over neighbours, and networks from scratch. "
        "The final student learns from a mixture of them. Classifiers that explain the labels better have "
        "more weight in it. The best one of all is shipped. Off: the final student is shipped.",
    )
    folds: int = Field(
        4,
        ge=2,
        le=20,
        description="With compare: number of parts into which the drawn labels are divided (2 to 20). For "
        "each part, each network is trained once more without the labels of this part, and judged on them.",
    )
    teacher: bool = Field(
        True,
        description="With compare: also fine-tune the teacher. It is the largest network, so this takes "
        "longest.",
    )


class Export(Frozen):
    """How much accuracy an exported file may lose."""

    max_drop: float = Field(
        1.0,
        ge=0,
        le=100,
        description="An exported file that loses more than this many points of accuracy on the test images "
        "is refused (0 to 100).",
    )


PROTOCOLS: dict[str, str] = {
    "knn": "classifies each test image by its nearest neighbours among all labelled training images",
    "linear": "trains a linear probe on frozen features with all training labels",
    "few-label": "measures the classifiers that the chain trained on the few labels",
    "clusters": "measures how well pseudo-labels agree with true labels",
    "label-efficiency": "fine-tunes and probes the student on several other draws of few labels",
}
"""The chain's own evaluations, each with a sentence. Leaf stages add more (`tasks.found.leaves`)."""
USUAL = ("knn", "linear", "few-label")
"""Protocols that measure a model within seconds."""


def protocols() -> dict[str, str]:
    """All evaluations by name, each with a sentence: those of the chain first, then the leaf stages."""
    from tasks.found import leaves

    return PROTOCOLS | {name: leaf.sentence for name, leaf in leaves().items()}


def measurable() -> dict[str, str]:
    """The evaluations that need only a model and images, each with a sentence."""
    from tasks.found import leaves

    alone = {name for name, leaf in leaves().items() if "checkpoint" in leaf.stage.reads}
    return {name: text for name, text in protocols().items() if name in (*USUAL, *alone)}


def _known_protocol(name: str) -> str:
    if name not in PROTOCOLS and name not in protocols():
        raise ValueError(f"is unknown; choose one of {', '.join(protocols())}")
    return name


def _drop_down(schema: dict[str, Any]) -> None:
    schema["enum"] = list(protocols())


Protocol = Annotated[str, AfterValidator(_known_protocol), Field(json_schema_extra=_drop_down)]
"""The name of an evaluation. The forms show a drop-down."""


class Evaluate(Frozen):
    """What is measured on the test images."""

    protocols: list[Protocol] = Field(
        ["knn", "linear", "few-label", "clusters"],
        description="Evaluations to run; the command `list` explains each. knn and linear use all training "
        "labels. detection, segmentation and multi-label train the student further on evaluate.voc, and "
        "compare it with the same network from scratch.",
    )
    layer_epochs: int = Field(
        10, ge=1, le=1000, description="layers: training epochs of each probe (1 to 1000)."
    )
    layer_rates: list[Annotated[float, Field(gt=0, le=1000)]] = Field(
        [0.1, 0.3, 1.0, 3.0, 10.0],
        min_length=1,
        max_length=16,
        description="layers: learning rates to try. The best one is chosen on a tenth of the training labels "
        "(1 to 16 rates, each above 0, up to 1000).",
    )
    layer_standardise: bool = Field(
        True,
        description="layers: scale each value of a layer to mean 0 and equal variance before probing, so "
        "that the same learning rates suit all layers. Off: use the values unchanged.",
    )
    nonlinear: NonLinear = Field(NonLinear(), description="nonlinear: how its classifiers are trained.")
    label_fractions: list[Share] = Field(
        [0.01, 0.1],
        max_length=16,
        description="label-efficiency: shares of the labels to try (at most 16, each above 0, up to 1).",
    )
    labels_per_class: list[Count] = Field(
        [],
        max_length=16,
        description="label-efficiency: numbers of labels per class to try (at most 16, each 1 or more).",
    )
    label_draws: int = Field(
        3, ge=1, le=100, description="label-efficiency: random draws per number of labels (1 to 100)."
    )
    explore: Explore = Field(Explore(), description="explore: the map of the images in the report.")
    stability_seeds: int = Field(
        3, ge=2, le=100, description="stability: number of clusterings to compare with each other (2 to 100)."
    )
    voc: Source | None = Field(
        None,
        description="Photographs with boxes or masks for detection, segmentation and multi-label: "
        "voc:PATH, a folder in PASCAL VOC's layout.",
    )
    detection: Detection = Field(
        Detection(), description="detection: how a detector is trained on evaluate.voc."
    )
    segmentation: Segmentation = Field(
        Segmentation(), description="segmentation: how a segmentation network is trained on evaluate.voc."
    )
    multi_label: MultiLabel = Field(
        MultiLabel(), description="multi-label: how a classifier of photographs is trained on evaluate.voc."
    )
    knn_neighbours: list[Count] = Field(
        [20, 200],
        min_length=1,
        max_length=16,
        description="knn: numbers of neighbours k to try (1 to 16 values).",
    )
    knn_temperatures: list[Annotated[float, Field(gt=0, le=10)]] = Field(
        [0.07],
        min_length=1,
        max_length=16,
        description="knn: temperatures T to try. A neighbour of similarity s votes with exp(s / T). "
        "Each T is combined with each k (1 to 16 values, each above 0, up to 10).",
    )

    alert: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Emit the event knowledge-transfer.score.dropped if the leading score falls by more than "
        "this compared with the run before (0 to 1).",
    )

    options: dict[str, dict[str, Any]] = Field(
        {}, description="Settings of evaluations from other packages, by the evaluation's name."
    )

    @property
    def leaves(self) -> list[str]:
        """The chosen protocols that are leaf stages, in alphabetical order."""
        return sorted(set(self.protocols) - PROTOCOLS.keys())

    def options_of(self, protocol: str) -> Any:
        """The settings of a leaf stage, checked by its own model."""
        from tasks.found import leaves

        model = leaves()[protocol].stage.options
        assert model is not None, f"{protocol} has no options"
        return model.model_validate(self.options.get(protocol, {}))

    @model_validator(mode="after")
    def _photographs_to_train_on(self) -> Evaluate:
        if not self.leaves:
            return self
        from tasks.found import on_photographs

        needs = [name for name in self.leaves if name in on_photographs()]
        if needs and not (self.voc or "").startswith("voc:"):
            raise ValueError(
                f"evaluate.protocols has {needs[0]}, which needs photographs with annotations: set "
                "evaluate.voc=voc:PATH, a folder in VOC's layout"
            )
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> Evaluate:
        for name, given in self.options.items():
            from tasks.found import leaves

            model = leaves()[name].stage.options if name in leaves() else None
            if model is None:
                able = [leaf for leaf, found in leaves().items() if found.stage.options is not None]
                raise ValueError(
                    f"evaluate.options has {name}, which takes no options. "
                    f"Evaluations that take options: {', '.join(able) or 'none here'}"
                )
            try:
                model.model_validate(given)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(map(str, ("evaluate.options", name, *first["loc"])))
                raise ValueError(f"{key} = {first['input']!r}: {first['msg']}") from None
        return self


class Plan(Frozen):
    """How long a run may take. The recipe photos fits its settings to the images, the machine and this time.

    Other recipes have fixed settings.
    """

    minutes: float | None = Field(
        None,
        gt=0,
        le=100_000,
        allow_inf_nan=False,
        description="Minutes that the run may take on this machine (above 0, up to 100000). Sizes, steps and "
        "augmentations follow from it. Empty: there is no plan, and all settings are used as they are.",
    )
    keep: list[str] = Field(
        [],
        description="Keys that the plan leaves as they are, because you set them. The run fills this in.",
    )


class Pin(Frozen):
    """Whether a rerun keeps the networks of an earlier run of this configuration if few images changed."""

    enabled: bool = Field(
        False,
        description="Keep the earlier teacher, clusters and student as long as the limits below hold. "
        "Otherwise train everything again on today's images.",
    )
    growth: float = Field(
        0.1,
        ge=0,
        le=10,
        description="Train again if more images than this share are new, changed or gone. The share is "
        "relative to the images of the earlier training (0 to 10).",
    )
    shift: float = Field(
        0.1,
        ge=0,
        le=10,
        description="Train again if the mean squared distance to the centroids has changed by more than "
        "this share (0 to 10).",
    )
    far: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Train again if more images than this share are farther from their centroid than 99 % "
        "of the images were in the earlier run (0 to 1).",
    )


class Compute(Frozen):
    """Where and how to compute. Fingerprints include the precision, but not device and workers."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU if there is one.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: bf16 if the hardware supports it, otherwise fp32. On CPUs, networks with "
        "depthwise convolutions train in fp32, which is faster there. Features and answers are always "
        "computed in fp32.",
    )
    workers: int = Field(
        0, ge=0, le=256, description="Number of processes that decode images (0 to 256). 0: one per core."
    )

    @property
    def decoders(self) -> int:
        """The number of decoding processes: as configured, or one per core that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


Until = Literal["pretext", "head", "transfer", "finetune", "distill"]
"""The points at which a chain may end, in order."""


class Config(Frozen):
    """Everything a run depends on."""

    recipe: str = Field(
        "",
        pattern=r"^[^/\\\x00]*$",
        max_length=200,
        description="Recipe that this configuration started from. A YAML file takes the keys that it lacks "
        "from the recipe of this name. A name that `list` does not show is only a label.",
    )
    seed: Seed = Field(
        0,
        description="Seed of all random draws, unless a section sets another (0 to 9223372036854775807).",
    )
    plan: Plan = Plan()
    data: Data = Data()
    pretext: PretextConfig = SimCLR()
    embed: Embed = Embed()
    cluster: Cluster = Cluster()
    assign: Assign = Assign()
    transfer: TransferConfig = PseudoLabels()
    student: Student = Student()
    finetune: Finetune = Finetune()
    predict: Predict = Predict()
    distill: Distill = Distill()
    ship: Ship = Ship()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    pin: Pin = Pin()
    compute: Compute = Compute()
    until: Until = Field(
        "distill",
        description="Where the chain ends. pretext: after the teacher. head: after a linear classifier on "
        "the frozen teacher, which learns labels that were propagated to all images; no student. transfer: "
        "after the student is trained without labels. finetune: after teacher and student are fine-tuned on "
        "the few labels. distill: run everything. The models that exist by then are evaluated.",
    )
    review: bool = Field(
        False,
        description="Pause after clustering until a person has looked at the clusters on the run's page and "
        "continues, or chooses another k. This needs a Prefect server.",
    )
    store: str = Field("store", min_length=1, description="Folder of the store: artifacts and runs.")

    @property
    def transfers(self) -> bool:
        """Whether the chain trains a student."""
        return self.until not in ("pretext", "head")

    @property
    def tunes(self) -> bool:
        """Whether the chain uses the few labels."""
        return self.until in ("head", "finetune", "distill")

    @model_validator(mode="after")
    def _rounds_differ(self) -> Config:
        joint = self.predict.neighbours and self.predict.joint
        if self.distill.rounds > 1 and not (joint or self.ship.compare):
            raise ValueError(
                f"distill.rounds = {self.distill.rounds}, but every round would learn the same targets; set "
                "predict.joint and predict.neighbours, so that each round finds neighbours in the features "
                "of the last student"
            )
        return self

    @model_validator(mode="after")
    def _head_needs_a_network(self) -> Config:
        if self.until == "head" and not isinstance(self.pretext, WithNetwork):
            raise ValueError(
                "until = head puts a classifier on the teacher, but pretext.method = "
                f"{self.pretext.method} gives no teacher; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _plans_with_a_teacher(self) -> Config:
        if self.plan.minutes is not None and not isinstance(self.pretext, WithNetwork):
            raise ValueError(
                f"plan.minutes = {self.plan.minutes:g}, but pretext.method = {self.pretext.method} gives no "
                "teacher that could be planned; leave plan.minutes empty and set the lengths yourself"
            )
        return self

    @model_validator(mode="after")
    def _favours_among_compared(self) -> Config:
        if self.distill.init == "favoured" and not self.ship.compare:
            raise ValueError(
                "distill.init = favoured chooses among candidates, but none are compared; set "
                "ship.compare=true, or distill.init=finetuned"
            )
        return self

    @model_validator(mode="after")
    def _bands_are_colours(self) -> Config:
        bands, pretext = self.data.bands or [], self.pretext
        if len(bands) not in (0, 1, 3) and isinstance(pretext, Teacher) and pretext.needs_colours:
            raise ValueError(
                f"data.bands has {len(bands)} bands, but pretext.method = {pretext.method} needs colours; "
                "choose three bands, or another method"
            )
        return self

    @model_validator(mode="after")
    def _pretext_gives_what_transfer_learns(self) -> Config:
        pretext, transfer = self.pretext, self.transfer
        if transfer.learns_from == "teacher" and not isinstance(pretext, WithNetwork):
            raise ValueError(
                f"transfer.method = {transfer.method} learns from the teacher itself, but pretext.method = "
                f"{pretext.method} gives no teacher; change one of them"
            )
        if transfer.learns_from == "codes":
            if not (isinstance(pretext, Teacher) and pretext.codes):
                able = [name for name, model in PRETEXT.items() if issubclass(model, Teacher) and model.codes]
                raise ValueError(
                    f"transfer.labels = codes, but pretext.method = {pretext.method} gives images no codes; "
                    "set transfer.labels = clusters, or choose a pretext.method with codes: "
                    f"{', '.join(able) or 'none here'}"
                )
            elsewhere = [name for name in ("cluster", "assign") if getattr(self, name).data is not None]
            if elsewhere:
                raise ValueError(
                    "transfer.labels = codes: only the images that pretext is trained on have codes; "
                    f"leave {elsewhere[0]}.data empty"
                )
        return self


SECTIONS: tuple[str, ...] = tuple(
    n for n in Config.model_fields if n not in ("recipe", "seed", "until", "review", "store")
)
"""Keys of the configuration whose values are configurations themselves."""
