"""Every error the project raises on purpose, and the exit status each one ends the command with.

PipelineError                    1   the run failed
├── UserError                    2   the user's mistake: one line, no traceback
│   ├── ConfigError                  a key or value of the configuration
│   ├── DataError                    the images or labels given
│   └── StoreError                   the store can't be written or read
├── ArtifactError                1   an artifact is missing, damaged or of the wrong schema
├── CollapsedError               1   training made all outputs alike
├── DivergedError                1   training produced a value that is not finite
└── StageError                   1   a stage failed in its process; carries stage, cause and the log's place
Interrupted                    130   asked to stop; what was done so far is kept (a BaseException, as KeyboardInterrupt)

A message says what (with the values), where (stage, file, row) and what to do.
"""

from __future__ import annotations


class PipelineError(Exception):
    """The run failed. Base of all errors raised on purpose."""

    status = 1


class UserError(PipelineError):
    """The user's mistake: shown as one line, without a traceback."""

    status = 2


class ConfigError(UserError):
    """A key or a value of the configuration is not allowed."""


class DataError(UserError):
    """The images or labels given can't serve."""


class StoreError(UserError):
    """The store can't be written or read."""


class ArtifactError(PipelineError):
    """An artifact is missing, damaged or of the wrong schema."""


class CollapsedError(PipelineError):
    """Training has made all outputs alike, and was told to stop there."""


class DivergedError(PipelineError):
    """Training produced a loss or gradient that is not finite."""


class StageError(PipelineError):
    """A stage failed in its process."""


class Interrupted(BaseException):
    """Asked to stop: checkpoints are kept, nothing half-written. Not an Exception, so that handlers let it pass."""

    status = 130
