"""Scheduled reruns: keep what an earlier run trained as long as few images have changed.

With `pin.enabled`, a run looks for the latest run of the same configuration that trained its own networks. It
counts the images that are new, changed or gone since then, and measures how far the distances to the
centroids have drifted. If both stay within the limits, this run uses the earlier checkpoints, clusters and
plan unchanged. The other stages read these and today's images, and their fingerprints follow from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from data.errors import ConfigError, repair
from data.store import Store
from data.types import Artifact
from flows.chain import FEW_LABELS, chain
from flows.layout import Handle, Hooks, Layout
from flows.recipes import planned
from flows.records import records
from models.configs.shared import Sized
from tasks.config import Config
from tasks.overlay import resolve
from tasks.phrases import percent
from tasks.stages import assign, drift, growth, manifest

TRAINED = ("checkpoint", "clusters", "plan")
"""Kinds of artifacts that are kept."""
GROWTH = ("images", "before", "new", "changed", "gone", "relabelled", "same", "share")
"""Figures that are taken from the stage growth."""
DRIFT = ("mean", "mean_before", "shift", "far", "far_before")
"""Figures that are taken from the stage drift."""
_OWN = {"recipe", "store", "compute", "export", "pin", "review"}
"""Keys that are ignored when two configurations are compared. Only the precision of `compute` is compared."""


@dataclass(frozen=True)
class Earlier:
    """An earlier run of the same configuration that trained its own networks.

    Attributes:
        run: its name.
        config: the configuration that it trained with, including its plan's settings.
        manifest: the manifest of its images.
        assignments: the clusters of these images; None if it has none.
        trained: label of a stage -> its checkpoint, its clusters, or its part of the plan.
    """

    run: str
    config: Config
    manifest: Artifact
    assignments: Artifact | None
    trained: dict[str, Artifact]


@dataclass(frozen=True)
class Decision:
    """The decision about a rerun, and its reason.

    Attributes:
        pinned: whether the rerun keeps what the earlier run trained.
        because: the reason, in words.
        earlier: name of the earlier run; None if there is none.
        figures: figures of growth and drift, if they were measured.
    """

    pinned: bool
    because: str
    earlier: str | None
    figures: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The decision as JSON values for run.json."""
        return {
            "pinned": self.pinned,
            "because": self.because,
            "earlier": self.earlier,
            "figures": self.figures,
        }


def find(config: Config) -> Earlier | None:
    """Find the latest finished run of this configuration that trained its own networks; None without one.

    Runs whose artifacts are no longer in the store are skipped. A run with a damaged artifact is not skipped,
    because this run would then train again, and get other scores than the night before.

    Raises:
        ConfigError: a run's record is damaged, so it is not known whether this run keeps its networks.
        DamagedError: an artifact that this run would keep is damaged.
    """
    store = Store(config.store)
    asked = _asked(config)

    def damaged(path: Path) -> None:
        raise ConfigError(
            f"{path} is damaged, so nobody knows whether this rerun keeps that run's networks; restore it "
            f"from a backup, or `{repair(store.root)}` sets it aside"
        )

    for _, record in records(store, damaged):
        if record["status"] != "done" or record.get("pinned"):
            continue
        if _asked_then(record["config"]) != asked:
            continue
        made = {
            row["stage"]: Artifact(kind=row["kind"], fingerprint=row["fingerprint"])
            for row in record["stages"]
        }
        trained = {label: artifact for label, artifact in made.items() if artifact.kind in TRAINED}
        compared = {label: made[label] for label in ("manifest", "assign") if label in made}
        needed = compared | trained
        if "manifest" in made and all(
            _there(store, artifact, thorough=label in compared) for label, artifact in needed.items()
        ):
            plans = [artifact for artifact in trained.values() if artifact.kind == "plan"]
            settings = [store.meta(artifact)["settings"] for artifact in plans]
            own = reduce(planned, settings, config)
            return Earlier(record["name"], own, made["manifest"], made.get("assign"), trained)
    return None


def _there(store: Store, artifact: Artifact, *, thorough: bool = False) -> bool:
    """Whether an artifact is in the store.

    Args:
        store: the store.
        artifact: what the rerun would keep, or compare today's images with.
        thorough: whether its files are hashed. Stages that look for rows to take over would move a damaged
            table out of the way. Then the next rerun would find it missing, and train again.

    Raises:
        DamagedError: it is there, but it is damaged.
    """
    damage = store.damage(artifact, thorough=thorough)
    if damage is not None and damage.file:  # without a file, the whole folder is gone
        raise damage
    return damage is None


def _asked_then(config: dict[str, Any]) -> dict[str, Any] | None:
    """`_asked` of an earlier run's configuration; None if this version can't read it.

    Keys that the earlier version did not have get their defaults.
    """
    try:
        return _asked(resolve(config))
    except ConfigError:
        return None


def _asked(config: Config) -> dict[str, Any]:
    """The part of a configuration that must be equal for a rerun to keep anything.

    Lengths are in px, as in the stages' requests.
    """
    asked: dict[str, Any] = config.model_dump(mode="json", exclude=set(_OWN))
    for name in asked:
        section = getattr(config, name)
        if isinstance(section, Sized):
            asked[name] = section.settings(config.data.image_size)
    return asked | {"precision": config.compute.precision}


def pinned_chain(config: Config, earlier: Earlier | None, hooks: Hooks) -> dict[str, Handle]:
    """Lay out the whole chain. Keep what the earlier run trained if the limits allow it.

    Args:
        config: the run's configuration, with `pin.enabled`.
        earlier: the result of `find`; None: everything is trained.
        hooks: callbacks that run the stages. `decided` gets the decision.

    Returns:
        label -> handle, for every stage of the run.
    """
    if earlier is None:
        hooks.decided(Decision(False, "no earlier run of this configuration", None, {}))
        return chain(config, hooks)
    # The earlier networks need the range of pixel values that they were trained with.
    images = hooks.step("manifest", partial(manifest.plan, config, like=earlier.manifest))
    made: dict[str, Handle] = {"manifest": images}
    made["growth"] = hooks.step("growth", partial(growth.plan, before=earlier.manifest), manifest=images)
    figures = _figures(hooks.look(made["growth"]), GROWTH)
    limits, because = config.pin, ""
    if figures["same"]:
        # Pinning is not needed, because the store has all artifacts of these images.
        because = "the images are those it was trained on"
    elif figures["share"] > limits.growth:
        because = (
            f"{percent(figures['share'])} of the images are new, changed or gone, "
            f"more than {percent(limits.growth)}"
        )
    elif earlier.assignments is not None:
        figures |= _measure_drift(earlier, hooks, made)
        for name, limit, words in (
            ("shift", limits.shift, "the mean distance to the centroids has shifted by"),
            ("far", limits.far, "the share of images far from their centroid is"),
        ):
            if figures[name] > limit:
                because = f"{words} {percent(figures[name])}, more than {percent(limit)}"
                break
    if because:
        hooks.decided(Decision(False, because, earlier.run, figures))
        # With new training, today's images choose the range again.
        if "value_range" in hooks.look(images) and not figures["same"]:
            made["manifest"] = hooks.step("manifest", partial(manifest.plan, config))
        return chain(config, hooks, made=made)
    kept = earlier.trained
    because = (
        f"{percent(figures['share'])} of the images are new, changed or gone, "
        "and the distances to the centroids are within the limits"
    )
    if figures["relabelled"]:
        kept = {label: artifact for label, artifact in kept.items() if not label.startswith(FEW_LABELS)}
        because += (
            f"; {figures['relabelled']:,} have another label, so stages that use labels are trained again"
        )
    hooks.decided(Decision(True, because, earlier.run, figures))
    return chain(config, hooks, made=made, kept=kept)


def _figures(meta: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: meta[name] for name in names}


def _measure_drift(earlier: Earlier, hooks: Hooks, made: dict[str, Handle]) -> dict[str, float]:
    """Measure the distances of today's images to the earlier centroids, in the earlier teacher's features."""
    assert earlier.assignments is not None
    layout = Layout(earlier.config, hooks, made=made, models={"teacher": earlier.trained.get("pretext")})
    features = layout.features("embed-drift", made["manifest"], part="train")
    assigned = layout.make(
        "assign-drift", assign.plan, clusters=earlier.trained["cluster"], features=features
    )
    found = layout.make("drift", partial(drift.plan, before=earlier.assignments), assignments=assigned)
    return _figures(hooks.look(found), DRIFT)
