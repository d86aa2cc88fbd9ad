"""Paths: for which of our routes one is, and which name stands in it.

A name may hold slashes, and be like our own paths. How it is written tells them apart: an escaped
slash (``%2F``) belongs to a name, and one before a word of ours does not. So
``/schedules/a/pause`` pauses the schedule ``a``, and takes no other method, and
``/schedules/a%2Fpause`` is a schedule.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from flask import Flask, Request
from flask.typing import ResponseReturnValue
from werkzeug.routing import BaseConverter, MapAdapter, ValidationError

from rota.app import standby

MAX_ID = 2**63 - 1
PAGES = "/ui"  # the dashboard; all else is the API, and its documentation
ESCAPED_SLASH = "\udc2f"  # while a path is matched; no text that was decoded has it


def is_page(path: str) -> bool:
    """Tell whether a path is one of the dashboard's."""
    return path == PAGES or path.startswith(PAGES + "/")


class Api(Flask):
    """An application whose paths are matched as they were written, and that may read elsewhere."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the route of a request."""
        adapter = super().create_url_adapter(request)
        if adapter is not None and request is not None:
            adapter.path_info = _as_written(request.environ)
        return adapter

    def dispatch_request(self) -> ResponseReturnValue:
        """Have the route of a request answer it, with a standby if that may be."""
        return standby.answered(super().dispatch_request)


def _as_written(said: Mapping[str, Any]) -> str:
    """Return the decoded path of a request, with the slashes that were escaped still marked."""
    target = re.sub(r"^\w+://[^/?]*", "", said.get("REQUEST_URI", ""))
    parts = re.split("%2f", target.partition("?")[0], flags=re.IGNORECASE)
    if len(parts) == 1:
        return said.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
    return ESCAPED_SLASH.join(
        unquote_to_bytes(part.encode("latin-1", "replace")).decode(errors="replace")
        for part in parts
    )


class IdConverter(BaseConverter):
    """A bigint in a path; what cannot be one is not found."""

    regex = "[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        """Return the number, or let the path match nothing."""
        if int(value) > MAX_ID:
            raise ValidationError
        return int(value)


class _NameConverter(BaseConverter):
    """A name in a path: anything, slashes included."""

    part_isolating = False
    weight = 200  # after all that is more exact

    def to_python(self, value: str) -> str:
        """Return the name."""
        return value.replace(ESCAPED_SLASH, "/")

    def to_url(self, value: str) -> str:
        """Write a name so that it is taken for nothing else."""
        return quote(value, safe="")


class QueueConverter(_NameConverter):
    """A queue's name; before `/keys` it ends, and with a slash it does not."""

    regex = r"[^/](?:(?!/keys(?:/|\Z)).)*(?<!/pause)(?<!/resume)(?<!/claim)(?<!/)"


class KeyConverter(_NameConverter):
    """A key in a queue, of whatever characters."""

    regex = "(?s:.+)"


class ScheduleConverter(_NameConverter):
    """A schedule's name; `preview` is none in a path."""

    regex = "(?!preview$).+(?<!/pause)(?<!/resume)(?<!/trigger)(?<!/backfill)"


class AnyNameConverter(_NameConverter):
    """Any name, of whatever characters.

    Browsers go a folder up where a part of a path is made of dots, escaped or not. So such a name
    is written with a slash more than it has.
    """

    regex = "(?s:.+)"

    def to_python(self, value: str) -> str:
        """Return the name."""
        name = super().to_python(value)
        return name[:-1] if DOTS.fullmatch(name) else name

    def to_url(self, value: str) -> str:
        """Write a name so that it is taken for nothing else."""
        return super().to_url(f"{value}/" if DOTS.fullmatch(f"{value}/") else value)


DOTS = re.compile(r"\.{1,2}/+")
