"""The papers' claims, a file a paper: which trainings are compared, and what their scores must say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data.errors import ConfigError
from flows.claims import momentum2, s2bnn, simclrv2, swav, transfer
from flows.claims.claim import Arm, Claim, Scale
from flows.claims.settings import SOURCES
from flows.phrases import duration
from flows.recipes import override
from tasks.config import Config

CLAIMS: dict[str, Claim] = {
    claim.name: claim for claim in (*s2bnn.CLAIMS, *simclrv2.CLAIMS, *momentum2.CLAIMS, *transfer.CLAIMS, *swav.CLAIMS)
}
"""By name."""


def named(claims: list[str] | None) -> list[Claim]:
    """Claims by name; all where none is given.

    Raises:
        ConfigError: one is not known.
    """
    for name in claims or ():
        if name not in CLAIMS:
            raise ConfigError(f"claim {name!r} is not known; choose among {', '.join(CLAIMS)}")
    return [CLAIMS[name] for name in claims or CLAIMS]


def resolved(claim: Claim, arm: Arm, scale: Scale, sources: Mapping[str, str]) -> Config:
    """The configuration of an arm, but for the seed.

    Args:
        claim: whose settings it starts from.
        arm: what differs.
        scale: of the trainings.
        sources: name of images -> where they are, in place of `SOURCES`.

    Raises:
        ConfigError: a name of images is not known.
    """
    unknown = set(sources) - set(SOURCES)
    if unknown:
        raise ConfigError(f"images {sorted(unknown)[0]!r} are not known; claims use {', '.join(SOURCES)}")
    config = override(Config(), _placed(claim.settings[scale], {**SOURCES, **sources}))
    config = override(config, _placed(arm.settings, {**SOURCES, **sources}))
    return config.model_copy(update={"recipe": f"{claim.name}-{arm.name}"})


def images_of(claims: Iterable[Claim], scale: Scale) -> list[str]:
    """Names of the images that claims use, in the order of `SOURCES`."""
    used = {name for claim in claims for given in (claim.settings[scale], *(arm.settings for arm in claim.arms)) for name in _named(given)}  # fmt: skip
    return [name for name in SOURCES if name in used]


def _named(settings: Mapping[str, Any]) -> Iterator[str]:
    """Names of images in nested settings: what stands in braces."""
    for value in settings.values():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif isinstance(value, str) and value[:1] == "{":
            yield value[1:-1]


def _placed(settings: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """Nested settings with the names of images in braces replaced."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out[name] = _placed(value, sources)
        else:
            out[name] = sources.get(value[1:-1], value) if isinstance(value, str) and value[:1] == "{" else value
    return out


def sources(words: list[str]) -> dict[str, str]:
    """`["cifar10=parquet:train.parquet"]` by name.

    Raises:
        ConfigError: one has no `=`, or names images that no claim uses.
    """
    found = {}
    for word in words:
        name, sign, source = word.partition("=")
        if not sign or not source:
            raise ConfigError(f"--images {word!r}: write it as NAME=SOURCE, for example cifar10=parquet:train.parquet")
        if name not in SOURCES:
            raise ConfigError(f"--images {word!r}: claims use {', '.join(SOURCES)}")
        found[name] = source
    return found


def command_of(claim: Claim, scale: Scale, seeds: int) -> str:
    """The line that runs a claim."""
    return f"knowledge-transfer reproduce {claim.name} --scale {scale} --seeds {seeds}"


def summary(result: Mapping[str, Any]) -> list[str]:
    """What the flow `reproduce` came to, for the terminal."""
    return [f"{verdict:<16}{name}" for name, verdict in result["verdicts"].items()] + [
        f"page            {result['page']}"
    ]


def costs(rows: list[dict[str, Any]]) -> str:
    """What claims cost, for the terminal: a line each and the sum.

    Args:
        rows: of `flows.estimate.estimate_claims`.
    """
    lines = [f"{'claim':<28}{'runs':>5}  {'on a GPU':>12}  {'on this CPU':>12}"]
    for row in rows:
        lines.append(f"{row['claim']:<28}{row['runs']:>5}  {duration(3600 * row['gpu_hours']):>12}  {duration(3600 * row['cpu_hours']):>12}")  # fmt: skip
    total = {name: sum(row[name] for row in rows) for name in ("runs", "gpu_hours", "cpu_hours")}
    lines.append(f"{'all':<28}{total['runs']:>5}  {duration(3600 * total['gpu_hours']):>12}  {duration(3600 * total['cpu_hours']):>12}")  # fmt: skip
    return "\n".join([*lines, "- each run alone: what runs share is counted again in each"])
