"""The configuration: at once the flow's parameters, the form in Prefect's UI, the YAML and the `--set` keys.

Importable without torch, prefect or pyarrow. Limits stand in the descriptions as well, since Prefect's forms show only
those. A recipe (flows/recipes) is a `Config`; so is a YAML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from data.errors import ConfigError
from data.types import Frozen
from models.configs import (
    PRETEXT,
    TRANSFER,
    Backbone,
    Distill,
    Finetune,
    PretextConfig,
    PseudoLabels,
    SimCLR,
    Teacher,
    TransferConfig,
)
from models.configs.downstream import Detection, MultiLabel, NonLinear, Segmentation

Source = str
_SOURCE = "digits, folder:PATH, parquet:PATH, torchvision:NAME or voc:PATH; PATH may be any fsspec URL"


class Data(Frozen):
    """Which images, and which of their labels may be used."""

    train: Source = Field("digits", min_length=1, description=f"Training images: {_SOURCE}.")
    test: Source | None = Field(
        None, description="Test images, read last, same forms; empty: 20 % of train is held out."
    )
    unlabelled: Source | None = Field(None, description="More images without labels, same forms; empty: none.")
    image_size: int = Field(
        32, ge=8, le=1024, description="Side of the square images that networks see, px (8 to 1024)."
    )
    label_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the training labels used (above 0, up to 1), stratified; or give labels_per_class.",
    )
    labels_per_class: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Labels used of each class (1 to 1000000); or give label_fraction. Both empty: all labels.",
    )
    label_seed: int | None = Field(None, ge=0, description="Seed of the draw of labels; empty: the run's.")
    max_rejected: float = Field(
        0.05, ge=0, le=1, description="Largest share of images that may be unreadable (0 to 1); past it the run stops."
    )

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> Data:
        if self.label_fraction is not None and self.labels_per_class is not None:
            raise ValueError("give label_fraction or labels_per_class, not both")
        return self


class Embed(Frozen):
    """Features of every image, from one layer of the teacher."""

    layer: str = Field(
        "features",
        min_length=1,
        description="features (pooled backbone output), last (the same, or what a method keeps of its head: head1 of a SimCLR teacher), or a layer such as conv4 or layer3, averaged over positions; without effect where pretext trains no network.",
    )
    batch_size: int = Field(512, ge=1, le=65_536, description="Images at a time (1 to 65536).")


class Cluster(Frozen):
    """K-means on the features."""

    k: int = Field(
        2000, ge=1, le=1_000_000, description="Number of clusters (1 to 1000000, at most the number of images)."
    )
    iterations: int = Field(20, ge=1, le=1000, description="Most iterations of K-means over all images (1 to 1000).")
    tolerance: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Iterations end when one lowers the objective by no more than this share (0 to below 1): 0 when nothing changes, 0.0001 saves time on large sets.",
    )
    restarts: int = Field(1, ge=1, le=100, description="Starts to choose the best of (1 to 100).")
    pca: int | None = Field(
        None, ge=1, le=8192, description="Dimensions kept by PCA-whitening (1 to 8192); empty: no PCA."
    )
    whitening: float = Field(
        1.0,
        ge=0,
        le=1,
        description="How far PCA brings its dimensions to equal variance (0 to 1): 0 none, 1 whitening.",
    )
    normalise: bool = Field(True, description="Divide each vector by its length before clustering.")
    sample: int | None = Field(
        None, ge=1, description="Train K-means on this many images drawn at random; empty: on all."
    )
    seed: int | None = Field(None, ge=0, description="Seed of this stage; empty: the run's.")
    data: Source | None = Field(
        None,
        description="Cluster the images of another source instead of train and unlabelled; same forms as data.train.",
    )


class Assign(Frozen):
    """Pseudo-labels: the nearest centroid."""

    data: Source | None = Field(
        None,
        description="Label, and train the student on, the images of another source; empty: those that were clustered.",
    )


class Student(Frozen):
    """The network that is trained from scratch on the pseudo-labels and kept in the end."""

    backbone: Backbone = Field("alexnet", description="Student network.")
    width: float = Field(1.0, gt=0, le=8, description="Multiplies the backbone's channels (above 0, up to 8).")


class Predict(Frozen):
    """The fine-tuned teacher's probabilities for all images, and how neighbours in feature space smooth them."""

    views: int = Field(
        1, ge=1, le=64, description="Random views averaged for each image (1 to 64); 1: the centre crop alone."
    )
    mirror: bool = Field(False, description="Average the centre crop with its mirror image; not for digits or text.")
    student: bool = Field(
        False, description="Average in the fine-tuned student's probabilities: another network errs elsewhere."
    )
    neighbours: int = Field(
        0,
        ge=0,
        le=1000,
        description="Propagate labels over the graph of this many nearest neighbours in clustering space (0 to 1000); 0: the teacher's probabilities as they are.",
    )
    alpha: float = Field(
        0.97,
        gt=0,
        lt=1,
        description="How far labels propagate: weight of the neighbours against an image's own label or prior (above 0, below 1).",
    )
    prior: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Weight of the teacher's probabilities, as prior of images without a label, against a label (0 to 100); 0: the labels alone.",
    )
    joint: bool = Field(
        False,
        description="Find neighbours in the teacher's features beside a second network's: the fine-tuned teacher's, after a round of distillation the student's.",
    )
    probe: bool = Field(
        False, description="Average in a logistic regression on the teacher's frozen features, by a third."
    )
    balance: bool = Field(True, description="Balance what is propagated to the classes' shares in the draw of labels.")


Protocol = Literal[
    "knn",
    "linear",
    "few-label",
    "clusters",
    "layers",
    "nonlinear",
    "label-efficiency",
    "stability",
    "detection",
    "segmentation",
    "multi-label",
]
USUAL: tuple[Protocol, ...] = ("knn", "linear", "few-label")
"""Protocols that measure a model in seconds."""
CLOSER: tuple[Protocol, ...] = ("layers", "nonlinear")
"""Protocols that look into a network."""
DOWNSTREAM: tuple[Protocol, ...] = ("detection", "segmentation", "multi-label")
"""Protocols that train a network further, on `evaluate.voc`."""


class Evaluate(Frozen):
    """What is measured, on the test images."""

    protocols: list[Protocol] = Field(
        ["knn", "linear", "few-label", "clusters"],
        description="knn and linear use all train labels, as those protocols say; few-label is the accuracy of the trained classifiers; clusters compares pseudo-labels with true ones; layers probes each layer, nonlinear trains an MLP and what is above a layer; label-efficiency draws several few labels anew; stability clusters with other seeds; detection, segmentation and multi-label train the student further on evaluate.voc, beside the same network from scratch.",
    )
    layer_epochs: int = Field(
        10, ge=1, le=1000, description="Passes over the labelled images in probes of layers (1 to 1000)."
    )
    layer_rates: list[Annotated[float, Field(gt=0, le=1000)]] = Field(
        [0.1, 0.3, 1.0, 3.0, 10.0],
        min_length=1,
        max_length=16,
        description="Learning rates of probes of layers, trained side by side, the best chosen on a tenth of the training labels (1 to 16, each above 0, up to 1000).",
    )
    layer_standardise: bool = Field(
        True,
        description="Bring each value of a layer to mean 0 and equal variance first, so that rates mean the same everywhere; otherwise probes see layers as they are.",
    )
    nonlinear: NonLinear = Field(NonLinear(), description="How the protocol nonlinear trains.")
    label_fractions: list[float] = Field(
        [0.01, 0.1],
        max_length=16,
        description="Shares of the labels in label-efficiency (at most 16, each above 0, up to 1).",
    )
    labels_per_class: list[int] = Field(
        [], max_length=16, description="Labels of each class in label-efficiency (at most 16, each 1 or more)."
    )
    label_draws: int = Field(
        3, ge=1, le=100, description="Draws of each number of labels in label-efficiency (1 to 100)."
    )
    stability_seeds: int = Field(3, ge=2, le=100, description="Clusterings compared with each other (2 to 100).")
    voc: Source | None = Field(
        None,
        description="Photographs with boxes or masks for detection, segmentation and multi-label: voc:PATH, a folder in PASCAL VOC's layout.",
    )
    detection: Detection = Field(Detection(), description="How a detector is trained on evaluate.voc.")
    segmentation: Segmentation = Field(Segmentation(), description="How a segmenter is trained on evaluate.voc.")
    multi_label: MultiLabel = Field(
        MultiLabel(), description="How a classifier of photographs is trained on evaluate.voc."
    )
    knn_neighbours: list[int] = Field(
        [20, 200],
        min_length=1,
        max_length=16,
        description="Values of k of the weighted nearest-neighbour classifier (1 to 16 of them).",
    )
    knn_temperatures: list[Annotated[float, Field(gt=0, le=10)]] = Field(
        [0.07],
        min_length=1,
        max_length=16,
        description="Temperatures T of its votes exp(s / T) (1 to 16, each above 0, up to 10); each is tried with each k.",
    )

    alert: float = Field(
        0.02,
        ge=0,
        le=1,
        description="The event knowledge-transfer.score.dropped is emitted where the leading score falls by more than this against the run before (0 to 1).",
    )

    @property
    def downstream(self) -> list[Protocol]:
        """The protocols among those asked for that train a network further."""
        return [name for name in DOWNSTREAM if name in self.protocols]

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Evaluate:
        if self.downstream and not (self.voc or "").startswith("voc:"):
            raise ValueError(
                f"evaluate.protocols has {self.downstream[0]}, which needs photographs with annotations: set "
                "evaluate.voc=voc:PATH, a folder in VOC's layout"
            )
        return self


class Pin(Frozen):
    """Whether a rerun keeps what an earlier run of the same configuration has trained, while the images changed little."""

    enabled: bool = Field(
        False,
        description="Keep the earlier teacher, clusters and student as long as the limits below hold; else all is trained anew on today's images.",
    )
    growth: float = Field(
        0.1,
        ge=0,
        le=10,
        description="Train anew where more images than this are new, changed or gone, as a share of those trained on (0 to 10).",
    )
    shift: float = Field(
        0.1,
        ge=0,
        le=10,
        description="Train anew where the mean squared distance to the centroids has shifted by more than this share of it (0 to 10).",
    )
    far: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Train anew where more images than this share lie farther from their centroid than 99 % did (0 to 1).",
    )


class Compute(Frozen):
    """Where and how to compute. Precision is part of what is asked; device and workers are not."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU if there is one.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware computes in it, else fp32."
    )
    workers: int = Field(0, ge=0, le=256, description="Processes that decode images (0 to 256); 0: one per core.")


Until = Literal["pretext", "transfer", "finetune", "distill"]
"""How far a chain goes, in order."""


class Config(Frozen):
    """Everything a run depends on."""

    recipe: str = Field("", description="Name of the recipe this configuration started from; informative.")
    seed: int = Field(0, ge=0, description="Seed of everything that has none of its own.")
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
    evaluate: Evaluate = Evaluate()
    pin: Pin = Pin()
    compute: Compute = Compute()
    until: Until = Field(
        "distill",
        description="Where the chain ends: pretext (the teacher alone, or its features), transfer (the student without any label), finetune (both on the few labels), distill (all of it). What there is by then is evaluated.",
    )
    review: bool = Field(
        False,
        description="Wait after clustering until a person has looked at the clusters on the run's page and says go on, or names another k. Needs a Prefect server.",
    )
    store: str = Field("store", min_length=1, description="Folder of the store: artifacts and runs.")

    @property
    def transfers(self) -> bool:
        """Whether the chain comes to train a student."""
        return self.until != "pretext"

    @property
    def tunes(self) -> bool:
        """Whether the chain comes to use the few labels."""
        return self.until in ("finetune", "distill")

    @model_validator(mode="after")
    def _rounds_differ(self) -> Config:
        if self.distill.rounds > 1 and not (self.predict.neighbours and self.predict.joint):
            raise ValueError(
                f"distill.rounds = {self.distill.rounds}, but every round would learn the same: set predict.joint and "
                "predict.neighbours, so that labels are propagated anew over neighbours that the student finds"
            )
        return self

    @model_validator(mode="after")
    def _pretext_gives_what_transfer_learns(self) -> Config:
        pretext, transfer = self.pretext, self.transfer
        if transfer.learns_from == "teacher" and not isinstance(pretext, Teacher):
            raise ValueError(
                f"transfer.method = {transfer.method} learns from the teacher itself, and pretext.method = "
                f"{pretext.method} trains none; choose another of either"
            )
        if transfer.learns_from == "codes":
            if not (isinstance(pretext, Teacher) and pretext.codes):
                able = [name for name, model in PRETEXT.items() if issubclass(model, Teacher) and model.codes]
                raise ValueError(
                    f"transfer.labels = codes, but pretext.method = {pretext.method} gives images none; choose clusters, "
                    f"or a pretext.method of {', '.join(able) or 'another package'}"
                )
            elsewhere = [name for name in ("cluster", "assign") if getattr(self, name).data is not None]
            if elsewhere:
                raise ValueError(
                    f"transfer.labels = codes are of the images that pretext is trained on; leave {elsewhere[0]}.data empty"
                )
        return self


SECTIONS: tuple[str, ...] = tuple(
    n for n, f in Config.model_fields.items() if n not in ("recipe", "seed", "until", "review", "store")
)


_EITHER = (("label_fraction", "labels_per_class"),)
"""Keys of which only one is set: giving one takes the other back."""


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`, section by section. Choosing another `method` drops the former's parameters.

    Args:
        base: a configuration as nested dicts.
        over: the keys that change.

    Returns:
        A new dict; neither argument is changed.
    """
    out = dict(base)
    for pair in _EITHER:
        given = [name for name in pair if over.get(name) is not None]
        if len(given) == 1:
            out.update({name: None for name in pair if name in base})
    for name, value in over.items():
        below = out.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            other_method = "method" in value and value["method"] != below.get("method")
            out[name] = dict(value) if other_method else merge(below, value)
        else:
            out[name] = value
    return out


def resolve(values: dict[str, Any]) -> Config:
    """Check a configuration given as nested dicts.

    Raises:
        ConfigError: naming the key, the value and what is allowed, one line for all faults.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_faults(error, values))) from None


_METHODS: dict[str, Mapping[str, type[Frozen]]] = {"pretext": PRETEXT, "transfer": TRANSFER}


def methods(section: str) -> Mapping[str, type[Frozen]]:
    """The models of a section by the value of their `method`."""
    return _METHODS[section]


def _faults(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """One readable phrase a fault: the key as in `--set`, the value, what is allowed."""
    lines: list[str] = []
    for section in _METHODS:  # a union's own errors name every branch: check against the chosen one alone
        given = values.get(section)
        if not isinstance(given, dict):
            continue
        known = methods(section)
        chosen = known.get(given.get("method", ""))
        if "method" not in given and len(known) > 1:
            lines.append(f"{section}.method is missing; choose one of {', '.join(known)}")
        elif chosen is None and "method" in given:
            lines.append(f"{section}.method = {given['method']!r} is not known; choose one of {', '.join(known)}")
        elif chosen is not None:
            try:
                chosen.model_validate(given)
            except ValidationError as inner:
                lines += [_phrase((section, *e["loc"]), e, chosen) for e in inner.errors()]
    for e in error.errors():
        if e["loc"] and e["loc"][0] in _METHODS and len(e["loc"]) > 1:
            continue
        lines.append(_phrase(e["loc"], e, Config))
    return lines or [str(error)]


def _phrase(loc: tuple[int | str, ...], e: Any, model: type[Frozen]) -> str:
    key = ".".join(map(str, loc))
    if e["type"] == "extra_forbidden":
        siblings = _siblings(loc, model)
        return f"unknown key {key} = {e['input']!r}; {'.'.join(map(str, loc[:-1])) or 'the configuration'} has {', '.join(siblings)}"
    if e["type"] == "missing":
        return f"{key} is missing"
    message = e["msg"].removeprefix("Value error, ")
    return f"{key} = {e['input']!r}: {message[:1].lower()}{message[1:]}" if key else message


def _siblings(loc: tuple[int | str, ...], model: type[Frozen]) -> list[str]:
    if len(loc) <= 1:
        return list(model.model_fields)
    if model is not Config:
        return list(model.model_fields)
    annotation = Config.model_fields[str(loc[0])].annotation
    return list(getattr(annotation, "model_fields", {}))
