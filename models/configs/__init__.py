"""The configurations of all training methods, one file per method.

This package doesn't import torch, because forms and the command line must start fast. A method's class is in
the file of the same name in `models/methods`. Descriptions repeat the limits of numbers, because Prefect's
forms don't show limits. Another package adds a method with an entry point in the group
`knowledge_transfer.pretext` or `knowledge_transfer.transfer`. The entry point names the configuration class.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar, Union

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
    "models.configs.pretrained:Pretrained",
)
OWN_TRANSFER = (
    "models.configs.pseudo_labels:PseudoLabels",
    "models.configs.seed:Seed",
    "models.configs.simreg:SimReg",
    "models.configs.regression:Regression",
    "models.configs.s2bnn:S2BNN",
)
"""Paths of our own methods' configurations, in the order in which forms and lists show them."""

_Base = TypeVar("_Base", Pretext, Transfer)


def _by_name(group: str, base: type[_Base], own: tuple[str, ...]) -> dict[str, type[_Base]]:
    """Map the name of each method to its configuration: our own first, then those of installed packages.

    Raises:
        TypeError: a method of an installed package has a name that is already taken, or its configuration
            does not inherit from `base`.
    """
    found: dict[str, type[_Base]] = {}
    for path in own + tuple(
        sorted(point.value for point in entry_points(group=f"knowledge_transfer.{group}"))
    ):
        model = resolve_name(path)
        name = model.model_fields["method"].default
        if not issubclass(model, base) or name in found:
            raise TypeError(
                f"entry point {path}: the name {name!r} is taken, or the class is not a {base.__name__};"
                " see examples/"
            )
        found[name] = model
    return found


if TYPE_CHECKING:
    PRETEXT: dict[str, type[Pretext]]
    TRANSFER: dict[str, type[Transfer]]
    PretextConfig = Pretext
    TransferConfig = Transfer


def __getattr__(name: str) -> Any:
    """Find the methods on first use.

    A method of another package imports `models.configs.shared`, and this package with it, before its own
    class exists. So this package must not look for methods while it is imported.
    """
    match name:
        case "PRETEXT":
            found: Any = _by_name("pretext", Pretext, OWN_PRETEXT)
        case "TRANSFER":
            found = _by_name("transfer", Transfer, OWN_TRANSFER)
        case "PretextConfig":
            found = Union[tuple(__getattr__("PRETEXT").values())]  # noqa: UP007
        case "TransferConfig":
            found = Union[tuple(__getattr__("TRANSFER").values())]  # noqa: UP007
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found
