"""Networks that somebody else trained: from a file of tensors to a `Network` like our own.

Loading is strict. Only tensors of a classifier may be left over, and they are named. Everything else that
would spoil the teacher is refused: a missing or renamed tensor, another shape, values that are not finite.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from data.errors import ConfigError
from data.files import file_sha256
from data.packs import Fit
from data.weights import ELSEWHERE, KEY, Weights, locate
from data.wording import counted
from models.backbones import TORCHVISION
from models.backbones.backbone import SMALL
from models.backbones.timm_network import named, parsed
from models.configs.pretrained import Pretrained
from models.configs.shared import TIMM
from models.network import Description, Network, seeded

_TORCHVISION_HEADS = ("fc", "classifier")
_WRAPPED = ("state_dict", "model_state_dict", "model_ema", "model", "teacher")
"""Keys under which training programs put the tensors of a network."""
_PREFIXES = ("module.", "_orig_mod.")
_RUNS = frozenset(
    {"num_classes", "in_chans", "img_size", "global_pool", "pretrained", "drop_rate", "drop_path_rate"}
)
"""Arguments in a folder's config.json that are ignored: the run sets them, or they have no effect here."""
_COUNTERS = ".num_batches_tracked"
"""Batch norms count their steps here. Older files lack the counters, and evaluation does not read them."""


@dataclass(frozen=True)
class Loaded:
    """A foreign network, loaded.

    Attributes:
        network: the network, without a classifier.
        left_out: names of the file's tensors that belong to a classifier, and are not used.
        tensors: hash of the network's tensors, with their names and shapes.
        about: `name`, `file`, `sha256` of the file, and `licence`, which is None if it is unknown.
    """

    network: Network
    left_out: tuple[str, ...]
    tensors: str
    about: dict[str, Any]


@dataclass(frozen=True)
class _Origin:
    """What is known of foreign weights before their tensors are read.

    Attributes:
        backbone: the network, as `models.backbones` names it.
        heads: prefixes of the tensors of its classifier.
        given: how its images are prepared, with timm's keys: input_size, mean, std, interpolation, crop_pct,
            crop_mode.
        name: a name for people.
    """

    backbone: str
    heads: tuple[str, ...]
    given: Mapping[str, Any]
    name: str


def load_pretrained(config: Pretrained, *, channels: int = 3) -> Loaded:
    """Load a foreign network on the CPU.

    Args:
        config: where it is, and what the user says about it.
        channels: C of the run's images.

    Raises:
        ConfigError: a file is missing or broken, it is of another network, a tensor is missing, left over, of
            another shape or not finite; or the images have other channels.
    """
    if channels != 3:
        raise ConfigError(
            f"{KEY}: the weights are for three colours, and the images have {channels} bands; "
            "choose three with data.bands=1,2,3, or another pretext.method"
        )
    found = _on_this_machine(locate(config.weights), config.download)
    origin = _origin(config, found)
    description = _description(config, origin)
    with seeded(0, "pretrained"):
        network = Network(description)
    assert found.file is not None
    left_out = _fill(network, origin, found, _tensors(found))
    about = {
        "name": origin.name,
        "file": found.file.name,
        "sha256": file_sha256(found.file),
        "licence": config.licence or found.licence,
    }
    return Loaded(network, left_out, hash_of(network), about)


def hash_of(network: nn.Module) -> str:
    """A hash of all tensors of a network, with their names and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def told(loaded: Loaded) -> list[str]:
    """Sentences about loaded weights: what was left out, and the licence."""
    lines = []
    if loaded.left_out:
        lines.append(f"{KEY}: left out the classifier: {', '.join(loaded.left_out)}")
    licence = loaded.about["licence"]
    says = (
        f"the licence is {licence}"
        if licence
        else "nothing says their licence; set pretext.licence if you know it"
    )
    rule = loaded.network.rule
    values = "; ".join(", ".join(f"{value:g}" for value in each) for each in (rule.mean, rule.std))
    lines.append(
        f"{KEY}: {loaded.about['name']}, sha256 {loaded.about['sha256'][:12]}; {says}; it sees {rule.size} "
        f"px, resized to {rule.stored} px ({rule.fit}, {rule.interpolation}), mean and deviation {values}"
    )
    return lines


def _on_this_machine(found: Weights, download: bool) -> Weights:
    """Weights as files. Those of a hub are taken from its cache, or downloaded if this is allowed."""
    if found.hub is None:
        return found
    timm = _timm()
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    _known(found.hub)
    try:
        cfg = timm.get_pretrained_cfg(found.hub)
    except RuntimeError as error:
        raise ConfigError(f"{KEY} = {found.spec}: {_line(error)}") from None
    if cfg is None or not cfg.hf_hub_id:
        raise ConfigError(f"{KEY} = {found.spec}: timm names no weights on a hub for it; give a file")
    names = ("config.json", "model.safetensors")
    if download:
        try:
            paths = [Path(hf_hub_download(cfg.hf_hub_id, name)) for name in names]
        except Exception as error:  # the hub's client raises nearly anything
            raise ConfigError(f"{KEY} = {found.spec}: the download failed: {_line(error)}") from None
    else:  # this only looks at the disk; hf_hub_download would ask for the hub's address
        held = [try_to_load_from_cache(cfg.hf_hub_id, name) for name in names]
        paths = [Path(path) for path in held if isinstance(path, str)]
        if len(paths) < len(names):
            raise ConfigError(
                f"{KEY} = {found.spec}: is not on this machine; set pretext.download=true, or give a file"
            )
    return locate(str(paths[0].parent))


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError:
        raise ConfigError(
            f"{KEY}: these weights need the package timm; install it with: pip install "
            "'knowledge-transfer[timm]'"
        ) from None
    return timm


def _known(name: str) -> None:
    """Refuse a name that timm does not have."""
    from difflib import get_close_matches

    timm = _timm()
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3)) or "nothing"
        raise ConfigError(f"{KEY}: timm has no network {name!r}; near it is {near}")


def _origin(config: Pretrained, found: Weights) -> _Origin:
    """The network that weights belong to, by the folder's config.json or the user's word."""
    architecture = found.config.get("architecture")
    asked = config.backbone
    if asked is None and not isinstance(architecture, str):
        if found.config:
            kind = found.config.get("model_type") or "unknown"
            raise ConfigError(
                f"{KEY} = {found.spec}: config.json names no network of timm (its model_type is {kind}); "
                f"set pretext.backbone=timm:NAME if timm has this network, or {ELSEWHERE}"
            )
        raise ConfigError(f"{KEY} = {found.spec}: say which network it is, with pretext.backbone")
    if asked is not None and not asked.startswith(TIMM):
        return _of_torchvision(asked, found)
    name, options = parsed((asked or "").removeprefix(TIMM))
    if isinstance(architecture, str):
        if asked is not None and name.partition(".")[0] != architecture.partition(".")[0]:
            raise ConfigError(
                f"{KEY} = {found.spec}: config.json says {architecture}, but pretext.backbone = {asked}; "
                "leave pretext.backbone empty"
            )
        name = name or architecture
    return _of_timm(config, found, name, options)


def _of_torchvision(backbone: str, found: Weights) -> _Origin:
    if backbone not in TORCHVISION:
        raise ConfigError(
            f"pretext.backbone = {backbone}: foreign weights are of timm:NAME, or of {', '.join(TORCHVISION)}"
        )
    import torchvision

    preset = torchvision.models.get_model_weights(TORCHVISION[backbone])["IMAGENET1K_V1"].transforms()
    side = preset.crop_size[0]
    given = {
        "input_size": (3, side, side),
        "mean": preset.mean,
        "std": preset.std,
        "interpolation": preset.interpolation.value,
        "crop_pct": side / preset.resize_size[0],
    }
    return _Origin(backbone, _TORCHVISION_HEADS, given, f"{found.file and found.file.stem} ({backbone})")


def _of_timm(config: Pretrained, found: Weights, name: str, options: dict[str, Any]) -> _Origin:
    timm = _timm()
    _known(name)
    plain, _, tag = name.partition(".")
    try:
        usual = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"{KEY} = {found.spec}: {_line(error)}") from None
    given = {} if usual is None else usual.to_dict()
    inner = found.config.get("pretrained_cfg")
    if found.config.get("architecture") is not None:
        written = inner if isinstance(inner, dict) else found.config
        given |= {key: value for key, value in written.items() if value is not None}
        tag = str(written.get("tag") or tag)
        args = found.config.get("model_args")
        args = {k: v for k, v in (args if isinstance(args, dict) else {}).items() if k not in _RUNS}
        pool = found.config.get("global_pool")
        options = args | options
        if isinstance(pool, str) and config.layer != "mean" and pool != _usual_pool(plain, options):
            options.setdefault("global_pool", pool)
    options.pop("pool", None)
    if config.layer != "mean":
        options["pool"] = "own"
    heads = given.get("classifier") or ("fc", "head", "classifier")
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    told = f"{plain}.{tag}" if tag else plain
    if not found.config:
        told = f"{found.file and found.file.stem} ({plain})"
    return _Origin(f"{TIMM}{named(plain, options)}", heads, given, told)


def _usual_pool(name: str, options: Mapping[str, Any]) -> str | None:
    """The name of the pooling that a network of timm has by default; None if it names none."""
    try:
        with torch.device("meta"):
            network = _timm().create_model(name, pretrained=False, num_classes=0, **options)
    except Exception as error:  # whatever timm's constructor of this network raises
        raise ConfigError(f"{KEY}: timm can't build {name} with {dict(options)}: {_line(error)}") from None
    pool = getattr(network, "global_pool", None)
    found = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
    if found is None:
        found = getattr(getattr(getattr(network, "head", None), "global_pool", None), "pool_type", None)
    return found if isinstance(found, str) else None


def _description(config: Pretrained, origin: _Origin) -> Description:
    """The network to build, and how its images are prepared: as the user says, or else the weights."""
    given = origin.given
    size = config.input_size or int((given.get("input_size") or (3, 224, 224))[-1])
    crop = config.crop or float(given.get("crop_pct") or 0.875)
    mean, std = config.mean or given.get("mean"), config.std or given.get("std")
    way = config.interpolation or str(given.get("interpolation") or "bicubic")
    lacking = [f"pretext.{name}" for name, value in (("mean", mean), ("std", std)) if not value]
    if lacking:
        raise ConfigError(f"{KEY}: nothing says how images are normalised; set {' and '.join(lacking)}")
    assert mean is not None
    assert std is not None
    if min(std) <= 0:
        raise ConfigError(f"pretext.std = {list(std)}: a deviation is above 0")
    if way not in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"):
        raise ConfigError(f"{KEY}: its interpolation is {way!r}; set pretext.interpolation")
    small = size < SMALL and not origin.backbone.startswith(TIMM)
    return Description(
        backbone=origin.backbone,
        image_size=size,
        form=SMALL if small else None,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        interpolation=way,
        resized=math.floor(size / crop),
        fit=_fit(str(given.get("crop_mode") or "center")),
    )


def _fit(mode: str) -> Fit:
    match mode:
        case "center":
            return "shorter"
        case "squash":
            return "squash"
        case _:
            raise ConfigError(
                f"{KEY}: its images are prepared by crop_mode {mode!r}, which is not known; {ELSEWHERE}"
            )


def _tensors(found: Weights) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    path = found.file
    assert path is not None
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{KEY} = {found.spec}: {path.name} can't be read: {_line(error)}; it may be half a download"
        ) from None
    except Exception as error:  # pickle's own errors, and those of weights_only
        raise ConfigError(
            f"{KEY} = {found.spec}: {path.name} is not a file of plain tensors: {_line(error)}; save its "
            "state dict"
        ) from None
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPED if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{KEY} = {found.spec}: {path.name} has no tensors by name; save the state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    others = [str(name) for name in content if str(name) not in tensors]
    if others:
        raise ConfigError(
            f"{KEY} = {found.spec}: {_some(others)} in {path.name} is no tensor; save the state dict alone"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _fill(network: Network, origin: _Origin, found: Weights, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Load tensors into a network, all of them. Return the names of those that belong to a classifier."""
    inner: nn.Module = network.backbone
    own = inner.state_dict()
    if origin.backbone.startswith(TIMM):
        inner = network.backbone.stages["network"]
        own = inner.state_dict()
        tensors = _converted(origin, found, inner, tensors)
        names = {name: name for name in own}
    else:
        names = dict(zip(_torchvision_names(origin.backbone), own, strict=True))
    for name in names:
        if name.endswith(_COUNTERS) and name not in tensors:
            tensors[name] = torch.zeros((), dtype=torch.int64)
    heads = tuple(f"{head}." for head in origin.heads)
    left_out = sorted(name for name in tensors if name not in names and name.startswith(heads))
    _check(origin, found, {name: own[ours].shape for name, ours in names.items()}, tensors, left_out)
    inner.load_state_dict({ours: tensors[name] for name, ours in names.items()}, strict=True)
    return tuple(left_out)


def _torchvision_names(backbone: str) -> Iterator[str]:
    """The names of torchvision's tensors, in the order of ours."""
    import torchvision

    with torch.device("meta"):
        theirs = torchvision.models.get_model(TORCHVISION[backbone], weights=None)
    heads = tuple(f"{head}." for head in _TORCHVISION_HEADS)
    return (name for name in theirs.state_dict() if not name.startswith(heads))


def _converted(
    origin: _Origin, found: Weights, network: nn.Module, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Let timm rename and resample what it knows: other programs' names, positions for another size."""
    import timm

    name, _ = parsed(origin.backbone.removeprefix(TIMM))
    modules = (timm.models.model_entrypoint(name).__module__, type(network).__module__)
    convert = next(
        (
            way
            for module in modules
            if (way := getattr(sys.modules[module], "checkpoint_filter_fn", None)) is not None
        ),
        None,
    )
    if convert is None:
        return tensors
    try:
        made = convert(dict(tensors), network)
    except Exception as error:  # timm's converters assume the names of their family
        raise ConfigError(
            f"{KEY} = {found.spec}: timm can't convert it for {name}: {type(error).__name__}: {_line(error)}"
            "; it may be of another network"
        ) from None
    return dict(made)


def _check(
    origin: _Origin,
    found: Weights,
    wanted: Mapping[str, torch.Size],
    tensors: Mapping[str, Tensor],
    left_out: list[str],
) -> None:
    """Refuse tensors that are missing, left over, of another shape, or not finite."""
    backbone, _ = parsed(origin.backbone)
    start = f"{KEY} = {found.spec}"
    missing = [name for name in wanted if name not in tensors]
    over = [name for name in tensors if name not in wanted and name not in left_out]
    wrong = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name]]
    fitting = len(wanted) - len(missing) - len(wrong)
    if 2 * fitting < len(wanted):
        raise ConfigError(
            f"{start}: only {fitting} of the {len(wanted)} tensors of {backbone} are in it, so it is of "
            f"another network; set the pretext.backbone that it was trained for, or {ELSEWHERE}"
        )
    faults = []
    if missing:
        words = f"tensor of {backbone} is missing", f"tensors of {backbone} are missing"
        faults.append(f"{counted(len(missing), *words)} ({_some(missing)})")
    if over:
        faults.append(f"{counted(len(over), 'tensor is', 'tensors are')} left over ({_some(over)})")
    if wrong:
        name = wrong[0]
        faults.append(
            f"{counted(len(wrong), 'tensor has', 'tensors have')} another shape ({name} is "
            f"{tuple(tensors[name].shape)}, not {tuple(wanted[name])})"
        )
    if faults:
        raise ConfigError(f"{start}: {'; '.join(faults)}. Only a classifier may be missing or left over")
    endless = [
        name for name in wanted if tensors[name].is_floating_point() and not tensors[name].isfinite().all()
    ]
    if endless:
        raise ConfigError(f"{start}: {_some(endless)} has values that are not finite; get the file again")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _line(error: BaseException) -> str:
    """An error's message as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."
