"""The flows of the deployments in prefect.yaml, for Prefect's workers.

A worker starts the process of a flow run in the user's folder. This module puts the packages of the pipeline
first on the path before it imports the flows.
"""

from __future__ import annotations

from knowledge_transfer.place import enter

enter()

from flows.compare import compare  # noqa: E402
from flows.evaluate import evaluate  # noqa: E402
from flows.knowledge_transfer import knowledge_transfer  # noqa: E402
from flows.predict import predict  # noqa: E402

__all__ = ["compare", "evaluate", "knowledge_transfer", "predict"]
