"""The report in a run's folder is the store's page with the name and start time of this run."""

from __future__ import annotations

from pathlib import Path

from data.schemas import SCORES
from data.tables import write_table
from data.types import Artifact
from flows.run import Run
from tasks.config import Config
from tasks.report.content import Counts, ReportData


def publish(run: Run, kind: str) -> Artifact:
    from tasks.report.document import render

    made = Artifact(kind=kind, fingerprint="0" * 32)
    with run.store.draft(made, interrupted=lambda: False, waiting=lambda: None) as draft:
        if kind == "scores":
            write_table(draft / "out" / "scores.parquet", {name: [] for name in SCORES.names}, SCORES)
        else:
            (draft / "out" / "report.html").write_text(render(ReportData("digits", 0, (), Counts(1, 0, 0))))
        run.store.publish(made, draft, {"rows": 0})
    return made


def test_a_cached_report_bears_the_name_of_the_run_whose_folder_it_is_in(tmp_path: Path) -> None:
    pages = {}
    for name in ("first", "second <b>"):
        with Run(Config(store=str(tmp_path / "store")), name, []) as run:
            if name == "first":
                made = {kind: publish(run, kind) for kind in ("scores", "report")}
            result = run.finish(made)
            pages[name] = Path(result["report"]).read_text()
            assert f"started {run.record['started']}" in pages[name]
            assert {path.name for path in run.folder.iterdir()} == {
                *("run.json", "config.yaml", "log.txt", "alive"),
                *("scores.parquet", "report.html"),
            }
    assert "<h1>first</h1>" in pages["first"]
    assert "<h1>second &lt;b&gt;</h1>" in pages["second <b>"]
    assert "first" not in pages["second <b>"].partition("<main>")[0].partition("<body>")[2]
    assert "<title>second &lt;b&gt; · knowledge transfer</title>" in pages["second <b>"]
