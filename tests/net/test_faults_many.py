"""Many at once: hundreds of sessions that work, thousands of connections that never say who they are."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgloupe.wire.frontend import build_query
from pgloupe.wire.startup import build_startup
from support.leftovers import backends, memory_kb, settled, through
from support.proxy import Serve, proxy_to
from support.raw import Raw, codes, eventually
from support.servers import PostgresServer

SESSIONS = 500
SILENT = 2_500
HALF = 2_400
WAITING = 100
"""Clients that a server asks for a password: each takes a process of the server."""

MOST_KB = 6
"""Memory of the proxy for a connection that is not authenticated, on average."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(settings={"max_connections": "600"}) as started:
        yield started


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SILENT + HALF + WAITING + 1_000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files, and this system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("caching", [False, True])
def test_five_hundred_sessions_at_once_all_work(server: PostgresServer, many_files: None, caching: bool) -> None:
    url = server.role_url("trusted")
    cache = {"cache": {"allow": [{"name": "all", "tables": ["thing"], "ttl": "60s"}], "catalog_url": server.url}}
    with proxy_to(url, **(cache if caching else {})) as proxy, ExitStack() as stack:
        clients = [stack.enter_context(Raw(proxy.url)) for _ in range(SESSIONS)]
        hello = build_startup({"user": "trusted", "database": clients[0].database})
        for client in clients:
            client.send(hello)
        for client in clients:
            assert codes(client.until("Z")).endswith("Z")
        for step in range(3):
            for number, client in enumerate(clients):
                client.send(build_query(f"SELECT {number} + {step}"))
            for number, client in enumerate(clients):
                frames = client.until("Z")
                assert codes(frames) == "TDCZ"
                assert frames[1].endswith(str(number + step).encode())
        assert len(proxy.running._app.listener.frontends) == SESSIONS
        for client in clients:
            client.terminate()
        settled(proxy)
    eventually(lambda: not backends(url))


def opened(port: int, first: bytes, count: int, stack: ExitStack) -> list[socket.socket]:
    """Connections that have said `first` and nothing more."""
    found = []
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        if first:
            client.sendall(first)
        found.append(client)
    return found


def test_five_thousand_connections_that_do_not_log_in_cost_little_and_are_ended(
    server: PostgresServer, many_files: None
) -> None:
    url = server.role_url()
    trusted = server.role_url("trusted")
    everyone = SILENT + HALF + WAITING
    limits = {"PGLOUPE_MAX_CONNECTIONS": str(everyone + 100), "PGLOUPE_AUTH_TIMEOUT_S": "6"}
    with Serve("--upstream", url, environ=limits) as serve, ExitStack() as stack:
        inside = stack.enter_context(Raw(through(serve, trusted)))
        inside.start()
        process = serve.process.pid
        before = memory_kb(process, "VmRSS")
        hello = build_startup({"user": "app", "database": "app"})
        clients = opened(serve.port, b"", SILENT, stack)
        clients += opened(serve.port, hello[:-5], HALF, stack)
        clients += opened(serve.port, hello, WAITING, stack)
        eventually(lambda: len(list(Path(f"/proc/{process}/fd").iterdir())) >= everyone + WAITING)
        for _ in range(20):
            assert codes(inside.query("SELECT 1")) == "TDCZ"
            with Raw(through(serve, trusted)) as other:
                other.start()
                assert codes(other.query("SELECT 1")) == "TDCZ"
                other.terminate()
        assert (memory_kb(process, "VmHWM") - before) / everyone < MOST_KB
        selector = stack.enter_context(contextlib.closing(selectors.DefaultSelector()))
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        ended = 0
        while ended < everyone:
            ready = selector.select(20)
            assert ready, f"{everyone - ended} are still there"
            for key, _ in ready:
                with contextlib.suppress(ConnectionResetError):
                    if key.fileobj.recv(10_000):  # type: ignore[union-attr]
                        continue
                selector.unregister(key.fileobj)
                ended += 1
        assert codes(inside.query("SELECT 1")) == "TDCZ"
        assert len(list(Path(f"/proc/{process}/fd").iterdir())) < 100
        eventually(lambda: not backends(url))
