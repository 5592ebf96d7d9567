"""Fixtures of the flows' tests."""

from __future__ import annotations

import pytest
from tiny_digits import TinyDigits, tiny_digits


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyDigits:
    """A small finished run on digits that ships a model."""
    return tiny_digits(tmp_path_factory.mktemp("tiny"))
