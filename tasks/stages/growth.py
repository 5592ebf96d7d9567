"""Growth: counts which images are new, changed, gone or relabelled since an earlier run was trained."""

from __future__ import annotations

from pathlib import Path

from data.types import Artifact
from tasks.job import Job
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="growth", kind="drift", version=1, process="plain")


def plan(manifest: Artifact, *, before: Artifact) -> Request:
    """Request the counts.

    Args:
        manifest: the manifest of today's images.
        before: the manifest of the earlier run's images.
    """
    return STAGE.request(
        settings={},
        inputs={"manifest": manifest, "before": before},
        parts=("train", "unlabelled", "train_labels"),
    )


def build(job: Job) -> Outcome:
    """Compare train + unlabelled images by content. An image is changed if its name has new content."""
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
    job.log(
        f"images: {len(now):,}, of which {new:,} are new and {changed:,} changed; {gone:,} are gone, "
        f"{relabelled:,} have another label"
    )
    return Outcome(rows=len(now), meta=figures)


def _contents(folder: Path) -> dict[str, tuple[str, str | None]]:
    """Split and uri -> SHA-256 and label, for the images that are not in the test split."""
    from data.schemas import MANIFEST
    from data.tables import column, read_table

    table = read_table(folder / "images.parquet", MANIFEST)
    columns = (column(table, name).tolist() for name in ("uri", "sha256", "label", "split"))
    rows = zip(*columns, strict=True)
    return {f"{split}/{uri}": (sha, label) for uri, sha, label, split in rows if split != "test"}
