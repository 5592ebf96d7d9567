"""What goes into `report.html`, as plain data. Imports no library, so importing it costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.phrases import together

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data.checkpoints import LogRow
    from tasks.report.scoreboard import Score
    from tasks.stage import NotNeeded

MODELS: Mapping[str, str] = {
    "teacher": "Teacher, pretext only",
    "teacher-finetuned": "Teacher, fine-tuned",
    "student-transferred": "Student, on pseudo-labels only",
    "student-finetuned": "Student, fine-tuned",
    "student": "Final student (distilled)",
    "scratch": "Same student from scratch",
    "teacher-linear": "Linear head on the frozen teacher",
    "student-linear": "Linear head on the frozen student",
    "teacher-head": "Linear head on the frozen teacher, from propagated labels",
    "shipped": "The model that ships",
}
"""Models in the order of the chain: the name in `scores.parquet` -> the name on the page."""

EVALUATIONS: Mapping[str, str] = {
    "few-label": "Classifier, from the drawn labels",
    "linear": "Linear probe",
    "knn": "kNN",
    "layers": "Linear probe of a layer",
    "nonlinear": "Non-linear probe",
    "label-efficiency": "Few labels, several draws",
    "detection": "Detection, trained further",
    "segmentation": "Segmentation, trained further",
    "multi-label": "Classes in a photograph, trained further",
}
"""Evaluations in the order of the table: the name in `scores.parquet` -> the name on the page."""

FINAL = "student"
"""The model at the end of the chain."""
RANKED_BY = (
    ("few-label", "shipped"),
    ("few-label", "student"),
    ("few-label", "student-finetuned"),
    ("linear", "student-transferred"),
    ("knn", "student-transferred"),
    ("linear", "teacher"),
    ("knn", "teacher"),
)
"""(evaluation, model) by which runs are ranked: the first of these that all runs have."""

HEADLINES = (
    ("few-label", FINAL),
    *((evaluation, "student-transferred") for evaluation in ("detection", "segmentation", "multi-label")),
)
"""(evaluation, model) that the top of the page may be about. It shows the first of them that was scored."""

UNEVEN = 1.5
"""From this ratio of the largest to the smallest class on, the page shows the balanced accuracy."""

ALL_LABELS = frozenset({"linear", "knn"})
"""Evaluations that use the labels of all training images."""


@dataclass(frozen=True)
class Ships:
    """The model that ships.

    Attributes:
        model: its name in `scores.parquet`.
        origin: which model of the chain it is; the same name if none was chosen.
        stage: the stage that made it.
        path: its folder, relative to the store.
        parameters: how many numbers it has.
        size: bytes of its weights on disk.
        backbone: its architecture.
        image_size: side of the images that it takes, px.
        classes: number of classes that it tells apart; 0 without a classifier.
        temperature: its logits are divided by this before the softmax.
        because: why this model was chosen, as a sentence without a full stop; empty if nothing was chosen.
    """

    model: str
    origin: str
    stage: str
    path: str
    parameters: int
    size: int
    backbone: str
    image_size: int
    classes: int = 0
    temperature: float = 1.0
    because: str = ""


@dataclass(frozen=True)
class ClassRow:
    """What the model that ships makes of one class.

    Attributes:
        name: of the class.
        n: number of its test images.
        right: how many of them are right.
        answers: how many test images are taken for this class.
        labels: how many labels of this class were drawn; None if unknown.
        mostly: what its wrong images are taken for most often, and how many are; None if none is wrong.
    """

    name: str
    n: int
    right: int
    answers: int
    labels: int | None = None
    mostly: tuple[str, int] | None = None

    @property
    def recall(self) -> float | None:
        """Share of its images that are right; None without images."""
        return self.right / self.n if self.n else None

    @property
    def precision(self) -> float | None:
        """Share of the answers of this class that are right; None if it is never the answer."""
        return self.right / self.answers if self.answers else None


@dataclass(frozen=True)
class Mistake:
    """A test image that the model gets wrong.

    Attributes:
        uri: the image's, relative to its source.
        true: name of its class.
        predicted: name of the answer.
        confidence: probability of the answer, in [0, 1].
        image: (h, w, 3) uint8.
    """

    uri: str
    true: str
    predicted: str
    confidence: float
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class ConfidenceBin:
    """Test images of similar confidence.

    Attributes:
        n: number of images.
        low: smallest confidence.
        high: largest confidence.
        confidence: mean confidence.
        accuracy: share that is right.
    """

    n: int
    low: float
    high: float
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Answered:
    """The accuracy if only the most confident answers count.

    Attributes:
        share: share of the test images that are answered, in (0, 1].
        n: number of these images.
        threshold: smallest confidence among them.
        accuracy: share of these that are right.
    """

    share: float
    n: int
    threshold: float
    accuracy: float


@dataclass(frozen=True)
class Answers:
    """What the model that ships says of the labelled test images.

    Attributes:
        n: number of these images, at least 1.
        right: how many are right.
        balanced: mean recall over the classes with test images.
        macro_f1: mean F1 over the classes.
        confidence: mean confidence.
        log_loss: mean of -ln p(true class).
        brier: mean squared distance to the true class, in [0, 2].
        error: debiased calibration error, in [0, 1].
        error_interval: its 95 % interval.
        bins: the bins behind it, in order of confidence.
        histogram: test images by confidence, in equal steps from 0 to 1.
        answered: the accuracy of the most confident answers, in order of the share.
        classes: every class, those with the lowest recall first.
        names: names of the classes by number.
        matrix: (C, C) number of images by true class (row) and answer (column).
        pairs: classes that are taken for each other: (name, name, images of either), most often first.
        mistakes: wrong images, the most confident first; not all of them.
    """

    n: int
    right: int
    balanced: float
    macro_f1: float
    confidence: float
    log_loss: float
    brier: float
    error: float
    error_interval: tuple[float, float]
    bins: tuple[ConfidenceBin, ...]
    histogram: tuple[int, ...]
    answered: tuple[Answered, ...]
    classes: tuple[ClassRow, ...]
    names: tuple[str, ...]
    matrix: NDArray[np.int64]
    pairs: tuple[tuple[str, str, int], ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of the images that are right."""
        return self.right / self.n

    @property
    def unevenness(self) -> float:
        """Test images of the largest class per image of the smallest one that has any."""
        sizes = [row.n for row in self.classes if row.n]
        return max(sizes) / min(sizes)

    @property
    def uneven(self) -> bool:
        """Whether the balanced accuracy says something else than the accuracy."""
        return self.unevenness >= UNEVEN


@dataclass(frozen=True)
class StageRow:
    """A stage of the run.

    Attributes:
        label: its name in the run.
        kind: the kind of its artifact.
        fingerprint: the artifact's fingerprint.
        inputs: labels of the stages it reads.
        seconds: how long building the artifact took, in whichever run built it.
        rows: rows of the artifact, None for kinds without rows. `tasks.phrases.UNITS` says what they count.
    """

    label: str
    kind: str
    fingerprint: str
    inputs: tuple[str, ...]
    seconds: float
    rows: int | None = None


@dataclass(frozen=True)
class Clusters:
    """What K-means found, or the codes that a pretext method gave.

    Attributes:
        sizes: (k,) number of training points nearest to each final centroid, or of images with each code.
        objective: mean squared distance after each iteration of the best restart; empty for codes.
        trained_on: how many points K-means saw.
        total: how many there are.
    """

    sizes: Sequence[int] | NDArray[np.int64]
    objective: tuple[float, ...]
    trained_on: int
    total: int

    @property
    def empty(self) -> int:
        """How many clusters have no point."""
        return sum(int(size) == 0 for size in self.sizes)

    @property
    def imbalance(self) -> float:
        """K Σ n² / (Σ n)² (faiss's imbalance factor): 1 for equal sizes, k if one cluster has all points."""
        sizes = [int(size) for size in self.sizes]
        total = sum(sizes)
        return len(sizes) * sum(n * n for n in sizes) / total**2 if total else float("nan")


@dataclass(frozen=True)
class ClusterSheet:
    """The images nearest to a centroid.

    Attributes:
        cluster: 0 to k - 1.
        reason: why the page shows it: largest, purest, ...
        images: (h, w, 3) uint8 each, nearest first.
        size: number of images assigned to it.
        share: its share of all assigned images, in [0, 1].
        majority: the name of its most frequent class, None without labels.
        purity: that class's share of its labelled images, in [0, 1], None without labels.
        labelled: number of its labelled images.
    """

    cluster: int
    reason: str
    images: tuple[NDArray[np.uint8], ...]
    size: int
    share: float
    majority: str | None = None
    purity: float | None = None
    labelled: int = 0


@dataclass(frozen=True)
class ClusterQuality:
    """How well clusters and classes agree. Training never sees it. All but ARI are in [0, 1].

    Attributes:
        nmi: normalised mutual information, arithmetic mean.
        ami: the same, adjusted for chance.
        ari: adjusted Rand index, in [-0.5, 1].
        purity: share of images whose class is their cluster's majority.
        n: number of labelled images that were compared.
    """

    nmi: float
    ami: float
    ari: float
    purity: float
    n: int


@dataclass(frozen=True)
class ModelCost:
    """What a model costs at inference, for one image.

    Attributes:
        model: its name on the page.
        weight_bits: size of its weights: one bit per binary weight, 32 bits for every other.
        real_operations: multiply-adds of real numbers.
        binary_operations: multiply-adds of signs.
        final: True for the model at the end of the chain.
    """

    model: str
    weight_bits: int
    real_operations: int
    binary_operations: int
    final: bool = False

    @property
    def operations(self) -> float:
        """Real ones plus binary ones, with 64 binary ones counted as one."""
        return together(self.real_operations, self.binary_operations)


@dataclass(frozen=True)
class Bought:
    """The teacher, the model that ships, or a file of it, in the table that compares them.

    Attributes:
        name: what it is.
        accuracy: share of the test images that it answers rightly; None if nobody measured it.
        interval: its 95 % interval.
        size: bytes on disk.
        operations: multiply-adds for one image, as `together` counts them.
        rate_one_core: images per second on one core; None if nobody measured it.
        rate: images per second on all cores; None if nobody measured it.
        missing: True if no export has written this file yet; then nothing else is known.
        refused: why the file was refused, as a clause; then nothing else is known.
        final: True for the model that ships.
    """

    name: str
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    size: float = 0.0
    operations: float = 0.0
    rate_one_core: float | None = None
    rate: float | None = None
    missing: bool = False
    refused: str = ""
    final: bool = False


@dataclass(frozen=True)
class Counts:
    """How many images there are, and how many labels were drawn.

    Attributes:
        train: images of the train split.
        unlabelled: images of the unlabelled split.
        test: images of the test split.
        labelled: labels drawn for training, 0 without labels.
        validation: labels drawn for choosing epochs or rates.
        fewest: labels of the class with the fewest, training and validation together; None if unknown.
        most: labels of the class with the most; None if unknown.
        leaked: test images whose picture a training image shows.
    """

    train: int
    unlabelled: int
    test: int
    labelled: int = 0
    validation: int = 0
    fewest: int | None = None
    most: int | None = None
    leaked: int = 0


@dataclass(frozen=True)
class Rejected:
    """Images that were left out: how many, and (uri, reason) of the first."""

    count: int
    first: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TwinRow:
    """Two images that show the same picture.

    Attributes:
        first: split and uri of an image, such as `train cat/1.png`.
        second: split and uri of the other image.
        kind: equal, near or mirrored.
        correlation: of their detail, at most 1.
        images: both images side by side, (S, S, 3) uint8 each; empty if one was left out.
    """

    first: str
    second: str
    kind: str
    correlation: float
    images: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True)
class Twins:
    """How many pairs of images show the same picture, and the first of them.

    Attributes:
        count: number of pairs.
        across: number of pairs between a test image and another split.
        first: the first pairs; those across splits come first.
    """

    count: int
    across: int
    first: tuple[TwinRow, ...] = ()


@dataclass(frozen=True)
class Group:
    """A cluster that has images on the map.

    Attributes:
        size: number of all its images.
        majority: number of its most frequent class, None without labels.
        purity: that class's share of its images with a known class, in [0, 1]; None without labels.
        known: number of these images.
    """

    size: int
    majority: int | None = None
    purity: float | None = None
    known: int = 0


@dataclass(frozen=True)
class ImageMap:
    """Some images of the run, placed so that images with similar features are near each other.

    All arrays have N items, at least one.

    Attributes:
        x: place on the first axis, float.
        y: place on the second axis, float.
        label: number of the class, -1 if it is unknown.
        labelled: whether this label was drawn, so that the run learned from it.
        split: train, unlabelled or test.
        cluster: -1 without one.
        distance: to the centroid of its cluster; nan if there is none.
        predicted: number of the answer of the model that ships, -1 without one.
        confidence: probability of the answer, nan without one.
        uri: the image's, relative to its source.
        total: number of images of which these are some.
        random: number of these that are random ones.
        projection: pca or tsne.
        explained: share of the variance along each axis; None if axes have no meaning.
        sprite: the pictures of all images as one WebP file, in rows.
        side: side of a picture, px.
        columns: pictures in a row.
        groups: cluster -> what it holds.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    label: NDArray[np.int64]
    labelled: NDArray[np.bool_]
    split: Sequence[str]
    cluster: NDArray[np.int64]
    distance: NDArray[np.float32]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    uri: Sequence[str]
    total: int
    random: int
    projection: str
    explained: tuple[float, float] | None
    sprite: bytes
    side: int
    columns: int
    groups: Mapping[int, Group] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows. A run may lack the fields that have a default.

    Attributes:
        recipe: its name or file.
        seed: the run's seed.
        stages: every stage before the report; each comes after those it reads.
        counts: images and labels.
        ships: the model that ships; None if no network was trained.
        answers: what it says of the test images; None if they have no labels, or it has no classifier.
        not_needed: the stages that this run leaves out.
        warnings: what every reader should know, such as a training whose outputs were all alike.
        map: a map of the images; None if none was drawn.
        logs: stage label -> rows of its `log.parquet`.
        clusters: what the student learned.
        codes: True if the labels are the pretext method's own codes rather than K-means clusters.
        sheets: the clusters whose images are shown.
        quality: how well clusters and classes agree.
        scores: those rows of `scores.parquet` that belong to models.
        costs: what the models cost, in the order of the chain.
        bought: teacher and student side by side; empty without a classifier that was measured.
        cores: number of cores of the machine that measured images per second; None if none did.
        classes: names of the classes, empty without labels.
        rejected: images that were left out.
        twins: images that show the same picture; None if they were not compared.
        notes: sentences for the reader.
        understood: what was understood of the images, as `subject: sentence`.
        config: the resolved configuration as YAML.
        environment: (name, value) of library versions, device, precision and threads.
        models: models in order: the name in `scores` -> the name on the page.
        evaluations: evaluations in order: the name in `scores` -> the name on the page.
        all_labels: evaluations that use the labels of all training images.
        headlines: what the top of the page may be about, as in HEADLINES.
        scratch: the model that the headline compares with.
    """

    recipe: str
    seed: int
    stages: tuple[StageRow, ...]
    counts: Counts
    ships: Ships | None = None
    answers: Answers | None = None
    map: ImageMap | None = None
    not_needed: tuple[NotNeeded, ...] = ()
    warnings: tuple[str, ...] = ()
    logs: Mapping[str, Sequence[LogRow]] = field(default_factory=dict)
    clusters: Clusters | None = None
    codes: bool = False
    sheets: tuple[ClusterSheet, ...] = ()
    quality: ClusterQuality | None = None
    scores: tuple[Score, ...] = ()
    costs: tuple[ModelCost, ...] = ()
    bought: tuple[Bought, ...] = ()
    cores: int | None = None
    classes: tuple[str, ...] = ()
    rejected: Rejected = Rejected(0)
    twins: Twins | None = None
    notes: tuple[str, ...] = ()
    understood: tuple[str, ...] = ()
    config: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    models: Mapping[str, str] = field(default_factory=lambda: MODELS)
    evaluations: Mapping[str, str] = field(default_factory=lambda: EVALUATIONS)
    all_labels: frozenset[str] = ALL_LABELS
    headlines: tuple[tuple[str, str], ...] = HEADLINES
    scratch: str = "scratch"
