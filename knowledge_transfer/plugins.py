"""The names that a package imports to add a method, a stage or a source of images.

`examples/` has one of each. Names are imported on first use, so that a configuration can be read without
torch.

Importing this module puts the packages `data`, `models`, `tasks` and `flows` of knowledge_transfer first on
the path of the process. Plug-ins need this, because they import those packages through this module. They run
only in processes that knowledge_transfer starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from knowledge_transfer.place import enter

if TYPE_CHECKING:
    from pydantic import Field

    from data.draws import Draws
    from data.errors import ConfigError, DataError, Interrupted
    from data.sources import Entry, Listing, Source
    from data.tables import column, positions, read_table, read_vectors, write_table
    from data.types import Artifact, Frozen
    from models import augment, collapse, heads
    from models.augment import multi_crop, two_views
    from models.configs.shared import (
        AsymmetricViews,
        Descriptor,
        MomentumTeacher,
        Optimization,
        SmallCrops,
        Teacher,
        Transfer,
        Views,
    )
    from models.ema import advance, follow, teach, teacher_of
    from models.method import Batch, Loss, Method, Progress
    from models.network import Network, build_network, seeded
    from models.optim import make_optimizer
    from models.queue import Queue
    from models.saved import load
    from tasks.config import Config
    from tasks.job import Job
    from tasks.scoring import write_scores
    from tasks.size import Context, Inputs, Size
    from tasks.sources import sources
    from tasks.stage import Leaf, Outcome, Request, Stage

enter()

__all__ = [
    "Artifact",
    "AsymmetricViews",
    "Batch",
    "Config",
    "ConfigError",
    "Context",
    "DataError",
    "Descriptor",
    "Draws",
    "Entry",
    "Field",
    "Frozen",
    "Inputs",
    "Interrupted",
    "Job",
    "Leaf",
    "Listing",
    "Loss",
    "Method",
    "MomentumTeacher",
    "Network",
    "Optimization",
    "Outcome",
    "Progress",
    "Queue",
    "Request",
    "Size",
    "SmallCrops",
    "Source",
    "Stage",
    "Teacher",
    "Transfer",
    "Views",
    "advance",
    "augment",
    "build_network",
    "collapse",
    "column",
    "follow",
    "heads",
    "load",
    "make_optimizer",
    "multi_crop",
    "positions",
    "read_table",
    "read_vectors",
    "seeded",
    "sources",
    "teach",
    "teacher_of",
    "two_views",
    "write_scores",
    "write_table",
]

_MODULES = {
    "data.errors": (
        "ConfigError",
        "DataError",
        "Interrupted",
    ),
    "data.sources": (
        "Entry",
        "Listing",
        "Source",
    ),
    "data.tables": (
        "column",
        "positions",
        "read_table",
        "read_vectors",
        "write_table",
    ),
    "data.types": (
        "Artifact",
        "Frozen",
    ),
    "models.saved": ("load",),
    "pydantic": ("Field",),
    "tasks.config": ("Config",),
    "tasks.job": ("Job",),
    "tasks.scoring": ("write_scores",),
    "tasks.size": (
        "Context",
        "Inputs",
        "Size",
    ),
    "tasks.sources": ("sources",),
    "tasks.stage": (
        "Leaf",
        "Outcome",
        "Request",
        "Stage",
    ),
    "data.draws": ("Draws",),
    "models.augment": ("multi_crop", "two_views"),
    "models.configs.shared": (
        "AsymmetricViews",
        "Descriptor",
        "MomentumTeacher",
        "Optimization",
        "SmallCrops",
        "Teacher",
        "Transfer",
        "Views",
    ),
    "models.ema": ("advance", "follow", "teach", "teacher_of"),
    "models.method": ("Batch", "Loss", "Method", "Progress"),
    "models.network": ("Network", "build_network", "seeded"),
    "models.optim": ("make_optimizer",),
    "models.queue": ("Queue",),
}
"""The names that this module takes from each module."""
_WHOLE = {name: f"models.{name}" for name in ("augment", "collapse", "heads")}
"""Modules that plugins get as a whole."""
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _WHOLE:
        return import_module(_WHOLE[name])
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
