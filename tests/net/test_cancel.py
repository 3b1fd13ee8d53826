"""CancelRequest: a connection of its own, to the same server, closed when the server has closed it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from pgloupe.wire.frontend import build_query
from pgloupe.wire.startup import build_cancel_request, build_ssl_request
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, errors, eventually
from support.servers import Postgres


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """For a role that needs no password."""
    return postgres.url_for("trusted")


@pytest.fixture(scope="module")
def watching(direct: str) -> Iterator[Proxy]:
    with proxy_to(direct) as proxy:
        yield proxy


class Gathering:
    """Receives in a thread, so that a test can see that nothing came yet."""

    def __init__(self, client: Raw) -> None:
        self.ended = threading.Event()
        self._client = client
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        self._client.rest()
        self.ended.set()

    def join(self) -> None:
        self._thread.join()


def session_elsewhere(url: str) -> list[bytes]:
    with Raw(url) as other:
        other.start()
        return other.query("SELECT 1")


def asleep(proxy: Proxy, client: Raw) -> None:
    """Wait until the server runs the client's pg_sleep."""
    with psycopg.connect(proxy.upstream, autocommit=True) as connection:
        state = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: connection.execute(state, (client.process,)).fetchone() == ("PgSleep",))


def test_a_cancel_request_cancels_and_is_closed_by_the_server(watching: Proxy) -> None:
    with Raw(watching.url) as client:
        client.start()
        client.send(build_query("SELECT pg_sleep(60)"))
        asleep(watching, client)
        with Raw(watching.url) as canceller:
            canceller.send(build_cancel_request(client.process, client.key[4:]))
            assert canceller.rest() == []
        assert errors(client.until("Z")) == [("ERROR", "57014", "canceling statement due to user request")]
        assert codes(client.query("SELECT 1")) == "TDCZ"


def test_a_cancel_request_may_follow_a_request_for_encryption(watching: Proxy) -> None:
    with Raw(watching.url) as client:
        client.start()
        client.send(build_query("SELECT pg_sleep(60)"))
        asleep(watching, client)
        with Raw(watching.url) as canceller:
            canceller.send(build_ssl_request())
            assert canceller.receive() == b"N"
            canceller.send(build_cancel_request(client.process, client.key[4:]))
            assert canceller.rest() == []
        assert errors(client.until("Z"))[0][1] == "57014"


def test_a_cancel_request_with_a_wrong_key_does_nothing(watching: Proxy) -> None:
    with Raw(watching.url) as client:
        client.start()
        with Raw(watching.url) as canceller:
            canceller.send(build_cancel_request(client.process, b"\0\0\0\1"))
            assert canceller.rest() == []
        assert codes(client.query("SELECT 1")) == "TDCZ"


def test_the_canceller_waits_until_the_server_has_closed(direct: str) -> None:
    """Else a client that goes on at once may have its next statement cancelled. The server here is a bare socket that
    closes when it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            proxy_to(f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable") as proxy,
            Raw(proxy.url) as canceller,
        ):
            request = build_cancel_request(7, b"\0\0\0\1")
            canceller.send(request)
            accepted, _ = server.accept()
            gathering = Gathering(canceller)
            with accepted:
                received = b""
                while len(received) < len(request):
                    received += accepted.recv(100)
                assert received == request
                assert codes(session_elsewhere(direct)) == "TDCZ"
                assert not gathering.ended.is_set()
            gathering.join()
            assert gathering.ended.is_set()
