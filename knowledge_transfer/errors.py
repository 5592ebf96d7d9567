"""The exceptions that calls raise, besides Python's own."""

from __future__ import annotations


class UserError(Exception):
    """The user made a mistake in a setting, the images or the store. The message says what to do."""


class RunFailed(Exception):
    """A run failed, or its process died. The message names the stage, the cause and the log."""
