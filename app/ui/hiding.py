"""What nobody is shown: the values of keys that ROTA_HIDE names, at any depth of a document.

They are covered in pages, in comparisons and in copies of a job, where the server puts them back.
Who asks the database, or the API, gets them as they are.
"""

import json
import os
import re
from decimal import Decimal
from typing import Any

from flask import Flask, current_app

from rota.app.errors import invalid
from rota.app.inputs import DECIMAL

COVER = "hidden"
LONGEST_PATTERN = 100


def init_app(app: Flask) -> None:
    """Keep which keys are hidden.

    Raises:
        ValueError: ROTA_HIDE names none.
    """
    app.config["HIDDEN_KEYS"] = read_patterns(os.environ.get("ROTA_HIDE", ""))


def read_patterns(named: str) -> re.Pattern[str] | None:
    """Read patterns with commas between them: ``*`` stands for any text, ``?`` for a character.

    Raises:
        ValueError: one of them cannot be meant.
    """
    if not named.strip():
        return None
    patterns = [pattern.strip() for pattern in named.split(",")]
    for pattern in patterns:
        if not pattern or len(pattern) > LONGEST_PATTERN or not pattern.isprintable():
            raise ValueError(
                "ROTA_HIDE: expected keys, separated by commas, such as password,token,*secret*,"
                f" not {pattern[:100]!r}"
            )
    wild = {"*": ".*", "?": "."}
    either = "|".join(
        "".join(wild.get(character) or re.escape(character) for character in pattern)
        for pattern in patterns
    )
    return re.compile(f"(?:{either})", re.IGNORECASE | re.DOTALL)


def hides_anything() -> bool:
    """Tell whether any keys are hidden."""
    return current_app.config["HIDDEN_KEYS"] is not None


def is_hidden(key: str) -> bool:
    """Tell whether the value of a key is hidden."""
    patterns = current_app.config["HIDDEN_KEYS"]
    return patterns is not None and patterns.fullmatch(key) is not None


def cover(document: str, indent: int | None = 4) -> str:
    """Return a JSON text with the values covered that are hidden."""
    try:
        covered = _cover(json.loads(document, parse_int=Decimal, parse_float=Decimal))
        text = json.dumps(covered, indent=indent, ensure_ascii=False, default=_digits)
    except RecursionError:
        return "It is nested too deeply to tell what in it is to be hidden."
    return DECIMAL.sub(r"\1", text)


def uncover(document: Any, original: str) -> Any:
    """Return a document with what was covered put back.

    Raises:
        RequestError: 422, something is covered that the original does not have at that place.
    """
    return _uncover(document, json.loads(original, parse_int=Decimal, parse_float=Decimal))


def _cover(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: COVER if is_hidden(key) else _cover(item) for key, item in value.items()}
    return [_cover(item) for item in value] if isinstance(value, list) else value


def _uncover(value: Any, original: Any) -> Any:
    if isinstance(value, dict):
        known = original if isinstance(original, dict) else {}
        uncovered = {}
        for key, item in value.items():
            if is_hidden(key) and item == COVER:
                if key not in known:
                    raise invalid("payload", f"the job that is copied has no {key[:80]} there")
                uncovered[key] = known[key]
            else:
                uncovered[key] = _uncover(item, known.get(key))
        return uncovered
    if isinstance(value, list):
        known_items = original if isinstance(original, list) else []
        return [_uncover(*pair) for pair in zip(value, _pair(value, known_items), strict=True)]
    return value


def _pair(items: list[Any], originals: list[Any]) -> list[Any]:
    """Return for each item the original whose covered values it has.

    That is the one that reads the same; else the one at its place, if it was changed there: not if
    that one stands elsewhere now, or if some were taken out or added, so that places tell nothing.
    """
    covered = _cover(originals)
    if items == covered:
        return originals
    alike: dict[str, Any] = {}  # None for some that read the same and are not
    for original, reads in zip(originals, map(_written, covered), strict=True):
        alike[reads] = original if alike.setdefault(reads, original) == original else None
    texts = [_written(item) for item in items]
    known = set(texts)
    paired = []
    for place, (item, text) in enumerate(zip(items, texts, strict=True)):
        is_same_length = len(items) == len(originals)
        if is_same_length and (item == covered[place] or _written(covered[place]) not in known):
            paired.append(originals[place])
        else:
            paired.append(alike.get(text))
    return paired


def _written(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_digits)
    return DECIMAL.sub(r"\1", text)


def _digits(number: Decimal) -> str:
    """Mark a number for DECIMAL, which takes its quotation marks away again."""
    return f"\0{number:f}"
