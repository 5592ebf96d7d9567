"""Sound: looks at a foreign teacher on some images, and warns if it may have been loaded badly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, passes
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from models.network import Network

STAGE = Stage(
    name="sound",
    kind="sound",
    version=1,
    process="train",
    columns={"who": "string", "measure": "string", "value": "float64", "error": "float64"},
)
IMAGES = 200
"""Number of images that are looked at, at most."""
FEW = 20
"""With fewer labelled images, classes say too little, and two views of images without labels are compared."""
LAYERS = 4
"""Number of earlier layers that are compared with the last."""
BATCH = 32


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, labels: Artifact | None = None) -> Request:
    """Request the look at a teacher.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the teacher.
        labels: the drawn labels; None if the run has none.
    """
    return STAGE.request(
        settings={"precision": config.compute.precision, "layer": config.embed.layer},
        inputs={"manifest": manifest, "checkpoint": checkpoint} | ({"labels": labels} if labels else {}),
        parts=("train",) if labels else ("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    cost = cost_of(inputs)
    seen = 6 * IMAGES
    return Size(10, 2e3, seen * cost.forward, work=(passes(run, cost, seen),))


def build(job: Job) -> Outcome:
    """Compare the teacher with its random self, with other normalisations and with its own layers."""
    import numpy as np

    from data.draws import key, permutation
    from models.device import resolve_device
    from models.saved import load
    from tasks.rows import drawn_rows, manifest_rows

    network = load(job.path("checkpoint")).to(resolve_device(job.compute.device)).eval()
    label: NDArray[np.int64] | None = None
    if "labels" in job.request.inputs:
        index, label = drawn_rows(job.path("labels"))
        often = np.bincount(label)[label] > 1
        index, label = index[often], label[often]
        if len(index) < FEW or len(np.unique(label)) < 2:
            label = None
    if label is None:
        index, _ = manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    some = np.sort(permutation(key(job.seed, "sound"), len(index))[:IMAGES])
    index, label = index[some], None if label is None else label[some]
    found = _Found(job, network, index, label)
    found.look()
    columns: dict[str, Any] = {
        name: [row[at] for row in found.rows] for at, name in enumerate(STAGE.columns or {})
    }
    rows = job.write("sound.parquet", columns)
    return Outcome(rows=rows, meta={"warnings": found.warnings, "images": len(index)})


class _Found:
    """What was found of a teacher.

    Attributes:
        rows: (who, measure, value, standard error of its difference from the teacher; 0 if unknown).
        warnings: sentences.
    """

    def __init__(
        self, job: Job, network: Network, index: NDArray[np.int64], label: NDArray[np.int64] | None
    ) -> None:
        self._job, self._network, self._index, self._label = job, network, index, label
        self._layer = network.last_layer if job.settings["layer"] == "last" else job.settings["layer"]
        self.rows: list[tuple[str, str, float, float]] = []
        self.warnings: list[str] = []

    def look(self) -> None:
        from models.evaluation import soundness as sound

        network, layer = self._network, self._layer
        own = self._measured(network, [layer])[layer]
        measure = "images of the same class" if self._label is not None else "the other view of an image"
        self._row("teacher", measure, own.mean(), 0.0)
        random = sound.untrained(network)
        lead = sound.paired(own, self._measured(random, [layer])[layer])
        self._row("random weights", measure, own.mean() - lead.mean, lead.error)
        self._warn(sound.worse_than_random(lead, measure))
        if self._label is None:
            self._stable(random)
        usual = {
            name: sound.normalised_as(network, *values) for name, values in sound.others(network).items()
        }
        leads = {}
        for name, other in usual.items():
            leads[name] = sound.paired(self._measured(other, [layer])[layer], own)
            self._row(f"mean and std {name}", measure, own.mean() + leads[name].mean, leads[name].error)
        norms = sound.norm_distances(network, self._centres())
        for name, distance in norms.items():
            self._row("teacher", f"distance of {name}", distance, 0.0)
        others = {name: sound.norm_distances(other, self._centres()) for name, other in usual.items()}
        self._warn(sound.better_normalisation(leads) or sound.suspicious_norms(norms, others))
        earlier = _spaced([name for name in network.layer_names() if name != layer], LAYERS)
        found = self._measured(network, earlier)
        ahead = {name: sound.paired(found[name], own) for name in earlier}
        for name, each in ahead.items():
            self._row(name, measure, own.mean() + each.mean, each.error)
        self._warn(sound.better_layer(ahead))

    def _stable(self, random: Network) -> None:
        from models.evaluation import soundness as sound

        values = []
        for who, network in (("teacher", self._network), ("random weights", random)):
            one, two = (self._features(network, [self._layer], view)[self._layer] for view in ("a", "b"))
            values.append(sound.stability(one, two))
            self._row(who, "agreement of clusters", values[-1], 0.0)
        if values[0] < values[1] - 0.05:
            self._warn(
                f"teacher: clusters of two views of the images agree less ({values[0]:.2f}) than with random "
                f"weights ({values[1]:.2f}); {sound.CAUSES}"
            )

    def _measured(self, network: Network, layers: list[str]) -> dict[str, Any]:
        """Layer -> (N,) measure of each image."""
        from models.evaluation import soundness as sound

        if not layers:
            return {}
        if self._label is not None:
            label = self._label
            return {
                name: sound.found_alike(x, label) for name, x in self._features(network, layers, None).items()
            }
        one, two = (self._features(network, layers, view) for view in ("a", "b"))
        return {name: sound.found_again(one[name], two[name]) for name in layers}

    def _features(self, network: Network, layers: list[str], view: str | None) -> dict[str, torch.Tensor]:
        import torch

        from models.backbones.backbone import pooled
        from models.device import resolve_device

        device = resolve_device(self._job.compute.device)
        network.to(device)
        found: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
        with torch.inference_mode():
            for x in self._views(view):
                for name, output in network.layers(x):
                    if name in found:
                        found[name].append((pooled(output) if output.ndim == 4 else output.float()).cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _centres(self) -> Iterator[torch.Tensor]:
        return self._views(None)

    def _views(self, view: str | None) -> Iterator[torch.Tensor]:
        import torch

        from data.draws import Draws
        from data.errors import Interrupted
        from models.augment import centre, random_view
        from models.configs.shared import Views
        from models.device import resolve_device

        job, size = self._job, self._network.image_size
        images, device = job.images_for(self._network), resolve_device(job.compute.device)
        for start in range(0, len(self._index), BATCH):
            if job.interrupted():
                raise Interrupted("stopped while looking at the teacher")
            part = self._index[start : start + BATCH]
            pixels = torch.from_numpy(images.read(part)).to(device)
            if view is None:
                yield centre(pixels, size)
            else:
                yield random_view(pixels, Draws(job.seed, "sound", 0, part), view, Views(), size)

    def _row(self, who: str, measure: str, value: float, error: float) -> None:
        self.rows.append((who, measure, float(value), float(error)))

    def _warn(self, text: str | None) -> None:
        if text is not None:
            self.warnings.append(text)
            self._job.log(f"warning: {text}")


def _spaced(names: list[str], count: int) -> list[str]:
    """At most `count` of the names, evenly spaced, the first and the last among them."""
    if len(names) <= count:
        return names
    step = (len(names) - 1) / (count - 1)
    return [names[round(step * at)] for at in range(count)]
