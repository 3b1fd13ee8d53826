"""What a client may take: connections, start-up bytes, idle time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from pgloupe.net.listener import GREETED
from pgloupe.wire.frontend import build_bind, build_execute, build_flush, build_parse, build_query, build_sync
from pgloupe.wire.startup import build_cancel_request, build_ssl_request, build_startup
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, errors, eventually
from support.servers import Postgres

TOO_MANY = [("FATAL", "53300", "sorry, too many clients already")]
IDLE = [("FATAL", "57P05", "terminating connection due to idle-session timeout")]


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE implicit (id int)")
        connection.execute("GRANT ALL ON implicit TO PUBLIC")
    return postgres.url_for("trusted", database.rpartition("/")[2])


@pytest.fixture
def two(direct: str) -> Iterator[Proxy]:
    with proxy_to(direct, max_connections=2) as proxy:
        yield proxy


def works(client: Raw) -> bool:
    return codes(client.query("SELECT 1")) == "TDCZ"


def test_a_client_over_max_connections_is_told_as_the_server_tells_it(two: Proxy) -> None:
    with Raw(two.url) as first, Raw(two.url) as second:
        first.start()
        second.start()
        for _ in range(3):
            with Raw(two.url) as third:
                assert errors(third.start()) == TOO_MANY
                assert third.read() is None
        assert works(first)
        assert works(second)
        second.terminate()
        assert second.read() is None
        eventually(lambda: _starts(two))


def _starts(proxy: Proxy) -> bool:
    with Raw(proxy.url) as client:
        return codes(client.start())[-1] == "Z"


def test_a_client_over_max_connections_that_asks_for_tls_first_is_told_too(two: Proxy) -> None:
    with Raw(two.url) as first, Raw(two.url) as second, Raw(two.url) as third:
        first.start()
        second.start()
        third.send(build_ssl_request())
        assert third.socket.recv(1) == b"N"
        assert errors(third.start()) == TOO_MANY


def asleep(direct: str, client: Raw) -> None:
    """Wait until the server runs the client's pg_sleep: a request that comes before cancels nothing."""
    with Raw(direct) as watching:
        watching.start()
        state = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = {client.process}"
        eventually(lambda: watching.query(state)[1][11:] == b"1")


def test_a_query_can_be_cancelled_while_max_connections_are_there(direct: str, two: Proxy) -> None:
    with Raw(two.url) as first, Raw(two.url) as second, Raw(two.url) as canceller:
        first.start()
        second.start()
        first.send(build_query("SELECT pg_sleep(60)"))
        asleep(direct, first)
        canceller.send(build_cancel_request(first.process, first.key[4:]))
        assert canceller.read() is None
        assert [code for _, code, _ in errors(first.until("Z"))] == ["57014"]


def test_clients_far_over_max_connections_are_closed_unheard(two: Proxy) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(Raw(two.url))
        first.start()
        silent = [stack.enter_context(Raw(two.url)) for _ in range(1 + GREETED)]
        # each is accepted before the next one is told anything
        with Raw(two.url) as unheard:
            assert unheard.read() is None
        assert works(first)
        for client in silent:
            client.socket.close()
        eventually(lambda: _starts(two))


def test_a_start_up_packet_may_be_as_long_as_the_server_allows(direct: str) -> None:
    def padded(total_bytes: int) -> bytes:
        plain = build_startup({"user": "trusted", "database": database, "application_name": ""})
        name = "x" * (total_bytes - len(plain))
        return build_startup({"user": "trusted", "database": database, "application_name": name})

    database = direct.rpartition("/")[2]
    with proxy_to(direct) as proxy:
        for url in (direct, proxy.url):
            with Raw(url) as client:
                client.send(padded(10_004))
                assert codes(client.until("Z"))[-1] == "Z"
            with Raw(url) as client:
                client.send(padded(10_005))
                assert client.read() is None


def test_max_startup_bytes_bounds_what_a_client_may_begin_with(direct: str) -> None:
    with proxy_to(direct, max_startup_bytes=200) as proxy:
        with Raw(proxy.url) as client:
            assert codes(client.start(application_name="x" * 100))[-1] == "Z"
        with Raw(proxy.url) as client:
            assert client.start(application_name="x" * 300) == []


def test_an_idle_client_is_closed_after_client_idle_timeout_s_and_others_are_not(direct: str) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(direct, client_idle_timeout_s=0.3))
        idle, inside, asking, busy = (stack.enter_context(Raw(proxy.url)) for _ in range(4))
        for client in (idle, inside, asking, busy):
            client.start()
        inside.query("BEGIN")
        busy.send(build_query("SELECT pg_sleep(3)"))
        ended = threading.Event()
        threading.Thread(target=lambda: (idle.until("E"), ended.set()), daemon=True).start()
        while not ended.wait(0.02):
            assert works(asking)
        assert idle.read() is None
        assert works(inside)
        assert codes(busy.until("Z")) == "TDCZ"
        assert errors(busy.rest()) == IDLE
    with Raw(direct) as client:
        client.start()
        eventually(lambda: _sessions(client) == 0)


def _sessions(client: Raw) -> int:
    row = client.query(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(row[1][11:])


@pytest.mark.parametrize("end", ["idle timeout", "drain"])
def test_an_implicit_transaction_without_its_sync_is_not_idle(direct: str, end: str) -> None:
    with Raw(direct) as other:
        other.start()
        other.query("DELETE FROM implicit")
        values = {"client_idle_timeout_s": 0.2} if end == "idle timeout" else {}
        with proxy_to(direct, **values) as proxy, Raw(proxy.url) as client, Raw(proxy.url) as idle:
            client.start()
            idle.start()
            client.send(
                build_parse("", "INSERT INTO implicit VALUES (1)")
                + build_bind("", "")
                + build_execute("")
                + build_flush()
            )
            assert codes(client.until("C")) == "12C"
            draining = None
            if end == "drain":
                app = proxy.running._app
                draining = asyncio.run_coroutine_threadsafe(app.listener.drain(20.0), proxy.running._loop)
            assert errors(idle.until("E"))[0][1] in ("57P05", "57P01")
            client.send(build_sync())
            assert codes(client.until("Z")) == "Z"
            assert errors(client.rest())[0][1] in ("57P05", "57P01")
            if draining is not None:
                draining.result(20)
        assert codes(other.query("SELECT FROM implicit")) == "TDCZ"
