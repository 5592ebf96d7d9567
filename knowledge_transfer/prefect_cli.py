"""`prefect deployment run knowledge-transfer`: our deployments by their bare names.

Prefect wants FLOW/DEPLOYMENT. This plugin (see its documented entry point `prefect.plugins`, enabled in
pyproject.toml) is called before the command line is read, and completes the names of this project's own
deployments.
"""

from __future__ import annotations

import sys
from typing import Any

from prefect.plugins import register_hook

DEPLOYMENTS = {
    "knowledge-transfer": "knowledge-transfer/knowledge-transfer",
    "nightly": "knowledge-transfer/nightly",
    "smoke": "knowledge-transfer/smoke",
    "compare": "compare/compare",
    "evaluate": "evaluate/evaluate",
}
_TAKE_A_VALUE = {
    "-p",
    "--param",
    "--params",
    "--tag",
    "--flow-run-name",
    "--job-variable",
    "--start-in",
    "--start-at",
}


def completed(arguments: list[str]) -> list[str]:
    """A command line's arguments with the deployment's name in full, where it is one of ours."""
    command = [word for word in arguments if not word.startswith("-")][:2]
    if command != ["deployment", "run"]:
        return arguments
    before = ["", *arguments]
    return [
        word if option in _TAKE_A_VALUE else DEPLOYMENTS.get(word, word)
        for option, word in zip(before, arguments, strict=False)
    ]


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Called by Prefect when it is imported."""
    sys.argv[1:] = completed(sys.argv[1:])
