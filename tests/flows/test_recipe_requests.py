"""The named recipes are pinned: what they request of each training stays the same, down to its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.store import digest
from data.types import Artifact
from flows.chain import chain
from flows.layout import Hooks, Plan
from flows.recipes import NAMES, PLANNED, override, recipe
from tasks.config import Config
from tasks.stages import adopt

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
        "distill": "dfeb2731525d110ef8b25a06cb10a772",
        "scratch": "1cfbe1a1040140328a0d4b817c786de1",
    },
}
"""Recipe -> the last of its trainings -> digest, which covers all trainings before it."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != PLANNED])
def test_a_named_recipe_requests_the_trainings_that_it_always_has(name: str) -> None:
    found = requests(recipe(name))
    assert {label: found[label] for label in PINNED[name]} == PINNED[name]


def settings_of(config: Config) -> dict[str, dict[str, Any]]:
    """Label of each stage -> the settings of its request."""
    found: dict[str, dict[str, Any]] = {}

    def step(label: str, plan: Plan, /, *, after: Any = None, **inputs: Artifact) -> Artifact:
        request: Any = plan(**inputs)
        found[label] = request.settings
        return Artifact(kind=request.kind, fingerprint=label)

    chain(config, Hooks(step, lambda handle: META))
    return found


def test_requests_have_the_revision_of_what_has_changed_and_of_nothing_else() -> None:
    usual = settings_of(recipe("digits"))
    assert "revision" not in str(usual)
    binary = settings_of(override(recipe("digits"), {"student": {"backbone": "reactnet"}}))
    changed = {label for label in usual if usual[label] != binary[label]} - {"report"}
    assert changed == {"transfer", "scratch", "distill"}
    for label in changed:
        assert binary[label]["student"]["revision"] == 2
        assert "revision" not in {name: x for name, x in binary[label].items() if name != "student"}
    teacher = settings_of(override(recipe("digits"), {"pretext": {"backbone": "reactnet"}}))
    assert {label for label in usual if usual[label] != teacher[label]} == {"pretext", "report"}
    assert teacher["pretext"]["backbone"] == {"revision": 2}
    assert (
        settings_of(override(recipe("digits"), {"pretext": {"method": "moco"}}))["pretext"]["revision"] == 2
    )


def test_an_adopted_network_has_the_revision_of_its_backbone(tmp_path: Path) -> None:
    for backbone, extra in (("smallconv", {}), ("reactnet", {"revision": 2})):
        (tmp_path / "model.json").write_text(json.dumps({"backbone": backbone}))
        (tmp_path / "model.safetensors").write_bytes(b"weights")
        asked = adopt.plan(tmp_path).settings
        assert asked.pop("sha256").keys() == {"model.json", "model.safetensors"}
        assert asked == extra
