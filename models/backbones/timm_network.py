"""Networks of the optional package timm, as `timm:NAME`, without their pretrained weights.

Their layers are timm's intermediates, named layer1, layer2 and so on. The last layer is the map that
`forward_features` ends with. Tokens of patches are put back into their places, and class tokens are left out.

A name may have options: `timm:NAME?depth=2&pool=own`. `pool=own` makes `features` what timm gives its own
classifier: the class token, an attention pool, or a mean, as the family does. Without it, `features` is the
mean over the places of the last map. All other options are timm's own arguments, as JSON values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, urlencode

import torch
from torch import Tensor, nn

from data.errors import ConfigError
from models.backbones.backbone import Backbone


class TimmBackbone(Backbone):
    """A timm network with the interface of `Backbone`.

    Args:
        network: a timm network without its classifier. It must have `forward_intermediates`.
        image_size: side of the images with which its layers are found, px.
        in_channels: channels of the images.
        own_pool: whether `features` is what the network gives its own classifier.
    """

    def __init__(self, network: Any, image_size: int, in_channels: int, own_pool: bool = False) -> None:
        with torch.no_grad():
            maps, last = _maps(network.eval(), torch.zeros(1, in_channels, image_size, image_size))
            own = network.forward_head(last, pre_logits=True) if own_pool else None
        channels = {f"layer{number}": x.shape[1] for number, x in enumerate(maps, start=1)}
        super().__init__({"network": network.train()}, channels, least_size=1)
        self.own_pool = own_pool
        if own is not None:
            if own.ndim != 2:
                raise ValueError("its own pooling gives no vector; set pretext.layer=mean")
            self.feature_dim = own.shape[1]

    def outputs(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(B, C, S, S) -> name and (B, c, h, w) of every layer in order."""
        yield from zip(self.channels, _maps(self.stages["network"], x)[0], strict=True)

    def through(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Backbone.through`."""
        if not self.own_pool:
            yield from super().through(x)
            return
        network: Any = self.stages["network"]
        maps, last = _maps(network, x)
        yield from zip(self.channels, maps, strict=True)
        yield "features", network.forward_head(last, pre_logits=True).float()

    def depths(self) -> dict[nn.Parameter, int]:
        """See `Backbone.depths`. The layers are timm's own: blocks of a transformer, stages of others."""
        from timm.models import group_parameters

        network: Any = self.stages["network"]
        layer = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        top = max(layer.values())
        return {parameter: 1 + top - layer[name] for name, parameter in network.named_parameters()}


def _maps(network: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The maps of all layers, and the last output in the network's own form."""
    raw, maps = network.forward_intermediates(x, output_fmt="NCHW")
    last = raw
    if last.ndim == 3:
        last = (
            last[:, getattr(network, "num_prefix_tokens", 0) :]
            .transpose(1, 2)
            .unflatten(2, maps[-1].shape[2:])
        )
    elif getattr(network, "output_fmt", "NCHW") == "NHWC":
        last = last.permute(0, 3, 1, 2)
    # The last intermediate may be the last map itself, or the same map before a norm. It must not appear
    # twice.
    return [*(maps[:-1] if maps[-1].shape == last.shape else maps), last], raw


def parsed(name: str) -> tuple[str, dict[str, Any]]:
    """Split NAME?key=value&... into timm's name and its options. A value that is no JSON is a string."""
    plain, _, query = name.partition("?")
    options: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return plain, options


def named(name: str, options: Mapping[str, Any]) -> str:
    """The reverse of `parsed`. Equal options give equal names."""
    texts = {}
    for key, value in sorted(options.items()):
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        if isinstance(value, str) and parsed(f"x?{urlencode({key: value})}")[1] != {key: value}:
            text = json.dumps(value)
        texts[key] = text
    return f"{name}?{urlencode(texts)}" if texts else name


def timm_backbone(name: str, image_size: int, width: float, in_channels: int) -> Backbone:
    """Make a timm network with fresh weights.

    Args:
        name: timm's name, without `timm:`, and its options.
        image_size: side of the images, px. It sets the number of positions in networks that have positions.
        width: must be 1.
        in_channels: channels of the images.

    Raises:
        ConfigError: timm is not installed or has no such network, the network gives no maps for such images,
            or width is not 1.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise ConfigError(
            f"backbone: timm:{name} needs the package timm; "
            "install it with: pip install 'knowledge-transfer[timm]'"
        ) from None
    name, given = parsed(name)
    own_pool = given.pop("pool", None) == "own"
    if not timm.is_model(name):
        near = (
            ", ".join(get_close_matches(name, timm.list_models(), n=3))
            or "nothing; timm.list_models() names all"
        )
        raise ConfigError(f"backbone: timm has no network {name!r}; near it is {near}")
    if width != 1:
        raise ConfigError(f"backbone: timm:{name} has the width of its name: set width to 1, not {width:g}")
    options: dict[str, Any] = {**given, "pretrained": False, "num_classes": 0, "in_chans": in_channels}
    try:
        if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
            options["img_size"] = image_size
            try:
                network = timm.create_model(name, dynamic_img_size=True, **options)
            except TypeError:  # for example Swin, which adapts by itself or not at all
                network = timm.create_model(name, **options)
        else:
            network = timm.create_model(name, **options)
        return TimmBackbone(network, image_size, in_channels, own_pool)
    except (
        AssertionError,
        AttributeError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"backbone: timm:{name} gives no maps of images of {image_size} px: {cause}"
        ) from error
