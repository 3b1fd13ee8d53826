"""What a proxy still holds: each connection, task, socket and object that outlives its session is a fault."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest

from pgloupe.net.link import Link
from pgloupe.net.listener import Frontend
from pgloupe.session.session import Session
from support.proxy import Proxy, Serve
from support.raw import Raw, codes, eventually
from support.servers import Postgres


@dataclass(frozen=True)
class Leftovers:
    """Counts. Those of sockets and objects are of the whole process."""

    frontends: int
    background: int
    """Tasks that the listener started."""
    tasks: int
    """All tasks of the proxy's loop."""
    sockets: int
    objects: int
    """Frontends, links, sessions and transports that are still in memory."""

    def within(self, before: Leftovers) -> bool:
        """Nothing here is more than it was before."""
        return all(now <= then for now, then in zip(astuple(self), astuple(before), strict=True))


def open_connections(proxy: Proxy) -> tuple[int, int]:
    """How many clients and how many tasks the proxy holds."""
    listener = proxy.running._app.listener
    found: tuple[int, int] = proxy.running._ask(lambda: (len(listener.frontends), len(listener.tasks)))
    return found


def settled(proxy: Proxy, frontends: int = 0) -> None:
    """Wait until the proxy holds so many clients and no task any more."""
    eventually(lambda: open_connections(proxy) == (frontends, 0))


def sockets() -> int:
    """The open sockets of this process, the proxy's among them."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open sockets are counted in /proc")
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return count


def leftovers(proxy: Proxy) -> Leftovers:
    """What there is now."""
    gc.collect()
    kinds = (Frontend, Link, Session)
    objects = sum(isinstance(found, kinds) or type(found).__name__ == "TCPTransport" for found in gc.get_objects())

    def ask() -> tuple[int, int, int]:
        listener = proxy.running._app.listener
        return len(listener.frontends), len(listener.tasks), len(asyncio.all_tasks())

    return Leftovers(*proxy.running._ask(ask), sockets(), objects)


@contextmanager
def nothing_left(proxy: Proxy) -> Iterator[None]:
    """What happens in the block leaves nothing behind in the proxy, nor open sockets in this process."""
    before = leftovers(proxy)
    yield
    last: list[Leftovers] = []

    def nothing() -> bool:
        last[:] = [leftovers(proxy)]
        return last[0].within(before)

    try:
        eventually(nothing)
    except AssertionError:
        pytest.fail(f"left behind: {last[0]}, before: {before}")


def backends(url: str) -> set[int]:
    """The processes of the server that serve clients of this role, but for the one that asks."""
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"
        return {row[0] for row in connection.execute(query)}


def gone(url: str, process: int) -> None:
    """Wait until the server has ended this backend."""
    with psycopg.connect(url, autocommit=True) as connection:
        alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: connection.execute(alive, (process,)).fetchone() == (0,))


def works(url: str) -> None:
    """A new session reads the five rows of the table `thing`."""
    with Raw(url) as client:
        client.start()
        assert codes(client.query("SELECT id FROM thing")) == "TDDDDDCZ"


def memory_kb(process: int, field: str) -> int:
    """A figure of /proc: VmRSS is the memory that a process takes now, VmHWM the most that it ever took."""
    path = Path(f"/proc/{process}/status")
    if not path.exists():
        pytest.skip("memory is measured in /proc")
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def through(serve: Serve, url: str) -> str:
    """The URL by way of the proxy."""
    return f"{url.rpartition('@')[0]}@127.0.0.1:{serve.port}/{url.rpartition('/')[2]}"


EVERYTHING: Final = {"allow": [{"name": "all", "tables": ["thing"], "ttl": "60s"}]}
LARGE: Final = "SELECT repeat('x', 1000) FROM generate_series(1, {})"


def database_of_things(postgres: Postgres) -> str:
    """URL of a new database with the table `thing` of five rows and the empty `other` (id) and `wide` (line), for a
    role that needs no password."""
    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE thing AS SELECT n AS id FROM generate_series(1, 5) n")
        connection.execute("CREATE TABLE other (id int)")
        connection.execute("CREATE TABLE wide (line text)")
        connection.execute("GRANT ALL ON thing, other, wide TO PUBLIC")
    return postgres.url_for("trusted", database.rpartition("/")[2])
