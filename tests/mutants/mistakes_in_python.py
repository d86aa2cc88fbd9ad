"""Every small mistake that somebody could make in a module of Python: mechanical mutants.

What is only for people to read (docstrings, log lines, help texts) is left alone.
"""

import ast
from collections.abc import Iterator
from itertools import pairwise

from tests.mutants.mistakes_in_sql import Mistake

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
SWAPPED_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "True": "False"}
FOR_PEOPLE = {"log", "logger", "print", "ArgumentTypeError", "CannotStart", "ValueError"}


def mistakes(text: str) -> list[Mistake]:
    """Return the mistakes that can be made in a module, in the order in which they stand."""
    finder = Finder(text)
    found = {(m.start, m.end, m.new): m for m in finder.all() if text[m.start : m.end] != m.new}
    return [found[key] for key in sorted(found)]


class Finder:
    """Finds the mistakes that can be made in one module."""

    def __init__(self, text: str) -> None:
        self._text = text
        data = text.encode()
        self._lines = [0]
        for line in data.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._data = data
        self._tree = ast.parse(text)
        self._prose = {
            id(child)
            for node in ast.walk(self._tree)
            if self._is_prose(node)
            for child in ast.walk(node)
        }

    @staticmethod
    def _is_prose(node: ast.AST) -> bool:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return True
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            return False
        if isinstance(node, ast.keyword):
            return node.arg in ("help", "description", "epilog", "metavar", "extra")
        if not isinstance(node, ast.Call):
            return False
        name = ast.unparse(node.func)
        return name.partition(".")[0] in FOR_PEOPLE or name.startswith("log.")

    def all(self) -> Iterator[Mistake]:
        """Return what each rule finds."""
        for node in ast.walk(self._tree):
            if id(node) in self._prose or isinstance(node, ast.Import | ast.ImportFrom):
                continue
            yield from self._expressions(node)
            yield from self._statements(node)

    def _at(self, line: int, column: int) -> int:
        return len(self._data[: self._lines[line - 1] + column].decode())

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self._at(node.lineno, node.col_offset),
            self._at(node.end_lineno, node.end_col_offset),
        )

    def _source(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._text[start:end]

    def _replace(self, rule: str, node: ast.AST, new: str) -> Mistake:
        start, end = self._span(node)
        return Mistake(rule, start, end, new)

    def _between(
        self, rule: str, left: ast.AST, right: ast.AST, signs: tuple[str, str]
    ) -> Iterator[Mistake]:
        start, end = self._span(left)[1], self._span(right)[0]
        old, new = signs
        between = self._text[start:end]
        if between.count(old) == 1:
            yield Mistake(rule, start, end, between.replace(old, new))

    def _expressions(self, node: ast.AST) -> Iterator[Mistake]:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for operator, (left, right) in zip(node.ops, pairwise(sides), strict=True):
                yield from self._between("comparison", left, right, COMPARISONS[type(operator)])
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            signs = ARITHMETIC[type(node.op)]
            yield from self._between("arithmetic", node.left, node.right, signs)
        elif isinstance(node, ast.BoolOp):
            signs = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in pairwise(node.values):
                yield from self._between("and for or", left, right, signs)
            for value in node.values:
                kept = [self._source(other) for other in node.values if other is not value]
                yield self._replace("term dropped", node, f" {signs[0]} ".join(kept))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield self._replace("not dropped", node, self._source(node.operand))
        elif isinstance(node, ast.IfExp):
            for name, new in (("always", node.body), ("never", node.orelse)):
                yield self._replace(name, node, self._source(new))
        elif isinstance(node, ast.Constant):
            yield from self._constant(node)
        elif isinstance(node, ast.Name) and node.id in SWAPPED_NAMES:
            yield self._replace("swapped", node, SWAPPED_NAMES[node.id])
        elif isinstance(node, ast.Call):
            yield from self._call(node)
        elif isinstance(node, ast.comprehension):
            for condition in node.ifs:
                yield self._replace("filter dropped", condition, "True")
        elif isinstance(node, ast.Dict):
            for one, two in pairwise(node.values):
                if one is not None and two is not None and len(node.values) < 12:
                    yield from self._exchange(one, two)

    def _constant(self, node: ast.Constant) -> Iterator[Mistake]:
        value = node.value
        if isinstance(value, bool):
            yield self._replace("swapped", node, str(not value))
        elif isinstance(value, int):
            yield self._replace("off by one", node, str(value + 1))
        elif isinstance(value, float):
            yield self._replace("another number", node, str(value * 2 or 1.0))
        elif isinstance(value, str) and self._source(node)[:1] in "\"'" and "\n" not in value:
            yield self._replace("another word", node, repr(f"{value}x" if value else "x"))

    def _call(self, node: ast.Call) -> Iterator[Mistake]:
        for one, two in pairwise(node.args):
            yield from self._exchange(one, two)
        items = [*node.args, *node.keywords]
        for n, item in enumerate(items):
            if isinstance(item, ast.keyword) and item.arg and len(items) > 1:
                start, end = self._span(item)
                if n + 1 < len(items):
                    end = self._span(items[n + 1])[0]
                yield Mistake("argument not passed", start, end, "")

    def _exchange(self, one: ast.AST, two: ast.AST) -> Iterator[Mistake]:
        (start, end), (start_two, end_two) = self._span(one), self._span(two)
        between = self._text[end:start_two]
        new = self._text[start_two:end_two] + between + self._text[start:end]
        yield Mistake("exchanged", start, end_two, new)

    def _statements(self, node: ast.AST) -> Iterator[Mistake]:
        if isinstance(node, ast.If | ast.While):
            yield self._replace("never", node.test, "False")
            if isinstance(node, ast.If):
                yield self._replace("always", node.test, "True")
        elif isinstance(node, ast.Return) and node.value is not None:
            if self._source(node.value) not in ("None", "False", "0"):
                yield self._replace("nothing returned", node.value, "None")
        elif isinstance(node, ast.Raise | ast.Expr | ast.AugAssign | ast.Continue | ast.Break):
            value = node.value if isinstance(node, ast.Expr) else None
            if not isinstance(value, ast.Yield) and id(value) not in self._prose:
                yield self._replace("statement dropped", node, "pass")
        elif isinstance(node, ast.Assign) and node.col_offset > 0:
            yield self._replace("statement dropped", node, "pass")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                start, end = self._span(decorator)
                yield Mistake("decorator dropped", start - 1, end, "")
