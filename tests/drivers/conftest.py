"""Every driver runs on every version of PostgreSQL in `support.versions.MAJORS`, the ORMs on the oldest and the newest."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import pytest

from support.servers import Postgres
from support.stage import Stage, stage_on
from support.versions import MAJORS

ENDS = (MAJORS[0], MAJORS[-1])


@pytest.fixture(scope="session")
def stage_of(postgres_of: Callable[[int], Postgres]) -> Iterator[Callable[[int], Stage]]:
    """Gives the database and the two proxies on a server of a version, made when first asked for."""
    made: dict[int, Stage] = {}
    with contextlib.ExitStack() as stack:

        def find(major: int) -> Stage:
            if major not in made:
                made[major] = stack.enter_context(stage_on(postgres_of(major)))
            return made[major]

        yield find


@pytest.fixture(scope="session", params=MAJORS, ids=[f"postgresql{major}" for major in MAJORS])
def stage(stage_of: Callable[[int], Stage], request: pytest.FixtureRequest) -> Stage:
    """A database and two proxies on a server of each version."""
    return stage_of(request.param)


@pytest.fixture(scope="session", params=ENDS, ids=[f"postgresql{major}" for major in ENDS])
def outer_stage(stage_of: Callable[[int], Stage], request: pytest.FixtureRequest) -> Stage:
    """The same on the oldest and on the newest version: for what talks by drivers that run on each."""
    return stage_of(request.param)


@pytest.fixture(autouse=True)
def no_faults(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A proxy in this process never reports a fault of its own, whatever a driver does."""
    yield
    for phase in ("setup", "call"):
        for record in caplog.get_records(phase):
            if record.name.startswith("pgloupe") and record.levelno >= logging.ERROR:
                pytest.fail(f"{record.name}: {record.getMessage()}: {record.exc_info}")
