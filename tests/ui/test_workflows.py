"""The pages of workflows: the list, the graph and the table beside it, and what is done to one."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.app import create_app
from rota.app.ui import graph, search, workflows
from rota.db.gateway import call
from rota.testing import Clock
from tests.ui.pages import Page, look, press, send
from tests.ui.test_jobs import actions, ids, walled

__all__ = ["walled"]

NONE = "\u2013"  # what stands where there is no name
HOSTILE = "<img src=x onerror=alert(1)>\u202e\"'/{{7*7}}"
LookAs = Callable[..., FlaskClient]


def workflow(conn: Connection, *jobs: dict[str, Any], name: str | None = None) -> list[int]:
    """Enqueue a workflow; return its id, and then those of its jobs."""
    made = call(
        conn, "enqueue_workflow", jobs=Jsonb([{"task": "t", **job} for job in jobs]), name=name
    )
    return [made[0]["workflow_id"], *(row["job_id"] for row in made)]


def finish(conn: Connection, error: str | None = None, queue: str = "default") -> int:
    [job] = call(conn, "claim_next_job", queues=[queue], worker="w")
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error, retry=False)
    return job["id"]


def diamond(conn: Connection, name: str | None = "nightly") -> list[int]:
    """One above, two that depend on it, and one that depends on these, and on the first."""
    return workflow(
        conn,
        {"node": "extract", "task": "pull"},
        {"node": "eu", "depends_on": ["extract"]},
        {"node": "us", "depends_on": ["extract"]},
        {"node": "report", "task": "tell", "depends_on": "all"},
        name=name,
    )


def boxes(page: Page) -> list[tuple[str, str, str]]:
    """Return what stands in each box of the graph, and where it leads."""
    return [
        (*(line.text for line in box.all("text")), box["href"])
        for box in page.region("graph").one("svg", **{"aria-hidden": "true"}).all("a")
    ]


def lines(page: Page) -> int:
    return len(list(page.region("graph").all("path", **{"class": "line"})))


def test_the_list_tells_of_each_its_state_and_how_many_jobs_are_in_which(
    client: FlaskClient, conn: Connection, clock: Clock
) -> None:
    first, *_ = diamond(conn, HOSTILE)
    finish(conn)
    clock.advance(timedelta(seconds=1))
    second, *_ = workflow(conn, {})
    call(conn, "cancel_workflow", workflow_id=second)

    page = look(client, "/ui/workflows")

    rows = page.table("workflows")
    assert [(row["Workflow"], row["Name"], row["State"]) for row in rows] == [
        (str(second), NONE, "CANCELLED"),
        (str(first), HOSTILE, "RUNNING"),
    ]
    counts = ("Waiting", "Scheduled", "Running", "Completed", "Failed", "Cancelled")
    assert [rows[1][name] for name in counts] == ["1", "2", "0", "1", "0", "0"]
    assert page.link(HOSTILE) == f"/ui/workflows/{first}"
    assert ("Workflows", "/ui/workflows") in [
        (link.text, link["href"])
        for link in page.root.one("nav", **{"aria-label": "Pages"}).all("a")
    ]


def test_a_list_of_none_says_how_one_begins_and_it_is_so(
    client: FlaskClient, conn: Connection
) -> None:
    page = look(client, "/ui/workflows")

    statement = next(code.text for code in page.main.all("code"))
    conn.execute("set search_path = rota, public")
    conn.execute(statement.encode())

    assert [row["Name"] for row in look(client, "/ui/workflows").table("workflows")] == ["nightly"]


def test_the_list_is_searched_by_name_state_and_number(
    client: FlaskClient, conn: Connection
) -> None:
    nightly, *_ = diamond(conn, "Nightly report")
    other, *_ = workflow(conn, {"queue": "q"}, name="sync")
    finish(conn, queue="q")

    def found(query: str) -> list[str]:
        page = look(client, f"/ui/workflows?{query}")
        region = page.region("workflows")
        return (
            [row["Workflow"] for row in page.table("workflows")]
            if list(region.all("table"))
            else []
        )

    assert found("named=NIGHT") == [str(nightly)]
    assert found("state=COMPLETED") == [str(other)]
    assert found("state=FAILED") == []
    assert found("named=%25") == []
    assert client.get(f"/ui/workflows?id={other}").headers["Location"] == f"/ui/workflows/{other}"
    assert client.get("/ui/workflows?named=&state=").headers["Location"] == "/ui/workflows"
    assert look(client, "/ui/workflows?state=WAITING", 422).status == 422


def test_a_long_list_leads_on_and_no_workflow_is_shown_twice_or_not_at_all(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "ON_A_PAGE", 3)
    made = [workflow(conn, {})[0] for _ in range(7)]
    conn.execute("update rota.workflows set created_at = now() - interval '5 days' where id < %s",
                 [made[4]])  # fmt: skip

    page, seen = look(client, "/ui/workflows"), []
    while True:
        seen += [int(row["Workflow"]) for row in page.table("workflows")]
        further = [href for words, href in page.links if words == "Older workflows"]
        if not further:
            break
        page = look(client, further[0])

    assert seen == made[::-1]


def test_a_search_whose_time_is_over_says_how_far_it_came_and_goes_on(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "SECONDS", 0.0)
    monkeypatch.setattr(search, "GROWTH", 1)
    old, *_ = workflow(conn, {}, name="old")
    conn.execute("update rota.workflows set created_at = now() - interval '90 minutes'")

    page = look(client, "/ui/workflows?named=old")
    assert "None found yet." in page.text
    while not list(page.region("workflows").all("table")):
        page = look(client, page.link("Go on searching"))

    assert [row["Workflow"] for row in page.table("workflows")] == [str(old)]


def test_a_workflow_is_a_graph_in_layers_and_a_table_that_says_the_same(
    client: FlaskClient, conn: Connection
) -> None:
    number, extract, eu, us, report = diamond(conn)
    finish(conn)
    finish(conn, error="boom")

    page = look(client, f"/ui/workflows/{number}")

    assert page.title == f"Workflow {number} nightly RUNNING"
    assert [(first, second) for first, second, _ in boxes(page)] == [
        ("extract", "COMPLETED"),
        ("eu", "FAILED"),
        ("us", "SCHEDULED"),
        ("report", "CANCELLED"),
    ]
    assert [href for *_, href in boxes(page)] == [
        f"/ui/jobs/{i}" for i in (extract, eu, us, report)
    ]
    assert all(box["tabindex"] == "-1" for box in page.region("graph").all("a"))
    assert lines(page) == 4  # not from extract to report, which follows from the others
    assert "Lines that follow from others are left out." in page.text
    assert page.table("jobs") == [
        {"Job": str(job), "Node": node, "State": state, "Task": task, "Depends on": above,
         "Layer": layer, "Queue": "default"}
        for job, node, state, task, above, layer in (
            (extract, "extract", "COMPLETED", "pull", "nothing", "1"),
            (eu, "eu", "FAILED", "t", "extract", "2"),
            (us, "us", "SCHEDULED", "t", "extract", "2"),
            (report, "report", f"CANCELLED with {eu}", "tell", "extract , eu , us", "3"),
        )
    ]  # fmt: skip
    assert "data-live" in page.region("graph").attributes
    assert not list(page.region("graph").all("script", "style"))
    assert "style=" not in page.answer.get_data(as_text=True)


def test_what_has_ended_does_not_keep_itself_up_to_date(
    client: FlaskClient, conn: Connection
) -> None:
    number, *_ = diamond(conn)
    for _ in range(4):
        finish(conn)

    page = look(client, f"/ui/workflows/{number}")

    assert page.title.endswith("COMPLETED")
    assert page.buttons == []
    assert "data-live" not in page.answer.get_data(as_text=True).partition("<main")[2]


def test_a_job_that_runs_when_others_fail_says_so(client: FlaskClient, conn: Connection) -> None:
    number, *_ = workflow(conn, {}, {"depends_on": "all", "if_parent_fails": "run"})

    rows = look(client, f"/ui/workflows/{number}").table("jobs")

    assert [row["Depends on"] for row in rows] == [
        "nothing",
        f"{rows[0]['Job']} · runs also if one fails",
    ]
    assert "Node" not in rows[0]


def test_jobs_outside_on_which_it_depends_are_boxes_too(
    client: FlaskClient, conn: Connection
) -> None:
    [plain] = call(conn, "enqueue_job", task="plain")
    number, *_ = workflow(conn, {"node": "after", "depends_on": [plain["job_id"]]})

    page = look(client, f"/ui/workflows/{number}")

    assert boxes(page)[0] == ("plain", "outside · SCHEDULED", f"/ui/jobs/{plain['job_id']}")
    assert lines(page) == 1
    assert [row["Layer"] for row in page.table("jobs")] == ["2"]


def test_many_jobs_of_a_layer_are_one_box_that_leads_to_them(
    client: FlaskClient, conn: Connection
) -> None:
    number, first, *_ = workflow(
        conn,
        {"task": "split", "node": "split"},
        *[{"task": "resize", "depends_on": ["split"]}] * 300,
        {"task": "other", "depends_on": ["split"]},
        {"task": "collect", "depends_on": "all"},
    )
    finish(conn)
    failed = [finish(conn, error="x") for _ in range(3)]

    page = look(client, f"/ui/workflows/{number}")

    assert [(first, second) for first, second, _ in boxes(page)] == [
        ("split", "COMPLETED"),
        ("resize", "3 FAILED"),
        ("resize", "297 SCHEDULED"),
        ("other", "SCHEDULED"),
        ("collect", "CANCELLED"),
    ]
    assert lines(page) == 6
    assert [(row["Layer"], row["Task"], row["Jobs"], row["State"]) for row in page.table("boxes")][
        1:3
    ] == [("2", "resize", "3 jobs", "FAILED"), ("2", "resize", "297 jobs", "SCHEDULED")]
    assert not [link for link in page.links if link[0] == str(failed[0])]
    asked = look(client, page.link("3 jobs"))
    assert [int(row["Job"]) for row in asked.table("jobs")] == failed
    assert asked.table("jobs")[0]["Depends on"] == "split"
    assert first


def test_the_jobs_of_a_box_lead_on(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "MOST_LISTED", 20)
    number, *made = workflow(conn, *[{}] * 45)

    page, seen = look(client, f"/ui/workflows/{number}?state=SCHEDULED"), []
    while True:
        seen += [int(row["Job"]) for row in page.table("jobs")]
        further = [href for words, href in page.links if words == "More of these jobs"]
        if not further:
            break
        page = look(client, further[0])

    assert seen == made
    assert (
        "No job of it is so any more." in look(client, f"/ui/workflows/{number}?state=FAILED").text
    )


def test_a_chain_of_hundreds_is_drawn_in_few_boxes(client: FlaskClient, conn: Connection) -> None:
    number, *_ = workflow(conn, {}, *[{"depends_on": "previous"}] * 299)

    page = look(client, f"/ui/workflows/{number}")

    assert "300 layers" in page.region("graph").text
    assert len(boxes(page)) == 39  # 38 times eight layers, of which the first job is due
    assert "in 8 layers" in page.text
    assert page.table("boxes")[-1]["Layer"] == f"297{NONE}300"


def test_a_workflow_too_large_to_be_drawn_says_how_much_of_it_is(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "MOST_DRAWN", 10)
    monkeypatch.setattr(workflows, "MOST_EDGES", 20)
    number, *_ = workflow(conn, *[{"depends_on": "all"} if n else {} for n in range(12)])

    page = look(client, f"/ui/workflows/{number}")

    assert "the first 10 of 12 jobs" in page.text
    assert len(boxes(page)) == 10
    assert lines(page) == 9


def test_a_workflow_that_is_not_there_is_a_page_that_says_so(client: FlaskClient) -> None:
    page = look(client, "/ui/workflows/4711", 404)

    assert page.title.lower() == "there is no workflow 4711"


def test_an_operator_cancels_a_workflow_with_a_reason_and_retries_it(
    client: FlaskClient, conn: Connection, look_as: LookAs
) -> None:
    number, *_ = diamond(conn)
    look_as("operator")

    page = look(client, f"/ui/workflows/{number}")
    assert "Retry 4" not in page.buttons
    after = press(client, page.form("Cancel 4 jobs"), reason="not today")

    assert (
        after.said == f"Workflow {number}: 4 jobs are cancelled; those that run were asked to end."
    )
    assert after.title.endswith("CANCELLED")
    assert "Asked to end" in after.text
    again = press(client, after.form("Retry 4"))
    assert again.said == f"Workflow {number}: 4 jobs are back."
    assert again.title.endswith("RUNNING")
    assert actions(conn)[-2:] == [("cancel_workflow", 4, "not today"), ("retry_workflow", 4, None)]
    assert "cancel_workflow" in look(client, "/ui/log").text


def test_a_reader_sees_no_button_and_his_forms_are_refused(
    client: FlaskClient, conn: Connection, look_as: LookAs
) -> None:
    number, *_ = diamond(conn)
    look_as("operator")
    form = look(client, f"/ui/workflows/{number}").form("Cancel 4 jobs")
    conn.execute("revoke rota_operator from one_who_comes; grant rota_reader to one_who_comes")

    page = look(client, f"/ui/workflows/{number}")

    assert page.buttons == []
    assert "extract" in page.text
    assert send(client, form).status_code == 403
    assert look(client, f"/ui/workflows/{number}").title.endswith("RUNNING")


def test_behind_a_wall_a_workflow_is_what_of_it_is_ones_own(
    client: FlaskClient, conn: Connection, walled: str
) -> None:
    foreign, *_ = workflow(conn, {"queue": "globex.q"}, name="theirs")
    shared, mine, theirs, child = workflow(
        conn,
        {"queue": "acme.q", "node": "mine"},
        {"queue": "globex.q", "node": "secret", "task": "secret"},
        {"queue": "acme.q", "node": "child", "depends_on": "all"},
    )
    client.set_cookie("rota_token", walled, path="/ui")

    listed = look(client, "/ui/workflows").table("workflows")
    page = look(client, f"/ui/workflows/{shared}")
    of_child = look(client, f"/ui/jobs/{child}")

    assert [(row["Workflow"], row["Waiting"], row["Scheduled"]) for row in listed] == [
        (str(shared), "1", "1")
    ]
    assert "secret" not in page.answer.get_data(as_text=True)
    assert [first for first, *_ in boxes(page)] == ["mine", "another job", "child"]
    assert [row["Job"] for row in page.table("jobs")] == [str(mine), str(child)]
    assert [(row["Job"], row["State"], row["Task"]) for row in of_child.table("parents")] == [
        (str(mine), "SCHEDULED", "t"),
        (str(theirs), "SCHEDULED", ""),
    ]
    look(client, f"/ui/workflows/{foreign}", 404)
    refused = send(client, page.form("Cancel 2 jobs"))
    assert refused.status_code == 404
    assert "of which you see all jobs" in Page(refused).text


def test_a_job_leads_to_its_workflow_its_parents_and_those_that_depend_on_it(
    client: FlaskClient, conn: Connection
) -> None:
    number, extract, eu, us, report = diamond(conn)
    other, elsewhere = workflow(conn, {"task": "elsewhere", "depends_on": [eu]})
    finish(conn)

    page = look(client, f"/ui/jobs/{eu}")

    assert (f"{number} nightly", f"/ui/workflows/{number}") in page.links
    assert page.table("parents") == [
        {"Job": str(extract), "Node": "extract", "State": "COMPLETED", "Task": "pull"}
    ]
    assert [(row["Job"], row["Node"], row["State"]) for row in page.table("children")] == [
        (str(report), "report", "WAITING"),
        (str(elsewhere), NONE, "WAITING"),
    ]
    finish(conn)
    after = look(client, f"/ui/jobs/{eu}")
    assert [row["Job"] for row in after.table("children")] == [str(report)]
    assert [row["Job"] for row in look(client, f"/ui/jobs/{extract}").table("children")] == [
        str(job) for job in (eu, us, report)
    ]
    assert other


def test_of_many_parents_and_children_fifty_are_told(client: FlaskClient, conn: Connection) -> None:
    _, first, *_, last = workflow(
        conn, {}, *[{"depends_on": "previous"}] * 60, {"depends_on": "all"}
    )
    _, *parents, child = workflow(
        conn, *[{"node": f"n{n}"} for n in range(70)], {"depends_on": "all"}
    )

    page = look(client, f"/ui/jobs/{child}")

    rows = page.table("parents")
    assert [int(row["Job"]) for row in rows] == parents[-50:]
    assert rows[-1]["Node"] == "n69"
    assert "50 of 70" in page.region("parents").text
    assert len(look(client, f"/ui/jobs/{first}").table("children")) == 2
    assert last


def test_a_job_that_waits_says_for_whom_and_is_no_paused_schedule(
    client: FlaskClient, conn: Connection
) -> None:
    _, extract, eu, *_ = diamond(conn)

    page = look(client, f"/ui/jobs/{eu}")

    assert page.title == f"Job {eu} t WAITING"
    assert f"It waits for 1 of 1 parents: job {extract} (SCHEDULED)." in page.region("why").text
    assert "schedule resumes" not in page.text
    assert "On it depend" not in look(client, f"/ui/jobs/{eu + 2}").text


def test_the_list_of_jobs_knows_those_that_wait_and_cancels_them(
    client: FlaskClient, conn: Connection
) -> None:
    _, extract, eu, us, report = diamond(conn)

    page = look(client, "/ui/jobs?state=WAITING")

    assert ids(page, "live") == [report, us, eu]
    assert {(row["State"], row["Due"]) for row in page.table("live")} == {
        ("WAITING", "after others")
    }
    assert ids(look(client, "/ui/jobs"), "live") == [report, us, eu, extract]
    many = look(client, page.link("Cancel all that match…"))
    after = press(client, many.form("Cancel 3 jobs"), words="cancel 3")
    assert after.said == "3 jobs were cancelled."
    assert ids(look(client, "/ui/jobs?state=CANCELLED"), "ended") == [report, us, eu]


def test_what_waits_is_counted_on_the_pages_of_queues_and_not_as_scheduled(
    client: FlaskClient, conn: Connection
) -> None:
    assert "Waiting" not in look(client, "/ui/queues").text
    diamond(conn)
    call(conn, "take_census", older_than="0 seconds", force=True)

    [row] = look(client, "/ui/queues").table("queues")
    queue = look(client, "/ui/queues/default")

    assert (row["Waiting"], row["Scheduled"], row["Due"]) == ("3", "1", "1")
    assert "3 more wait for others" in look(client, "/ui/").region("figures").text
    assert {task["Task"]: task["Waiting"] for task in queue.table("tasks")} == {
        "pull": "0", "t": "2", "tell": "1"
    }  # fmt: skip


def test_the_steps_of_a_job_are_told_in_their_order_with_what_they_were(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "enqueue_job", task="t")
    [job] = call(conn, "claim_next_job", worker="w")
    held = {"job_id": job["id"], "token": job["token"]}
    call(conn, "record_step", **held, step=HOSTILE, result=Jsonb({"id": HOSTILE}))
    call(conn, "record_step", **held, step="nothing")
    call(conn, "record_step", **held, step="long", result=Jsonb("x" * 400))
    call(conn, "record_step", **held, step="large", result=Jsonb([*range(30_000)]))
    call(conn, "record_step", **held, step="no sleep", result=Jsonb({"sleep_until": "?", "a": 1}))
    call(conn, "emit_event", event="paid:7", payload=Jsonb({"sum": 5}))
    call(conn, "await_event", **held, step="pay", event="paid:7", timeout="1 hour")
    call(conn, "sleep_job", **held, step="nap", delay="1 day")

    page = look(client, f"/ui/jobs/{job['id']}")

    told = {row["Step"]: row["Result"] for row in page.table("steps")}
    assert list(told) == [HOSTILE, "nothing", "long", "large", "no sleep", "pay", "nap"]
    assert HOSTILE.replace('"', '\\"') in told[HOSTILE]
    assert told["nothing"] == ""
    assert told["long"] == '"' + "x" * 299 + " cut"
    assert told["large"] == "Too large to be shown"
    assert told["no sleep"] == '{"a": 1, "sleep_until": "?"}'
    assert told["pay"] == 'event paid:7 ARRIVED {"sum": 5}'
    assert told["nap"].startswith("sleep until 20")
    assert "(step nap)" in page.region("why").text


def test_of_a_result_what_is_to_be_hidden_is_hidden(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch, db: str
) -> None:
    call(conn, "enqueue_job", task="t")
    [job] = call(conn, "claim_next_job", worker="w")
    held = {"job_id": job["id"], "token": job["token"]}
    call(conn, "record_step", **held, step="a", result=Jsonb({"password": "hunter2", "n": 1}))
    call(conn, "emit_event", event="e", payload=Jsonb({"password": "hunter3"}))
    call(conn, "await_event", **held, step="b", event="e", timeout="1 hour")
    monkeypatch.setenv("ROTA_HIDE", "password")
    app = create_app(db)

    page = look(app.test_client(), f"/ui/jobs/{job['id']}")

    app.extensions["database"].close()
    assert "hunter" not in page.answer.get_data(as_text=True)
    assert [row["Step"] for row in page.table("steps")] == ["a", "b"]


def jobs_of(*above: list[int], state: str = "WAITING", task: str = "t") -> list[dict[str, Any]]:
    made = [
        {"id": n, "task": task, "state": state, "depends_on": list(ids_), "is_outside": False}
        for n, ids_ in enumerate(above)
    ]
    graph.layers_of(made)
    return made


def test_a_layer_is_after_all_on_which_it_depends() -> None:
    made = jobs_of([], [0], [], [1, 2], [0], [3, 4])

    assert [job["layer"] for job in made] == [0, 1, 0, 2, 1, 3]


@pytest.mark.parametrize("seed", range(8))
def test_no_box_lies_on_another_and_lines_run_from_left_to_right(seed: int) -> None:
    dice = random.Random(seed)
    made = jobs_of(*(dice.sample(range(n), min(n, dice.randint(0, 3))) for n in range(80)))

    drawn = graph.draw(made)

    assert sorted(job["id"] for box in drawn.boxes for job in box.jobs) == list(range(80))
    for one in drawn.boxes:
        assert 0 <= one.x <= drawn.width - graph.WIDTH
        assert graph.HEIGHT / 2 <= one.y <= drawn.height - graph.HEIGHT / 2
        assert all(
            one is other or one.x != other.x or abs(one.y - other.y) >= graph.HEIGHT
            for other in drawn.boxes
        )
    for path, _ in drawn.lines:
        numbers = [float(part.lstrip("MCH")) for part in path.replace("C", " ").split()[::2]]
        assert numbers == sorted(numbers), path


def test_a_graph_of_many_tasks_is_bounded() -> None:
    made = jobs_of(*([] for _ in range(400)))
    for job in made:
        job["task"] = f"task {job['id']}"

    drawn = graph.draw(made)

    assert len(drawn.boxes) == graph.MOST_BOXES
    assert sum(len(box.jobs) for box in drawn.boxes) == 400
