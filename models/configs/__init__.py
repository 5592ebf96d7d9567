"""The configuration of every way of training, a file each. Importable without torch: forms and YAML show it.

A method's class lies in the file of the same name in `models/methods`. Ranges stand in the descriptions too, since
Prefect's forms don't show limits. A package of one's own adds a method by an entry point (`knowledge_transfer.pretext`
or `knowledge_transfer.transfer`) that names its configuration class.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar, Union

from models.configs.byol import BYOL
from models.configs.colorization import Colorization
from models.configs.deepcluster import DeepCluster
from models.configs.deepcluster_v2 import DeepClusterV2
from models.configs.dino import DINO
from models.configs.distill import Distill
from models.configs.external import External
from models.configs.finetune import Finetune
from models.configs.hog import HOG
from models.configs.inpainting import Inpainting
from models.configs.jigsaw import Jigsaw, JigsawPlusPlus
from models.configs.moco import MoCo
from models.configs.momentum2 import Momentum2
from models.configs.pseudo_labels import PseudoLabels
from models.configs.rotation import Rotation
from models.configs.s2bnn import S2BNN
from models.configs.seed import Seed
from models.configs.sela import SeLa
from models.configs.shared import (
    BACKBONES,
    Backbone,
    Descriptor,
    Optimization,
    Pretext,
    Teacher,
    Transfer,
    Views,
)
from models.configs.simclr import SimCLR
from models.configs.swav import SwAV

__all__ = [
    "BACKBONES",
    "BYOL",
    "DINO",
    "HOG",
    "PRETEXT",
    "S2BNN",
    "TRANSFER",
    "Backbone",
    "Colorization",
    "DeepCluster",
    "DeepClusterV2",
    "Descriptor",
    "Distill",
    "External",
    "Finetune",
    "Inpainting",
    "Jigsaw",
    "JigsawPlusPlus",
    "MoCo",
    "Momentum2",
    "Optimization",
    "Pretext",
    "PretextConfig",
    "PseudoLabels",
    "Rotation",
    "SeLa",
    "Seed",
    "SimCLR",
    "SwAV",
    "Teacher",
    "Transfer",
    "TransferConfig",
    "Views",
]

_Base = TypeVar("_Base", Pretext, Transfer)


def _by_name(group: str, base: type[_Base], own: tuple[type[_Base], ...]) -> dict[str, type[_Base]]:
    """Configurations by the value of their `method`: ours, then those of installed packages."""
    found = {model.model_fields["method"].default: model for model in own}
    for point in sorted(entry_points(group=f"knowledge_transfer.{group}")):
        model = point.load()
        name = model.model_fields["method"].default
        if not issubclass(model, base) or name in found:
            raise TypeError(f"entry point {point.value}: {name!r} is taken, or no {base.__name__}; see examples/")
        found[name] = model
    return found


PRETEXT = _by_name(
    "pretext",
    Pretext,
    (
        SimCLR,
        JigsawPlusPlus,
        Jigsaw,
        MoCo,
        BYOL,
        Momentum2,
        SwAV,
        DeepCluster,
        DeepClusterV2,
        SeLa,
        DINO,
        Rotation,
        Colorization,
        Inpainting,
        HOG,
        External,
    ),
)
TRANSFER = _by_name("transfer", Transfer, (PseudoLabels, Seed, S2BNN))

if TYPE_CHECKING:
    PretextConfig = Pretext
    TransferConfig = Transfer
else:
    PretextConfig = Union[tuple(PRETEXT.values())]  # noqa: UP007
    TransferConfig = Union[tuple(TRANSFER.values())]  # noqa: UP007
