"""The papers' claims, one file per paper: which trainings are compared, and what their scores must show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data.errors import ConfigError
from flows.claims import momentum2, s2bnn, simclrv2, swav, transfer
from flows.claims.claim import Arm, Claim, Scale
from flows.claims.settings import SOURCES
from flows.recipes import override
from tasks.config import Config
from tasks.phrases import duration, under_load

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (*s2bnn.CLAIMS, *simclrv2.CLAIMS, *momentum2.CLAIMS, *transfer.CLAIMS, *swav.CLAIMS)
}
"""All claims by name."""


def named(claims: list[str] | None) -> list[Claim]:
    """Look up claims by name. Without names, all claims.

    Raises:
        ConfigError: a name is not known.
    """
    for name in claims or ():
        if name not in CLAIMS:
            raise ConfigError(f"claim {name!r} is not known; choose among {', '.join(CLAIMS)}")
    return [CLAIMS[name] for name in claims or CLAIMS]


def resolved(claim: Claim, arm: Arm, scale: Scale, sources: Mapping[str, str]) -> Config:
    """The complete configuration of an arm, except for the seed.

    Args:
        claim: the claim, whose settings all its arms share.
        arm: the arm, which changes some of these settings.
        scale: scale of the trainings.
        sources: name of a set of images -> its source, which replaces the one in `SOURCES`.

    Raises:
        ConfigError: the name of a set of images is not known.
    """
    unknown = set(sources) - set(SOURCES)
    if unknown:
        raise ConfigError(f"images {sorted(unknown)[0]!r} are not known; claims use {', '.join(SOURCES)}")
    config = override(Config(), _placed(claim.settings[scale], {**SOURCES, **sources}))
    config = override(config, _placed(arm.settings, {**SOURCES, **sources}))
    return config.model_copy(update={"recipe": f"{claim.name}-{arm.name}"})


def images_of(claims: Iterable[Claim], scale: Scale) -> list[str]:
    """Names of the sets of images that claims use, in the order of `SOURCES`."""
    used: set[str] = set()
    for claim in claims:
        for given in (claim.settings[scale], *(arm.settings for arm in claim.arms)):
            used.update(_named(given))
    return [name for name in SOURCES if name in used]


def _named(settings: Mapping[str, Any]) -> Iterator[str]:
    """Names of the sets of images in nested settings. They are written in braces."""
    for value in settings.values():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif isinstance(value, str) and value[:1] == "{":
            yield value[1:-1]


def _placed(settings: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    """Nested settings in which each name in braces is replaced by its source."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out[name] = _placed(value, sources)
        else:
            out[name] = (
                sources.get(value[1:-1], value) if isinstance(value, str) and value[:1] == "{" else value
            )
    return out


def sources(words: list[str]) -> dict[str, str]:
    """Parse the words of `--images`, such as `["cifar10=parquet:train.parquet"]` -> source by name.

    Raises:
        ConfigError: a word has no `=`, or no claim uses images of that name.
    """
    found = {}
    for word in words:
        name, sign, source = word.partition("=")
        if not sign or not source:
            raise ConfigError(
                f"--images {word!r}: write it as NAME=SOURCE, for example cifar10=parquet:train.parquet"
            )
        if name not in SOURCES:
            raise ConfigError(f"--images {word!r}: claims use {', '.join(SOURCES)}")
        found[name] = source
    return found


def command_of(claim: Claim, scale: Scale, seeds: int) -> str:
    """The command that runs a claim."""
    return f"knowledge-transfer reproduce {claim.name} --scale {scale} --seeds {seeds}"


def summary(result: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal with the result of the flow `reproduce`: verdicts and page."""
    return [f"{verdict:<16}{name}" for name, verdict in result["verdicts"].items()] + [
        f"page            {result['page']}"
    ]


def costs(rows: list[dict[str, Any]]) -> str:
    """A table for the terminal with what claims cost: one line per claim, and the sum.

    Args:
        rows: the result of `flows.estimate.estimate_claims`.
    """
    lines = [f"{'claim':<28}{'runs':>5}  {'on a GPU':>12}  {'on this CPU':>12}"]
    for row in rows:
        lines.append(_cost_line(row["claim"], row))
    total = {name: sum(row[name] for row in rows) for name in rows[0] if name != "claim"}
    lines.append(_cost_line("all", total))
    lines.append("- Stages that arms share are counted once per seed. What claims share is counted in each.")
    alone = total["cpu_hours_alone"]
    if load := under_load(1 - alone / total["cpu_hours"]):
        lines.append(f"- CPU: {load}. Without them, all would take {duration(3600 * alone)}.")
    return "\n".join(lines)


def _cost_line(name: str, row: Mapping[str, Any]) -> str:
    gpu, cpu = (duration(3600 * row[hours]) for hours in ("gpu_hours", "cpu_hours"))
    return f"{name:<28}{row['runs']:>5}  {gpu:>12}  {cpu:>12}"
