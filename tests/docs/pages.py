"""The code blocks of a page of documentation, and the rules by which they are run.

The first word after the fence is the language, for the reader; the second, which no reader sees,
is for us:

    sh            commands, run by bash in a clone of the project; what they export lasts
    sql           statements, typed into psql
    sh setup      the same as sh; other pages, which build on this one, begin with it
    sh serve      a command that goes on, left running; it is up when its output is all there
    sh wait       a question, asked again until the answer is as shown (sql wait, too)
    … save=NAME   not a command: a file of this name in the clone

A ``text`` or ``json`` block that follows at once is the output, in which ``…`` stands for anything.
A block is left out only if a comment before it says why: ``<!-- not run: the reason -->``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDS = ("faults", "mutants", "bugs-of-peers")  # of long runs: written by them, not to follow
PAGES = [ROOT / "README.md"] + [
    page for page in sorted((ROOT / "docs").glob("*.md")) if not page.stem.startswith(RECORDS)
]

COMMANDS = {"sh", "sql"}
OUTPUTS = {"text", "json"}
MODES = {"", "setup", "serve", "wait"}

BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^```(?P<language>\w*)[ ]*(?P<mode>[^\n]*)\n(?P<code>.*?)^```$"
    r"(?:\n\n?```(?:text|json)\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)

SAME_AGAIN = [
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "(a uuid)"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d+([+-]\d\d(:\d\d)?)?", "(a moment)"),
    (r"[ \t]+", " "),
    (r"-{2,}", "-"),
    (r" $", ""),
]


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    mode: str
    code: str
    output: str | None
    reason: str | None

    def __str__(self) -> str:
        """Say where it stands."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def saved_as(self) -> str | None:
        """The name of the file that it is, or None."""
        return self.mode.removeprefix("save=") if self.mode.startswith("save=") else None


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, each with its output."""
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["mode"],
            match["code"],
            match["output"],
            match["reason"],
        )
        for match in BLOCK.finditer(text)
    ]


def settle(text: str) -> str:
    """Make two outputs of the same kind the same: uuids, moments, and the width of columns.

    A time that a clock told has a fraction of a second; one without was asked for, and counts.
    """
    for pattern, replacement in SAME_AGAIN:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.strip()


def agrees(output: str, shown: str) -> bool:
    """Tell whether an output is as the page shows it."""
    pattern = ".*".join(re.escape(part) for part in settle(shown).split("…"))
    return re.fullmatch(pattern, settle(output), re.DOTALL) is not None
