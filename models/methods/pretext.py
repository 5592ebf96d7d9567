"""Which class trains a pretext configuration. Imports torch, so it is not part of the package's `__init__`."""

from __future__ import annotations

from models.method import Method
from models.methods.configs import PretextConfig, SimCLR
from models.methods.jigsaw import JigsawPlusPlusMethod
from models.methods.simclr import SimCLRMethod


def make_pretext(config: PretextConfig, image_size: int, seed: int) -> Method:
    """The method that `config` belongs to, with fresh weights.

    Args:
        config: from the union of pretext configurations.
        image_size: side of the images, px.
        seed: of all weights, and of a method's own tables.

    Raises:
        ConfigError: the images are too small for the method or its backbone.
    """
    if isinstance(config, SimCLR):
        return SimCLRMethod(config, image_size, seed)
    return JigsawPlusPlusMethod(config, image_size, seed)
