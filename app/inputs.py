"""What a request may hold: JSON that is JSON, known fields, right types.

Types are settled here, so that a call always finds its function; ranges and meaning are the
database's to judge.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from flask import current_app, g, request
from psycopg.types.json import Jsonb

from rota.app.errors import RequestError, invalid
from rota.app.paths import MAX_ID
from rota.storable import check_json, check_text

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 100
MAX_DIGITS = 4300  # of one number, written out; those of all numbers of a body fit MAX_BODY_BYTES
MAX_INTEGER = 2**31 - 1
PAGE_SIZE = 50
MOST_QUEUES = 100  # that one request may claim from
LONGEST_NAME = 100  # of a queue

_encoder = json.JSONEncoder(ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Field:
    """A field of a body or a query.

    Args:
        parse: turns its value into the argument; a ``ValueError`` says what it must be.
        argument: the argument's name, where it differs from the field's.
        required: whether it must be there.
    """

    parse: Callable[[Any], Any]
    argument: str | None = None
    required: bool = False


def text(value: Any) -> str:
    """Take text that the database can store."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    check_text(value)
    return value


def integer(value: Any) -> int:
    """Take a whole number that fits an ``integer``."""
    if type(value) is not int:  # a boolean is an int to Python
        raise ValueError("must be an integer")
    if abs(value) > MAX_INTEGER:
        raise ValueError("is out of range")
    return value


def boolean(value: Any) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def seconds(value: Any) -> timedelta:
    """Take a duration, given as a number of seconds."""
    duration = seconds_from_zero(value)
    if value <= 0:
        raise ValueError("must be more than 0")
    return duration


def seconds_from_zero(value: Any) -> timedelta:
    """Take a duration that may be 0; whether it may be negative is for the database to say."""
    if type(value) not in (int, Decimal):
        raise ValueError("must be a number of seconds")
    try:
        return timedelta(seconds=float(value))
    except OverflowError:
        raise ValueError("is out of range") from None


def instant(value: Any) -> datetime:
    """Take a point in time, given in ISO 8601 with an offset."""
    try:
        moment = datetime.fromisoformat(text(value))
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None
    except ValueError:
        raise ValueError("must be a time in ISO 8601, such as 2030-01-31T09:00:00Z") from None
    raise ValueError("has no offset from UTC: write 2030-01-31T09:00:00Z, or +01:00 at its end")


def json_value(value: Any) -> Jsonb:
    """Take any JSON that a ``jsonb`` can store."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"must not be nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, list):
            waiting.extend((child, depth + 1) for child in item)
        elif isinstance(item, dict):
            waiting.extend((child, depth + 1) for child in item.values())
    check_json(_encoder.encode(value))
    return Jsonb(value, dumps=write_json)


def headers(value: Any) -> Jsonb:
    """Take the headers of a job; which names they may have is for the database to say."""
    if not isinstance(value, dict) or not all(isinstance(it, str) for it in value.values()):
        raise ValueError("must be an object of strings")
    return json_value(value)


def write_json(value: Any) -> str:
    """Write JSON for the database, each number with the digits that were sent.

    Python writes decimals as floats, or as strings. So they pass its writer as strings that begin
    with NUL, as no text of a request does, and lose their quotation marks afterwards.
    """
    text = json.dumps(value, default=_as_json)
    return DECIMAL.sub(r"\1", text) if NUL in text else text


NUL = r"\u0000"
DECIMAL = re.compile(r'"\\u0000([^"]+)"')


def _as_json(value: Decimal | Jsonb | datetime | timedelta) -> Any:
    """Write an argument in the way that PostgreSQL reads it from JSON."""
    match value:
        case Decimal():
            return f"\0{value}"
        case Jsonb():
            return value.obj
        case datetime():
            return value.isoformat()
        case _:
            return f"{value.total_seconds():f} seconds"


def queue_name(value: Any) -> str:
    """Take the name of a queue, whether there is one or not."""
    if not 1 <= len(text(value)) <= LONGEST_NAME:
        raise ValueError(f"must have 1 to {LONGEST_NAME} characters")
    return value


def queue_names(value: Any) -> list[str]:
    """Take a list of names of queues."""
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_QUEUES:
        raise ValueError(f"must be a list of 1 to {MOST_QUEUES} names")
    return [queue_name(name) for name in value]


def some_of(*allowed: str) -> Callable[[Any], list[str]]:
    """Return a parser that takes some of these words, with commas between them."""

    def parse(value: Any) -> list[str]:
        words = value.split(",")
        if not set(words) <= set(allowed):
            raise ValueError(f"must be some of {', '.join(allowed)}, with commas between them")
        return sorted(set(words))

    return parse


def one_of(*allowed: str) -> Callable[[Any], str]:
    """Return a parser that takes one of these words."""

    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return parse


def rows_up_to(most: int) -> Callable[[Any], int]:
    """Return a parser for the size of a page, in a query."""

    def parse(value: Any) -> int:
        if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= most:
            raise ValueError(f"must be a whole number from 1 to {most}")
        return int(value)

    return parse


def row_id(value: Any) -> int:
    """Take a bigint, in a query."""
    if not value.isdecimal() or len(value) > 19 or int(value) > MAX_ID:
        raise ValueError("must be the id of a job")
    return int(value)


NOT_JSON = "the body is not usable JSON"


class UnusableError(ValueError):
    """What stands in a body is no JSON that can be stored; the message says why."""


def read_body() -> dict[str, Any]:
    """Return the request's body, a JSON object; no body at all is an empty one.

    Raises:
        RequestError: 415 for another content type, 400 for what is no JSON object.
        RequestEntityTooLarge: the body is over ``MAX_BODY_BYTES``.
    """
    data = request.get_data()
    if not data:
        return {}
    if not request.is_json:
        raise RequestError(415, "the body must be sent as Content-Type: application/json")
    try:
        body = parse_json(_decode(data))
    except UnusableError as error:
        raise RequestError(400, NOT_JSON, detail=str(error)) from None
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object")
    return body


def parse_json(text: str) -> Any:
    """Return what a JSON text says, its decimal numbers as they were written.

    Raises:
        UnusableError: it is no JSON, or none that two readers understand alike.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_Decimals().read,
        )
    except UnusableError:
        raise
    except json.JSONDecodeError as error:
        message = f"{error.msg}: line {error.lineno}, column {error.colno}"
        raise UnusableError(message) from None
    except RecursionError:
        raise UnusableError("it is nested too deeply") from None
    except ValueError:  # what Python says of it is for whoever runs Python
        raise UnusableError(f"a number has more than {MAX_DIGITS} digits") from None


def parse_fields(
    values: Mapping[str, Any],
    fields: Mapping[str, Field],
    what: str = "this request",
    within: str = "",
) -> dict[str, Any]:
    """Check values against the fields that are allowed and return them as arguments.

    A null is a field left out, except where a field takes any JSON. Which field became which
    argument is kept for the error handler: the database knows only arguments.

    Args:
        values: the values by their fields' names.
        fields: the fields that are allowed.
        what: what the fields belong to, for the caller to read.
        within: where the values stand, such as ``jobs[2].``, for the caller to read.

    Raises:
        RequestError: 422, naming the first field that is unknown, missing or wrong.
    """
    for name in values:
        if name not in fields:
            raise invalid(
                within + name[:80],
                f"is not a field of {what}",
                hint=f"Its fields are {', '.join(fields)}." if fields else None,
            )
    g.setdefault("fields_by_argument", {}).update(
        {field.argument: name for name, field in fields.items() if field.argument}
    )
    arguments = {}
    for name, field in fields.items():
        if name in values and (values[name] is not None or field.parse is json_value):
            try:
                arguments[field.argument or name] = field.parse(values[name])
            except ValueError as error:
                raise invalid(within + name, str(error)) from None
        elif field.required:
            raise invalid(within + name, "is required")
    return arguments


def read_query(fields: Mapping[str, Field]) -> dict[str, Any]:
    """Check the query string against the fields that are allowed.

    Raises:
        RequestError: 422, naming the first field that is unknown, repeated or wrong.
    """
    for name, values in request.args.lists():
        if len(values) > 1:
            raise invalid(name[:80], "is given more than once")
    values = request.args.to_dict()
    if "front" in current_app.extensions:  # which has read it
        values.pop("shard", None)
    return parse_fields(values, fields, "this query")


def _decode(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UnusableError(f"it is not UTF-8, from byte {error.start} on") from None
    if text.startswith("\ufeff"):
        raise UnusableError("it begins with a byte order mark")
    return text


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what two readers may understand in two ways."""
    found = dict(members)
    if len(found) < len(members):
        names = Counter(name for name, _ in members)
        twice = json.dumps(names.most_common(1)[0][0][:80])
        raise UnusableError(f"the key {twice} stands twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise UnusableError(f"{name} is not JSON")


class _Decimals:
    """Reads the decimal numbers of one body, digit by digit.

    The database writes numbers out: the eight bytes of 1e131071 as 131,072 digits, in every answer
    that holds them. So their size when written out is bounded, of each and of all.
    """

    def __init__(self) -> None:
        self._written = 0

    def read(self, digits: str) -> Decimal:
        mantissa, _, exponent = digits.lower().partition("e")
        if math.isinf(float(digits)):
            raise UnusableError(f"the number {digits[:20]} is out of range")
        written = len(mantissa) + abs(int(exponent[:9] or 0))
        if written > MAX_DIGITS:
            raise UnusableError(f"the number {digits[:20]} has more than {MAX_DIGITS} digits")
        self._written += written
        if self._written > MAX_BODY_BYTES:
            raise UnusableError(f"its numbers, written out, have more than {MAX_BODY_BYTES} digits")
        return Decimal(digits)
