"""Every page in a real browser: by light and in the dark, on a phone, without script, by keys."""

import json
import threading
import time
from pathlib import Path

from psycopg import Connection
from psycopg.types.json import Jsonb
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from rota.db.gateway import call
from tests.api.conftest import Server
from tests.browser import needs_browser, open_browser

pytestmark = needs_browser

AXE = Path(__file__).with_name("axe.min.js")
HOSTILE = "<img src=x onerror=\"document.title='taken'\">\u202e\"'{{7*7}}"
SIZES = {  # width, height, colours
    "light": (1280, 800, "light"),
    "dark": (1280, 800, "dark"),
    "phone": (390, 844, "light"),
}
# Each page, with what is shown on it of what `fill` has made.
PAGES = {
    "/ui/": ["mail", "ConnectionError"],
    "/ui/?range=8w": ["mail"],
    "/ui/queues": ["mail", "reports"],
    "/ui/queues/mail": ["send_email"],
    "/ui/jobs": ["send_email", "CANCELLED"],
    "/ui/jobs?error=connection": ["ConnectionError"],
    "/ui/jobs?state=SCHEDULED&queue=mail": ["send_email"],
    "/ui/jobs/1": ["ConnectionError", "send_email"],
    "/ui/jobs/20": ["CANCELLED"],
    "/ui/jobs/31": [],
    "/ui/jobs/1/copy": ["send_email"],
    "/ui/jobs?state=WAITING": ["WAITING"],
    "/ui/workflows": ["every night"],
    "/ui/workflows/34": ["every night", "extract", "WAITING"],
    "/ui/workflows/39": ["300", "layers"],
    "/ui/workflows/39?state=WAITING": ["crawl"],
    "/ui/jobs/36": ["WAITS_FOR_PARENTS", "extract"],
    "/ui/schedules": ["nightly"],
    "/ui/schedules/nightly": ["30 2 * * *"],
    "/ui/schedules/nightly?view=months": ["30 2 * * *"],
    "/ui/workers": ["web-1"],
    "/ui/workers/web-1": ["mail"],
    "/ui/doctor": ["Doctor"],
    "/ui/log": ["pause_queue"],
    "/ui/login": ["Token"],
    "/ui/nothing": ["There is nothing"],
}


def fill(conn: Connection) -> None:
    """Make something of everything that pages show."""
    conn.execute("set search_path = rota, public")
    for number in range(30):
        call(conn, "enqueue_job", task="send_email", payload=Jsonb({"to": number}), queue="mail")
    call(conn, "enqueue_job", task=HOSTILE[:100], payload=Jsonb({HOSTILE: HOSTILE}), queue="mail")
    call(conn, "schedule_job", task="tidy", name="nightly", cron="30 2 * * *", queue="reports")
    call(conn, "schedule_job", task="tidy", name=HOSTILE, every="1 hour", queue="reports")
    for error in ("ConnectionError: refused", HOSTILE, None):
        [job] = call(conn, "claim_next_job", queues=["mail"], worker=f"web {HOSTILE}")
        call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error)
    call(conn, "claim_next_job", queues=["mail"], worker="web-1")
    call(conn, "announce_worker", worker="web-1", host="web-1", pid=1, queues=["mail"],
         concurrency=4, version="1")  # fmt: skip
    call(conn, "cancel_job", job_id=20, reason=HOSTILE)
    call(conn, "pause_queue", queue="reports")
    night = [
        {"task": "pull", "node": "extract"},
        {"task": HOSTILE[:100], "node": HOSTILE, "depends_on": ["extract"]},
        {"task": "tidy", "depends_on": ["extract", 5]},
        {"task": "tell", "depends_on": "all", "if_parent_fails": "run"},
    ]
    crawl = [{"task": "crawl"}, *[{"task": "crawl", "depends_on": "previous"}] * 299]
    call(conn, "enqueue_workflow", jobs=Jsonb(night), name=f"every night {HOSTILE}")
    call(conn, "enqueue_workflow", jobs=Jsonb(crawl))
    call(conn, "take_census", older_than="0 seconds", force=True)


def look_at(browser: Chrome, url: str, size: str) -> None:
    """Open a page at a size, and wait until it is drawn."""
    width, height, colours = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": colours}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(url)


def complaints(browser: Chrome) -> list[str]:
    """Return what axe finds on the page."""
    browser.execute_script(AXE.read_text())
    found = browser.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
    )
    return [
        f"{violation['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def test_every_page_can_be_used_by_everybody(
    server: Server, browser: Chrome, conn: Connection
) -> None:
    fill(conn)
    wrong: list[str] = []
    for path, words in PAGES.items():
        for size, (width, _, _) in SIZES.items():
            look_at(browser, server.url + path, size)
            text = browser.find_element(By.TAG_NAME, "body").text
            logged = [
                entry["message"]
                for entry in browser.get_log("browser")
                if entry["level"] != "DEBUG" and f"{path} - Failed to load" not in entry["message"]
            ]
            images = browser.find_elements(By.TAG_NAME, "img")
            broad = browser.execute_script("return document.documentElement.scrollWidth") - width
            titles = len(browser.find_elements(By.TAG_NAME, "h1"))
            found = {
                "says nothing of": [word for word in words if word not in text],
                "axe": complaints(browser),
                "logged": logged,
                "does what is in the data": images or "taken" in browser.title,
                "broader than the screen by": max(broad, 0),
                "has titles": titles if titles != 1 else 0,
            }
            wrong += [f"{path} {size} {what} {which}" for what, which in found.items() if which]
    assert wrong == []
    urls = {
        event["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (event := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    }
    assert {url for url in urls if not url.startswith((server.url, "data:", "chrome:"))} == set()


def cells(browser: Chrome) -> list[str]:
    """Return what stands in the tables, but for times, which the script writes its own way."""
    return browser.execute_script(
        "const found = document.querySelectorAll('.rows :is(th, td):not(:has(time))');"
        "return Array.from(found, (cell) => cell.innerText);"
    )


def test_every_page_reads_the_same_without_javascript(
    server: Server, browser: Chrome, conn: Connection, tmp_path: Path
) -> None:
    fill(conn)
    with open_browser(tmp_path / "other", javascript=False) as plain:
        for path, words in PAGES.items():
            look_at(plain, server.url + path, "light")
            text = plain.find_element(By.TAG_NAME, "body").text
            for word in words:
                assert word in text, path
            look_at(browser, server.url + path, "light")
            assert cells(plain) == cells(browser), path


def test_what_changes_is_shown_without_a_reload_and_what_is_read_stays(
    server: Server, browser: Chrome, conn: Connection
) -> None:
    fill(conn)
    look_at(browser, server.url + "/ui/", "light")
    summary = browser.find_element(By.CSS_SELECTOR, "#figures-ended summary")
    summary.click()
    assert browser.switch_to.active_element == summary
    call(conn, "enqueue_job", task="new", queue="a-new-queue")
    conn.execute("update rota.chores set ran_at = ran_at - interval '1 hour', took = '0'")
    call(conn, "take_census", older_than="0 seconds", force=True)

    WebDriverWait(browser, 30).until(
        lambda page: "a-new-queue" in page.find_element(By.ID, "queues").text
    )
    focused = browser.switch_to.active_element
    assert focused.tag_name == "summary"
    assert browser.find_element(By.ID, "figures-ended").get_attribute("open") is not None


def test_nothing_is_asked_for_while_nobody_looks(
    server: Server, browser: Chrome, conn: Connection
) -> None:
    look_at(browser, server.url + "/ui/", "light")
    browser.execute_script(
        "Object.defineProperty(document, 'hidden', {configurable: true, get: () => window.hides});"
        "window.hides = true; window.asked = 0; const fetched = window.fetch;"
        "window.fetch = (...given) => { window.asked += 1; return fetched(...given); };"
        "window.setTimeout = ((timeout) => (what, _) => timeout(what, 20))(window.setTimeout)"
    )
    time.sleep(6)
    assert browser.execute_script("return window.asked") == 0
    browser.execute_script("window.hides = false")
    WebDriverWait(browser, 30).until(lambda page: page.execute_script("return window.asked") > 2)


def test_keys_lead_everywhere(server: Server, browser: Chrome, conn: Connection) -> None:
    look_at(browser, server.url + "/ui/", "light")
    links = browser.find_elements(By.CSS_SELECTOR, "nav a[data-key]")
    targets = {link.get_attribute("data-key"): link.get_attribute("href") for link in links}
    assert targets
    for key, target in targets.items():
        browser.find_element(By.TAG_NAME, "body").send_keys("g" + key)
        WebDriverWait(browser, 30).until(lambda page, target=target: page.current_url == target)
    browser.find_element(By.TAG_NAME, "body").send_keys("?")
    assert browser.find_element(By.ID, "keys").is_displayed()
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.find_element(By.ID, "keys").is_displayed()


def test_a_hundred_tabs_cost_one_look_in_two_seconds(
    server: Server, conn: Connection, db: str
) -> None:
    fill(conn)
    before = transactions(conn)
    began = time.monotonic()
    answers: list[int] = []

    def tab() -> None:
        etag = ""
        while time.monotonic() < began + 5:
            answer = server.request("GET", "/ui/", **{"If-None-Match": etag})
            answers.append(answer.status)
            etag = answer.headers.get("ETag", etag)
            time.sleep(0.5)

    tabs = [threading.Thread(target=tab) for _ in range(100)]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join()
    looks = (time.monotonic() - began) / 2 + 1
    assert set(answers) == {200, 304}
    assert len(answers) > 4 * looks
    # Beside the page: the doctor, whether a token is needed, what four connections ask when they
    # are new, the upkeep, and we ourselves.
    assert transactions(conn) - before < 3 * looks + 30


def transactions(conn: Connection) -> int:
    """Return how many have ended in this database, by all."""
    conn.execute("select pg_stat_force_next_flush()")
    time.sleep(1.1)  # the others tell what they did once a second
    conn.execute("select pg_stat_clear_snapshot()")
    (number,) = conn.execute(
        "select xact_commit + xact_rollback from pg_stat_database"
        " where datname = current_database()"
    ).fetchone()
    return number
