"""What a worker tells Prometheus of itself; the dashboard and the alerts ask for no more."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from rota.app import create_app
from rota.db.gateway import call
from rota.worker import metrics
from rota.worker.options import parse
from tests.api.conftest import free_port
from tests.waiting import wait_until

MONITORING = Path(__file__).parents[2] / "monitoring"


def ask(port, path="/metrics", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port):
    status, _, text = ask(port)
    assert status == 200
    return samples(text)


def count(found, name, **labels):
    return found.get((f"rota_worker_{name}", *sorted(labels.items())), 0.0)


@pytest.fixture
def port():
    """The thread that answers, without a worker around it."""
    number, closing = free_port(), threading.Event()
    one = metrics.Port(metrics.Metrics(), ("127.0.0.1", number))
    thread = threading.Thread(target=one.run, args=[closing], daemon=True)
    thread.start()
    yield SimpleNamespace(number=number, port=one, metrics=one.metrics)
    closing.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_worker_tells_of_claims_handlers_leases_and_connections(
    start_worker, enqueue, settled, conn, trace
):
    number = free_port()
    worker = start_worker("--metrics", str(number), "--lease", "1")
    for _ in range(3):
        enqueue("echo")
    enqueue("flaky", {"fail": 99}, max_retries=0)
    settled()

    wait_until(lambda: count(scrape(number), "handler_seconds_count", task="echo") == 3)
    before = scrape(number)
    assert count(before, "handler_seconds_count", task="flaky") == 1
    assert count(before, "handler_seconds_bucket", task="echo", le="+Inf") == 3
    assert count(before, "claim_duration_seconds_count") >= 1
    assert count(before, "lease_lost_total") == count(before, "reconnects_total") == 0

    held = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)
    conn.execute("update rota.live_jobs set token = gen_random_uuid() where id = %s", [held])
    wait_until(lambda: count(scrape(number), "lease_lost_total") == 1)
    conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name like 'rota worker: %'"
    )
    wait_until(lambda: count(scrape(number), "reconnects_total") >= 3)
    # Its second attempt, when the lease is over, does not end before the gate is open.
    wait_until(lambda: count(scrape(number), "handler_seconds_count", task="hold") == 1)
    trace.open_gate()
    wait_until(lambda: [line for line in worker.lines if line.get("outcome") == "LEASE_LOST"])
    assert count(scrape(number), "lease_lost_total") == 1  # and not again with its result


def test_each_process_has_a_port_of_its_own(start_worker):
    first = free_port()
    worker = start_worker("--processes", "2", "--metrics", f"127.0.0.1:{first}")

    for port in (first, first + 1):
        wait_until(lambda port=port: can_connect(port), timeout=60)
        assert ("rota_worker_claim_duration_seconds_count",) in scrape(port)
    assert worker.stop() == 0


def answers(port):
    """Tell whether a scrape is answered; one may still reach a socket that is about to go."""
    try:
        return ask(port)[0] == 200
    except OSError:
        return False


def can_connect(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_worker_whose_port_is_taken_does_not_start(start_worker):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        worker = start_worker("--metrics", str(taken), ready=False)

        assert worker.wait() == 2
    (line,) = worker.logged("cannot start")
    assert f"cannot listen for metrics on 127.0.0.1 port {taken}" in line["error"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),
        ("[::1]:65535", ("::1", 65535)),
        ("ops.example:1", ("ops.example", 1)),
    ],
)
def test_without_a_host_it_listens_on_this_machine_only(text, address):
    assert parse(["--metrics", text]).metrics == address
    assert parse([]).metrics is None


@pytest.mark.parametrize("wrong", ["0", "65536", "x", "", "127.0.0.1", ":", "-1", "٣"])
def test_what_is_no_port_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse([f"--metrics={wrong}"])
    with pytest.raises(SystemExit):
        parse(["--metrics", "65534", "--processes", "3"])
    assert "there are not so many ports" in capsys.readouterr().err


def test_it_answers_one_path_in_either_format_and_no_name_of_another_site(port):
    port.metrics.claimed(0.001)
    port.metrics.claimed(0.0011)

    status, content_type, text = ask(port.number, "/metrics?x=1")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = samples(text)
    assert count(found, "claim_duration_seconds_bucket", le="0.001") == 1
    assert count(found, "claim_duration_seconds_bucket", le="0.0025") == 2
    _, content_type, text = ask(port.number, Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert {family.name for family in open_metrics(text)} >= {"rota_worker_reconnects"}
    assert ask(port.number, method="HEAD")[2] == ""
    assert ask(port.number, "/")[0] == 404
    assert ask(port.number, method="POST")[0] == 501
    for host, expected in (
        ("evil.example:9100", 421), ("[::1", 421), ("localhost", 200), ("[::1]:9100", 200),
    ):  # fmt: skip
        assert ask(port.number, Host=host)[0] == expected, host


def test_a_client_that_is_slow_or_gone_holds_it_up_for_moments_only(port, monkeypatch):
    monkeypatch.setattr(metrics, "PATIENCE", 0.3)
    slow = socket.create_connection(("127.0.0.1", port.number))
    slow.sendall(b"GET /met")
    gone = socket.create_connection(("127.0.0.1", port.number))
    gone.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()

    assert ask(port.number)[0] == 200
    assert slow.recv(1) == b""
    slow.close()


def test_a_socket_that_a_handler_closes_is_opened_anew(port):
    number = port.port._listener.fileno()
    os.close(number)
    other = os.open("/dev/null", os.O_RDONLY)  # takes its number

    wait_until(lambda: answers(port.number))

    assert other == number and os.read(other, 1) == b""
    os.close(other)


def test_tasks_beyond_the_most_are_other():
    counted = metrics.Metrics()
    counted.ended(
        SimpleNamespace(task=f"t{number}", started_at=1.0, seconds=0.5)
        for number in range(metrics.MOST_TASKS + 20)
    )
    counted.ended([SimpleNamespace(task="handed back", started_at=0.0, seconds=0.0)])

    families = {family.name: family for family in counted.collect()}
    by_task = {
        sample.labels["task"]: sample.value
        for sample in families["rota_worker_handler_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert len(by_task) == metrics.MOST_TASKS + 1
    assert (by_task["t0"], by_task["other"]) == (1, 20)


@pytest.fixture
def told(db, conn, port):
    """Every name with its labels, of a scrape of the API and one of a worker."""
    call(conn, "enqueue_job", task="t")
    (job,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=job["id"], token=job["token"])
    call(conn, "announce_worker", worker="w", host="h", pid=1, queues=["default"], concurrency=1,
         version="v")  # fmt: skip
    call(conn, "enqueue_job", task="t")
    call(conn, "take_census")
    call(conn, "pause_queue", queue="default")
    conn.execute(
        """
        insert into rota.totals (queue, task, outcome, ended, gave_up, ran_seconds, firsts,
            waited_seconds, ran_histogram, waited_histogram)
        values ('default', 't', 'SUCCEEDED', 1, 0, 0, 1, 0, array_fill(0, '{14}'),
            array_fill(0, '{14}'))
        """
    )
    conn.execute(
        "insert into rota.minutes select '2030-01-01', 60, queue, task, outcome, ended, gave_up,"
        " ran_seconds, firsts, waited_seconds, ran_histogram, waited_histogram from rota.totals"
    )
    port.metrics.ended([SimpleNamespace(task="t", started_at=1.0, seconds=0.5)])
    app = create_app(db)
    texts = [app.test_client().get("/metrics").text, ask(port.number)[2]]
    app.extensions["database"].close()
    labels = {}
    for text in texts:
        for name, *pairs in samples(text):
            labels.setdefault(name, set()).update(dict(pairs))
    return labels, texts


def expressions():
    """Return each expression of dashboard and alerts, with the labels that its text names."""
    board = json.loads((MONITORING / "grafana.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"], re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"], []
    alerts = (MONITORING / "alerts.yml").read_text()
    for rule in alerts.split("- alert: ")[1:]:
        text = re.search(r"expr: (.*?)\n        (?:for|labels):", rule, re.S)[1]
        yield text.removeprefix(">"), re.findall(r"\$labels\.(\w+)", rule)


def test_the_dashboard_and_the_alerts_name_only_what_there_is(told):
    labels, _ = told
    asked = list(expressions())
    used = {name for text, _ in asked for name in re.findall(r"rota_\w+", text)}

    assert len(asked) > 30
    assert used - labels.keys() == set()
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in labels}
    assert families - {re.sub("_bucket$", "", name) for name in used} == set()  # all are used
    for text, shown in asked:
        of_names = [labels[name] for name in re.findall(r"rota_\w+", text)]
        grouped = re.findall(r"\b(?:by|on) \(([\w, ]+)\)", text)
        for label in [label for group in grouped for label in group.split(", ")]:
            assert any(label in of for of in of_names), (label, text)
            assert label == "le" or not shown or label in shown or "on (queue)" in text, text
        for name, matchers in re.findall(r"(rota_\w+)\{([^}]*)\}", text):
            for label in re.findall(r"(\w+)=", matchers):
                assert label in labels[name], (label, text)
        assert set(shown) <= set().union(*of_names), (shown, text)


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
def test_prometheus_takes_all_of_it_and_rings_when_it_should(told, tmp_path):
    _, texts = told
    for text in texts:
        run_promtool("check", "metrics", text=text)
    run_promtool("check", "rules", str(MONITORING / "alerts.yml"))
    run_promtool("check", "config", "--syntax-only", str(MONITORING / "prometheus.yml"))
    board = [
        text.replace("$__rate_interval", "5m").replace("$queue", ".*")
        for text, _ in expressions()
        if not text.startswith("label_values")
    ]
    rules = [{"record": f"r{number}", "expr": text} for number, text in enumerate(board)]
    as_rules = tmp_path / "board.yml"
    as_rules.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    run_promtool("check", "rules", str(as_rules))

    series = {
        'rota_queue_oldest_due_seconds{queue="late"}': "901x30",
        'rota_queue_oldest_due_seconds{queue="paused"}': "901x30",
        'rota_queue_paused{queue="late"}': "0x30",
        'rota_queue_paused{queue="paused"}': "1x30",
        'rota_workers{state="alive"}': "0x30",
        'rota_findings{severity="critical",check="recovery"}': "2x30",
        'rota_jobs_failed_total{queue="q",task="t"}': "0+1x30",
        "rota_census_age_seconds": "60x30",
        "rota_rollup_age_seconds": "60x30",
    }
    rings = [
        'ALERTS{alertname="RotaBlind",alertstate="firing",severity="ticket"}',  # no findings' age
        'ALERTS{alertname="RotaFinding",alertstate="firing",check="recovery",severity="page"}',
        'ALERTS{alertname="RotaGivesUp",alertstate="firing",queue="q",severity="ticket",task="t"}',
        'ALERTS{alertname="RotaJobsWait",alertstate="firing",queue="late",severity="page"}',
        'ALERTS{alertname="RotaNoWorkers",alertstate="firing",severity="page"}',
    ]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [
            {
                "expr": "ALERTS",
                "eval_time": "20m",
                "exp_samples": [{"labels": ring, "value": 1} for ring in rings],
            }
        ],
    }
    cases = tmp_path / "cases.yml"
    cases.write_text(json.dumps({"rule_files": [str(MONITORING / "alerts.yml")], "tests": [case]}))
    run_promtool("test", "rules", str(cases))


def run_promtool(*arguments, text=None):
    checked = subprocess.run(
        [PROMTOOL, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
