"""Find stages by name, in `tasks/stages` and in installed packages. No list has to name a stage.

This module imports stages by name. A normal import would be circular, because stages import the configuration
and the configuration needs stages.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from data.errors import ConfigError
from tasks.stage import Leaf, Request, Stage

GROUP = "knowledge_transfer.stage"
"""The entry-point group of packages that bring a stage. An entry point has the stage's name and module."""


@dataclass(frozen=True)
class FoundLeaf:
    """A leaf stage with its description.

    Attributes:
        stage: its declaration.
        plan: its `plan` function.
        sentence: says what it does: the first line of its file's docstring, without the name before the
            colon.
    """

    stage: Leaf
    plan: Callable[..., Request]
    sentence: str

    @property
    def title(self) -> str:
        """The name of its rows in the report."""
        return self.stage.title or self.stage.name.replace("_", " ").capitalize()


@cache
def _modules() -> dict[str, str]:
    folder = Path(__file__).parent / "stages"
    found = {info.name: f"tasks.stages.{info.name}" for info in pkgutil.iter_modules([str(folder)])}
    for point in sorted(entry_points(group=GROUP)):
        if point.name in found:
            raise TypeError(
                f"entry point {point.value}: a stage {point.name!r} already exists; rename the entry point "
                "and the stage"
            )
        found[point.name] = point.module
    return found


def stage_module(name: str) -> ModuleType:
    """Import the module of a stage.

    Raises:
        ConfigError: there is no such stage. The package that brings it may not be installed.
        TypeError: the module's `STAGE` has another name or is missing.
    """
    if name not in _modules():
        raise ConfigError(f"stage {name!r} is not known here; install the package that brings it")
    module = importlib.import_module(_modules()[name])
    declared = getattr(module, "STAGE", None)
    if not isinstance(declared, Stage) or declared.name != name:
        raise TypeError(f"{module.__name__}: STAGE must be a Stage named {name!r}; see examples/")
    return module


@cache
def leaves() -> dict[str, FoundLeaf]:
    """All leaf stages by their name in `evaluate.protocols`, in alphabetical order."""
    found = {}
    for name in sorted(_modules()):
        module = stage_module(name)
        stage = module.STAGE
        if isinstance(stage, Leaf):
            line = (module.__doc__ or "").partition("\n")[0]
            sentence = (line.partition(": ")[2] or line).rstrip(".")
            found[stage.protocol] = FoundLeaf(stage, module.plan, sentence)
    return found


def on_photographs() -> list[str]:
    """The names of the leaf stages that read annotated photographs."""
    return [name for name, leaf in leaves().items() if "photographs" in leaf.stage.reads]
