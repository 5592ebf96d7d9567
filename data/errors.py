"""All errors that the project raises on purpose, and the exit status with which each one ends the command.

PipelineError                    1   the run failed
├── UserError                    2   the user's mistake: one line, no traceback
│   ├── ConfigError                  a key or value of the configuration is not allowed
│   ├── DataError                    the given images or labels can't be used
│   └── StoreError                   the store can't be written or read
├── ArtifactError                1   an artifact is missing, damaged or has the wrong schema
├── CollapsedError               1   training made all outputs alike
├── DivergedError                1   training produced a value that is not finite
└── StageError                   1   a stage failed in its process; the message names stage, cause and log
Interrupted                    130   the run was asked to stop; finished work is kept (a BaseException)

A message says what is wrong (with the values), where (stage, file, row) and what to do.
"""

from __future__ import annotations


class PipelineError(Exception):
    """The run failed. This is the base class of all errors that are raised on purpose."""

    status = 1


class UserError(PipelineError):
    """The user made a mistake. The message is shown as one line, without a traceback."""

    status = 2


class ConfigError(UserError):
    """A key or a value of the configuration is not allowed."""


class DataError(UserError):
    """The given images or labels can't be used."""


class StoreError(UserError):
    """The store can't be written or read."""


class ArtifactError(PipelineError):
    """An artifact is missing, damaged or has the wrong schema."""


class CollapsedError(PipelineError):
    """Training has made all outputs alike, and the configuration says to stop in that case."""


class DivergedError(PipelineError):
    """Training produced a loss or a gradient that is not finite."""


class StageError(PipelineError):
    """A stage failed in its process."""


class Interrupted(BaseException):
    """The run was asked to stop. Checkpoints are kept, and no file is half-written.

    It is a BaseException, like KeyboardInterrupt, so `except Exception` does not catch it.
    """

    status = 130
