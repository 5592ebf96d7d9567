"""Is a foreign network loaded as it was trained? Without its own data, nobody knows its right answers.

So these questions are asked, with some of the user's images.

- Does it recognise more than the same network with random weights? With labels, it should find images of the
  same class. Without labels, it should find the second view of an image, and two views should give the same
  clusters.
- Would it recognise more with another usual normalisation?
- Do its earlier layers recognise more than its last one? Then a layer between them is damaged.
- Do its batch norms get values like those that they remember? They do if the weights and the preparation of
  images belong together.
- Would shuffled weights give a batch norm what it remembers just as well? Then the weights before it are
  damaged.
- Are there scales that look as they did before any training?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from models.backbones.backbone import pooled
from models.network import MEAN, STD, Network, seeded
from models.spherical_kmeans import spherical_kmeans

Floats = NDArray[np.float64]
USUAL: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's (0.485,0.456,0.406 and 0.229,0.224,0.225)": (MEAN, STD),
    "0.5,0.5,0.5 and 0.5,0.5,0.5": ((0.5,) * 3, (0.5,) * 3),
    "0,0,0 and 1,1,1": ((0.0,) * 3, (1.0,) * 3),
}
"""Normalisations that networks are often trained with, by a name for people."""
FIRST, FAR = 0.25, 1.0
"""From these divergences on, the inputs of the first batch norm, or of any other, are suspicious. The
divergence is 1 if, for example, the mean is 1.4 deviations away from the one that the norm remembers."""
BETTER = 10
"""Another normalisation is suspicious, too, if it makes the first divergence this many times smaller. Images
that are unlike those of the training don't fit the memory so well with any."""
LEAD = 0.03
"""Another normalisation or an earlier layer causes a warning if its lead is larger. Measures are 0 to 1."""
SHUFFLES = 5
"""How often the weights before each batch norm are shuffled."""
BATCHES = 2
"""Number of batches of images that shuffled weights see."""
LAYERS = 4
"""Number of earlier layers that are compared with the last."""
Show = Callable[[str | None], Iterable[Tensor]]
"""Name of a random view, or None for the centre -> (B, C, S, S) float32 in [0, 1] of the same images."""


@dataclass
class Findings:
    """What was found of a network.

    Attributes:
        rows: (who, measure, value, standard error of its difference from the network's own; 0 if unknown).
        warnings: sentences.
    """

    rows: list[tuple[str, str, float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def row(self, who: str, measure: str, value: float, error: float = 0.0) -> None:
        """Add a figure."""
        self.rows.append((who, measure, float(value), float(error)))

    def warn(self, text: str | None) -> None:
        """Add a warning, if there is one."""
        if text is not None:
            self.warnings.append(text)


def examine(network: Network, show: Show, label: NDArray[np.int64] | None, layer: str) -> Findings:
    """Look for signs that a network was loaded badly.

    Args:
        network: in evaluation mode. It is on the device of the images.
        show: gives the images.
        label: (N,) classes of the images; None: two views of each image are compared.
        layer: the layer that later stages read.
    """
    found = Findings()
    what = "the other view of an image" if label is None else "images of the same class"

    def measured(of: Network, layers: list[str]) -> dict[str, Floats]:
        one, two = _outputs(of, show("a" if label is None else None), layers), None
        if label is not None:
            return {name: found_alike(x, label) for name, x in one.items()}
        two = _outputs(of, show("b"), layers)
        return {name: found_again(one[name], two[name]) for name in layers}

    own = measured(network, [layer])[layer]
    found.row("teacher", what, own.mean())
    random = untrained(network).to(network.mean.device)
    lead = paired(own, measured(random, [layer])[layer])
    found.row("random weights", what, own.mean() - lead.mean, lead.error)
    found.warn(worse_than_random(lead, what))
    if label is None:
        agreement = []
        for shown in (network, random):
            first, second = (_outputs(shown, show(view), [layer])[layer] for view in ("a", "b"))
            agreement.append(stability(first, second))
        found.row("teacher", "agreement of clusters", agreement[0])
        found.row("random weights", "agreement of clusters", agreement[1])
        found.warn(unstable(agreement[0], agreement[1]))
    usual = {name: normalised_as(network, *values) for name, values in others(network).items()}
    leads = {name: paired(measured(other, [layer])[layer], own) for name, other in usual.items()}
    for name, each in leads.items():
        found.row(f"mean and std {name}", what, own.mean() + each.mean, each.error)
    norms = norm_distances(network, show(None))
    for name, distance in norms.items():
        found.row("teacher", f"distance of {name}", distance)
    theirs = {name: norm_distances(other, show(None)) for name, other in usual.items()} if norms else {}
    fits = remembered(network, islice(show(None), BATCHES))
    for name, fit in fits.items():
        found.row("teacher", f"weights before {name} fit better than shuffled ones", fit)
    found.warn(never_trained(unlearned(network)))
    found.warn(suspicious_norms(norms, theirs) or better_normalisation(leads))
    found.warn(as_good_as_shuffled(fits))
    earlier = _spaced([name for name in network.layer_names() if name != layer], LAYERS)
    ahead = {name: paired(each, own) for name, each in measured(network, earlier).items()}
    for name, each in ahead.items():
        found.row(name, what, own.mean() + each.mean, each.error)
    found.warn(better_layer(ahead))
    return found


@torch.inference_mode()
def _outputs(network: Network, views: Iterable[Tensor], layers: list[str]) -> dict[str, Tensor]:
    """Layer -> (N, D) float32 on the CPU. Maps are averaged over their places."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    for x in views:
        for name, output in network.layers(x):
            if name in found:
                found[name].append((pooled(output) if output.ndim == 4 else output.float()).cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _spaced(names: list[str], count: int) -> list[str]:
    """At most `count` of the names, evenly spaced, the first and the last among them."""
    if len(names) <= count:
        return names
    step = (len(names) - 1) / (count - 1)
    return [names[round(step * at)] for at in range(count)]


@dataclass(frozen=True)
class Paired:
    """The mean difference of two measures over the same images.

    Attributes:
        mean: of the differences.
        error: standard error of the mean.
    """

    mean: float
    error: float

    @property
    def clear(self) -> bool:
        """Whether the first one is larger by more than two standard errors."""
        return self.mean > 2 * self.error and self.mean > 0


def paired(first: Floats, second: Floats) -> Paired:
    """Compare two measures of the same N images, (N,) each."""
    difference = first - second
    n = len(difference)
    return Paired(
        float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    )


def found_alike(features: Tensor, label: NDArray[np.int64]) -> Floats:
    """How early the images of the same class come among an image's neighbours: average precision.

    Args:
        features: (N, D). The mean is subtracted, and rows are compared by cosine.
        label: (N,) classes.

    Returns:
        (N,) from 0 to 1; NaN for an image that is alone in its class.
    """
    z = _centred(features)
    similar = (z @ z.T).fill_diagonal_(-torch.inf)
    same = torch.from_numpy(label[:, None] == label[None])
    order = similar.argsort(dim=1, descending=True)[:, :-1]
    right = same.gather(1, order).double()
    place = torch.arange(1, right.shape[1] + 1, dtype=torch.float64)
    precision = (right.cumsum(dim=1) / place * right).sum(dim=1)
    found: Floats = (precision / right.sum(dim=1)).numpy()
    return found


def found_again(first: Tensor, second: Tensor) -> Floats:
    """The reciprocal rank of each image's second view among all second views, by cosine.

    Args:
        first: (N, D) features of a view of each image.
        second: (N, D) features of another view.

    Returns:
        (N,), 1 if the own second view is the nearest.
    """
    similar = _centred(first) @ _centred(second).T
    own = similar.diagonal()[:, None]
    rank = 1 + (similar > own).sum(dim=1)
    found: Floats = (1 / rank.double()).numpy()
    return found


def stability(first: Tensor, second: Tensor, k: int = 8) -> float:
    """How well clusters of two views of the same images agree: normalised mutual information, 0 to 1.

    Args:
        first: (N, D) features of a view of each image.
        second: (N, D) features of another view.
        k: number of clusters.
    """
    labels = []
    for z in (_centred(first), _centred(second)):
        found = [
            spherical_kmeans(z, min(k, len(z)), 10, torch.Generator().manual_seed(seed)) for seed in range(3)
        ]
        best = max(found, key=lambda pair: float((z * pair[0][pair[1]]).sum()))
        labels.append(best[1])
    counts = torch.zeros(k, k, dtype=torch.float64)
    counts.index_put_((labels[0], labels[1]), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    joint = counts / counts.sum()
    rows, columns = joint.sum(dim=1), joint.sum(dim=0)
    shared = _entropy(rows) + _entropy(columns) - _entropy(joint.flatten())
    whole = _entropy(rows) + _entropy(columns)
    return float(2 * shared / whole) if whole > 0 else 1.0


def _entropy(share: Tensor) -> float:
    return float(-(share[share > 0] * share[share > 0].log()).sum())


def _centred(features: Tensor) -> Tensor:
    x = features.float()
    return F.normalize(x - x.mean(dim=0), dim=1)


def untrained(network: Network) -> Network:
    """The same network with random weights. Its batch norms use the statistics of each batch."""
    with seeded(0, "soundness"):
        fresh = Network.from_description(network.description())
    fresh.eval()
    for layer in _norms(fresh).values():
        layer.train()
        layer.track_running_stats = False
    return fresh


def normalised_as(network: Network, mean: tuple[float, ...], std: tuple[float, ...]) -> Network:
    """A network with the same weights and another normalisation. The weights are shared."""
    with torch.device("meta"):
        other = Network.from_description(network.description() | {"mean": mean, "std": std})
    other.load_state_dict(network.state_dict(), assign=True)
    device = network.mean.device
    other.mean = torch.tensor(mean, device=device).view(-1, 1, 1)
    other.std = torch.tensor(std, device=device).view(-1, 1, 1)
    _share_buffers(network, other)
    return other.eval()


def _share_buffers(network: nn.Module, other: nn.Module) -> None:
    """Share the buffers that a state does not contain, such as tables of rotations."""
    theirs = dict(network.named_modules())
    for name, module in other.named_modules():
        for key, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(key, getattr(theirs[name], key), persistent=False)


def others(network: Network) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """The usual normalisations that differ from a network's own; none without colours."""
    rule = network.rule
    if rule.input != "rgb":
        return {}
    own = np.array([*rule.mean, *rule.std])
    return {
        name: (mean, std)
        for name, (mean, std) in USUAL.items()
        if np.abs(np.array([*mean, *std]) - own).max() > 0.05
    }


@torch.inference_mode()
def norm_distances(network: Network, views: Iterable[Tensor]) -> dict[str, float]:
    """How far the inputs of each batch norm are from what it remembers.

    Args:
        network: in evaluation mode.
        views: batches (B, C, S, S) in [0, 1].

    Returns:
        Name of the layer -> the median over channels of ln(s / t) + (t² + (m - n)²) / (2 s²) - 1/2. This is
        the divergence of a normal distribution with the mean n and deviation t of the inputs from one with
        the mean m and deviation s that the norm remembers. Empty without batch norms.
    """
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    norms = _norms(network)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double().transpose(0, 1).flatten(1)
            sums[name] = sums.get(name, torch.zeros_like(x[:, 0])) + x.sum(dim=1)
            squares[name] = squares.get(name, torch.zeros_like(x[:, 0])) + x.square().sum(dim=1)
            counts[name] = counts.get(name, 0) + x.shape[1]

        return look

    held = [layer.register_forward_pre_hook(hook(name)) for name, layer in norms.items()]
    _show(network, views, held)
    found = {}
    for name, total in sums.items():
        distance = _divergence(norms[name], total / counts[name], squares[name] / counts[name])
        if distance.numel():
            found[name] = float(distance.median())
    return found


def _divergence(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, square: Tensor) -> Tensor:
    """How far inputs are from what a norm remembers, per channel; see `norm_distances`.

    Args:
        norm: the norm, of C channels.
        mean: (..., C) float64, means of its inputs.
        square: (..., C) float64, means of their squares.

    Returns:
        (..., K) float64 for the K channels that were alive in the training. Dead ones say nothing.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    kept = norm.running_var > 1e-12
    own, wide = norm.running_mean[kept].double(), norm.running_var[kept].double()
    mean, square = mean[..., kept], square[..., kept]
    spread = (square - mean.square()).clamp_min(1e-12 * wide)
    return (wide / spread).log() / 2 + (spread + (own - mean).square()) / (2 * wide) - 0.5


@torch.inference_mode()
def remembered(network: Network, views: Iterable[Tensor]) -> dict[str, float]:
    """Whether each batch norm remembers what the weights before it give, or shuffled weights just as well.

    Weights that lie in the right order give a norm what it remembers. If they were shuffled, transposed or
    mixed up with those of another layer, shuffling them once more changes nothing: for each channel, the own
    weights are then nearer to the memory than shuffled ones in half of all cases. Each layer is tested with
    the inputs that it gets, so a damaged layer does less harm to the ones above it than in `norm_distances`.

    Args:
        network: in evaluation mode.
        views: batches (B, C, S, S) in [0, 1].

    Returns:
        Name of the norm -> the share of channels and shuffles in which the own weights are nearer, 0 to 1.
        Only norms that directly follow a convolution or a linear layer are among them.
    """
    norms = _norms(network)
    names = {id(layer): name for name, layer in norms.items()}
    sums: dict[str, Tensor] = {}
    before: list[tuple[nn.Module, Tensor, Tensor]] = []
    """The last layer with weights that ran, its input and its output."""

    def ran(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        before[:] = [(layer, inputs[0], output)]

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not before or before[0][2] is not inputs[0]:
            return
        layer, x, output = before[0]
        mixed = (_shuffled(layer, x, seed) for seed in range(SHUFFLES))
        counted = torch.stack([_moments(each) for each in chain([output], mixed)])
        name = names[id(norm)]
        sums[name] = sums.get(name, torch.zeros_like(counted)) + counted

    weighted = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    held = [layer.register_forward_hook(ran) for layer in weighted]
    held += [layer.register_forward_pre_hook(look) for layer in norms.values()]
    _show(network, views, held)
    found = {}
    for name, counted in sums.items():
        count, total, squares = counted.unbind(1)
        distance = _divergence(norms[name], total / count, squares / count)
        if distance.numel():
            found[name] = float((distance[:1] < distance[1:]).double().mean())
    return found


def _show(network: Network, views: Iterable[Tensor], hooks: Iterable[RemovableHandle]) -> None:
    """Show all views to a network, then remove the hooks that looked at it."""
    try:
        for view in views:
            network.features(view)
    finally:
        for hook in hooks:
            hook.remove()


def _moments(output: Tensor) -> Tensor:
    """(B, C, ...) -> (3, C) float64: the number of values of each channel, their sum, and that of squares."""
    values = output.float().transpose(0, 1).flatten(1)
    total = values.sum(dim=1, dtype=torch.float64)
    squares = values.square().sum(dim=1, dtype=torch.float64)
    return torch.stack([torch.full_like(total, values.shape[1]), total, squares])


def _shuffled(layer: nn.Module, x: Tensor, seed: int) -> Tensor:
    """What a layer would give of its input x if its weights were in random order."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
    mixed = weight.flatten()[order.to(weight.device)].view_as(weight)
    output: Tensor = functional_call(layer, {"weight": mixed}, (x,))
    return output


def unlearned(network: nn.Module) -> list[str]:
    """Names of scales, of norms or of layers, that have one value everywhere, as before any training."""
    return [
        name
        for name, tensor in network.named_parameters()
        if tensor.ndim == 1
        and tensor.numel() > 1
        and name.endswith(("weight", "gamma", "gamma_1", "gamma_2"))
        and bool((tensor == tensor[0]).all())
    ]


def _norms(network: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    }


CAUSES = (
    "the usual causes are another mean and std, another input_size or crop, and weights that are of another "
    "network or half loaded; compare pretext.mean, pretext.std, pretext.input_size and pretext.backbone with "
    "what the weights' page says"
)


def worse_than_random(lead: Paired, what: str) -> str | None:
    """A warning if a network does not beat itself with random weights; else None.

    Args:
        lead: of the network over its random self.
        what: what was measured, such as `images of the same class`.
    """
    if lead.clear:
        return None
    return (
        f"teacher: it finds {what} no better than the same network with random weights ({_points(lead)} "
        f"more); {CAUSES}"
    )


def _points(lead: Paired) -> str:
    return f"{100 * lead.mean:.1f} ± {100 * lead.error:.1f} points"


def unstable(own: float, random: float) -> str | None:
    """A warning if clusters of two views agree less than those of random weights; else None."""
    if own >= random - LEAD:
        return None
    return (
        f"teacher: clusters of two views of the images agree less ({own:.2f}) than with random weights "
        f"({random:.2f}); {CAUSES}"
    )


def better_normalisation(leads: Mapping[str, Paired]) -> str | None:
    """A warning if another usual normalisation finds clearly more; else None. `leads`: its lead, by name."""
    if not leads:
        return None
    name = max(leads, key=lambda each: leads[each].mean)
    lead = leads[name]
    if not lead.clear or lead.mean < LEAD:
        return None
    return (
        f"teacher: with the mean and std {name} it finds {_points(lead)} more than with its own; "
        "check pretext.mean and pretext.std"
    )


def suspicious_norms(own: Mapping[str, float], usual: Mapping[str, Mapping[str, float]]) -> str | None:
    """A warning if batch norms get other values than they remember; else None.

    Args:
        own: `norm_distances` of the network.
        usual: the same with other normalisations, by their names.
    """
    if not own:
        return None
    first = next(iter(own))
    name = min(usual, key=lambda each: usual[each][first], default=None)
    if name is not None and usual[name][first] < own[first] / (2 if own[first] > FIRST else BETTER):
        return (
            f"teacher: its first norm ({first}) gets other values than it remembers (divergence "
            f"{own[first]:.2f}, and {usual[name][first]:.2f} with the mean and std {name}); check "
            "pretext.mean and pretext.std"
        )
    far = next((each for each, distance in own.items() if distance > FAR), None)
    if far is None:
        return None
    return (
        f"teacher: its norm {far} gets other values than it remembers (divergence {own[far]:.2f}), so a "
        f"layer before it may be damaged, or the images are unlike those of its training; {CAUSES}"
    )


def as_good_as_shuffled(fits: Mapping[str, float]) -> str | None:
    """A warning if the weights before a norm look shuffled; else None. `fits`: `remembered`.

    Half of all cases is what shuffled weights get, and all cases is what weights in order get. So the limit
    lies in the middle.
    """
    bad = next((name for name, fit in fits.items() if fit < 0.75), None)
    if bad is None:
        return None
    return (
        f"teacher: the weights before its norm {bad} give it what it remembers hardly better than if they "
        f"were shuffled (in {100 * fits[bad]:.0f} % of cases, and 50 % is chance), so this layer may be "
        f"damaged, or the images are unlike those of its training; {CAUSES}"
    )


def never_trained(names: list[str]) -> str | None:
    """A warning if scales look as before any training; else None. `names`: of `unlearned`."""
    if not names:
        return None
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"teacher: {', '.join(names[:3])}{more} have one value everywhere, as before any training, so the "
        f"weights may be half loaded; {CAUSES}"
    )


def better_layer(leads: Mapping[str, Paired]) -> str | None:
    """A warning if an earlier layer finds clearly more than the last; else None. `leads`: by layer."""
    ahead = {name: lead for name, lead in leads.items() if lead.clear and lead.mean > LEAD}
    if not ahead:
        return None
    name = max(ahead, key=lambda each: ahead[each].mean)
    lead = ahead[name]
    return (
        f"teacher: its {name} finds {_points(lead)} more than its last layer; a layer above {name} may be "
        f"damaged or half loaded, or embed.layer={name} suits these images better"
    )
