"""Secrets in the URLs of sources: masked wherever a source is printed or stored.

A configuration holds only masked sources. `mask` remembers the real text in this process, and `reveal` gives
it back where a source is opened or sent to a child process. Credentials are better kept in the environment or
in fsspec's configuration, where they never pass through here.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"

_USER = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/@:\s?#]*:)(?P<secret>[^/@\s]+)(?=@)", re.IGNORECASE)
_NAMES = (
    r"[\w.-]*(?:token|secret|password|passwd|signature|credential|api[_-]?key|access[_-]?key|auth)[\w.-]*"
)
_QUERY = re.compile(rf"(?P<before>[?&;](?:{_NAMES}|sig|key|pwd)=)(?P<secret>[^&;#:\s]+)", re.IGNORECASE)

_real: dict[str, str] = {}
_secrets: set[str] = set()


def mask(text: str) -> str:
    """Replace passwords and keys in the URLs of a text: `ftp://me:secret@host` -> `ftp://me:***@host`."""

    def hide(found: re.Match[str]) -> str:
        if found["secret"] != MASK:
            _secrets.add(found["secret"])
        return f"{found['before']}{MASK}"

    if "://" not in text:
        return text
    masked = _QUERY.sub(hide, _USER.sub(hide, text))
    if masked != text:
        _real[masked] = text
    return masked


def reveal(text: str) -> str:
    """The real text of a masked one, if this process has masked it; else the text itself."""
    return _real.get(text, text)


def known() -> dict[str, str]:
    """Masked text -> real text, for a child process (`learn`)."""
    return dict(_real)


def learn(real: dict[str, str]) -> None:
    """Take over what another process has masked."""
    for text in real.values():
        mask(text)


def mask_all(value: Any) -> Any:
    """Mask all texts in nested dicts and lists."""
    if isinstance(value, dict):
        return {name: mask_all(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(mask_all, value))
    return mask(value) if isinstance(value, str) else value


def scrub(text: str) -> str:
    """Mask a text that may quote a source, such as another library's error message."""
    text = mask(text)
    for secret in _secrets:
        text = text.replace(secret, MASK)
    return text
