"""What the tests of handlers share: each begins without any, whoever imported some before."""

from collections.abc import Iterator

import pytest

from rota.worker.tasks import registry


@pytest.fixture(autouse=True)
def no_handlers() -> Iterator[None]:
    before = dict(registry)
    registry.clear()
    yield
    registry.clear()
    registry.update(before)
