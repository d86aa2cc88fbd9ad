"""What the script adds to the pages of jobs, in a real browser."""

import threading
from collections.abc import Iterator

import pytest
from psycopg import Connection
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from werkzeug.serving import make_server

from rota.app import create_app
from rota.app.ui import jobs
from rota.db.gateway import call
from tests.browser import needs_browser

pytestmark = needs_browser


@pytest.fixture
def url(db: str) -> Iterator[str]:
    """Where an application of this process is served."""
    app = create_app(db)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    app.extensions["database"].close()


def test_what_was_confirmed_goes_on_by_itself_to_its_end(
    url: str, browser: Chrome, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BATCH", 2)
    monkeypatch.setattr(jobs, "REQUEST_SECONDS", 1e-9)  # one batch an answer
    for _ in range(7):
        call(conn, "enqueue_job", task="t")
    browser.get(url + "/ui/jobs")
    browser.find_element(By.LINK_TEXT, "Cancel all that match…").click()
    browser.find_element(By.NAME, "words").send_keys("cancel 7")

    browser.find_element(By.CSS_SELECTOR, "form.confirm button").click()

    WebDriverWait(browser, 30).until(
        lambda page: (
            page.find_elements(By.CSS_SELECTOR, ".said")
            and page.find_element(By.CSS_SELECTOR, ".said").text == "7 jobs were cancelled."
        )
    )
    affected = conn.execute("select affected from rota.actions order by at").fetchall()
    assert affected == [(2,), (2,), (2,), (1,)]


def test_what_is_typed_or_selected_is_not_taken_away(
    url: str, browser: Chrome, conn: Connection
) -> None:
    [made] = call(conn, "enqueue_job", task="t")
    browser.get(f"{url}/ui/jobs/{made['job_id']}")
    browser.find_element(By.CSS_SELECTOR, "#cancelling summary").click()
    browser.find_element(By.ID, "reason").send_keys("because")
    browser.find_element(By.TAG_NAME, "h1").click()  # the focus is elsewhere now
    call(conn, "claim_next_job", queues=["default"], worker="w")

    WebDriverWait(browser, 30).until(
        lambda page: page.find_element(By.CSS_SELECTOR, "[data-live-state]").text == "paused"
    )

    assert browser.find_element(By.ID, "reason").get_attribute("value") == "because"
    browser.find_element(By.ID, "reason").clear()
    browser.find_element(By.TAG_NAME, "h1").click()
    WebDriverWait(browser, 30).until(
        lambda page: "RUNNING" in page.find_element(By.TAG_NAME, "h1").text
    )
