"""The configuration of every way of training, one file each. Importable without torch: forms and YAML show it.

A method's class lies in the file of the same name in `models/methods`. Ranges stand in the descriptions too, since
Prefect's forms don't show limits. Another package adds a method by an entry point, `knowledge_transfer.pretext` or
`knowledge_transfer.transfer`, that names its configuration class.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, TypeVar, Union

from models.configs.shared import Pretext, Transfer

OWN_PRETEXT = (
    "models.configs.simclr:SimCLR",
    "models.configs.jigsaw:JigsawPlusPlus",
    "models.configs.jigsaw:Jigsaw",
    "models.configs.moco:MoCo",
    "models.configs.byol:BYOL",
    "models.configs.momentum2:Momentum2",
    "models.configs.swav:SwAV",
    "models.configs.deepcluster:DeepCluster",
    "models.configs.deepcluster_v2:DeepClusterV2",
    "models.configs.sela:SeLa",
    "models.configs.dino:DINO",
    "models.configs.rotation:Rotation",
    "models.configs.colorization:Colorization",
    "models.configs.inpainting:Inpainting",
    "models.configs.hog:HOG",
    "models.configs.external:External",
)
OWN_TRANSFER = (
    "models.configs.pseudo_labels:PseudoLabels",
    "models.configs.seed:Seed",
    "models.configs.s2bnn:S2BNN",
)
"""Configurations of our own methods, in the order of forms and lists. A new method is a line here."""

_Base = TypeVar("_Base", Pretext, Transfer)


def _by_name(group: str, base: type[_Base], own: tuple[str, ...]) -> dict[str, type[_Base]]:
    """Configurations by the value of their `method`: ours, then those of installed packages.

    Raises:
        TypeError: an installed package's method has a name that is taken, or its configuration has another base.
    """
    found: dict[str, type[_Base]] = {}
    for path in own + tuple(sorted(point.value for point in entry_points(group=f"knowledge_transfer.{group}"))):
        model = resolve_name(path)
        name = model.model_fields["method"].default
        if not issubclass(model, base) or name in found:
            raise TypeError(f"entry point {path}: {name!r} is taken, or no {base.__name__}; see examples/")
        found[name] = model
    return found


PRETEXT = _by_name("pretext", Pretext, OWN_PRETEXT)
TRANSFER = _by_name("transfer", Transfer, OWN_TRANSFER)

if TYPE_CHECKING:
    PretextConfig = Pretext
    TransferConfig = Transfer
else:
    PretextConfig = Union[tuple(PRETEXT.values())]  # noqa: UP007
    TransferConfig = Union[tuple(TRANSFER.values())]  # noqa: UP007
