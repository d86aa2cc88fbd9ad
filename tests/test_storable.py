"""API and worker refuse the same texts, which the database would, and take all others."""

import json
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection

from rota.app.inputs import json_value, write_json
from rota.worker.values import encode

UNSTORABLE = {"\0": "the character NUL", "\udc00": "half of a surrogate pair"}
PLACES = [
    lambda text: text,
    lambda text: [1, [text]],
    lambda text: {"a": {text: None}},
    lambda text: f"before {text} after",
    lambda text: f"\\{text}",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", UNSTORABLE)
@pytest.mark.parametrize("take", [json_value, encode])
def test_both_refuse_what_no_jsonb_holds_in_the_same_words(
    conn: Connection, take: Any, text: str, place: Any
) -> None:
    with pytest.raises(ValueError, match=f"^must not contain {UNSTORABLE[text]}$"):
        take(place(text))


texts = st.text(st.characters(codec=None)) | st.sampled_from(["\\u0000", "\\\\u0000", "\\"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_both_refuse_the_same(value: Any) -> None:
    refusals = []
    for take in (json_value, encode):
        try:
            take(value)
        except ValueError as error:
            refusals.append(str(error))
        else:
            refusals.append("")

    assert refusals[0] == refusals[1]


def test_the_database_takes_what_the_api_does(conn: Connection) -> None:
    @settings(max_examples=200, deadline=None)
    @given(values)
    def check(value: Any) -> None:
        try:
            text = write_json(json_value(value).obj)
        except ValueError:
            with pytest.raises(psycopg.DataError):
                conn.execute("select %s::jsonb", [json.dumps(value)])
        else:
            assert conn.execute("select %s::jsonb", [text]).fetchone() == (value,)

    check()
