"""The Swagger page in a real browser, headless."""

import json
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.ui import WebDriverWait

from rota.db.gateway import call
from tests.api.conftest import Server
from tests.browser import browser, needs_browser

__all__ = ["browser"]

pytestmark = needs_browser

PATIENCE = 30


def events(browser: Chrome) -> list[dict[str, Any]]:
    """Return what happened on the network and elsewhere since the last look."""
    return [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]


def requested(happened: list[dict[str, Any]]) -> set[str]:
    """Return the URLs that were asked for over a network; the browser's own pages are not."""
    urls = {
        event["params"]["request"]["url"]
        for event in happened
        if event["method"] == "Network.requestWillBeSent"
    }
    return {url for url in urls if not url.startswith(("data:", "blob:", "chrome:"))}


def open_page(browser: Chrome, url: str) -> None:
    browser.get(url)
    WebDriverWait(browser, PATIENCE).until(
        element_to_be_clickable((By.ID, "operations-jobs-enqueueJob"))
    )


def click(browser: Chrome, selector: str) -> None:
    button = WebDriverWait(browser, PATIENCE).until(
        element_to_be_clickable((By.CSS_SELECTOR, selector))
    )
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def test_try_it_out_creates_a_job(
    server: Server, browser: Chrome, conn: Connection, tmp_path: Path
) -> None:
    open_page(browser, f"{server.url}/apidocs/")
    operation = "#operations-jobs-enqueueJob"
    click(browser, f"{operation} .opblock-summary-control")
    click(browser, f"{operation} button.execute")
    WebDriverWait(browser, PATIENCE).until(
        lambda page: page.find_elements(By.CSS_SELECTOR, f"{operation} .live-responses-table")
    )

    browser.save_screenshot(str(tmp_path / "apidocs.png"))
    status = browser.find_element(
        By.CSS_SELECTOR, f"{operation} .live-responses-table .response .response-col_status"
    )
    assert status.text.split()[0] == "201"
    stored = conn.execute("select id, task, payload, state from rota.jobs").fetchall()
    assert stored == [(1, "echo", {"greeting": "hello"}, "SCHEDULED")]
    urls = requested(events(browser))
    assert f"{server.url}/apidocs/swagger-ui-bundle.js" in urls
    assert {url for url in urls if not url.startswith(f"{server.url}/")} == set()
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def answered(browser: Chrome, operation: str) -> str:
    """Execute an operation that is open, and return the status that is shown."""
    clear = browser.find_elements(By.CSS_SELECTOR, f"{operation} .btn-clear")
    for button in clear:
        button.click()
    click(browser, f"{operation} button.execute")
    status = f"{operation} .live-responses-table .response .response-col_status"
    WebDriverWait(browser, PATIENCE).until(lambda page: page.find_elements(By.CSS_SELECTOR, status))
    return browser.find_element(By.CSS_SELECTOR, status).text.split()[0]


@pytest.mark.parametrize("width", [480, 1280])
def test_a_token_that_is_entered_is_sent_and_kept_nowhere(
    server: Server, browser: Chrome, conn: Connection, width: int
) -> None:
    size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    conn.execute("create role somebody_looking")
    try:
        conn.execute("grant rota_producer to somebody_looking")
        token = call(conn, "create_token", principal="somebody_looking")[0]["token"]
        open_page(browser, f"{server.url}/apidocs/")
        operation = "#operations-jobs-enqueueJob"
        click(browser, f"{operation} .opblock-summary-control")

        assert answered(browser, operation) == "401"
        click(browser, ".auth-wrapper > .authorize")
        field = browser.find_element(By.CSS_SELECTOR, ".auth-container input")
        field.send_keys(token)
        click(browser, ".auth-btn-wrapper .authorize")
        click(browser, ".auth-btn-wrapper .btn-done")
        assert answered(browser, operation) == "201"
    finally:
        conn.execute("drop owned by somebody_looking; drop role somebody_looking")
    kept = browser.execute_script("return [...Object.values(localStorage), document.cookie]")
    assert token not in str(kept)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("parameter", ["url", "configUrl"])
def test_a_link_cannot_choose_the_document(server: Server, browser: Chrome, parameter: str) -> None:
    foreign = "http://127.0.0.1:9/evil.json"

    open_page(browser, f"{server.url}/apidocs/?{parameter}={foreign}&queryConfigEnabled=true")

    urls = requested(events(browser))
    assert {url for url in urls if not url.startswith(f"{server.url}/")} == set()
    assert browser.find_element(By.CSS_SELECTOR, ".info .title").text.startswith("Rota")


@pytest.mark.parametrize("width", [420, 1280])
def test_no_answer_sticks_out_of_its_box(server: Server, browser: Chrome, width: int) -> None:
    size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_page(browser, f"{server.url}/apidocs/")

    click(browser, "#operations-jobs-listJobs .opblock-summary-control")
    operation = "#operations-jobs-listJobs"
    cells = f"{operation} .responses-table td"
    WebDriverWait(browser, PATIENCE).until(element_to_be_clickable((By.CSS_SELECTOR, cells)))

    rights = """
        return [...document.querySelectorAll(arguments[0])]
            .map(element => element.getBoundingClientRect().right)
    """
    (edge,) = browser.execute_script(rights, operation)
    assert 0 < max(browser.execute_script(rights, cells)) < edge < width
    filters = browser.find_elements(By.CSS_SELECTOR, "#operations-jobs-listJobs input")
    values = [field.get_attribute("value") for field in filters]
    assert values == [*[""] * 9, "50", ""]
