"""The flow `reproduce`: claims of the papers, each a few runs of the chain per seed and a verdict on their scores."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from pydantic import Field

from data.errors import DataError, PipelineError, StageError, UserError
from data.sources import open_source
from flows.claims import CLAIMS, command_of, images_of, named, resolved
from flows.claims.claim import Arm, Claim, Scale
from flows.claims.record import page, read, write_page
from flows.claims.settings import SOURCES
from flows.knowledge_transfer import knowledge_transfer
from flows.run import to_yaml
from tasks.config import Config
from tasks.stage import libraries

ClaimName = Annotated[str, Field(json_schema_extra={"enum": list(CLAIMS)})]
"""A drop-down in the forms."""
OUTSIDE = {"recipe", "seed", "store", "compute"}
"""Keys that tell a run's place from what is asked of it."""


def _flow_run_name() -> str:
    return f"reproduce-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@flow(
    name="reproduce",
    flow_run_name=_flow_run_name,
    validate_parameters=True,
    persist_result=False,
    result_serializer="json",
)
def reproduce(
    claims: list[ClaimName] | None = None,
    scale: Scale = "cpu",
    seeds: Annotated[int, Field(ge=1, le=100)] = 3,
    sources: dict[str, str] | None = None,
    store: str = "store",
    out: str | None = None,
) -> dict[str, Any]:
    """Put claims of the papers to the test: runs that differ in one thing, over seeds, and a verdict.

    Args:
        claims: Names of claims; empty: all.
        scale: cpu (minutes a run on two cores) or gpu (hundreds of epochs).
        seeds: Runs an arm (1 to 100); below 2 nothing can be told.
        sources: Where images lie: cifar10, cifar10-test, imagenette, imagenette-test; what is left out comes from
            torchvision.
        store: Folder of the store.
        out: Folder of the records and the page; None: claims in the store.

    Returns:
        verdicts by claim, and the page's place.

    Raises:
        ConfigError: a claim or a name of images is not known.
        DataError: images are not there; nothing has been run.
        StageError: arms failed; the others are recorded.
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
                    if key not in known:  # several arms may be scores of one run
                        known[key] = _run(claim, arm, config, seed, store)
                    result = known[key]
                    value = score.of(result["scores"])
                except UserError:
                    raise
                except PipelineError as error:  # the other arms are worth having
                    get_run_logger().error("%s, %s, seed %d: %s", claim.name, arm.name, seed, error)
                    failed[f"{claim.name} {arm.name} seed {seed}"] = str(error)
                    continue
                seconds = sum(row["computed_in"] for row in result["stages"])
                record.libraries, record.threads = libraries(), _threads()
                found = {"value": value, "score": asdict(score), "seconds": round(seconds, 1), "run": result["run"]}
                record.keep(arm.name, asked, seed, found)
                record.write(folder)
        verdicts[claim.name] = claim.verdict(record.judged())
    write_page(folder, folder / "claims.md", folder / "claims.png")
    shown = f"data:image/png;base64,{b64encode((folder / 'claims.png').read_bytes()).decode()}"
    create_markdown_artifact(page(folder, shown), key="claims", description="The papers' claims and what came out")
    if failed:
        raise StageError(f"{'; '.join(f'{name}: {text}' for name, text in failed.items())}; what came out is in {folder}")  # fmt: skip
    return {"verdicts": verdicts, "page": str(folder / "claims.md")}


def _threads() -> int:
    """That torch takes in the processes of stages."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _look(chosen: list[Claim], scale: Scale, sources: dict[str, str]) -> None:
    """All images that claims use are there: better missed now than after hours."""
    for name in images_of(chosen, scale):
        try:
            open_source(sources[name], "train").entries()
        except DataError as error:
            raise DataError(f"images {name}: {error}; --images {name}=SOURCE says where they are") from None


def _name(source: str) -> str:
    """A source without its folder: records tell what was read, and are the same wherever it lies."""
    scheme, sign, place = source.partition(":")
    return f"{scheme}{sign}{Path(place).name}"


def _run(claim: Claim, arm: Arm, config: Config, seed: int, store: str) -> dict[str, Any]:
    """Run the chain as a flow of its own, from a recipe that anybody can run again."""
    recipe = Path(store).expanduser().absolute() / "claims" / "recipes" / f"{config.recipe}.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(f"# {claim.paper}, claim {claim.name}, arm {arm.name}\n{to_yaml(config)}")
    result: dict[str, Any] = knowledge_transfer(recipe=str(recipe), seed=seed, store=store)
    return result
