"""What calls raise, besides Python's own errors."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was given: a setting, the images, the store. The message says what to do."""


class RunFailed(Exception):
    """A run failed, or the process it ran in did. The message names the stage, the cause and the log."""
