"""The network that later stages keep, and its description.

These are its layers in order, by name:

- the backbone's maps: conv1 and so on, layer1 and so on
- `features`: the last map, averaged
- `fc6` and `fc7`, as in the architecture's paper; or `head1`, what is kept of a projection head
- `projection`, a whole projection head: a student's, which a later training continues, or MoCo's, which
  students learn from; or `logits`

Layers that only pretraining needs belong to the method: the rest of a projection head, a puzzle's head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from data import draws
from data.errors import ArtifactError, ConfigError
from data.packs import Fit
from data.preprocessing import Preprocessing
from data.types import Frozen
from models import heads
from models.backbones import make_backbone
from models.backbones.backbone import pooled
from models.colour import lightness

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's red, green and blue in [0, 1]. As usual, they are used for all data."""
Input = Literal["rgb", "lightness", "bands"]
_SCALES: dict[Input, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "rgb": (MEAN, STD),
    "lightness": ((0.5,), (0.25,)),
    "bands": ((0.5,), (0.25,)),
}
"""Mean and deviation for each kind of input. Lightness is L / 100; 0.5 is the middle of its range, and of the
range of each band of images that are not RGB."""

_channels: ContextVar[int] = ContextVar("channels", default=3)


@contextmanager
def seeing(channels: int) -> Iterator[None]:
    """Make `build_network` build networks for images of this many channels.

    It is a property of a run's images, so no method and no stage has to pass it on. Networks from a
    description, and copies of a network, keep their own number.
    """
    token = _channels.set(channels)
    try:
        yield
    finally:
        _channels.reset(token)


_start: ContextVar[Network | None] = ContextVar("start", default=None)


@contextmanager
def starting(network: Network | None) -> Iterator[None]:
    """Make `build_network` build networks that start from the backbone of another one, with its mean and std.

    A method builds its networks itself and copies some of them. So the weights have to be there before.

    Args:
        network: it was loaded for the same size of images. None: networks start from random weights.
    """
    token = _start.set(network)
    try:
        yield
    finally:
        _start.reset(token)


class Description(Frozen):
    """The content of model.json: enough to build the network that model.safetensors fits into.

    Attributes:
        backbone: name in `models.backbones.BACKBONES`.
        width: multiplies the backbone's channels.
        image_size: side of the images that the network is for, px.
        form: side that the backbone's strides and pools are chosen for, px, such as a puzzle's tile; None:
            image_size.
        input: what the backbone sees of an image: its colours, only their lightness L / 100, or other bands.
        mean: subtracted from the input in [0, 1], one value per channel.
        std: divides the input after that, one value per channel.
        fc: whether the network has the architecture's fully connected layers.
        head: how many layers of a projection head are kept.
        projection: width d of a whole projection head, which `with_classifier` drops; None without one.
        projection_layers: number of linear layers of this head.
        classes: number of classes of the classifier; None without one.
        feature_dim: D of the layer `features`; None before the network is built.
        real_weights: whether 1-bit convolutions use their real-valued weights (step 1 of two-step
            binarisation). The names and shapes of the weights are the same either way.
        interpolation: filter that resizes an image for the network; see `data.preprocessing`.
        resized: side of the square before the central crop, px; None: as for networks that we train.
        fit: how an image becomes a square.
    """

    backbone: str
    width: float = Field(default=1.0, gt=0)
    image_size: int = Field(ge=1)
    form: int | None = Field(default=None, ge=1)
    input: Input = "rgb"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    fc: bool = False
    head: int = Field(default=0, ge=0)
    projection: int | None = Field(default=None, ge=1)
    projection_layers: int = Field(default=2, ge=1)
    classes: int | None = Field(default=None, ge=1)
    feature_dim: int | None = None
    real_weights: bool = False
    interpolation: str = "bicubic"
    resized: int | None = Field(default=None, ge=1)
    fit: Fit = "square"


class Network(nn.Module):
    """A network from images in [0, 1] to logits, or to the last features if it has no classifier.

    Fresh weights come from torch's global generator. `build_network` makes them a function of a seed.

    Args:
        description: which layers the network has.

    Raises:
        ConfigError: the backbone is unknown, the images are too small for it, or it has no fully connected
            layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, description: Description) -> None:
        super().__init__()
        d = description
        self.register_buffer("mean", torch.tensor(d.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(d.std).view(-1, 1, 1), persistent=False)
        self.backbone = make_backbone(
            d.backbone, d.form or d.image_size, d.width, len(d.mean), real_weights=d.real_weights
        )
        D = self.backbone.feature_dim
        self.fc = nn.ModuleDict()
        if d.fc:
            if self.backbone.fc is None or d.head:
                raise ConfigError(
                    f"network: no fully connected layers on {d.backbone} with {d.head} layers of a head"
                )
            self.fc.update(self.backbone.fc())
        self.head = nn.ModuleDict({f"head{i}": heads.hidden_layer(D, D) for i in range(1, d.head + 1)})
        self.output_dim = self.backbone.fc_dim if d.fc else D
        self.projection = (
            None
            if d.projection is None
            else heads.mlp(self.output_dim, D, d.projection, layers=d.projection_layers, norm=False)
        )
        self.classifier = None if d.classes is None else heads.classifier(self.output_dim, d.classes)
        self._widths = {**self.backbone.channels, "features": D}
        self._widths |= dict.fromkeys(self.fc, self.backbone.fc_dim) | dict.fromkeys(self.head, D)
        if d.projection is not None:
            self._widths["projection"] = d.projection
        if d.classes is not None:
            self._widths["logits"] = d.classes
        self._description = d.model_copy(update={"feature_dim": D})
        self.to(memory_format=torch.channels_last)

    @property
    def image_size(self) -> int:
        """Side of the images that the network is for, px."""
        return self._description.image_size

    @property
    def own_input(self) -> bool:
        """Whether the network brings its own size and preparation of images, instead of the run's."""
        return self._description.resized is not None

    @property
    def rule(self) -> Preprocessing:
        """How images are prepared for the network. The run's images say which bands are read."""
        return Preprocessing.of(self._description.model_dump())

    @property
    def channels(self) -> int:
        """C of the images that the network takes."""
        return 3 if self._description.input == "lightness" else len(self._description.mean)

    @property
    def classes(self) -> int | None:
        """Number of classes of the classifier; None without one."""
        return self._description.classes

    @property
    def projection_dim(self) -> int | None:
        """Width d of the projection head; None without one."""
        return self._description.projection

    def layer_names(self) -> list[str]:
        """The names that `features` accepts, from the image upwards."""
        return list(self._widths)

    @property
    def last_layer(self) -> str:
        """The uppermost layer below the classifier, such as the last kept layer of a projection head."""
        return next(name for name in reversed(self._widths) if name != "logits")

    @property
    def classified_layer(self) -> str:
        """The layer that a classifier is on, or would be on. A whole projection head is never below it."""
        return next(name for name in reversed(self._widths) if name not in ("projection", "logits"))

    def layer_dim(self, layer: str) -> int:
        """Length of the vectors that `features` returns for a layer.

        Raises:
            ConfigError: there is no such layer.
        """
        layer = self.last_layer if layer == "last" else layer
        if layer not in self._widths:
            known = ", ".join(self._widths)
            raise ConfigError(
                f"layer: this {self._description.backbone} has no {layer!r}; choose one of {known}"
            )
        return self._widths[layer]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) float32 in [0, 1] -> (B, classes), or (B, output_dim) without a classifier."""
        for _, output in self._outputs(x):
            x = output
        return x

    def features(self, x: Tensor, layer: str = "features") -> Tensor:
        """One layer's output. Maps are averaged over their places.

        Args:
            x: (B, C, S, S) float32 in [0, 1].
            layer: one of `layer_names()`, or `last` for `last_layer`.

        Returns:
            (B, D) float32. D depends on the layer.

        Raises:
            ConfigError: there is no such layer.
        """
        self.layer_dim(layer)
        layer = self.last_layer if layer == "last" else layer
        output = next(output for name, output in self._outputs(x) if name == layer)
        return pooled(output) if output.ndim == 4 else output.float()

    def features_and_map(self, x: Tensor, layer: str = "features") -> tuple[Tensor, Tensor]:
        """One layer's vectors and the backbone's last map, in one pass.

        Args:
            x: (B, C, S, S) float32 in [0, 1].
            layer: a layer of vectors, or `last` for `last_layer`.

        Returns:
            (B, D) float32, and (B, c, h, w).
        """
        layer = self.last_layer if layer == "last" else layer
        for name, output in self._outputs(x):
            if output.ndim == 4:
                last = output
            if name == layer:
                return output.float(), last
        raise AssertionError(layer)

    def answer(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The features of `classified_layer` and the logits, in one pass.

        Args:
            x: (B, C, S, S) float32 in [0, 1].

        Returns:
            Features (B, D) float32; logits (B, classes), or None without a classifier.
        """
        logits = None
        for name, output in self._outputs(x):
            if name == "logits":
                logits = output
            elif name == self.classified_layer:
                last = output
        return (pooled(last) if last.ndim == 4 else last.float()), logits

    def layers(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(B, C, S, S) float32 in [0, 1] -> (name, output) of every layer in order, on demand.

        Outputs are maps (B, c, h, w) or vectors (B, D).
        """
        return self._outputs(x)

    def maps(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(B, C, S, S) float32 in [0, 1] -> (name, (B, c, h, w)) of each backbone layer, on demand."""
        return self.backbone.outputs(self._seen(x))

    def last_map(self, x: Tensor) -> Tensor:
        """(B, C, S, S) float32 in [0, 1] -> (B, D, h, w): the backbone's last map, before averaging."""
        return list(self.backbone.layers(self._seen(x)).values())[-1]

    @torch.no_grad()
    def places(self, side: int) -> int:
        """Along each side of the last map, for images of a side in px. One empty image is shown."""
        training = self.training
        found = (
            self.eval().last_map(torch.zeros(1, self.channels, side, side, device=self.mean.device)).shape[2]
        )
        self.train(training)
        return found

    def _seen(self, x: Tensor) -> Tensor:
        if self._description.input == "lightness":
            x = lightness(x)
        return (x - self.mean) / self.std

    def _outputs(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, output) of every layer in order. Each one is computed on demand."""
        maps = x = self._seen(x)
        for name, output in self.backbone.through(x):
            maps, x = x, output
            yield name, x
        if self.fc:
            x = maps
        for name, layer in (*self.fc.items(), *self.head.items()):
            x = layer(x)
            yield name, x
        if self.projection is not None:
            yield "projection", self.projection(x)
        if self.classifier is not None:
            yield "logits", self.classifier(x)

    def with_classifier(
        self, classes: int, *, seed: int, keep_fc: bool = False, keep_head: int = 1
    ) -> Network:
        """A copy with a new classifier on top of the kept layers.

        The classifier is placed on the kept layers of the projection head. If there are none, it is placed on
        the architecture's own fully connected layers. If there are none of these either, on the pooled
        features.

        Args:
            classes: number of classes.
            seed: for the new layers' weights.
            keep_fc: keep the existing fully connected layers instead of initialising the architecture's own
                again.
            keep_head: how many layers of the projection head to keep, if it has that many; 1 as in SimCLRv2.
        """
        kept = min(keep_head, len(self.head))
        fc = kept == 0 and (len(self.fc) > 0 if keep_fc else self.backbone.fc is not None)
        with seeded(seed, "classifier"):
            new = Network(
                self._description.model_copy(
                    update={"fc": fc, "head": kept, "projection": None, "classes": classes}
                )
            )
        new.backbone.load_state_dict(self.backbone.state_dict())
        if keep_fc:
            new.fc.load_state_dict(self.fc.state_dict())
        for name, layer in new.head.items():
            layer.load_state_dict(self.head[name].state_dict())
        return new

    def with_projection(self, width: int, *, seed: int, layers: int = 2) -> Network:
        """A copy without classifier, with a new projection head on top: linear, ReLU, linear, as in MoCo v2.

        Unlike other heads of a method, it is published with the network, so that a later training can
        continue it or learn from it.

        Args:
            width: d of the projection.
            seed: for its weights.
            layers: number of linear layers, with a ReLU in between.
        """
        with seeded(seed, "projection"):
            new = Network(
                self._description.model_copy(
                    update={"projection": width, "projection_layers": layers, "classes": None}
                )
            )
        top = ("projection.", "classifier.")
        kept = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(top)}
        new.load_state_dict(kept, strict=False)
        return new

    def with_weights(self, *, real: bool) -> Network:
        """A copy with the same weights whose 1-bit convolutions use real-valued weights, or their signs.

        Args:
            real: True for step 1 of two-step binarisation, False for step 2 and for a finished network.

        Raises:
            ConfigError: `real` is True, but the network has no 1-bit convolutions.
        """
        new = Network.from_description({**self.description(), "real_weights": real})
        new.load_state_dict(self.state_dict())
        return new

    def fitting(self, backbone: str, input: Input) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and std of this network, for one that starts from its backbone.

        Args:
            backbone: name of the backbone of the other network.
            input: what the other network sees.

        Raises:
            ConfigError: the other network is of another kind.
        """
        own = self._description
        if own.backbone != backbone:
            raise ConfigError(
                f"pretext.backbone = {backbone}, but pretext.weights are of {own.backbone}; set "
                f"pretext.backbone={own.backbone}"
            )
        if own.input != input:
            raise ConfigError(
                f"pretext.weights are for three colours, but this method's network sees {input}; choose "
                "another pretext.method"
            )
        return own.mean, own.std

    def take_backbone(self, other: Network) -> None:
        """Copy the weights of another network's backbone.

        Raises:
            ConfigError: the backbones have other shapes, because one of them is for small images.
        """
        try:
            self.backbone.load_state_dict(other.backbone.state_dict())
        except RuntimeError:
            own = self._description
            raise ConfigError(
                f"pretext.weights: {own.backbone} has another form for views or tiles of "
                f"{own.form or own.image_size} px than for those of the weights; set data.image_size to 64 "
                "or more, or choose another pretext.method"
            ) from None

    def description(self) -> dict[str, Any]:
        """Plain values for model.json, from which `from_description` builds this network again."""
        return self._description.model_dump(mode="json")

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Network:
        """The network that `description()` described, with fresh weights. Then call `load_state_dict`.

        Raises:
            ArtifactError: keys or values are not a network's description.
        """
        try:
            wanted = Description.model_validate(dict(description))
        except ValidationError as error:
            where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ArtifactError(f"model.json does not describe a network: {where}; train it again") from None
        with seeded(0, "description"):
            network = cls(wanted)
        built = network.backbone.feature_dim
        if wanted.feature_dim not in (None, built):
            raise ArtifactError(
                f"model.json: feature_dim {wanted.feature_dim}, but {wanted.backbone} has {built}"
            )
        return network


def build_network(
    backbone: str,
    image_size: int,
    *,
    seed: int,
    width: float = 1.0,
    form: int | None = None,
    head: int = 0,
    classes: int | None = None,
    real_weights: bool = False,
    input: Input = "rgb",
) -> Network:
    """Build an untrained network. The same arguments give the same weights.

    It is for images of three channels, or of as many as `seeing` says.

    Args:
        backbone: name in `models.backbones.BACKBONES`.
        image_size: side of the images, px.
        seed: for all weights.
        width: multiplies the backbone's channels.
        form: side that strides and pools are chosen for, px; None: image_size.
        head: how many layers of a projection head later stages keep.
        classes: number of classes of a classifier; None without one. It is placed on the architecture's fully
            connected layers if it has some and `head` is 0.
        real_weights: whether 1-bit convolutions use their real-valued weights.
        input: what the backbone sees of an image: its colours, or only their lightness.

    Raises:
        ConfigError: the backbone is unknown, the images are too small for it, or `real_weights` is True for a
            backbone without 1-bit convolutions; or lightness is asked of images without colours.
    """
    channels = _channels.get()
    if channels != 3:
        if input != "rgb":
            raise ConfigError(
                f"network: {channels} bands have no {input}; choose three with data.bands=1,2,3"
            )
        input = "bands"
    mean, std = (values * channels if input == "bands" else values for values in _SCALES[input])
    start = _start.get()
    if start is not None:
        mean, std = start.fitting(backbone, input)
    with seeded(seed, "network"):
        network = Network(
            Description(
                backbone=backbone,
                width=width,
                image_size=image_size,
                form=form,
                input=input,
                mean=mean,
                std=std,
                head=head,
                real_weights=real_weights,
            )
        )
    if start is not None:
        network.take_backbone(start)
    return network if classes is None else network.with_classifier(classes, seed=seed, keep_head=head)


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Make fresh weights a function of (seed, name). Afterwards torch's global generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draws.key(seed, name))
        yield
