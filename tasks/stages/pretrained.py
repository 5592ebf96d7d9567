"""Pretrained: loads a network that somebody else trained, in place of the teacher that pretext trains."""

from __future__ import annotations

from typing import Any

from data.errors import ConfigError
from data.types import Artifact
from models.configs.pretrained import Pretrained
from models.configs.shared import Teacher
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores, trained
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="pretrained", kind="checkpoint", version=1, process="train", by_content=True)


def plan(config: Config, manifest: Artifact) -> Request:
    """Request the teacher. It is named by its architecture, its tensors and how its images are prepared.

    The place and the name of the file are not part of the name, and neither are the run's images. The
    manifest only says how images are read.

    Args:
        config: the run's configuration. Its pretext method is `Pretrained`, or continues from `weights`.
        manifest: the manifest of the run's images.
    """
    given, layer = config.pretext, config.embed.layer
    if isinstance(given, Teacher):  # the training adds its own layers, and checks embed.layer
        assert given.weights is not None
        size, layer = config.data.image_size, "features"
        given = Pretrained(weights=given.weights, backbone=given.backbone, input_size=size, layer="mean")
    assert isinstance(given, Pretrained)
    return STAGE.request(
        settings={}, inputs={"manifest": manifest}, outside={"pretext": given.model_dump(), "layer": layer}
    )


def stamps(request: Request) -> list[str | None]:
    """A value that changes whenever the file may have changed."""
    from data.weights import stamp

    return [stamp(request.outside["pretext"]["weights"])]


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run. It loads the weights, and refuses what a run refuses.

    Raises:
        ConfigError: the weights can't be used.
    """
    from models.cost import network_cost
    from models.pretrained import told

    loaded = _load(request, channels=3)
    for line in told(loaded):
        run.assume(line)
    return trained(network_cost(loaded.network), 0.0, chores(1.0))


def build(job: Job) -> Outcome:
    """Load the weights, and write them as a checkpoint like any other.

    Raises:
        ConfigError: the weights can't be used, or the teacher has no layer `embed.layer`.
    """
    from data.checkpoints import write_checkpoint
    from data.reading import recorded_in
    from models.pretrained import told

    manifest = job.meta("manifest")
    reading = recorded_in(manifest).recorded()
    loaded = _load(job.request, channels=manifest.get("channels", 3))
    for line in told(loaded):
        job.log(line)
    network = loaded.network
    described = network.description()
    content = {"network": described, "tensors": loaded.tensors, **reading}
    rows = sum(p.numel() for p in network.parameters())
    if job.has(content):
        return Outcome(rows=rows, content=content)
    arrays = {name: tensor.detach().float().numpy() for name, tensor in network.state_dict().items()}
    write_checkpoint(job.out, arrays, {**described, "class_names": None, **reading}, [])
    weights = loaded.about | {"left_out": list(loaded.left_out), "tensors": loaded.tensors}
    return Outcome(rows=rows, meta={"weights": weights, "warnings": []}, content=content)


def _load(request: Request, channels: int) -> Any:
    from models.pretrained import load_pretrained

    config = Pretrained.model_validate(request.outside["pretext"])
    loaded = load_pretrained(config, channels=channels)
    layer, known = request.outside["layer"], ("last", *loaded.network.layer_names())
    if layer not in known:  # embed needs it; check before any work
        raise ConfigError(
            f"embed.layer = {layer}: {loaded.about['name']} has no such layer; choose one of "
            f"{', '.join(known)}"
        )
    return loaded
