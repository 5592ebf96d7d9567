"""The named recipes are pinned: what they request of each training stays the same, down to its name."""

from __future__ import annotations

from typing import Any

import pytest

from data.store import digest
from data.types import Artifact
from flows.chain import chain
from flows.layout import Hooks, Plan
from flows.recipes import NAMES, PLANNED, recipe
from tasks.config import Config

N = 2_000_000
META = {"counts": {"train": N, "unlabelled": 0, "test": 1000, "labelled": N, "test_labelled": 1000}}


def requests(config: Config) -> dict[str, str]:
    """Label of each stage -> digest of its request. The digest of an input stands for the input."""
    found: dict[str, str] = {}

    def step(label: str, plan: Plan, /, *, after: Any = None, **inputs: Artifact) -> Artifact:
        request: Any = plan(**inputs)
        asked = {"stage": request.stage, "version": request.version, "settings": request.settings}
        read = {name: given.fingerprint for name, given in request.inputs.items()}
        found[label] = digest({**asked, "seed": request.seed, "inputs": read})
        named = "images" if request.kind == "manifest" else found[label]
        return Artifact(kind=request.kind, fingerprint=named)

    chain(config, Hooks(step, lambda handle: META))
    return found


PINNED: dict[str, dict[str, str]] = {
    "digits": {"distill": "36e3dcd03965d5b5b81fcb6856be8b7c", "scratch": "689c9ef365184d31017fd4f54e5b227f"},
    "cifar10": {"distill": "036ca04724f88065423dfdbc82ca01cf", "scratch": "68ec277cecacea1243c8b943d6c56716"},
    "bccd": {"transfer": "e20fc2955f16fdbb5266c7e0d4588d84"},
    "penn-fudan": {"transfer": "e20fc2955f16fdbb5266c7e0d4588d84"},
    "imagenet-paper": {
        "distill": "86133c6c4dcf0b24d25eedb2eaf23173",
        "scratch": "2cb77aa99b5ad38c5df3c567f68a99b7",
    },
    "simclrv2-imagenet": {
        "distill": "5303276c8c3a87c4d3f70e1912f567df",
        "scratch": "f657a2665071e21487fc2f6b33fcf0ed",
    },
    "momentum2-imagenet": {
        "distill": "af012b920298f8fc174f2c0e92db19bd",
        "scratch": "251230a40864879deeff6c30cabff60e",
    },
    "swav-imagenet": {
        "distill": "fd0660844e4b091a7e05146d4c36c46b",
        "scratch": "251230a40864879deeff6c30cabff60e",
    },
    "s2bnn-imagenet": {
        "distill": "57ac78dd32da7b0fb1372e6ba2bc6961",
        "scratch": "1d0f3af8cc595f2f1228a5ccf3038f39",
    },
}
"""Recipe -> the last of its trainings -> digest, which covers all trainings before it."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != PLANNED])
def test_a_named_recipe_requests_the_trainings_that_it_always_has(name: str) -> None:
    found = requests(recipe(name))
    assert {label: found[label] for label in PINNED[name]} == PINNED[name]
