"""Each rule fires on its evidence, with the figures in the sentence, and not without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_sample import answers, bare

from tasks.report.advice import (
    RULES,
    Rule,
    advice,
    confidence_off,
    confused_pairs,
    few_labels,
    few_test_images,
    guessing,
    leaked_tests,
    pretext_near_chance,
    scratch_ahead,
    teacher_knows_more,
    transfer_lost,
    uneven_labels,
    unmeasured,
)
from tasks.report.content import Answers, ClassRow, Counts, ReportData, Ships
from tasks.report.scoreboard import Score

SHIPS = Ships("student", "student", "distill", "artifacts/checkpoint/x", 10, 40, "smallconv", 16, classes=4)
NAMES = ("ant", "bee", "cat", "dog")


def score(evaluation: str, model: str, value: float, n: int = 1000) -> Score:
    return Score(evaluation, model, "top1", "test", "k=20", value, 0, n)


def plain(n: int = 1000, right: int = 900, **changes: object) -> Answers:
    """Even classes that are equally often right, without any frequent confusion."""
    rows = tuple(ClassRow(name, n // 4, right // 4, n // 4, labels=5) for name in NAMES)
    found = replace(
        answers(NAMES),
        n=n,
        right=right,
        balanced=right / n,
        confidence=right / n,
        classes=rows,
        pairs=(),
        matrix=np.zeros((4, 4), np.int64),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def run(*scores: Score, **changes: object) -> ReportData:
    """A run in which all is well."""
    well = {
        "counts": Counts(5000, 0, 1000, labelled=20),
        "ships": SHIPS,
        "answers": plain(),
        "classes": NAMES,
    }
    return bare(scores=scores, **(well | changes))


def classes(**changes: dict[str, int]) -> tuple[ClassRow, ...]:
    return tuple(replace(row, **changes.get(row.name, {})) for row in plain().classes)  # type: ignore[arg-type]


WELL = (
    score("few-label", "student", 0.9),
    score("few-label", "scratch", 0.8),
    score("knn", "teacher", 0.92),
    score("knn", "student-transferred", 0.9),
)

FIRES: list[tuple[Rule, ReportData, tuple[str, ...]]] = [
    (unmeasured, run(answers=None, counts=Counts(5000, 0, 0, labelled=20)), ("no test images", "data.test")),
    (leaked_tests, run(counts=Counts(5000, 0, 200, leaked=7)), ("7 of the 200", "3.5 %", "data.leaks=drop")),
    (few_test_images, run(answers=plain(60, 48)), ("60 test images", "68.2 % to 88.2 %", "±5")),
    (
        guessing,
        run(answers=plain(right=260)),
        ("26.0 % of the test", "“ant” is right for 25.0 %", "mean recall is 26.0 %; a guess has 25.0 %"),
    ),
    (
        pretext_near_chance,
        run(score("knn", "teacher", 0.26)),
        ("26.0 %", "naming the largest class is right for 25.0 %", "pretext.epochs"),
    ),
    (
        transfer_lost,
        run(score("knn", "teacher", 0.905), score("knn", "student-transferred", 0.686)),
        ("21.9 points", "90.5 %", "68.6 %", "transfer.epochs"),
    ),
    (
        teacher_knows_more,
        run(score("knn", "teacher", 0.9), score("few-label", "student", 0.7)),
        ("90.0 %", "70.0 %", "distill.epochs", "student.width"),
    ),
    (
        scratch_ahead,
        run(score("few-label", "student", 0.7), score("few-label", "scratch", 0.78)),
        ("78.0 %", "70.0 %", "augmentations"),
    ),
    (
        few_labels,
        run(answers=plain(classes=classes(cat={"right": 100, "labels": 1}, dog={"labels": 1, "right": 225}))),
        ("“cat” (1 label, 100 of 250 right)", "90.0 %"),
    ),
    (
        uneven_labels,
        run(answers=plain(classes=classes(ant={"labels": 30, "right": 240}, cat={"right": 100}))),
        ("3 classes have at most a third", "about 73.3 %", "96.0 % of the others", "finetune.balanced=true"),
    ),
    (
        transfer_lost,
        run(
            score("knn", "teacher", 0.905),
            score("knn", "student-transferred", 0.686),
            understood=("plan: transfer.steps=9: 15 % of the minutes",),
        ),
        ("--minutes",),
    ),
    (
        confused_pairs,
        run(answers=plain(pairs=(("cat", "dog", 40), ("ant", "bee", 9)))),
        ("“cat” and “dog” (40)", "40.0 % of the 100 mistakes"),
    ),
    (
        confidence_off,
        run(answers=plain(confidence=0.23)),
        ("not confident enough", "23.0 %", "90.0 %"),
    ),
    (confidence_off, run(answers=plain(right=600, confidence=0.97)), ("too confident", "97.0 %")),
]


@pytest.mark.parametrize(("rule", "data", "told"), FIRES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_fires_on_its_evidence(rule: Rule, data: ReportData, told: tuple[str, ...]) -> None:
    sentence = (rule(data) or "").replace("\u202f", " ")
    for text in told:
        assert text in sentence
    assert sentence in [each.replace("\u202f", " ") for each in advice(data)]


def test_every_rule_is_tried_here() -> None:
    assert {rule for rule, *_ in FIRES} == set(RULES)


QUIET: list[tuple[Rule, ReportData]] = [
    (unmeasured, run(answers=None)),  # there are test images, without labels
    (unmeasured, run(answers=None, counts=Counts(9, 0, 0), ships=replace(SHIPS, classes=0))),
    (few_test_images, run(answers=plain(400, 360))),
    # Few labels, but recognised as often as the others; recognised less often, but labels are even.
    (uneven_labels, run(answers=plain(classes=classes(ant={"labels": 30})))),
    (uneven_labels, run(answers=plain(classes=classes(ant={"labels": 14}, cat={"right": 100})))),
    (guessing, run(answers=plain(right=300))),
    (guessing, run(answers=plain(right=260, balanced=0.6))),  # uneven classes, each of them often right
    (pretext_near_chance, run(score("knn", "teacher", 0.3))),
    (pretext_near_chance, run(score("knn", "student", 0.2))),
    (transfer_lost, run(score("knn", "teacher", 0.9), score("knn", "student-transferred", 0.87))),
    (transfer_lost, run(score("knn", "teacher", 0.9, 20), score("knn", "student-transferred", 0.8, 20))),
    (teacher_knows_more, run(score("knn", "teacher", 0.9), score("few-label", "student", 0.88))),
    (
        teacher_knows_more,
        run(
            score("knn", "teacher", 0.9),
            score("few-label", "teacher-finetuned", 0.5),
            ships=replace(SHIPS, model="teacher-finetuned", origin="teacher-finetuned"),
        ),
    ),
    (scratch_ahead, run(score("few-label", "student", 0.7), score("few-label", "scratch", 0.72, 100))),
    (scratch_ahead, run(score("few-label", "scratch", 0.9), ships=replace(SHIPS, model="scratch"))),
    (few_labels, run(answers=plain(classes=classes(cat={"right": 100, "labels": 500})))),
    (few_labels, run(answers=plain(classes=classes(cat={"n": 4, "right": 3})))),
    (confused_pairs, run(answers=plain(pairs=(("cat", "dog", 9),)))),
    (confused_pairs, run(answers=plain(right=996, pairs=(("cat", "dog", 4),)))),
    (confidence_off, run(answers=plain(confidence=0.85))),
]


@pytest.mark.parametrize(("rule", "data"), QUIET, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_is_quiet_without_its_evidence(rule: Rule, data: ReportData) -> None:
    assert rule(data) is None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_rule_fires_where_all_is_well_or_nothing_is_known(rule: Rule) -> None:
    assert rule(run(*WELL)) is None
    assert rule(bare()) is None


def test_a_long_list_is_cut() -> None:
    names = tuple(f"c{i}" for i in range(20))
    rows = tuple(ClassRow(name, 100, 0 if i < 8 else 100, 100, labels=2) for i, name in enumerate(names))
    sentence = few_labels(run(answers=plain(2000, 1200, classes=rows))) or ""
    assert sentence.count("“") == 5
    assert "and 3 more" in sentence
