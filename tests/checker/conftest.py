"""The servers of the checker: its own, because it stops, kills and empties them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.checker.stage import Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with Servers() as found:
        yield found
