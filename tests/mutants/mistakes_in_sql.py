"""Every small mistake that somebody could make in a text of SQL: mechanical mutants.

The text is cut into tokens, and each rule looks for its shape among them: no grammar, so a mutant
may be one that the server refuses, which then counts as none.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKENS = re.compile(
    r"""
    (?P<gap>\s+|--[^\n]*)
    | (?P<text>E?'(?:[^']|'')*')
    | (?P<dollar>\$\$)
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<sign>:=|=>|<>|<=|>=|!~|<<|>>|::|\|\||->>|->|[-+*/<>=~&|%.,;:()\[\]^\#@"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
CLAUSES = {
    *("where", "order", "group", "limit", "for", "returning", "loop", "then", "else", "when"),
    *("end", "union", "having", "on", "using", "into", "from", "set", "as", "values", "select"),
    *(";", ","),
}
OPENERS = {"where", "on", "when", "if", "elsif", "while", "having", "select", "return", ":=", ","}
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "=": "<>", "<>": "="}
SWAPS = {
    "greatest": "least",
    "least": "greatest",
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "bool_or": "bool_and",
    "bool_and": "bool_or",
    "floor": "ceil",
    "true": "false",
    "false": "true",
    "+": "-",
    "-": "+",
    "<<": ">>",
    ">>": "<<",
}
WORDS = {
    "'SCHEDULED'": "'RUNNING'",
    "'RUNNING'": "'SCHEDULED'",
    "'COMPLETED'": "'CANCELLED'",
    "'FAILED'": "'CANCELLED'",
    "'CANCELLED'": "'FAILED'",
    "'ONE_TIME'": "'CRON'",
    "'LOST'": "'FAILED'",
    "'RELEASED'": "'LOST'",
    "'SKIPPED'": "'LOST'",
    "'CRON'": "'INTERVAL'",
    "'SAME RUN'": "'NEXT RUN'",
    "'NEXT RUN'": "'SAME RUN'",
    "'INTERVAL'": "'CRON'",
    "'all'": "'once'",
    "'skip'": "'once'",
    "'once'": "'all'",
    "'coalesce'": "'catch_up'",
    "'catch_up'": "'coalesce'",
    "'SUCCEEDED'": "'FAILED'",
    "'TIMED_OUT'": "'FAILED'",
    "'default'": "'other'",
    "'UTC'": "'Asia/Tokyo'",
    "'infinity'": "'2200-01-01'",
}
SPAN = re.compile(r"'(\d+) ?(us|ms|milliseconds?|seconds?|minutes?|hours?|days?|years?)?'")
PROSE = {"format", "concat_ws", "concat"}  # their arguments are texts for people


@dataclass(frozen=True)
class Mistake:
    """A text that takes the place of another, from start to end."""

    rule: str
    start: int
    end: int
    new: str

    def made_in(self, text: str) -> str:
        """Return the text with this mistake in it."""
        return text[: self.start] + self.new + text[self.end :]

    def described(self, text: str) -> str:
        """Say what was changed, so that it can be found again when lines have moved."""
        old = " ".join(text[self.start : self.end].split())
        line = text[text.rfind("\n", 0, self.start) + 1 :].split("\n", 1)[0].strip()
        new = " ".join(self.new.split())
        return f"{self.rule}: {old} → {new or 'nothing'} in: {line}"


@dataclass
class Token:
    """A word, a sign or a literal, and what stands around it."""

    kind: str
    text: str
    start: int
    end: int
    parent: int = -1  # the bracket or the "case" that it stands in
    close: int = -1  # of a bracket: where it ends
    within: set[str] = field(default_factory=set)


def tokens_of(text: str) -> list[Token]:
    """Cut a text into tokens, and tell for each in which bracket or "case" it stands."""
    tokens = [
        Token(str(m.lastgroup), m.group(), m.start(), m.end())
        for m in TOKENS.finditer(text)
        if m.lastgroup != "gap"
    ]
    open_ones: list[int] = []
    for i, token in enumerate(tokens):
        word = token.text.lower()
        top = tokens[open_ones[-1]].text.lower() if open_ones else ""
        after_end = i > 0 and tokens[i - 1].text.lower() == "end"
        closes = word in (")", "]") or (word == "end" and top == "case")
        if closes and open_ones:
            tokens[open_ones[-1]].close = i
            open_ones.pop()
        token.parent = open_ones[-1] if open_ones else -1
        if word in ("(", "[") or (word == "case" and not after_end):
            open_ones.append(i)
    return tokens


class Finder:
    """Finds the mistakes that can be made in one definition, a function's or a view's."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self.text = text
        self.first, self.last = start, end
        self.tokens = tokens_of(text)
        self.words = [token.text.lower() for token in self.tokens]
        self.body = next((i for i, t in enumerate(self.tokens) if t.kind == "dollar"), -1)
        self.assignments: set[int] = set()
        for items in self._set_lists():
            for item in items:
                level = self.tokens[item[0]].parent
                self.assignments.update(
                    [i for i in range(*item) if self._is(i, "=", level)][:1],
                )

    def mistakes(self) -> list[Mistake]:
        """Return all of them, each once, in the order in which they stand."""
        found = {
            (m.start, m.end, m.new): m
            for m in self._all()
            if self.first <= m.start and m.end <= self.last and self.text[m.start : m.end] != m.new
        }
        return [found[key] for key in sorted(found)]

    def _all(self) -> Iterator[Mistake]:
        yield from self._signs()
        yield from self._operands()
        yield from self._lists()
        yield from self._clauses()
        yield from self._conditions()
        yield from self._statements()

    # How tokens are looked at.

    def _is(self, i: int, word: str, level: int | None = None) -> bool:
        return (
            0 <= i < len(self.words)
            and self.words[i] == word
            and (level is None or self.tokens[i].parent == level)
        )

    def _in_body(self, i: int) -> bool:
        return i > self.body

    def _replace(self, rule: str, i: int, j: int, new: str = "") -> Mistake:
        """Put something in the place of the tokens from i until before j."""
        return Mistake(rule, self.tokens[i].start, self.tokens[j - 1].end, new)

    def _until(self, i: int, stops: set[str], level: int) -> int:
        """Return the first token from i on, at this level, that stops; or where the level ends."""
        while i < len(self.tokens):
            token = self.tokens[i]
            if token.parent == level and (self.words[i] in stops or token.kind == "dollar"):
                return i
            if level >= 0 and self.tokens[level].close == i:
                return i
            i += 1
        return i

    def _cut(self, i: int, end: int, level: int) -> list[tuple[int, int]]:
        """Cut tokens at the commas of their level."""
        commas = [k for k in range(i, end) if self._is(k, ",", level)]
        starts = [i, *(k + 1 for k in commas)]
        return [(a, b) for a, b in zip(starts, [*commas, end], strict=True) if a < b]

    def _source(self, item: tuple[int, int]) -> str:
        return self.text[self.tokens[item[0]].start : self.tokens[item[1] - 1].end]

    def _in_prose(self, i: int) -> bool:
        """Whether a token stands in a text for people: of a raise, or of a function of texts."""
        level = self.tokens[i].parent
        while level >= 0:
            if self.words[level] == "(" and self.words[level - 1] in PROSE:
                return True
            level = self.tokens[level].parent
        while i >= 0 and self.words[i] not in (";", "begin", "then", "loop", "else"):
            if self.words[i] == "raise":
                return True
            i -= 1
        return False

    # Signs and words.

    def _signs(self) -> Iterator[Mistake]:
        for i, token in enumerate(self.tokens):
            word = self.words[i]
            header = not self._in_body(i)
            if word == "errcode":
                yield self._replace("another code", i + 2, i + 3, "'RTX99'")
                continue
            if self._in_prose(i):
                continue
            if header and not self._in_default(i):
                continue
            if word in COMPARISONS and i not in self.assignments:
                yield self._replace("comparison", i, i + 1, COMPARISONS[word])
            if word in SWAPS and not (word == "all" and self._is(i - 1, "union")):
                unary = word in "+-" and self.words[i - 1] in ("(", ",", "=", "then", "select")
                if not unary and not (word in ("any", "all") and not self._is(i + 1, "(")):
                    yield self._replace("swapped", i, i + 1, SWAPS[word])
            if token.text in WORDS:
                yield self._replace("another word", i, i + 1, WORDS[token.text])
            elif token.kind == "text" and (span := SPAN.fullmatch(token.text)):
                number, unit = int(span[1]), span[2]
                if unit or number == 0:
                    new = f"'{2 * number or 1} {unit or 'second'}'"
                    yield self._replace("another span", i, i + 1, new)
            elif token.kind == "number":
                yield self._replace("off by one", i, i + 1, str(int(float(token.text)) + 1))
            if word == "not" and not self._is(i - 1, "if"):
                yield self._replace("not dropped", i, i + 1)
            if word == "is" and self._is(i + 1, "null"):
                yield self._replace("not added", i, i + 1, "is not")
            if word == "distinct" and not self._is(i - 1, "is") and not self._is(i - 1, "not"):
                yield self._replace("distinct dropped", i, i + 1)
            if word == "left" and self._is(i + 1, "join"):
                yield self._replace("outer join", i, i + 1)
            if word in ("desc", "asc"):
                yield self._replace("order", i, i + 1, "asc" if word == "desc" else "desc")

    def _in_default(self, i: int) -> bool:
        """Whether a token of the header is the default of a parameter."""
        level = self.tokens[i].parent
        while level >= 0 and self.words[i] not in (",", "("):
            if self.words[i] == "default":
                return True
            i -= 1
        return False

    def _operands(self) -> Iterator[Mistake]:
        """A term of a condition is left out, or "and" is "or"."""
        for i, word in enumerate(self.words):
            if word not in ("and", "or") or not self._in_body(i) or self._is_of_between(i):
                continue
            level = self.tokens[i].parent
            stops = CLAUSES | ({"and", "or"} if word == "and" else {"or"})
            end = self._end_of_term(i + 1, stops, level)
            yield self._replace("term dropped", i, end)
            yield self._replace("and for or", i, i + 1, "or" if word == "and" else "and")
            k = i - 1
            while (
                k > 0
                and k != level
                and not (
                    self.tokens[k].parent == level and self.words[k] in OPENERS | {"and", "or"}
                )
            ):
                k -= 1
            if self.words[k] not in ("and", "or"):
                yield self._replace("term dropped", k + 1, i + 1)

    def _end_of_term(self, i: int, stops: set[str], level: int) -> int:
        while True:
            i = self._until(i, stops, level)
            if i < len(self.words) and self.words[i] == "and" and self._is_of_between(i):
                i += 1
                continue
            return i

    def _is_of_between(self, i: int) -> bool:
        level = self.tokens[i].parent
        if self.words[i] != "and":
            return False
        k = i - 1
        while k > level:
            if self.tokens[k].parent == level:
                if self.words[k] == "between":
                    return True
                if self.words[k] in CLAUSES | {"and", "or", "if", "elsif", "("}:
                    return False
            k -= 1
        return False

    # Lists: of arguments, of columns, of what is set.

    def _set_lists(self) -> Iterator[list[tuple[int, int]]]:
        for i, word in enumerate(self.words):
            if word == "set" and self._in_body(i):
                level = self.tokens[i].parent
                end = self._until(i + 1, {"where", "from", "returning", ";"}, level)
                yield self._cut(i + 1, end, level)

    def _without(self, rule: str, items: list[tuple[int, int]], n: int) -> Mistake:
        """Leave out an item, and its comma."""
        if n + 1 < len(items):
            return self._replace(rule, items[n][0], items[n + 1][0])
        return self._replace(rule, items[n - 1][1], items[n][1])

    def _lists(self) -> Iterator[Mistake]:
        for items in self._set_lists():
            if len(items) > 1:
                for n in range(len(items)):
                    yield self._without("column not set", items, n)
        for i, word in enumerate(self.words):
            if not self._in_body(i):
                continue
            if word == "insert" and self._is(i + 1, "into"):
                yield from self._columns(i)
            elif word in ("select", "returning"):
                level = self.tokens[i].parent
                end = self._until(i + 1, CLAUSES - {",", "as", "when", "then", "else"}, level)
                yield from self._exchanged(self._cut(i + 1, end, level))
            elif word == "(" and self.tokens[i - 1].kind == "word":
                yield from self._arguments(i)

    def _exchanged(self, items: list[tuple[int, int]]) -> Iterator[Mistake]:
        """Two neighbours change places."""
        for one, two in itertools.pairwise(items):
            a, b = self._source(one), self._source(two)
            between = self.text[self.tokens[one[1] - 1].end : self.tokens[two[0]].start]
            if a != b:
                yield self._replace("exchanged", one[0], two[1], b + between + a)

    def _arguments(self, i: int) -> Iterator[Mistake]:
        name = self.words[i - 1]
        end = self.tokens[i].close
        if name in PROSE or end < 0 or name in ("in", "values", "exists", "as", "and", "or"):
            return
        items = self._cut(i + 1, end, i)
        if len(items) < 2 or self._in_prose(i):
            return
        if name == "coalesce":
            yield self._without("default ignored", items, len(items) - 1)
            yield self._without("default taken", items, 0)
        elif name in ("greatest", "least", "num_nonnulls"):
            for n in range(len(items)):
                yield self._without("argument dropped", items, n)
        elif any(self._is(a + 1, "=>") for a, b in items):
            for n in range(len(items)):
                if self._is(items[n][0] + 1, "=>"):
                    yield self._without("argument not passed", items, n)
        elif not self._is(i - 2, "as") and not self._is(i - 4, "into"):  # those are names
            yield from self._exchanged(items)

    def _columns(self, i: int) -> Iterator[Mistake]:
        """A column is left out of an insert, or two change places."""
        names_at = next((k for k in range(i, i + 9) if self._is(k, "(")), -1)
        if names_at < 0 or self.tokens[names_at].close < 0:
            return
        after = self.tokens[names_at].close + 1
        level = self.tokens[names_at].parent
        if self._is(after, "values") and self._is(after + 1, "("):
            values = self._cut(after + 2, self.tokens[after + 1].close, after + 1)
        elif self._is(after, "select"):
            end = self._until(after + 1, CLAUSES - {",", "as", "when", "then", "else"}, level)
            values = self._cut(after + 1, end, level)
        else:
            return
        names = self._cut(names_at + 1, self.tokens[names_at].close, names_at)
        if len(names) != len(values) or len(names) < 2:
            return
        yield from self._exchanged(values)
        for n in range(len(names)):
            name, value = (self._without("", items, n) for items in (names, values))
            kept = self.text[name.end : value.start]
            yield Mistake("column left out", name.start, value.end, kept)

    # Clauses.

    def _clauses(self) -> Iterator[Mistake]:
        for i, word in enumerate(self.words):
            level = self.tokens[i].parent
            if not self._in_body(i):
                if word == "security" or (word == "strict" and not self._is(i - 1, ",")):
                    end = i + (2 if word == "security" else 1)
                    yield self._replace(f"{word} dropped", i, end)
                if word == "set" and self.words[i + 1] != "search_path":
                    yield self._replace("setting dropped", i, i + 4)
                continue
            if word == "order" and self._is(i + 1, "by"):
                stops = {"limit", "for", ";", "returning", "loop", "union", "offset"}
                end = self._until(i, stops, level)
                yield self._replace("order dropped", i, end)
                for a, b in self._cut(i + 2, end, level):
                    if self.words[b - 1] not in ("desc", "asc"):
                        yield self._replace("order", a, b, f"{self._source((a, b))} desc")
                if len(self._cut(i + 2, end, level)) > 1:
                    yield self._without("order", self._cut(i + 2, end, level), 0)
            elif word == "limit":
                yield self._replace("limit dropped", i, self._until(i, {"for", ";"}, level))
            elif word == "where":
                stops = {"order", "limit", "for", ";", "returning", "loop", "union", "group"}
                yield self._replace("where dropped", i, self._until(i, stops, level))
            elif word == "for" and self._is(i + 1, "no"):
                end = i + 4
                if self._is(end, "skip"):
                    yield self._replace("lock waits", end, end + 2)
                    end += 2
                yield self._replace("lock dropped", i, end)
                yield self._replace("lock too strong", i + 1, i + 3)
            elif word == "union":
                end = self._until(i + 1, {"union", ";"}, level)
                yield self._replace("arm dropped", i, end)
            elif word == "filter" and self._is(i + 1, "("):
                yield self._replace("filter dropped", i, self.tokens[i + 1].close + 1)

    def _conditions(self) -> Iterator[Mistake]:
        for i, word in enumerate(self.words):
            level = self.tokens[i].parent
            if not self._in_body(i):
                continue
            if word in ("if", "elsif") and not self._is(i - 1, "end"):
                end = self._until(i + 1, {"then"}, level)
            elif word == "when" and self._decides(i):
                end = self._until(i + 1, {"then", ";"}, level)
            else:
                continue
            if self._source((i + 1, end)).lower() not in ("true", "false"):
                yield self._replace("always", i + 1, end, "true")
                yield self._replace("never", i + 1, end, "false")

    def _decides(self, i: int) -> bool:
        """Whether what follows "when" is a condition, not a value or an exception."""
        if self.words[i - 1] in ("exit", "continue"):
            return True
        level = self.tokens[i].parent
        return level >= 0 and self.words[level] == "case" and self._is(level + 1, "when")

    # Statements of PL/pgSQL.

    def _statements(self) -> Iterator[Mistake]:
        if not any(word == "plpgsql" for word in self.words):
            return
        declaring = False
        for i, word in enumerate(self.words):
            if not self._in_body(i) or self.tokens[i].parent != -1:
                continue
            if word == "declare":
                declaring = True
            elif word == "begin":
                declaring = False
            if declaring:
                if word == ":=" and not any(w == "constant" for w in self.words[i - 6 : i]):
                    end = self._until(i, {";"}, -1)
                    yield self._replace("not initialised", i, end)
                continue
            if self.words[i - 1] not in (";", "then", "else", "loop", "begin"):
                continue
            end = self._until(i, {";"}, -1)
            assigned = any(self._is(k, ":=", -1) for k in range(i, min(i + 6, end)))
            if (
                assigned
                or word
                in (
                    *("perform", "raise", "update", "delete", "insert", "with", "exit", "continue"),
                    "execute",
                )
                or (word == "return" and self._is(i + 1, "next"))
            ):
                yield self._replace("statement dropped", i, end + 1, "null;")
