"""Reads the clusters and the images with pseudo-labels, for the report."""

from __future__ import annotations

import json

import numpy as np

from data import images, schemas
from data.draws import key, uniform
from data.tables import column, read_table
from tasks.job import Job
from tasks.report.content import Clusters, ClusterSheet, Group, ImageMap
from tasks.report.figures import contact_sheet_png
from tasks.report.sheets import choose, colours, nearest
from tasks.reported.shown import side


class Assigned:
    """The images with pseudo-labels, for the contact sheets.

    Args:
        job: the stage's job.
        learned: which pseudo-labels: `assignments`, or the first head of `codes`.
    """

    def __init__(self, job: Job, learned: str) -> None:
        self.job = job
        if learned == "assignments":
            table = read_table(job.path("assignments"), schemas.ASSIGNMENTS)
            self.distance = column(table, "distance")
            self.k = int(job.meta("clusters")["rows"])
        else:
            table = read_table(job.path("codes"), schemas.CODES)
            table = table.filter(column(table, "head") == 0)
            # Codes have no centroid, so each contact sheet shows random images of a code.
            drawn = uniform(key(0, "contact-sheet"), column(table, "index"), 1)
            self.distance = drawn[:, 0].astype(np.float32)
            self.k = int(column(table, "cluster").max()) + 1
        self.index, self.cluster = column(table, "index"), column(table, "cluster")
        self.manifest = read_table(job.path("assigned") / "images.parquet", schemas.MANIFEST)
        label = np.full(self.manifest.num_rows, -1, np.int64)
        label[column(self.manifest, "index")] = column(self.manifest, "label")
        self.label = label[self.index]
        self.names = job.meta("assigned")["classes"]
        self.sizes = np.bincount(self.cluster, minlength=self.k)
        known = self.label >= 0
        self.votes = np.zeros((self.k, len(self.names) if self.names else 1), np.int64)
        np.add.at(self.votes, (self.cluster[known], self.label[known]), 1)
        self.known = self.votes.sum(1)
        """Number of images of a known class in each cluster."""
        self.purity = self.votes.max(1) / np.maximum(self.known, 1) if known.any() else None

    def groups(self, wanted: list[int]) -> dict[int, Group]:
        """What some clusters hold."""
        return {
            c: Group(
                size=int(self.sizes[c]),
                majority=int(self.votes[c].argmax()) if self.known[c] else None,
                purity=float(self.purity[c]) if self.purity is not None and self.known[c] else None,
                known=int(self.known[c]),
            )
            for c in wanted
        }

    def sheets(self) -> tuple[ClusterSheet, ...]:
        """Images of about a dozen clusters, in each cluster the nearest to the centroid first."""
        sizes, votes, purity = self.sizes, self.votes, self.purity
        chosen = choose(sizes, purity, labelled=self.known)
        rows = nearest(self.cluster, self.distance, [c for c, _ in chosen])
        wanted = np.concatenate([rows[c] for c, _ in chosen])
        some = np.unique(self.index[wanted])
        table = self.manifest.take(np.searchsorted(self.manifest["index"].to_numpy(), some))
        where = {role: place for role, place in self.job.request.outside["sources"].items() if place}
        reading = images.reading_of(table, self.job.meta("assigned"))
        opened = images.open_images(
            table,
            where,
            side(self.job),
            cache=self.job.store.cache("sheets"),
            reading=reading,
            checked=self.job.store.checked,
        )
        pixels = colours(opened.read(np.searchsorted(some, self.index[wanted])))
        at, sheets = 0, []
        for c, reason in chosen:
            n = len(rows[c])
            sheets.append(
                ClusterSheet(
                    cluster=c,
                    reason=reason,
                    images=tuple(pixels[at : at + n]),
                    size=int(sizes[c]),
                    share=float(sizes[c] / len(self.cluster)),
                    majority=self.names[int(votes[c].argmax())] if votes[c].any() else None,
                    purity=float(purity[c]) if purity is not None and votes[c].any() else None,
                    labelled=int(votes[c].sum()),
                )
            )
            at += n
        return tuple(sheets)


def read_clusters(job: Job, learned: str) -> Clusters:
    """The sizes of the clusters, or of the codes of the first head."""
    if learned == "codes":
        table = read_table(job.path("codes"))
        sizes = np.bincount(column(table, "cluster")[column(table, "head") == 0])
        return Clusters(sizes, (), int(sizes.sum()), int(sizes.sum()))
    info = json.loads((job.path("clusters") / "clusters.json").read_text(encoding="utf-8"))
    sizes = column(read_table(job.path("clusters") / "centroids.parquet"), "size")
    return Clusters(sizes, tuple(info["objective"]), info["trained_on"], info["of"])


def read_map(job: Job, assigned: Assigned | None) -> ImageMap:
    """The map of the images, with what is known of each image and each cluster."""
    folder, meta = job.path("explore"), job.meta("explore")
    table = read_table(folder / "points.parquet", schemas.MAP)
    listed = read_table(job.path("manifest") / "images.parquet", schemas.MANIFEST)
    some = listed.take(np.searchsorted(column(listed, "index"), column(table, "index")))
    cluster = column(table, "cluster").astype(np.int64)
    shown = sorted(set(cluster[cluster >= 0].tolist()))
    return ImageMap(
        x=column(table, "x"),
        y=column(table, "y"),
        label=column(table, "label").astype(np.int64),
        labelled=column(table, "labelled"),
        split=some["split"].to_pylist(),
        cluster=cluster,
        distance=column(table, "distance"),
        predicted=column(table, "predicted").astype(np.int64),
        confidence=column(table, "confidence"),
        uri=some["uri"].to_pylist(),
        total=meta["of"],
        random=int(column(table, "random").sum()),
        projection=meta["config"]["projection"],
        explained=None if meta["explained"] is None else tuple(meta["explained"]),
        sprite=(folder / "sprite.webp").read_bytes(),
        side=meta["side"],
        columns=meta["columns"],
        groups=assigned.groups(shown) if assigned is not None else {},
    )


def show(job: Job, sheets: tuple[ClusterSheet, ...]) -> None:
    """Show the contact sheets on the run's page."""
    codes = job.settings["learned"] == "codes"
    name = "code" if codes else "cluster"
    captions = [f"{name} {sheet.cluster}, {sheet.reason}: {sheet.size:,} images" for sheet in sheets]
    png = contact_sheet_png([sheet.images for sheet in sheets], captions)
    title = "Codes: some images of each" if codes else "Clusters: the images nearest to their centroids"
    job.figure("contact-sheet", title, png)
