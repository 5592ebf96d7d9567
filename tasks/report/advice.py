"""What to try next: rules that look for evidence in a run. A rule that finds some *fires*.

Each rule returns a piece of advice with its figures, or None if it doesn't fire.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from data.intervals import Z95, difference_interval, wilson
from tasks.phrases import percent
from tasks.report.content import ReportData
from tasks.report.numbers import count, narrow, points
from tasks.report.scoreboard import PROPORTIONS, Score

Rule = Callable[[ReportData], str | None]

WIDE = 0.1
"""The interval of the accuracy is too wide if its width is at least this."""
WANTED = 0.05
"""Half the width of the interval that a user should aim for."""
FEW = 25
"""A class has few labels if it has at most this number."""
LISTED = 5
"""Maximum number of classes, or of pairs of classes, that a sentence lists."""
RARE = 3
"""A class is rare if another one has at least this many times its labels (as `tasks.understood.UNEVEN`)."""
OFTEN = 0.1
"""A pair of classes is often confused if it has at least this share of all mistakes."""
AT_LEAST = 5
"""Pairs with fewer mistakes than this are not listed."""
GAP = 0.05
"""Differences of accuracies up to this are no evidence."""
UNSURE = 0.1
"""Confidence and accuracy disagree if mean confidence and accuracy are at least this far apart."""


def advice(data: ReportData) -> list[str]:
    """The advice of all rules that fire, the most important first."""
    found = (rule(data) for rule in RULES)
    return [sentence for sentence in found if sentence is not None]


def unmeasured(data: ReportData) -> str | None:
    """Fires if a classifier was trained, but nothing says how good it is."""
    if data.ships is None or not data.ships.classes or data.answers is not None or data.counts.test:
        return None
    return (
        "Nobody knows how good this model is, because there are no test images. "
        "Label some that it was not trained on, and give them as data.test."
    )


def leaked_tests(data: ReportData) -> str | None:
    """Fires if training images show the same pictures as test images."""
    leaked, test = data.counts.leaked, data.counts.test
    if not leaked:
        return None
    return (
        f"{_count(leaked)} of the {_count(test)} test images ({_percent(leaked / test)}) "
        f"{'shows a picture that is' if leaked == 1 else 'show pictures that are'} also among the training "
        "images, so the accuracy may be too high. Set data.leaks=drop to train without them."
    )


def few_test_images(data: ReportData) -> str | None:
    """Fires if the interval of the accuracy is so wide that it decides little."""
    if data.answers is None:
        return None
    value, n = data.answers.accuracy, data.answers.n
    low, high = wilson(value, n)
    if high - low < WIDE:
        return None
    # Of all accuracies in the interval, the one nearest to a half needs the most images.
    p = min(max(0.5, low), high)
    enough = ceil(Z95**2 * p * (1 - p) / WANTED**2)
    return (
        f"With {_count(n)} test images, the accuracy may be anything from {_percent(low)} to "
        f"{_percent(high)}. Label about {_count(enough)} to know it to ±{100 * WANTED:.0f} points, "
        "before you compare settings by it."
    )


def guessing(data: ReportData) -> str | None:
    """Fires if the model that ships is hardly better than a guess."""
    if data.answers is None:
        return None
    found, classes = data.answers, len(data.answers.names)
    largest = max(found.classes, key=lambda row: row.n)
    low, _ = wilson(found.accuracy, found.n)
    if low > largest.n / found.n or found.balanced >= 2 / classes:
        return None
    return (
        f"The model is hardly better than a guess. It is right for {_percent(found.accuracy)} of the test "
        f"images. Always naming “{largest.name}” is right for {_percent(largest.n / found.n)}. The model's "
        f"mean recall is {_percent(found.balanced)}; a guess has {_percent(1 / classes)}. Label more images, "
        f"and {_longer(data, 'pretext', 'train every stage')}, before you change anything else."
    )


def pretext_near_chance(data: ReportData) -> str | None:
    """Fires if nearest neighbours in the teacher's features are no better than always naming one class."""
    found = _score(data, "knn", "teacher")
    if found is None:
        return None
    if data.answers is not None:
        largest = max(row.n for row in data.answers.classes) / data.answers.n
    elif data.classes:
        largest = 1 / len(data.classes)
    else:
        return None
    if wilson(found.value, found.n)[0] > largest:
        return None
    return (
        f"The teacher's features tell little about the classes. kNN with all labels is right for "
        f"{_percent(found.value)} of the test images. Always naming the largest class is right for "
        f"{_percent(largest)}. You can {_longer(data, 'pretext', 'train the pretext')}, or choose another "
        "pretext.method."
    )


def transfer_lost(data: ReportData) -> str | None:
    """Fires if the student's features after transfer are worse than the teacher's."""
    teacher, student = (_score(data, "knn", model) for model in ("teacher", "student-transferred"))
    if teacher is None or student is None or not _ahead(teacher, student):
        return None
    return (
        f"Transfer lost {_points(teacher.value - student.value)} points of kNN accuracy: "
        f"{_percent(teacher.value)} with the teacher's features, {_percent(student.value)} with the "
        f"student's. You can {_longer(data, 'transfer', 'train the transfer')}, use more clusters "
        "(cluster.k), or use a wider student (student.width)."
    )


def teacher_knows_more(data: ReportData) -> str | None:
    """Fires if the teacher's features, with all labels, are far ahead of the model that ships."""
    teacher = _score(data, "knn", "teacher")
    ours = None if data.ships is None else _score(data, "few-label", data.ships.model)
    if data.ships is None or data.ships.origin.startswith("teacher") or teacher is None or ours is None:
        return None
    if not _ahead(teacher, ours):
        return None
    return (
        f"The teacher's features hold more than the model uses: kNN with all labels is right for "
        f"{_percent(teacher.value)} of the test images, the model for {_percent(ours.value)}. You can label "
        f"more images, {_longer(data, 'distill', 'distil')}, or use a wider student (student.width)."
    )


def scratch_ahead(data: ReportData) -> str | None:
    """Fires if the same network, trained on the drawn labels alone, is better than what ships."""
    scratch = _score(data, "few-label", data.scratch)
    ours = None if data.ships is None else _score(data, "few-label", data.ships.model)
    if scratch is None or ours is None or not _ahead(scratch, ours, gap=0):
        return None
    return (
        f"The chain does harm here: the same network from scratch is right for {_percent(scratch.value)} of "
        f"the test images, the model for {_percent(ours.value)}. Check that the augmentations keep what "
        "tells the classes apart (colour, orientation, size), and that the view sizes fit the images."
    )


def few_labels(data: ReportData) -> str | None:
    """Fires if classes with few labels have a recall below the mean of all classes, beyond chance."""
    if data.answers is None:
        return None
    worse = [
        row
        for row in data.answers.classes
        if row.recall is not None
        and row.labels is not None
        and row.labels <= FEW
        and wilson(row.recall, row.n)[1] < data.answers.balanced
    ]
    if not worse:
        return None
    named = ", ".join(
        f"“{row.name}” ({_of(row.labels or 0, 'label', 'labels')}, {_count(row.right)} of {_count(row.n)} "
        "right)"
        for row in worse[:LISTED]
    )
    more = f" and {_count(len(worse) - LISTED)} more" if len(worse) > LISTED else ""
    return (
        f"Label more images of these classes first: {named}{more}. "
        f"Over all classes, the mean recall is {_percent(data.answers.balanced)}."
    )


def uneven_labels(data: ReportData) -> str | None:
    """Fires if the rare classes are recognised less often than the others, beyond chance."""
    if data.answers is None:
        return None
    known = [row for row in data.answers.classes if row.labels and row.recall is not None]
    most = max((row.labels or 0 for row in known), default=0)
    rare = [row for row in known if RARE * (row.labels or 0) <= most]
    often = [row for row in known if row not in rare]
    if not rare:
        return None
    (right, n), (right_often, n_often) = (
        (sum(row.right for row in rows), sum(row.n for row in rows)) for rows in (rare, often)
    )
    if wilson(right / n, n)[1] >= wilson(right_often / n_often, n_often)[0]:
        return None
    return (
        f"The labels are uneven: {_of(len(rare), 'class has', 'classes have')} at most a third of the "
        f"largest class's labels. The model is right about {_percent(right / n)} of their images, and about "
        f"{_percent(right_often / n_often)} of the others. If every class matters the same, set "
        "finetune.balanced=true, or label more images of the rare classes."
    )


def confused_pairs(data: ReportData) -> str | None:
    """Fires if a few pairs of classes make up a large part of all mistakes."""
    if data.answers is None:
        return None
    wrong = data.answers.n - data.answers.right
    often = [pair for pair in data.answers.pairs if pair[2] >= max(AT_LEAST, OFTEN * wrong)]
    if not often:
        return None
    named = "; ".join(
        f"“{first}” and “{second}” ({_count(times)})" for first, second, times in often[:LISTED]
    )
    share = sum(times for *_, times in often[:LISTED]) / wrong
    return (
        f"Look at the classes that are taken for each other: {named}. These are {_percent(share)} of the "
        f"{_count(wrong)} mistakes. Their labels may be mixed up, or this image size or the augmentations "
        "may hide what tells them apart. If neither is the case, label more of them."
    )


def confidence_off(data: ReportData) -> str | None:
    """Fires if the mean confidence is far from the accuracy."""
    if data.answers is None:
        return None
    sure, right = data.answers.confidence, data.answers.accuracy
    low, high = wilson(right, data.answers.n)
    if abs(sure - right) < UNSURE or low <= sure <= high:
        return None
    how = "too confident" if sure > right else "not confident enough"
    return (
        f"The model is {how}: its mean confidence is {_percent(sure)}, its accuracy {_percent(right)}. "
        "Don't read its confidence as a probability. To decide which answers to trust, take a threshold "
        "from the table of answered shares below."
    )


RULES: tuple[Rule, ...] = (
    unmeasured,
    leaked_tests,
    few_test_images,
    guessing,
    scratch_ahead,
    pretext_near_chance,
    transfer_lost,
    teacher_knows_more,
    few_labels,
    uneven_labels,
    confused_pairs,
    confidence_off,
)


def _score(data: ReportData, evaluation: str, model: str) -> Score | None:
    """The first accuracy of a model on test images; None if there is none."""
    for score in data.scores:
        measured = (score.evaluation, score.model, score.split) == (evaluation, model, "test")
        if measured and score.metric in PROPORTIONS and score.n > 0:
            return score
    return None


def _ahead(first: Score, second: Score, gap: float = GAP) -> bool:
    """Whether the first accuracy is higher than the second by more than `gap`, and beyond chance."""
    ends = (wilson(score.value, score.n) for score in (first, second))
    low, _ = difference_interval(first.value, next(ends), second.value, next(ends))
    return first.value - second.value > gap and low > 0


def _count(value: int) -> str:
    return narrow(count(value))


def _percent(share: float) -> str:
    return narrow(percent(share))


def _points(difference: float) -> str:
    return narrow(points(difference)).lstrip("+")


def _of(value: int, one: str, many: str) -> str:
    return f"{_count(value)} {one if value == 1 else many}"


def _longer(data: ReportData, section: str, what: str) -> str:
    """How to train a stage longer. A run that is planned needs more minutes."""
    planned = any(line.startswith("plan: ") for line in data.understood)
    return "give the run more minutes (--minutes)" if planned else f"{what} longer ({section}.epochs)"
