"""The run's page in Prefect: progress while stages work, then tables, plots and the report's place as artifacts."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from flows.run import Run
