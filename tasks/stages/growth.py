"""Growth: what became of the images since those that an earlier run was trained on; told apart by content."""

from __future__ import annotations

from pathlib import Path

from data.types import Artifact
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="growth", kind="drift", version=1, process="plain")


def plan(manifest: Artifact, *, before: Artifact) -> Request:
    """Ask for the figures.

    Args:
        manifest: of the images now.
        before: of the images then.
    """
    return STAGE.request(
        settings={}, inputs={"manifest": manifest, "before": before}, parts=("train", "unlabelled", "train_labels")
    )


def build(job: Job) -> Outcome:
    """Compare train + unlabelled images: an image is its content, and a changed one has another content under its name."""
    from data.store import write_json

    now, then = (_contents(job.path(name)) for name in ("manifest", "before"))
    shas, theirs = {sha for sha, _ in now.values()}, {sha for sha, _ in then.values()}
    fresh = [uri for uri, (sha, _) in now.items() if sha not in theirs]
    changed = sum(uri in then for uri in fresh)
    gone = sum(sha not in shas and uri not in now for uri, (sha, _) in then.items())
    label_of = dict(then.values())
    relabelled = sum(sha in theirs and label != label_of[sha] for sha, label in now.values())
    new = len(fresh) - changed
    parts = (job.meta(name)["parts"] for name in ("manifest", "before"))
    now_parts, then_parts = ({part: of[part] for part in ("train", "unlabelled")} for of in parts)
    figures = {
        "images": len(now),
        "before": len(then),
        "new": new,
        "changed": changed,
        "gone": gone,
        "relabelled": relabelled,
        "same": now_parts == then_parts,
        "share": (new + changed + gone) / max(1, len(then)),
    }
    write_json(job.out / "drift.json", figures)
    job.log(f"images: {len(now):,}, of which {new:,} are new and {changed:,} changed; {gone:,} are gone, {relabelled:,} have another label")  # fmt: skip
    return Outcome(rows=len(now), meta=figures)


def _contents(folder: Path) -> dict[str, tuple[str, str | None]]:
    """Uri -> content and the class's name or number, of the images that train."""
    from data.schemas import MANIFEST
    from data.tables import column, read_table

    table = read_table(folder / "images.parquet", MANIFEST)
    columns = (column(table, name).tolist() for name in ("uri", "sha256", "label", "split"))
    rows = zip(*columns, strict=True)
    return {f"{split}/{uri}": (sha, label) for uri, sha, label, split in rows if split != "test"}
