"""The documents as pages: every link leads somewhere, and no page asks another server for anything."""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

pytest.importorskip("mkdocs")
LOADS = {
    ("audio", "src"), ("embed", "src"), ("form", "action"), ("iframe", "src"), ("img", "src"),
    ("img", "srcset"), ("input", "src"), ("link", "href"), ("object", "data"), ("script", "src"),
    ("source", "src"), ("source", "srcset"), ("use", "href"), ("video", "poster"), ("video", "src"),
}  # fmt: skip
"""Elements and attributes that a browser follows by itself."""
SOON = 300_000
"""How long a page may take, ms. On a quiet machine it is a second; tests may have to share theirs."""
ELSEWHERE = re.compile(r"^\s*(\w+:)?//|^\s*https?:", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. With --strict, a link to nowhere is an error, and so is a page that `nav` lacks."""
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


class Resources(HTMLParser):
    """Collects what a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if (tag, name) in LOADS and value]
        self.found += [
            url
            for name, value in attrs
            if name == "style"
            for url in re.findall(r"url\(['\"]?([^'\")]+)", value or "")
        ]


def loaded(path: Path) -> list[str]:
    """What a page or a style sheet loads by itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".css":
        return re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")\s]+)", text)
    page = Resources()
    page.feed(text)
    return page.found


def test_every_document_is_a_page(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    documents = (ROOT / "docs").rglob("*.md")
    assert {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in documents} <= pages


def test_no_page_and_no_style_loads_anything_from_elsewhere(site: Path) -> None:
    paths = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(paths) > 50
    found = {(path.name, url) for path in paths for url in loaded(path) if ELSEWHERE.search(url)}
    assert found == set()


def test_a_font_from_elsewhere_would_be_noticed(tmp_path: Path) -> None:
    page, style = tmp_path / "a.html", tmp_path / "a.css"
    page.write_text('<link rel="stylesheet" href="https://fonts.example/css"><img src="//example/a.png">')
    style.write_text("@import 'https://a.example/b.css'; a {background: url(http://a.example/b.png)}")
    assert all(ELSEWHERE.search(url) for url in (*loaded(page), *loaded(style)))
    assert (len(loaded(page)), len(loaded(style))) == (2, 2)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """A server of the pages, as `mkdocs serve` is one."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_asks_no_other_server_and_search_works(browser: Any, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(SOON)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("index", "tutorial", "troubleshooting", "commands", "methods/swav", "performance"):
        page.goto(f"{address}/{name}.html", wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    if width < 1000:
        page.locator("label[for=__search]").first.click()
    page.get_by_placeholder("Search").press_sequentially("prototype")  # the theme listens to keys
    page.locator(".md-search-result__link").first.wait_for()
    links = page.locator(".md-search-result__link").evaluate_all("all => all.map(each => each.href)")
    assert any("glossary" in link for link in links)
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []
    page.close()
