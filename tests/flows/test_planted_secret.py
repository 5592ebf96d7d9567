"""A password in a source's URL is used, but neither printed nor stored: not in the store, not by Prefect."""

from __future__ import annotations

import base64
import functools
import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, settings
from PIL import Image

SECRET = "pl4nted-s3cret"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """An HTTP server of images that asks for a password; its URL with the password."""
    for number in range(12):
        path = tmp_path / "web" / "photos" / ("cat" if number % 2 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    asked = f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"

    class Guard(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") == asked:
                super().do_GET()
            else:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="photos"')
                self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Guard, directory=str(tmp_path / "web"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"me:{SECRET}@127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def holders(folder: Path) -> list[Path]:
    """Files that hold the secret."""
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_planted_secret_is_nowhere(
    guarded: str, command: Command, tmp_path: Path, prefect_home: Path
) -> None:
    quick = ["data.test=null", "data.image_size=16", "pretext.method=hog", "until=pretext"]
    source = f"folder:http://{guarded}/photos"
    done = command("run", "digits", *settings(*quick, f"data.train={source}"))
    assert done.returncode == 0, done.stderr
    wrong = command("run", "digits", *settings(*quick, f"data.train={source}/gone"))
    assert wrong.returncode == 2
    assert "me:***@127.0.0.1" in wrong.stderr
    looked = command("run", "digits", *settings(*quick, f"data.train={source}"), "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert SECRET not in "".join(each.stdout + each.stderr for each in (done, wrong, looked))
    assert holders(tmp_path / "store") == []
    assert holders(prefect_home) == []
    configs = sorted((tmp_path / "store" / "runs").glob("*/config.yaml"))
    assert "me:***@127.0.0.1" in configs[0].read_text(encoding="utf-8")
    again = command("run", "digits", *settings(*quick, "data.train=folder:http://me:***@127.0.0.1:1/photos"))
    assert again.returncode == 2
    assert "its secret was masked" in again.stderr


def test_the_secret_is_really_needed(guarded: str) -> None:
    import urllib.error
    import urllib.request

    host = guarded.partition("@")[2]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://{host}/photos/")
