"""A user's actions in Prefect's pages, in a real Chromium: fill in the form, watch, look, cancel, retry.

If KNOWLEDGE_TRANSFER_PICTURES names a folder, the tests save screenshots there. docs/images has copies.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prefect_server import Prefect

pytestmark = pytest.mark.slow

SOON, LONG = 60_000, 600_000
"""Timeouts in milliseconds: for a page to show something, and for a run to make progress."""
PRESSES = 5
"""How often to press a button whose request may fail because the database is busy."""
STAGES = {
    "manifest", "pretext", "embed", "cluster", "assign", "transfer", "embed-teacher-test",
    "embed-student-transferred", "embed-student-transferred-test", "evaluate-teacher",
    "evaluate-student-transferred", "explore", "scores", "report",
}  # fmt: skip


@pytest.fixture(scope="module")
def page(browser: Any) -> Any:
    """A tab."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, color_scheme="light")
    page.set_default_timeout(SOON)
    return page


@pytest.fixture
def picture(page: Any, tmp_path: Path) -> Any:
    """Save a screenshot under a name, and check that it is not blank."""
    folder = Path(os.environ.get("KNOWLEDGE_TRANSFER_PICTURES", tmp_path))

    def take(name: str) -> None:
        page.wait_for_timeout(1500)  # wait until animations have ended
        assert len(page.screenshot(path=folder / f"{name}.png")) > 20_000

    return take


class Form:
    """The form of a deployment.

    Args:
        page: the browser's page.
        prefect: the server.
        deployment: the deployment's name, FLOW/DEPLOYMENT.
    """

    def __init__(self, page: Any, prefect: Prefect, deployment: str) -> None:
        self.page, self.pages = page, prefect.pages
        page.goto(f"{prefect.pages}/deployments/deployment/{prefect.deployment(deployment)['id']}/run")
        page.get_by_role("heading", name="Parameters").wait_for()

    def field(self, name: str) -> Any:
        """The part of the form that belongs to a parameter."""
        label = self.page.locator("label", has_text=re.compile(rf"^{name} \(Optional\)$"))
        return self.page.locator("div.group").filter(has=label).last

    def choose(self, name: str, kind: str) -> None:
        """Choose one of a parameter's kinds by its tab."""
        self.field(name).get_by_role("tab", name=kind, exact=True).first.click()

    def write(self, name: str, kind: str, value: str) -> None:
        """Fill in a value."""
        self.choose(name, kind)
        self.field(name).locator("input, textarea").first.fill(value)

    def pick(self, name: str, value: str) -> None:
        """Choose one of the values that the form offers."""
        self.choose(name, "str")
        self.field(name).get_by_role("button").filter(has_text="Select").click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def submit(self) -> None:
        """Start the run and open its page.

        The form shows the link to the page only briefly, so the id is read from the response. If another
        transaction of the server is writing to SQLite, the page says *Service Unavailable* and the form stays
        filled. The button is then pressed again.
        """
        for _ in range(PRESSES):
            with self.page.expect_response("**/create_flow_run") as made:
                self.page.get_by_role("button", name="Submit").click()
            if made.value.status != 503:
                break
        assert made.value.ok, made.value.text()
        self.page.goto(f"{self.pages}/runs/flow-run/{made.value.json()['id']}")


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def until(page: Any, state: str) -> None:
    """Wait until the header of a run's page shows a state."""
    page.get_by_text(state, exact=True).first.wait_for(timeout=LONG)


def progress(page: Any, shown: str) -> None:
    """Wait until the progress card of a stage says this.

    A list of artifacts doesn't update after its tab was opened, so the page is reloaded.
    """
    end = time.monotonic() + LONG / 1000
    while True:
        tab(page, "Artifacts")
        page.wait_for_timeout(2000)
        if page.get_by_text(re.compile(shown)).count():
            return
        assert time.monotonic() < end, page.locator("body").inner_text()
        page.reload()


def test_from_the_form_to_the_pictures(prefect: Prefect, page: Any, picture: Any, tmp_path: Path) -> None:
    with prefect.worker():
        form = Form(page, prefect, "knowledge-transfer/knowledge-transfer")
        picture("form")
        offered = form.field("pretext").get_by_role("tab").all_inner_texts()
        assert {"SimCLR", "JigsawPlusPlus", "MoCo", "BYOL", "Momentum2", "SwAV", "None"} <= set(offered)
        form.choose("pretext", "SwAV")
        assert "Queue Epoch" in form.field("pretext").inner_text()
        picture("form-method")
        form.choose("pretext", "None")
        form.write("k", "int", "12")
        form.write("epochs", "int", "60")
        form.pick("until", "transfer")
        form.write("store", "str", str(tmp_path / "store"))
        picture("form-filled")
        form.submit()
        run = page.url
        until(page, "Running")

        progress(page, r"^pretext: \d+ of \d+, epoch \d+/60, loss \d")
        picture("progress")
        until(page, "Completed")
        with page.expect_response("**/graph-v2*") as drawn:
            page.reload()
        assert {
            node["label"] for _, node in drawn.value.json()["nodes"]
        } == STAGES  # they are drawn on a canvas
        page.locator("canvas").first.wait_for()
        page.wait_for_timeout(3000)
        picture("graph")

        tab(page, "Task Runs")
        for stage in STAGES:
            page.get_by_text(stage, exact=True).first.wait_for()
        picture("stages")
        tab(page, "Artifacts")
        picture("artifacts")
        for key in ("scores", "contact-sheet", "stage-cluster", "stage-pretext"):
            tab(page, "Artifacts")
            page.get_by_text(key, exact=True).first.click()
            page.wait_for_url("**/artifacts/key/**")
            page.locator("a[href*='/artifacts/artifact/']").first.click()  # the newest of this key
            if key == "scores":
                page.get_by_text("effective_rank").first.wait_for()
            else:
                image = page.locator("img[src^='data:image/']").first
                image.wait_for()
                assert image.evaluate("image => image.complete && image.naturalWidth > 100")
            picture(f"artifact-{key}")
            page.goto(run)


def test_an_opened_section_sends_what_is_filled_in(prefect: Prefect, page: Any, picture: Any) -> None:
    form = Form(page, prefect, "knowledge-transfer/knowledge-transfer")
    form.choose("data", "Data")
    form.field("Labels Per Class").locator("input").first.fill("5")
    form.choose("Test", "None")
    picture("form-section")
    assert "16 (digits)" in form.field("Image Size").inner_text()
    form.submit()
    run = page.url.rpartition("/")[2].partition("?")[0]
    assert prefect.state(run)["parameters"]["data"] == {"labels_per_class": 5, "test": None}
    prefect.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLED"}, force=True)


def test_cancelled_and_retried(prefect: Prefect, page: Any, picture: Any, tmp_path: Path) -> None:
    with prefect.worker():
        form = Form(page, prefect, "knowledge-transfer/knowledge-transfer")
        form.write("epochs", "int", "150")
        form.pick("until", "pretext")
        form.write("store", "str", str(tmp_path / "store"))
        form.submit()
        run = page.url.rpartition("/")[2].partition("?")[0]
        prefect.until_stage(run, "pretext")
        progress(page, r"^pretext: \d+ of \d+, epoch \d+/150, loss \d")

        page.get_by_role("button", name="Open menu").first.click()
        page.get_by_role("menuitem", name="Cancel").click()
        page.get_by_role("button", name="Cancel Flow Run").click()
        until(page, "Cancelled")
        picture("cancelled")
        assert prefect.state(run)["state_type"] == "CANCELLED"

        page.get_by_role("button", name="Open menu").first.click()
        page.get_by_role("menuitem", name="Retry").click()
        page.get_by_role("alertdialog").get_by_role("button", name=re.compile("Retry")).click()
        until(page, "Completed")
        picture("retried")
        assert any("resuming at step" in message for message in prefect.logs(run))
    assert prefect.state(run)["state_type"] == "COMPLETED"
