"""A headless Chromium, driven over its DevTools protocol; what a person sees and presses, by its text."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

START = 60.0
PATIENCE = 60.0
"""Seconds until a page shows what is looked for."""

_PRESS = """
(() => {
  const shown = e => e.offsetParent !== null;
  const all = [...document.querySelectorAll('button, a, [role=tab], [role=menuitem], [role=option], [role=radio], label')];
  const found = all.filter(e => shown(e) && e.innerText.trim() === %s);
  if (!found.length) return false;
  const e = found[found.length - 1];
  e.scrollIntoView({block: 'center'});
  for (const t of ['pointerdown', 'mousedown', 'pointerup', 'mouseup', 'click'])
    e.dispatchEvent(new MouseEvent(t, {bubbles: true, button: 0}));
  return true;
})()
"""


class Browser:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0

    def command(self, name: str, **parameters: Any) -> Any:
        """Of the protocol -> its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": name, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def go(self, url: str) -> None:
        """Open a page."""
        self.command("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """A JavaScript expression's value."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def text(self) -> str:
        """All that can be read on the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait(self, *texts: str, seconds: float = PATIENCE) -> str:
        """Until all of these can be read -> the page's text."""
        end = time.monotonic() + seconds
        while not all(text in (said := self.text()) for text in texts):
            assert time.monotonic() < end, ([text for text in texts if text not in said], said)
            time.sleep(0.3)
        return said

    def press(self, text: str) -> None:
        """A button, tab, link or choice, the last one shown with this text."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(_PRESS % json.dumps(text)):
            assert time.monotonic() < end, (text, self.text())
            time.sleep(0.3)

    def picture(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))


@contextmanager
def browser(folder: Path, width: int = 1500, height: int = 1000) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`; skips the test where Chromium is not installed."""
    program = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)  # fmt: skip
    if program is None:
        pytest.skip("Chromium is not installed")
    process = subprocess.Popen(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
         f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + START
        while not (folder / "DevToolsActivePort").exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.2)
        port = (folder / "DevToolsActivePort").read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=START) as answer:
            (tab,) = [tab for tab in json.load(answer) if tab["type"] == "page"]
        with connect(tab["webSocketDebuggerUrl"], max_size=None, open_timeout=START) as socket:
            page = Browser(socket)
            page.command("Page.enable")
            page.command(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            yield page
    finally:
        process.terminate()
        process.wait(30)
