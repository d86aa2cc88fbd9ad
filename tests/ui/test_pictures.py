"""The pictures of the docs are of the pages as they are: WRITE_PICTURES=1 makes them anew."""

import base64
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import psycopg
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from tests.api.conftest import Server
from tests.browser import needs_browser
from tests.docs.pages import ROOT
from tests.ui.story import tell
from tests.ui.test_pages import look_at

FOLDER = ROOT / "docs" / "pictures"
LARGEST = 80_000  # bytes
PICTURES = {
    "overview": ("/ui/", "light"),
    "queue": ("/ui/queues/mail", "dark"),
    "job": ("/ui/jobs/{job}", "light"),
    "workflow": ("/ui/workflows/{workflow}", "light"),
    "schedule": ("/ui/schedules/sync", "light"),
}


@needs_browser
def test_the_pages_of_the_pictures_tell_the_story_without_scrolling(
    start_server: Callable[..., Server], browser: Chrome, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as place, Cluster(Path(place) / "pg") as cluster:
        deploy(cluster.url(), report=lambda _: None)
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            places = tell(conn)
        server = start_server(cluster.url())
        take_pictures(server, browser, places, tmp_path)
        server.close()


def take_pictures(server: Server, browser: Chrome, places: dict[str, int], tmp_path: Path) -> None:
    folder = FOLDER if os.environ.get("WRITE_PICTURES") else tmp_path
    for name, (path, size) in PICTURES.items():
        look_at(browser, server.url + path.format(**places), size)
        picture = browser.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "webp", "quality": 82}
        )
        (folder / f"{name}.webp").write_bytes(base64.b64decode(picture["data"]))
        assert (folder / f"{name}.webp").stat().st_size < LARGEST
    look_at(browser, server.url + "/ui/", "light")
    for part in ("findings", "figures", "charts", "queues", "failures"):
        assert browser.find_element(By.ID, part).location["y"] < 700, part


def test_every_picture_is_small_and_shown_and_every_one_shown_is_there() -> None:
    there = {path.stem for path in FOLDER.iterdir()}
    shown = {
        name
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for name in re.findall(r"pictures/([\w-]+)\.webp", page.read_text())
    }
    assert there == shown == set(PICTURES)
    for path in FOLDER.iterdir():
        assert path.stat().st_size < LARGEST, path.name
