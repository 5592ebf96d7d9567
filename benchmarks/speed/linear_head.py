"""The linear classifier on 500 images of 32 x 32 px: 71 logistic regressions, most of them to choose C."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

from benchmarks.record import Comparison, rounds

IMAGES, CLASSES, FEATURES = 500, 10, 3072


def measure(options: Namespace) -> list[Comparison]:
    """Compare one thread of BLAS with as many as the machine has cores."""
    import numpy as np

    from models.evaluation.linear_head import fit_head

    random = np.random.default_rng(0)
    label = np.arange(IMAGES) % CLASSES
    x = random.normal(size=(IMAGES, FEATURES)) + 0.2 * random.normal(size=(CLASSES, FEATURES))[label]

    def timed(limits: Callable[..., AbstractContextManager[Any]] | None) -> Callable[[], float]:
        def once() -> float:
            name = "models.evaluation.linear_head.threadpool_limits"
            with nullcontext() if limits is None else patch(name, limits):
                began = time.perf_counter()
                fit_head(x, label, CLASSES, seed=0)
                return time.perf_counter() - began

        return once

    contestants = {"ours": timed(None), "all threads": timed(lambda *given, **told: nullcontext())}
    return [
        Comparison(
            name="linear-head",
            title=f"A linear classifier on {IMAGES} images, with cross-validation",
            unit="s",
            better="lower",
            values=rounds(contestants, options.rounds),
            settings={
                "ours": "scikit-learn's logistic regression with one thread of BLAS",
                "all threads": "the same with as many threads as there are cores, scikit-learn's default",
            },
        )
    ]
