"""What may come from a handler, as PostgreSQL can store it: results, progress, errors."""

import json
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from rota.storable import check_json
from rota.worker.job import Fail, Retry

if TYPE_CHECKING:
    from rota.worker.attempt import Attempt

LONGEST_ERROR = 8_000  # characters; the database cuts at 10,000
LONGEST_RESULT = 1_000_000  # bytes of JSON
FRAMES = 15  # of a traceback, the innermost

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(value: Any) -> str:
    """Return the value as JSON that PostgreSQL's jsonb takes.

    Raises:
        ValueError: it holds what jsonb cannot: NaN, NUL, half a surrogate pair, an object that is
            not JSON, more than a megabyte, or a thousand levels.
    """
    try:
        text = _encoder.encode(value)
    except RecursionError as error:
        raise ValueError("nested too deeply, or within itself") from error
    except TypeError as error:
        raise ValueError(str(error)) from error
    check_json(text)
    size = len(text.encode())
    if size > LONGEST_RESULT:
        raise ValueError(f"{size} bytes of JSON are more than {LONGEST_RESULT}")
    return text


def storable(text: str) -> str:
    """Return text that PostgreSQL can store: cut in its middle, NUL and surrogates escaped."""
    text = str.__str__(text)  # a plain one, also of a subclass with methods of its own
    if len(text) > LONGEST_ERROR:
        half = LONGEST_ERROR // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def describe(error: BaseException) -> str:
    """Return the traceback, from the handler on and shortened, as an attempt's error.

    A handler's exception class may do anything when it is read, which is code of the handler's
    still: raise again, also what ends a thread or a process. Then its name is all there is.
    """
    try:
        handlers_own = error.__traceback__ and error.__traceback__.tb_next
        lines = traceback.format_exception(type(error), error, handlers_own, limit=-FRAMES)
        return storable("".join(lines).rstrip())
    except BaseException:
        return f"{_name(error)}, whose text cannot be read"


def text_of(error: BaseException) -> str:
    """Return the text of an exception, without its traceback, as far as it can be read."""
    try:
        return storable(str(error) if type(error) is ValueError else f"{_name(error)}: {error}")
    except BaseException:
        return f"{_name(error)}, whose text cannot be read"


def _name(error: BaseException) -> str:
    return type.__dict__["__name__"].__get__(type(error))  # whatever its metaclass says


class Failure(NamedTuple):
    """How an attempt failed, as ``finish_job`` is told."""

    error: str
    retry_in: timedelta | None
    retry: bool


def failure_of(error: BaseException) -> Failure:
    """Return what an exception says that a handler raised.

    A handler's class of exceptions may do anything when it is read, also what would end a thread:
    the attempt fails all the same, and that is all that happens.
    """
    retry_in = None
    retry = True
    try:
        if issubclass(type(error), Retry):
            retry_in = _delay(error)
            text = storable(str(error))
        elif issubclass(type(error), Fail):
            retry = False
            text = storable(str(error)) or "failed"
        else:
            text = describe(error)
    except BaseException as broken:
        text = describe(broken)
    return Failure(text, retry_in, retry)


def result_of(value: Any) -> str | Failure | None:
    """Return as JSON what a handler returned, or how its attempt fails if that cannot be stored.

    The value may do anything when it is read.
    """
    try:
        return None if value is None else encode(value)
    except BaseException as error:
        return Failure(f"the result cannot be stored: {text_of(error)}", None, True)


def next_of(job: "Attempt") -> str | Failure | None:
    """Return as JSON what a handler has added to ``job.next``, or how its attempt fails by that."""
    try:
        return job.write_next()
    except BaseException as error:
        return Failure(f"what is to come next cannot be stored: {text_of(error)}", None, True)


def _delay(error: BaseException) -> timedelta:
    """Return after how long a handler wants its job to be tried again."""
    delay = error.delay
    if type(delay) is not timedelta:
        raise TypeError(f"a retry takes a timedelta, not {type(delay)}")
    return delay
