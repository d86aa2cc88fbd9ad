"""What PostgreSQL can store, of what Python takes for text and for JSON; texts as it reads them.

No text holds the character NUL, nor half of a surrogate pair, which is no character; and so no JSON
in a ``jsonb`` does, where JSON's own grammar allows both.
"""

import re
from collections.abc import Iterable

# In JSON text it is written so; with a backslash before it, it is a backslash and five letters.
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_text(text: str) -> None:
    """Refuse text that the database cannot store.

    Raises:
        ValueError: it cannot; the message says what the text must not contain.
    """
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("must not contain half of a surrogate pair") from None


def check_json(text: str) -> None:
    """Refuse JSON that a ``jsonb`` cannot store, written with ``ensure_ascii=False``.

    Raises:
        ValueError: it cannot; the message says what its texts must not contain.
    """
    check_text(text)
    if "\\u0000" in text and _NUL_IN_JSON.search(text):
        raise ValueError("must not contain the character NUL")


def array_literal(texts: Iterable[str]) -> str:
    """Return texts as PostgreSQL reads an array of them."""
    escaped = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in escaped) + "}"
