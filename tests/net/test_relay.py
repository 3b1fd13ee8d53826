"""What is around the conversations of test_differential.py: how a session begins, what comes while it is idle, how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from pgloupe.wire.frontend import build_query
from pgloupe.wire.startup import build_gssenc_request, build_ssl_request, build_startup
from support.differential import Sides, sides
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, eventually
from support.scripts.common import SELECT_ALL, SELECT_ONE, SYNC, ask
from support.servers import Postgres, PostgresServer


@pytest.fixture(scope="module")
def three(postgres: Postgres) -> Iterator[Sides]:
    with sides(postgres) as made:
        yield made


@pytest.fixture(scope="module")
def direct(three: Sides) -> str:
    return three.direct.url


@pytest.fixture(scope="module")
def watching(three: Sides) -> Proxy:
    return three.watching.proxy


@pytest.fixture(scope="module")
def caching(three: Sides) -> Proxy:
    return three.caching.proxy


@pytest.mark.parametrize("request_bytes", [build_ssl_request(), build_gssenc_request()])
def test_a_request_for_encryption_is_refused_and_the_session_goes_on(watching: Proxy, request_bytes: bytes) -> None:
    with Raw(watching.url) as client:
        client.send(request_bytes)
        assert client.receive() == b"N"
        assert codes(client.start()).endswith("Z")
        assert codes(client.query("SELECT 1")) == "TDCZ"


def test_both_kinds_of_encryption_may_be_asked_for(watching: Proxy) -> None:
    for order in ((build_ssl_request(), build_gssenc_request()), (build_gssenc_request(), build_ssl_request())):
        with Raw(watching.url) as client:
            for request_bytes in order:
                client.send(request_bytes)
                assert client.receive() == b"N"
            assert codes(client.start()).endswith("Z")


@pytest.mark.parametrize("request_bytes", [build_ssl_request(), build_gssenc_request()])
def test_a_second_request_for_the_same_encryption_closes_the_connection(watching: Proxy, request_bytes: bytes) -> None:
    with Raw(watching.url) as client:
        client.send(request_bytes)
        assert client.receive() == b"N"
        client.send(request_bytes)
        assert client.receive() == b""


@pytest.mark.parametrize("request_bytes", [build_ssl_request(), build_gssenc_request()])
def test_bytes_behind_a_request_for_encryption_close_the_connection(watching: Proxy, request_bytes: bytes) -> None:
    with Raw(watching.url) as client:
        startup = build_startup({"user": client.user, "database": client.database})
        client.send(request_bytes + startup)
        assert client.receive() == b""


def test_a_start_up_packet_cut_into_single_bytes_is_understood(watching: Proxy) -> None:
    with Raw(watching.url) as client:
        for byte in build_ssl_request():
            client.send(bytes([byte]))
        assert client.receive() == b"N"
        for byte in build_startup({"user": client.user, "database": client.database}):
            client.send(bytes([byte]))
        assert codes(client.until("Z")).endswith("Z")


def test_queries_right_behind_the_start_up_packet_are_answered(direct: str, watching: Proxy, caching: Proxy) -> None:
    seen = []
    for url in (direct, watching.url, caching.url):
        with Raw(url) as client:
            startup = build_startup({"user": client.user, "database": client.database})
            client.send(startup + build_query(SELECT_ALL) + ask("", SELECT_ONE, b"3") + SYNC)
            seen.append([frame for frame in client.until("Z", 3) if frame[:1] != b"K"])
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("minor", [2, 9999])
def test_a_newer_protocol_and_unknown_options_are_negotiated_with_the_server(
    direct: str, watching: Proxy, minor: int
) -> None:
    seen = []
    for url in (direct, watching.url):
        with Raw(url) as client:
            parameters = {"user": client.user, "database": client.database, "_pq_.nonsense": "1"}
            client.send(build_startup(parameters, 3 << 16 | minor))
            frames = client.until("Z")
            frames += client.query("SELECT 1")
            seen.append([frame for frame in frames if frame[:1] != b"K"])
    assert seen[0] == seen[1]
    assert codes(seen[0]).count("v") == 1


def test_a_notification_reaches_a_session_that_is_idle(watching: Proxy, caching: Proxy) -> None:
    for proxy in (watching, caching):
        with Raw(proxy.url) as client, Raw(proxy.upstream) as sender:
            client.start()
            client.query("LISTEN idle_news")
            client.query(SELECT_ALL)
            sender.start()
            sender.query("NOTIFY idle_news, 'hello'")
            frame = client.read()
            assert frame is not None
            assert frame[:1] == b"A"
            assert frame[9:] == b"idle_news\0hello\0"
            assert codes(client.query("SELECT 1")) == "TDCZ"


def test_terminate_reaches_the_server(direct: str, watching: Proxy) -> None:
    with Raw(watching.url) as client, psycopg.connect(direct, autocommit=True) as observer:
        client.start()
        client.terminate()
        assert client.rest() == []
        alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: observer.execute(alive, (client.process,)).fetchone() == (0,))


def test_the_server_may_be_reached_by_a_unix_domain_socket(own_postgres: PostgresServer) -> None:
    directory = own_postgres.directory
    assert directory is not None
    if not (directory / f".s.PGSQL.{own_postgres.port}").exists():
        pytest.skip("the path of the server's directory is too long for a Unix-domain socket")
    url = own_postgres.role_url()
    by_socket = f"{url.rpartition('@')[0]}@/app?host={directory}&port={own_postgres.port}"
    with proxy_to(by_socket) as proxy, psycopg.connect(proxy.url, connect_timeout=20) as connection:
        assert connection.execute("SELECT inet_client_addr()").fetchone() == (None,)
        with psycopg.connect(url, autocommit=True) as observer:
            state = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
            pid = connection.info.backend_pid

            def cancel() -> None:
                eventually(lambda: observer.execute(state, (pid,)).fetchone() == ("PgSleep",))
                connection.cancel_safe()

            canceller = threading.Thread(target=cancel)
            canceller.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(60)")
            canceller.join()
