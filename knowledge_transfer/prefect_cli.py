"""A Prefect plugin for short names: `prefect deployment run knowledge-transfer` runs our deployment.

Prefect expects FLOW/DEPLOYMENT. It calls this plugin before it reads the command line, and the plugin
completes the names of our own deployments. pyproject.toml enables it by Prefect's documented entry point
`prefect.plugins`.
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
    "predict": "predict/predict",
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
    """Return the arguments of a command line. If they name one of our deployments, complete its name."""
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
    """Complete the command line. Prefect calls this when it is imported."""
    sys.argv[1:] = completed(sys.argv[1:])
