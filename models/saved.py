"""Loads published networks: from a checkpoint's folder to a `Network`."""

from __future__ import annotations

from pathlib import Path

import torch

from data.checkpoints import read_arrays, read_description
from data.reading import KEYS
from models.network import Network

ABOUT = ("class_names", "temperature", "shipped")
"""Keys of model.json that the network itself does not have: they are about its outputs."""


def load(folder: Path) -> Network:
    """Load the network of a checkpoint, on the CPU.

    Args:
        folder: contains model.json and model.safetensors.

    Raises:
        ArtifactError: one of the files can't be read.
    """
    description = read_description(folder)
    for name in (*ABOUT, *KEYS):
        description.pop(name, None)
    network = Network.from_description(description)
    arrays = read_arrays(folder / "model.safetensors")
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return network
