"""Every function against every other, on one job, while the first one's transaction is open.

``outcomes.txt`` is the table of what comes of each pair; it is written anew by
``ROTA_WRITE_OUTCOMES=1 python -m pytest tests/concurrency/test_all_pairs.py``.
"""

import os
import re
from pathlib import Path

import pytest

from rota.db.gateway import call
from tests.concurrency.pairs import STATES, Bench, table

OUTCOMES = Path(__file__).with_name("outcomes.txt")

HEADING = """\
Two sessions and one job. The first session has made its call in a transaction that is still open;
the second makes its call and waits for the first one's lock, or does not (-). Then the first
commits, or rolls back: what the second got, and what then stands in the tables: state, run.attempt,
[outcomes of the executions]. A call that writes and locks nothing in a state is no first one.
Written by the tests; see test_all_pairs.py.
"""


def section(state: str) -> str:
    """Return what the checked-in table says about a state."""
    sections = re.split(r"^# (.*)\n", OUTCOMES.read_text(), flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2], strict=True)).get(state, "").strip()


@pytest.mark.parametrize("state", STATES)
def test_a_pair_comes_out_as_the_table_says_and_as_if_one_came_after_the_other(
    state, conn, session
):
    call(conn, "maintain")

    lines, complaints = table(Bench(conn, session(), session()), state)

    assert complaints == []
    text = "\n".join(lines).strip()
    if os.environ.get("ROTA_WRITE_OUTCOMES"):
        write(state, text)
    assert text == section(state)


def write(state: str, text: str) -> None:
    sections = {name: section(name) if OUTCOMES.exists() else "" for name in STATES}
    sections[state] = text
    OUTCOMES.write_text(
        "\n".join([HEADING, *(f"# {name}\n\n{text}\n" for name, text in sections.items())])
    )
