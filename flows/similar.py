"""Find the training images of a run that are most similar to given ones, and draw them side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from data.errors import ConfigError
from data.preprocessing import Preprocessing
from data.store import Store
from data.types import Artifact
from flows.recipes import override
from flows.records import read_record
from tasks.config import Compute, Config
from tasks.overlay import resolve
from tasks.sources import sources
from tasks.stages import embed
from tasks.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.predictions import Block


class Similar:
    """A context manager that finds similar training images by the model's features.

    The features of the training images are an artifact of the store. They are computed at the first use, and
    kept. FAISS searches them in a process of its own, because it can't be in one process with torch.

    Args:
        run: the run's folder.
        model: the folder of the model that it ships, in the same store.
        count: number of similar images per image.
        rule: how images are prepared for the model.
        shown: number of images on the sheet.
        device: where features are computed.
        note: gets lines for the user.

    Raises:
        ConfigError: the run's record lacks its images.
    """

    def __init__(
        self,
        run: Path,
        model: Path,
        count: int,
        rule: Preprocessing,
        shown: int,
        device: Any,
        note: Callable[[str], None],
    ) -> None:
        record = read_record(run, "config")
        rows = {row["stage"]: row for row in record["stages"]}
        if "manifest" not in rows:
            raise ConfigError(f"run {run.name!r} has no record of its images; run it again")
        self._run, self._count, self._rule, self._note = run, count, rule, note
        self._store = Store(run.parent.parent)
        config = resolve(record["config"])
        # A planned run's record has the size that was asked for, not the planned one.
        self._config: Config = override(config, {"data": {"image_size": rule.size}})
        self._compute = Compute(device=device)
        self._manifest = Artifact(kind="manifest", fingerprint=rows["manifest"]["fingerprint"])
        self._model = Artifact(kind="checkpoint", fingerprint=model.name)
        self._room = shown
        self._shown: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []

    def __enter__(self) -> Self:
        from data import schemas
        from data.spread import open_pool
        from data.tables import column, read_table

        self._held = ExitStack()
        self._held.enter_context(self._store.in_use())
        self._features = self._embedded()
        table = read_table(self._store.whole(self._manifest) / "images.parquet", schemas.MANIFEST)
        self._table, self._uris = table, table["uri"].to_pylist()
        self._labels = column(table, "label").tolist()
        self._names = self._store.meta(self._manifest).get("classes") or []
        self._pool: ProcessPoolExecutor = open_pool(1)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._held.close()

    def _embedded(self) -> Path:
        """The features of the run's training images, from the store or computed now."""
        request = embed.plan(self._config, self._manifest, self._model, part="train", layer="last")
        wanted = request.artifact(self._store)
        if not self._store.has(wanted):
            self._note("computing the features of the training images; the store keeps them")
            with Workers(self._store, self._compute, self._run / "log.txt") as workers:
                wanted, _ = workers.make(request, "embed", lambda event: None)
        return self._store.whole(wanted)

    def columns(self, block: Block) -> dict[str, list[Any]]:
        """The columns of `data.schemas.predictions` about neighbours.

        Args:
            block: has the features.
        """
        import numpy as np

        from models.clustering import similar as search
        from tasks.predictions import spaced

        good = np.array([reason is None for reason in block.read.reasons], np.bool_)
        found: dict[str, list[Any]] = {}
        index = np.zeros((0, 0), np.int64)
        if len(block.features):
            asked = self._pool.submit(search.most_similar, str(self._features), block.features, self._count)
            index, cosine = asked.result()
            room = self._room - len(self._shown)
            self._shown += list(zip(block.read.squares[:room].copy(), index[:room], strict=True))
        for place in range(self._count):
            name = f"neighbour_{place + 1}"
            rows = index[:, place].tolist() if place < index.shape[1] else [None] * len(index)
            found[name] = spaced(good, [None if row is None else self._uris[row] for row in rows])
            found[f"{name}_class"] = spaced(good, [self._class(row) for row in rows])
            near = cosine[:, place].tolist() if place < index.shape[1] else [None] * len(index)
            found[f"{name}_similarity"] = spaced(good, near)
        return found

    def _class(self, row: int | None) -> str | None:
        label = -1 if row is None else self._labels[row]
        return None if label < 0 else str(self._names[label])

    def write_sheet(self, out: Path | None, rows: list[dict[str, Any]]) -> Path | None:
        """Draw the first images beside their neighbours, in one HTML file beside `out`.

        Args:
            out: the file of the answers; None: nothing is drawn.
            rows: the first rows of the answers, at least as many as the sheet shows.
        """
        if out is None or not self._shown:
            return None
        import numpy as np

        from data.files import replacing
        from data.images import open_images, reading_of
        from tasks.report.similar import Pair, page

        places = {role: place for role, place in sources(self._config).items() if place}
        images = open_images(
            self._table,
            places,
            self._rule.stored,
            cache=self._store.cache("images"),
            workers=self._compute.decoders,
            reading=reading_of(self._table, self._store.meta(self._manifest)),
            way=self._rule.way,
        )
        pairs = []
        good = [row for row in rows if row["reason"] is None]
        for row, (square, index) in zip(good, self._shown, strict=False):
            pixels = images.read(np.asarray(index))
            near = [row[f"neighbour_{n + 1}_similarity"] for n in range(len(index))]
            told = [
                (each, self._uris[at], self._class(at) or "", cosine)
                for each, at, cosine in zip(pixels, index.tolist(), near, strict=True)
            ]
            pairs.append(Pair(square, row["uri"], row.get("class") or "", row.get("probability"), told))
        path = out.with_name(f"{out.stem}-neighbours.html")
        with replacing(path, durable=False) as draft:
            draft.write_text(page(pairs, self._run.name), encoding="utf-8")
        return path
