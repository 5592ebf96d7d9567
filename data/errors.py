"""All errors that the project raises on purpose, and the exit status with which each one ends the command.

PipelineError                    1   the run failed
├── UserError                    2   the user's mistake: one line, no traceback
│   ├── ConfigError                  a key or value of the configuration is not allowed
│   ├── DataError                    the given images or labels can't be used
│   └── StoreError                   the store can't be written or read
├── ArtifactError                1   an artifact has the wrong schema or content
│   └── DamagedError                 a file of an artifact is missing, or is not what was written
├── CollapsedError               1   training made all outputs alike
├── DivergedError                1   training produced a value that is not finite
└── StageError                   1   a stage failed in its process; the message names stage, cause and log
Interrupted                    130   the run was asked to stop; finished work is kept (a BaseException)

A message says what is wrong (with the values), where (stage, file, row) and what to do.
"""

from __future__ import annotations

import errno
import shlex
from pathlib import Path

from data.types import Artifact


def repair(root: Path) -> str:
    """The command that sets aside what is damaged in a store."""
    return f"knowledge-transfer store verify --repair --store {shlex.quote(str(root))}"


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
    """An artifact has the wrong schema or content."""


class DamagedError(ArtifactError):
    """A file of an artifact is missing, or is not what was written.

    Args:
        root: the folder of the store.
        artifact: the artifact.
        file: name of the file in the artifact's folder; empty if the whole folder is missing.
        reason: what is wrong, as the end of a sentence about the file.
    """

    def __init__(self, root: Path, artifact: Artifact, file: str, reason: str) -> None:
        super().__init__(root, artifact, file, reason)
        self.root = root
        self.artifact, self.file, self.reason = artifact, file, reason

    @property
    def finding(self) -> str:
        """What is wrong, without what to do."""
        return f"{self.root / self.artifact.path / self.file} {self.reason}"

    def __str__(self) -> str:
        return f"{self.finding}; `{repair(self.root)}` sets it aside, then run again to compute it"


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


_FULL = {errno.ENOSPC, errno.EDQUOT}
_GONE = {errno.ESTALE, errno.ENOTCONN, errno.EROFS, errno.EIO, errno.ENODEV}


def about_storage(error: BaseException, root: Path) -> StoreError | None:
    """Say in one line that the disk of the store is full, or that the store has vanished.

    Args:
        error: what a library raised. Not all of them give an error number.
        root: the folder of the store.

    Returns:
        The error to show; None if `error` has another cause.
    """
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        text = str(seen).lower()
        if number in _FULL or "no space left on device" in text or "disk quota exceeded" in text:
            return StoreError(
                f"store {str(root)!r}: its disk has no room left; what is done is kept: free some space, "
                "such as by `knowledge-transfer store gc`, and give the same command again"
            )
        if isinstance(seen, OSError) and not there(root):
            return vanished(root)
        if number in _GONE and isinstance(seen, OSError) and str(seen.filename).startswith(str(root)):
            return StoreError(
                f"store {str(root)!r} can't be used ({seen.strerror}: {seen.filename}); what is done is "
                "kept: look at its disk, and give the same command again"
            )
        seen = seen.__cause__ or seen.__context__
    return None


def there(root: Path) -> bool:
    """Whether a store is at this place."""
    return (root / "artifacts").is_dir()


def vanished(root: Path) -> StoreError:
    """The error of a store that was there when the run began."""
    return StoreError(
        f"store {str(root)!r} has vanished; mount or restore it, and give the same command again"
    )
