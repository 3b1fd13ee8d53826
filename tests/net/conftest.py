"""What holds for every test of the network layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_faults(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A proxy in this process never reports a fault of its own, whatever is done to it."""
    yield
    for phase in ("setup", "call"):
        for record in caplog.get_records(phase):
            if record.name.startswith("pgloupe") and record.levelno >= logging.ERROR:
                pytest.fail(f"{record.name}: {record.getMessage()}: {record.exc_info}")
