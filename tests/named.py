"""Tests that are named elsewhere: in a table, or in a list."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def is_a_test(node_id: str) -> bool:
    """Whether there is a test function of this name in this file."""
    path, name = node_id.split("::")
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in nodes)
