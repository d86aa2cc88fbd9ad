"""The tests that docs/bugs-of-peers.md names are there."""

import re

import pytest

from tests.named import ROOT, is_a_test

ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "bugs-of-peers.md").read_text().splitlines()
    if re.match(r"\| B\d", line)
]


def test_every_bug_is_answered_once():
    assert [row[0] for row in ROWS] == [f"B{number}" for number in range(1, 32)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_answer_to_a_bug_is_a_test_that_exists(row):
    named = re.findall(r"`(tests/\S+?)`", row[3])

    assert named
    for node_id in named:
        assert is_a_test(node_id), node_id
