"""What tests of functions can ask for besides: roles of the cluster."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def new_role(administrate) -> Iterator[Any]:
    """Make roles of the cluster; all are gone at the end."""
    made = []

    def create(name, *groups, options=""):
        administrate("create role {} " + options, name)
        made.append(name)
        for group in groups:
            administrate("grant {} to {}", group, name)
        return name

    yield create
    for name in reversed(made):
        administrate("drop role if exists {}", name)
