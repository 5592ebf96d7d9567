"""The flow `reproduce`: test claims of the papers with a few runs per seed and a verdict on their scores."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from pydantic import Field

from data.errors import DataError, PipelineError, StageError, UserError
from data.sources import open_source
from flows.as_yaml import plain
from flows.claims import CLAIMS, command_of, images_of, named, resolved
from flows.claims.claim import Arm, Claim, Scale
from flows.claims.record import page, read, write_page
from flows.claims.settings import SOURCES
from flows.knowledge_transfer import knowledge_transfer
from flows.server.declare import our_flow
from tasks.config import Config
from tasks.job import libraries

ClaimName = Annotated[str, Field(json_schema_extra={"enum": list(CLAIMS)})]
"""A claim's name. The forms show a drop-down."""
OUTSIDE = {"recipe", "seed", "store", "compute"}
"""Keys that do not count when the configuration of a recorded run is compared with today's."""


@our_flow("reproduce")
def reproduce(
    claims: list[ClaimName] | None = None,
    scale: Scale = "cpu",
    seeds: Annotated[int, Field(ge=1, le=100)] = 3,
    sources: dict[str, str] | None = None,
    store: str = "store",
    out: str | None = None,
) -> dict[str, Any]:
    """Test claims of the papers.

    A claim compares arms: configurations that differ in one thing. Each arm runs once per seed. The verdict
    says whether the scores support the claim.

    Args:
        claims: Names of claims. Empty: all claims.
        scale: cpu (minutes per run on two cores) or gpu (hundreds of epochs).
        seeds: Number of runs per arm (1 to 100). A verdict needs at least 2.
        sources: Sources of the images cifar10, cifar10-test, imagenette and imagenette-test. Missing ones
            come from torchvision.
        store: Folder of the store.
        out: Folder of the records and the page. None: the folder claims in the store.

    Returns:
        verdicts (by claim) and page (its path).

    Raises:
        ConfigError: a claim or a name of images is unknown.
        DataError: images are missing. This is checked before the first run.
        StageError: some arms failed. The others are recorded.
    """
    chosen = named(claims)
    _look(chosen, scale, {**SOURCES, **(sources or {})})
    folder = Path(out or Path(store) / "claims").expanduser().absolute()
    failed: dict[str, str] = {}
    verdicts = {}
    for claim in chosen:
        record = read(folder, claim.name, scale, command_of(claim, scale, seeds))
        for seed in range(seeds):
            known: dict[str, dict[str, Any]] = {}
            for arm in claim.arms:
                config = resolved(claim, arm, scale, sources or {})
                named_only = resolved(
                    claim, arm, scale, {name: _name(place) for name, place in (sources or {}).items()}
                )
                asked = named_only.model_dump(mode="json", exclude=OUTSIDE)
                score = claim.score_of(arm)
                if record.has(arm.name, asked, seed, score):
                    continue
                try:
                    key = json.dumps(asked)
                    if key not in known:  # several arms may share one run
                        known[key] = _run(claim, arm, config, seed, store)
                    result = known[key]
                    value = score.of(result["scores"])
                except UserError:
                    raise
                except PipelineError as error:  # record the other arms nevertheless
                    get_run_logger().error("%s, %s, seed %d: %s", claim.name, arm.name, seed, error)
                    failed[f"{claim.name} {arm.name} seed {seed}"] = str(error)
                    continue
                seconds = sum(row["computed_in"] for row in result["stages"])
                record.libraries, record.threads = libraries(), _threads()
                found = {
                    "value": value,
                    "score": asdict(score),
                    "seconds": round(seconds, 1),
                    "run": result["run"],
                }
                record.keep(arm.name, asked, seed, found)
                record.write(folder)
        verdicts[claim.name] = claim.verdict(record.judged())
    write_page(folder, folder / "claims.md", folder / "claims.png")
    shown = f"data:image/png;base64,{b64encode((folder / 'claims.png').read_bytes()).decode()}"
    create_markdown_artifact(
        page(folder, shown), key="claims", description="The claims of the papers, with results and verdicts"
    )
    if failed:
        reasons = "; ".join(f"{name}: {text}" for name, text in failed.items())
        raise StageError(f"{reasons}; the results of the other arms are in {folder}")
    return {"verdicts": verdicts, "page": str(folder / "claims.md")}


def _threads() -> int:
    """The number of threads that torch uses in the processes of stages."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _look(chosen: list[Claim], scale: Scale, sources: dict[str, str]) -> None:
    """Check that all images of the claims are there, before hours of training.

    Raises:
        DataError: images are missing.
    """
    for name in images_of(chosen, scale):
        try:
            open_source(sources[name], "train").entries()
        except DataError as error:
            raise DataError(f"images {name}: {error}; set their source with --images {name}=SOURCE") from None


def _name(source: str) -> str:
    """A source without its folder, so that records are the same on every machine."""
    scheme, sign, place = source.partition(":")
    return f"{scheme}{sign}{Path(place).name}"


def _run(claim: Claim, arm: Arm, config: Config, seed: int, store: str) -> dict[str, Any]:
    """Run the chain as a separate flow run, from a recipe file that anybody can run again."""
    recipe = Path(store).expanduser().absolute() / "claims" / "recipes" / f"{config.recipe}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(
        f"# {claim.paper}, claim {claim.name}, arm {arm.name}\n{plain(config)}", encoding="utf-8"
    )
    result: dict[str, Any] = knowledge_transfer(recipe=str(recipe), seed=seed, store=store)
    return result
