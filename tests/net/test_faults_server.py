"""Servers that are not there, that go away, that answer nonsense: each client gets a PostgreSQL error or the end of its
connection, nobody else notices, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import asyncpg
import psycopg
import pytest

from pgloupe.wire.backend import build_error_response
from pgloupe.wire.frontend import build_frame, build_parse, build_query
from pgloupe.wire.startup import build_startup
from support.hostile import ASK_PASSWORD, FakeServer
from support.leftovers import (
    EVERYTHING,
    database_of_things,
    nothing_left,
    settled,
    sockets,
)
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, errors, eventually
from support.servers import Postgres, PostgresServer, RedisServer


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database for a role that needs no password."""
    return database_of_things(postgres)


@pytest.fixture(params=["watching", "caching"])
def proxy(direct: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxy_to(direct, **({"cache": EVERYTHING} if request.param == "caching" else {})) as started:
        yield started
        settled(started)


def test_a_server_that_is_not_there_is_a_clear_error_and_the_proxy_goes_on(own_postgres: PostgresServer) -> None:
    url = own_postgres.role_url()
    with proxy_to(url) as proxy:
        own_postgres.stop()
        with Raw(proxy.url) as client:
            client.send(build_startup({"user": "app", "database": "app"}))
            ((severity, sqlstate, text),) = errors(client.rest())
        assert (severity, sqlstate) == ("FATAL", "08006")
        assert text.startswith(f"no connection to the server at 127.0.0.1:{own_postgres.port}: ")
        settled(proxy)
        own_postgres.start()
        with psycopg.connect(proxy.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        settled(proxy)


def test_a_host_that_does_not_exist_is_a_clear_error() -> None:
    for host in ("nowhere.invalid", "a" * 70 + ".invalid", "a..b"):
        with proxy_to(f"postgresql://nobody@{host}:5432/none") as proxy, Raw(proxy.url) as client:
            client.send(build_startup({"user": "nobody"}))
            ((severity, sqlstate, text),) = errors(client.rest())
            assert (severity, sqlstate) == ("FATAL", "08006")
            assert host in text
            settled(proxy)


def test_a_server_that_does_not_accept_is_given_up() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(closing(socket.socket()))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"postgresql://nobody@127.0.0.1:{full.getsockname()[1]}/none?sslmode=disable"
        proxy = stack.enter_context(proxy_to(url, connect_timeout_s=0.2))
        client = stack.enter_context(Raw(proxy.url))
        client.send(build_startup({"user": "nobody"}))
        ((severity, sqlstate, text),) = errors(client.rest())
        assert (severity, sqlstate) == ("FATAL", "08006")
        assert "did not accept a connection within 0.2 s" in text
        settled(proxy)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"Z\0\0\0\5I", b"D\0\0\0\4", b"\0" * 50])
def test_a_server_that_is_no_postgresql_ends_the_session_alone(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/none?sslmode=disable"
        with proxy_to(url) as proxy, Raw(proxy.url) as client:
            client.send(build_startup({"user": "nobody"}))
            accepted, _ = server.accept()
            with accepted:
                accepted.recv(1000)
                accepted.sendall(answer)
            received = b""
            while more := client.receive():
                received += more
            assert received.startswith(answer)
            assert b"C08P01" in received or b"C08006" in received or answer.startswith(b"\0")
            settled(proxy)


def test_a_terminated_backend_says_why(proxy: Proxy, postgres: Postgres) -> None:
    if postgres.superuser_url is None:
        pytest.skip("ending a session of another role needs a superuser, and PGLOUPE_TEST_POSTGRES gives none")
    with Raw(proxy.url) as client, psycopg.connect(postgres.superuser_url) as superuser:
        client.start()
        client.query("SELECT id FROM thing")
        superuser.execute("SELECT pg_terminate_backend(%s)", (client.process,))
        assert errors(client.rest()) == [("FATAL", "57P01", "terminating connection due to administrator command")]


def test_a_killed_backend_is_a_clear_error(own_postgres: PostgresServer) -> None:
    """Killed in the middle of a statement, the server says nothing: the proxy does."""
    with proxy_to(own_postgres.role_url("trusted")) as proxy:
        with Raw(proxy.url) as client, Raw(proxy.url) as other:
            client.start()
            other.start()
            client.send(build_query("SELECT pg_sleep(60)"))
            os.kill(client.process, signal.SIGKILL)
            ((severity, sqlstate, text),) = errors(client.rest())
            assert (severity, sqlstate) == ("FATAL", "08006")
            assert text.startswith("the server closed the connection unexpectedly")
            # the server closes all other sessions, most of them with a warning, which is no ErrorResponse
            frames = other.rest()
            assert codes(frames) in ("NE", "E")
            assert errors(frames)[0][:2] == ("FATAL", "08006")
        settled(proxy)

        def back() -> bool:
            try:
                psycopg.connect(proxy.url).close()
            except psycopg.OperationalError:
                return False
            return True

        eventually(back)
        settled(proxy)


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_server_that_goes_ends_its_sessions_with_an_sqlstate(own_postgres: PostgresServer, ending: str) -> None:
    with proxy_to(own_postgres.role_url("trusted"), cache=EVERYTHING) as proxy:
        before = sockets()
        with ExitStack() as stack:
            clients = [stack.enter_context(Raw(proxy.url)) for _ in range(5)]
            for client in clients:
                client.start()
            clients[0].send(build_query("SELECT pg_sleep(60)"))
            clients[1].query("BEGIN")
            clients[2].send(build_parse("", "SELECT 1"))
            clients[3].send(build_query("SELECT 1")[:5])
            getattr(own_postgres, ending)()
            for client in clients:
                assert [error[1] for error in errors(client.rest())][-1:] in (["57P01"], ["57P02"], ["08006"])
        settled(proxy)
        eventually(lambda: sockets() <= before)


def test_a_connection_cut_inside_of_a_message_just_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/none?sslmode=disable"
        with proxy_to(url) as proxy, Raw(proxy.url) as client:
            client.send(build_startup({"user": "nobody"}))
            accepted, _ = server.accept()
            with accepted:
                accepted.recv(1000)
                accepted.sendall(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\5I" + b"S\0\0\0\x20abc")
            received = b""
            while more := client.receive():
                received += more
            assert received.endswith(b"S\0\0\0\x20abc")
            settled(proxy)


def test_the_limits_of_the_server_are_told_by_the_server(postgres: Postgres) -> None:
    database = postgres.create_database()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {database.rpartition('/')[2]} CONNECTION LIMIT 1")
    # not a superuser, whom no limit holds
    with proxy_to(postgres.url_for("trusted", database.rpartition("/")[2])) as proxy:
        with psycopg.connect(proxy.url) as first:
            with pytest.raises(psycopg.OperationalError, match="too many connections for database"):
                psycopg.connect(proxy.url)
            assert first.execute("SELECT 1").fetchone() == (1,)
        settled(proxy)


async def test_two_hundred_clients_at_once_are_served(postgres: Postgres) -> None:
    url = postgres.create_database()

    async def client(url: str, number: int, together: asyncio.Barrier) -> list[Any]:
        connection = await asyncpg.connect(url)
        await together.wait()
        seen = [await connection.fetchval("SELECT $1::int + $2", number, n) for n in range(5)]
        await connection.close()
        return seen

    with proxy_to(url) as proxy:
        together = asyncio.Barrier(200)
        found = await asyncio.gather(*(client(proxy.url, number, together) for number in range(200)))
        assert found == [[number + n for n in range(5)] for number in range(200)]
        await asyncio.to_thread(settled, proxy)
        assert proxy.report()["sessions"] == 200


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_clients_that_come_after_a_restart_are_served(own_postgres: PostgresServer, ending: str) -> None:
    with proxy_to(own_postgres.role_url("trusted"), cache=EVERYTHING) as proxy, nothing_left(proxy):
        for _ in range(2):
            with Raw(proxy.url) as client:
                client.start()
                assert codes(client.query("SELECT 1")) == "TDCZ"
                getattr(own_postgres, ending)()
                assert errors(client.rest())[-1][1] in ("57P01", "08006")
            with Raw(proxy.url) as client:
                client.send(build_startup({"user": client.user, "database": client.database}))
                assert errors(client.rest())[-1][:2] == ("FATAL", "08006")
            own_postgres.start()
        works_at_all(proxy.url)
        settled(proxy)


def works_at_all(url: str) -> None:
    with Raw(url) as client:
        client.start()
        assert codes(client.query("SELECT 1")) == "TDCZ"


def test_a_server_in_recovery_says_so_itself(own_postgres: PostgresServer) -> None:
    with proxy_to(own_postgres.role_url("trusted")) as proxy:
        own_postgres.stop()
        own_postgres.place("standby.signal", b"")
        own_postgres.place("postgresql.auto.conf", b"hot_standby = off\n")
        assert own_postgres.directory is not None
        own_postgres._launch(own_postgres.directory, own_postgres._command(own_postgres.directory))
        told: list[str] = []

        def refused() -> bool:
            with Raw(proxy.url) as client:
                client.send(build_startup({"user": client.user, "database": client.database}))
                ((severity, sqlstate, text),) = errors(client.rest())
            assert (severity, sqlstate) in (("FATAL", "57P03"), ("FATAL", "08006"))  # 08006: not yet there
            told[:] = [text]
            return sqlstate == "57P03" and "not accepting connections" in text

        eventually(refused)
        settled(proxy)


def test_a_server_that_is_full_says_so_itself_and_who_is_in_goes_on() -> None:
    settings = {
        "max_connections": "6",
        "superuser_reserved_connections": "3",
        "max_wal_senders": "0",
        "wal_level": "minimal",
    }
    with (
        PostgresServer(settings=settings) as server,
        proxy_to(server.role_url("trusted")) as proxy,
        ExitStack() as stack,
    ):
        inside = []
        while True:
            client = stack.enter_context(Raw(proxy.url))
            client.send(build_startup({"user": client.user, "database": client.database}))
            frames = client.until("Z")
            if errors(frames):
                break
            inside.append(client)
        assert errors(frames)[0][:2] == ("FATAL", "53300")
        assert 1 <= len(inside) <= 6
        for client in inside:
            assert codes(client.query("SELECT 1")) == "TDCZ"
        settled(proxy, len(inside))


@pytest.mark.parametrize(
    ("sqlstate", "text"),
    [("57P03", "the database system is starting up"), ("53300", "sorry, too many clients already")],
)
@pytest.mark.parametrize("when", ["at once", "after a request for a password"])
def test_a_refusal_reaches_the_client_as_it_is(sqlstate: str, text: str, when: str) -> None:
    refusal = build_error_response(sqlstate, text)
    lines = [ASK_PASSWORD, refusal] if when.startswith("after") else [refusal]
    with FakeServer(lines) as server, proxy_to(server.url) as proxy, Raw(proxy.url) as client, nothing_left(proxy):
        client.send(build_startup({"user": "nobody"}))
        if when.startswith("after"):
            assert client.read() == ASK_PASSWORD
            client.send(build_frame(0x70, b"secret\0"))
        assert client.rest() == [refusal]


@pytest.mark.parametrize(
    ("setting", "before", "sqlstate"),
    [
        ("idle_session_timeout", "SELECT 1", "57P05"),
        ("idle_in_transaction_session_timeout", "BEGIN", "25P03"),
    ],
)
def test_what_the_server_says_to_an_idle_client_reaches_it(
    proxy: Proxy, setting: str, before: str, sqlstate: str
) -> None:
    with Raw(proxy.url) as client, Raw(proxy.url) as bystander:
        bystander.start()
        client.start()
        client.query("SELECT id FROM thing")
        client.query(f"SET {setting} = '30ms'")
        client.query(before)
        ((severity, found, _),) = errors(client.rest())
        assert (severity, found) == ("FATAL", sqlstate)
        assert codes(bystander.query("SELECT id FROM thing")) == "TDDDDDCZ"


@pytest.mark.parametrize("ending", ["says why", "vanishes", "is lost at once"])
def test_an_answer_that_waits_for_redis_reaches_the_client_although_the_server_has_gone(
    own_postgres: PostgresServer, own_redis: RedisServer, ending: str
) -> None:
    """The write is done and its answer is here; Redis has not said yet that the client may read it."""
    url = own_postgres.role_url("trusted")
    with psycopg.connect(own_postgres.role_url(), autocommit=True) as owner:
        owner.execute("CREATE TABLE thing (id int)")
        owner.execute("GRANT ALL ON thing TO PUBLIC")
    with (
        proxy_to(url, cache={**EVERYTHING, "redis": own_redis.url, "redis_timeout_s": 0.5}) as proxy,
        psycopg.connect(own_postgres.url, autocommit=True) as superuser,
    ):
        with Raw(proxy.url) as client, nothing_left(proxy):
            client.start()
            client.send(build_query("INSERT INTO thing SELECT 1 FROM pg_sleep(0.2)"))
            state = "SELECT state FROM pg_stat_activity WHERE pid = %s"
            eventually(lambda: superuser.execute(state, (client.process,)).fetchone() == ("active",))
            own_redis.pause()
            eventually(lambda: superuser.execute(state, (client.process,)).fetchone() == ("idle",))
            if ending == "says why":
                superuser.execute("SELECT pg_terminate_backend(%s)", (client.process,))
            elif ending == "vanishes":
                os.kill(client.process, signal.SIGKILL)
            else:
                # a transport that cannot write says so also while nothing is read from it
                def lose() -> bool:
                    (frontend,) = proxy.running._app.listener.frontends
                    assert frontend.link is not None
                    if not frontend.link.session.backend_blocked:
                        return False
                    frontend.link.backend_gone(ConnectionResetError(104, "Connection reset by peer"))
                    return True

                eventually(lambda: proxy.running._ask(lose))
            frames = client.rest()
            own_redis.resume()
        expected = "57P01" if ending == "says why" else "08006"
        assert codes(frames) == "CZE"
        assert errors(frames)[0][1] == expected
