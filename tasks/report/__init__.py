"""`report.html` and the figures of a run. `render` makes the page, `figures` the pictures for Prefect's page.

Reads nothing from disk but its own template: the report stage gathers the data. Never imports torch.
"""

from tasks.report.document import (
    ClusterQuality,
    Clusters,
    ClusterSheet,
    Counts,
    ModelCost,
    NotNeeded,
    Rejected,
    ReportData,
    StageRow,
    render,
)
from tasks.report.figures import LogRow
from tasks.report.scoreboard import Score

__all__ = [
    "ClusterQuality",
    "ClusterSheet",
    "Clusters",
    "Counts",
    "LogRow",
    "ModelCost",
    "NotNeeded",
    "Rejected",
    "ReportData",
    "Score",
    "StageRow",
    "render",
]
