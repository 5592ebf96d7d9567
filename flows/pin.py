"""Scheduled reruns: what an earlier run has trained is kept while the images have changed little.

With `pin.enabled` a run looks for the latest run of the same configuration that trained for itself. Where images are new,
changed or gone since, and neither their share nor the drift of distances passes the limits, this run is given that run's
checkpoints and clusters, as they are; what follows from them and from today's images is named by its actual inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from data.store import Store
from data.types import Artifact
from flows.chain import FEW_LABELS, Handle, Hooks, Layout, chain
from flows.phrases import percent
from tasks.config import Config
from tasks.stages import assign, drift, growth, manifest

TRAINED = ("checkpoint", "clusters")
"""Kinds that are kept."""
GROWTH = ("images", "before", "new", "changed", "gone", "relabelled", "same", "share")
DRIFT = ("mean", "mean_before", "shift", "far", "far_before")
"""Figures of the stages of these names."""
_OWN = {"recipe", "store", "compute", "pin", "review"}
"""Keys that don't, as a whole, tell one configuration from another here."""


@dataclass(frozen=True)
class Earlier:
    """A run of the same configuration that trained for itself.

    Attributes:
        run: its name.
        manifest: of its images.
        assignments: of these to its clusters; None where it has none.
        trained: stage -> checkpoint or clusters.
    """

    run: str
    manifest: Artifact
    assignments: Artifact | None
    trained: dict[str, Artifact]


@dataclass(frozen=True)
class Decision:
    """What was decided on a rerun, and by what.

    Attributes:
        pinned: whether what the earlier run trained is kept.
        because: in words.
        earlier: that run's name; None where there is none.
        figures: of growth and drift, as far as they were looked at.
    """

    pinned: bool
    because: str
    earlier: str | None
    figures: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """For run.json."""
        return {"pinned": self.pinned, "because": self.because, "earlier": self.earlier, "figures": self.figures}


def find(config: Config) -> Earlier | None:
    """The latest run of the configuration that is done, trained for itself, and whose artifacts are all there."""
    store = Store(config.store)
    asked = _asked(config.model_dump(mode="json"))
    for path in sorted((store.root / "runs").glob("*/run.json"), key=lambda path: -path.stat().st_mtime):
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError):  # being written, or damaged
            continue
        if record["status"] != "done" or record.get("pinned"):
            continue
        if _asked(record["config"]) != asked:
            continue
        made = {row["stage"]: Artifact(kind=row["kind"], fingerprint=row["fingerprint"]) for row in record["stages"]}
        trained = {label: artifact for label, artifact in made.items() if artifact.kind in TRAINED}
        needed = [made.get("manifest"), made.get("assign"), *trained.values()]
        if "manifest" in made and all(store.has(artifact) for artifact in needed if artifact is not None):
            return Earlier(record["name"], made["manifest"], made.get("assign"), trained)
    return None


def _asked(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration tells one from another here."""
    others = {name: value for name, value in config.items() if name not in _OWN}
    return others | {"precision": config["compute"]["precision"]}


def pinned_chain(config: Config, earlier: Earlier | None, hooks: Hooks) -> dict[str, Handle]:
    """Lay out the whole chain, with what an earlier run has trained where that may be kept.

    Args:
        config: of the run, with `pin.enabled`.
        earlier: as found; None: all is trained.
        hooks: of whoever runs it; `decided` is told of the decision.
    """
    if earlier is None:
        hooks.decided(Decision(False, "no earlier run of this configuration", None, {}))
        return chain(config, hooks)
    images = hooks.step("manifest", partial(manifest.plan, config))
    made: dict[str, Handle] = {"manifest": images}
    made["growth"] = hooks.step("growth", partial(growth.plan, before=earlier.manifest), manifest=images)
    figures = _figures(hooks.look(made["growth"]), GROWTH)
    limits, because = config.pin, ""
    if figures["same"]:
        because = "the images are those it was trained on"  # so its artifacts have the names that are asked for
    elif figures["share"] > limits.growth:
        because = f"{percent(figures['share'])} of the images are new, changed or gone, more than {percent(limits.growth)}"  # fmt: skip
    elif earlier.assignments is not None:
        figures |= _measure_drift(config, earlier, hooks, made)
        for name, limit, words in (
            ("shift", limits.shift, "the mean distance to the centroids has shifted by"),
            ("far", limits.far, "far from their centroid lie"),
        ):
            if figures[name] > limit:
                because = f"{words} {percent(figures[name])}, more than {percent(limit)}"
                break
    if because:
        hooks.decided(Decision(False, because, earlier.run, figures))
        return chain(config, hooks, made=made)
    kept = earlier.trained
    because = f"{percent(figures['share'])} of the images are new, changed or gone, and they lie where the others do"
    if figures["relabelled"]:
        kept = {label: artifact for label, artifact in kept.items() if not label.startswith(FEW_LABELS)}
        because += f"; {figures['relabelled']:,} have another label, so what learns from labels is trained"
    hooks.decided(Decision(True, because, earlier.run, figures))
    return chain(config, hooks, made=made, kept=kept)


def _figures(meta: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: meta[name] for name in names}


def _measure_drift(config: Config, earlier: Earlier, hooks: Hooks, made: dict[str, Handle]) -> dict[str, float]:
    """Features of today's images by the earlier teacher, and their distances to its centroids."""
    assert earlier.assignments is not None
    layout = Layout(config, hooks, made=made, models={"teacher": earlier.trained.get("pretext")})
    features = layout.features("embed-drift", made["manifest"], part="train")
    assigned = layout.make("assign-drift", assign.plan, clusters=earlier.trained["cluster"], features=features)
    found = layout.make("drift", partial(drift.plan, before=earlier.assignments), assignments=assigned)
    return _figures(hooks.look(found), DRIFT)
