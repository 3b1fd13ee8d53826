"""Servers that are not there, peers that vanish, readers that do not read, signals: each client gets a PostgreSQL error or the
end of its connection, nobody else notices, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from pgloupe.wire.frontend import build_bind, build_execute, build_parse, build_query, build_sync
from pgloupe.wire.startup import build_startup
from support.proxy import Proxy, Serve, proxy_to
from support.raw import Raw, codes, copy_data, errors, eventually
from support.servers import Postgres, PostgresServer, RedisServer

EVERYTHING = {"allow": [{"name": "all", "tables": ["thing"], "ttl": "60s"}]}
LARGE = "SELECT repeat('x', 1000) FROM generate_series(1, {})"
SYNC = build_sync()


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database for a role that needs no password."""
    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE thing AS SELECT n AS id FROM generate_series(1, 5) n")
        connection.execute("GRANT ALL ON thing TO PUBLIC")
    return postgres.url_for("trusted", database.rpartition("/")[2])


@pytest.fixture(params=["watching", "caching"])
def proxy(direct: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxy_to(direct, **({"cache": EVERYTHING} if request.param == "caching" else {})) as started:
        yield started
        settled(started)


def open_connections(proxy: Proxy) -> tuple[int, int]:
    """How many clients and how many tasks the proxy holds."""
    listener = proxy.running._app.listener
    found: tuple[int, int] = proxy.running._ask(lambda: (len(listener.frontends), len(listener.tasks)))
    return found


def settled(proxy: Proxy) -> None:
    """Wait until the proxy holds nothing any more."""
    eventually(lambda: open_connections(proxy) == (0, 0))


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


def gone(url: str, process: int) -> None:
    """Wait until the server has ended this backend."""
    with psycopg.connect(url, autocommit=True) as connection:
        alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: connection.execute(alive, (process,)).fetchone() == (0,))


def works(url: str) -> None:
    with Raw(url) as client:
        client.start()
        assert codes(client.query("SELECT id FROM thing")) == "TDDDDDCZ"


# --- the server ---


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
        url = f"postgresql://nobody@127.0.0.1:{full.getsockname()[1]}/none"
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
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/none"
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
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/none"
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


# --- clients ---


GARBAGE = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "noise": random.Random(7).randbytes(5000),
    "a length of four": (4).to_bytes(4, "big"),
    "a length of a gigabyte": (1 << 30).to_bytes(4, "big") + (196608).to_bytes(4, "big"),
    "a negative length": b"\xff\xff\xff\xf8" + (196608).to_bytes(4, "big"),
    "no parameters": (8).to_bytes(4, "big") + (196608).to_bytes(4, "big"),
    "no terminator": (12).to_bytes(4, "big") + (196608).to_bytes(4, "big") + b"user",
    "a name without a value": (14).to_bytes(4, "big") + (196608).to_bytes(4, "big") + b"user\0\0",
    "a cancel request without a key": (12).to_bytes(4, "big") + (80877102).to_bytes(4, "big") + bytes(4),
    "half of a start-up packet": build_startup({"user": "x" * 100})[:60],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_closes_its_connection_and_nobody_notices(proxy: Proxy, name: str) -> None:
    with Raw(proxy.url) as bystander:
        bystander.start()
        assert codes(bystander.query("BEGIN")) == "CZ"
        with Raw(proxy.url) as client:
            client.send(GARBAGE[name])
            client.half_close()
            while client.receive():
                pass
        assert codes(bystander.query("SELECT id FROM thing")) == "TDDDDDCZ"
        assert codes(bystander.query("COMMIT")) == "CZ"
        eventually(lambda: open_connections(proxy)[0] == 1)


@pytest.mark.parametrize("version", [2 << 16, 1 << 16, 4 << 16])
def test_another_protocol_version_is_refused_with_a_sentence(proxy: Proxy, version: int) -> None:
    with Raw(proxy.url) as client:
        client.send(build_startup({"user": "x"}, version))
        ((severity, sqlstate, text),) = errors(client.rest())
        assert (severity, sqlstate) == ("FATAL", "0A000")
        assert text.startswith("unsupported frontend protocol")


def test_a_client_that_says_nothing_is_closed(direct: str) -> None:
    with proxy_to(direct, auth_timeout_s=0.1) as proxy:
        with Raw(proxy.url) as silent:
            assert silent.rest() == []
        settled(proxy)
        with Raw(proxy.url) as client:
            client.start()
            with Raw(proxy.url) as silent:
                assert silent.rest() == []
            assert codes(client.query("SELECT 1")) == "TDCZ"  # who is in is not counted out


def test_a_client_that_does_not_authenticate_is_told_and_closed(postgres: Postgres) -> None:
    with proxy_to(postgres.url, auth_timeout_s=0.1) as proxy:
        with Raw(proxy.url) as client:
            client.send(build_startup({"user": client.user, "database": client.database}))
            assert errors(client.rest()) == [("FATAL", "57014", "canceling authentication due to timeout")]
        settled(proxy)


def test_a_client_that_vanishes_in_the_middle_of_a_result_leaves_nothing(direct: str, proxy: Proxy) -> None:
    before = sockets()
    with Raw(proxy.url, receive_buffer_bytes=4096) as client:
        client.start()
        client.send(build_query(LARGE.format(20_000)))
        client.receive()
        client.reset()
    settled(proxy)
    gone(direct, client.process)
    eventually(lambda: sockets() <= before)
    works(proxy.url)


@pytest.mark.parametrize("last", ["BEGIN; INSERT INTO thing VALUES (99)", "COPY thing FROM STDIN", "SELECT 1"])
def test_a_client_that_vanishes_leaves_nothing_of_its_transaction(direct: str, proxy: Proxy, last: str) -> None:
    with Raw(proxy.url) as client:
        client.start()
        client.send(build_query(last))
        client.read()
        client.send(copy_data("98") if last.startswith("COPY") else b"")
        client.reset()
    settled(proxy)
    gone(direct, client.process)
    works(proxy.url)


HALVES = {
    "a query": (build_query("SELECT id FROM thing"), "TDDDDDCZ"),
    "several queries": (build_query("SELECT id FROM thing") * 3, "TDDDDDCZ" * 3),
    "a cycle": (
        build_parse("", "SELECT id FROM thing") + build_bind("", "") + build_execute("") + SYNC,
        "12DDDDDCZ",
    ),
    "the beginning of a cycle": (build_parse("", "SELECT id FROM thing") + build_bind("", ""), ""),
    "half of a message": (build_query("SELECT id FROM thing") + b"Q\0\0", "TDDDDDCZ"),
    "a slow query": (build_query("SELECT 1 FROM pg_sleep(0.05)"), "TDCZ"),
    "a write and a read": (build_query("DELETE FROM thing WHERE id > 5") + build_query("TABLE thing"), "CZTDDDDDCZ"),
}


@pytest.mark.parametrize("name", HALVES)
def test_answers_still_arrive_when_the_client_has_stopped_sending(direct: str, proxy: Proxy, name: str) -> None:
    data, expected = HALVES[name]
    for url in (direct, proxy.url, proxy.url):
        with Raw(url) as client:
            client.start()
            client.send(data)
            client.half_close()
            assert codes(client.rest()) == expected
    settled(proxy)


def test_a_large_answer_still_arrives_when_the_client_has_stopped_sending(direct: str, proxy: Proxy) -> None:
    with Raw(proxy.url) as client:
        client.start()
        client.send(build_query(LARGE.format(20_000)))
        client.half_close()
        frames = client.rest()
        assert len(frames) == 20_003
        assert codes(frames[-2:]) == "CZ"
    settled(proxy)
    gone(direct, client.process)


def test_a_write_is_done_when_the_client_says_goodbye_at_once(direct: str, proxy: Proxy) -> None:
    for number in range(20):
        with Raw(proxy.url) as client:
            client.start()
            client.send(build_query(f"INSERT INTO thing VALUES ({1000 + number})"))
            client.terminate()
    settled(proxy)
    with psycopg.connect(direct, autocommit=True) as connection:
        counted = "SELECT count(*) FROM thing WHERE id >= 1000"
        eventually(lambda: connection.execute(counted).fetchone() == (20,))
        connection.execute("DELETE FROM thing WHERE id > 5")


@pytest.mark.parametrize("goodbye", ["half close", "Terminate", "close"])
def test_a_write_that_waits_for_redis_is_done_although_the_client_has_gone(
    direct: str, own_redis: RedisServer, goodbye: str
) -> None:
    """The client has said everything; Redis has not said yet that the write may go on."""
    with proxy_to(direct, cache={**EVERYTHING, "redis": own_redis.url, "redis_timeout_s": 0.2}) as proxy:
        with Raw(proxy.url) as client:
            client.start()
            client.query("INSERT INTO thing VALUES (500)")
            own_redis.pause()
            client.send(build_query("INSERT INTO thing VALUES (501)"))
            if goodbye == "half close":
                client.half_close()
                assert codes(client.rest()) == "CZ"
            elif goodbye == "Terminate":
                client.terminate()
                assert codes(client.rest()) == "CZ"
        settled(proxy)
        own_redis.resume()
    with psycopg.connect(direct, autocommit=True) as connection:
        deletion = "DELETE FROM thing WHERE id = 501"
        eventually(lambda: connection.execute(deletion).rowcount == 1)
        connection.execute("DELETE FROM thing WHERE id > 5")


def test_the_limits_of_the_server_are_told_by_the_server(postgres: Postgres) -> None:
    database = postgres.create_database()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {database.rpartition('/')[2]} CONNECTION LIMIT 1")
    with proxy_to(database) as proxy:
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


# --- memory ---


def memory_kb(process: int, field: str) -> int:
    path = Path(f"/proc/{process}/status")
    if not path.exists():
        pytest.skip("memory is measured in /proc")
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


@pytest.fixture(scope="module", params=["watching", "caching"])
def serve(direct: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("serve")
    if request.param == "caching":
        rule = '[[cache.allow]]\nname = "all"\ntables = ["thing"]\nttl = "60s"\n'
        (folder / "pgloupe.toml").write_text(rule)
    with Serve("--upstream", direct, cwd=str(folder)) as started:
        yield started


def through(serve: Serve, url: str) -> str:
    return f"{url.rpartition('@')[0]}@127.0.0.1:{serve.port}/{url.rpartition('/')[2]}"


def test_a_reader_that_does_not_read_costs_no_memory_and_delays_nobody(direct: str, serve: Serve) -> None:
    url = through(serve, direct)
    rows = 300_000
    works(url)
    before = memory_kb(serve.process.pid, "VmRSS")
    with Raw(url, receive_buffer_bytes=65536) as slow, psycopg.connect(direct, autocommit=True) as observer:
        slow.start()
        slow.send(build_query(LARGE.format(rows)))
        # the server itself waits for us: everything between is as full as it gets
        waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: observer.execute(waits, (slow.process,)).fetchone() == ("ClientWrite",))
        for _ in range(20):
            works(url)
        assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10
        received = 0
        tail = b""
        while not tail.endswith(b"Z\0\0\0\5I"):
            data = slow.socket.recv(1 << 20)
            assert data
            received += len(data)
            tail = (tail + data)[-6:]
        assert received > rows * 1000
    assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10


def test_a_client_that_asks_without_reading_is_stopped(direct: str, serve: Serve) -> None:
    url = through(serve, direct)
    works(url)
    before = memory_kb(serve.process.pid, "VmRSS")
    query = build_query(LARGE.format(10)) * 1000
    with Raw(url, receive_buffer_bytes=65536) as greedy:
        greedy.start()
        greedy.socket.settimeout(0.5)  # so long after the last byte that was taken
        with pytest.raises(TimeoutError):
            greedy.send(query * 1000)
        works(url)
        assert memory_kb(serve.process.pid, "VmHWM") - before < 64 << 10
        greedy.reset()
    gone(direct, greedy.process)
    works(url)


def test_one_value_of_two_hundred_megabytes_passes_in_constant_memory(direct: str, serve: Serve) -> None:
    url = through(serve, direct)
    works(url)
    before = memory_kb(serve.process.pid, "VmRSS")
    size = 200_000_000
    with Raw(url) as client:
        client.start()
        client.send(build_query(f"SELECT repeat('x', {size})"))
        received = 0
        tail = b""
        while not tail.endswith(b"Z\0\0\0\5I"):
            data = client.socket.recv(1 << 20)
            assert data
            received += len(data)
            tail = (tail + data)[-6:]
        assert received > size
    assert memory_kb(serve.process.pid, "VmHWM") - before < 32 << 10


# --- signals ---


def test_sigterm_drains(direct: str) -> None:
    with Serve("--upstream", direct) as serve:
        url = through(serve, direct)
        with Raw(url) as idle, Raw(url) as busy, Raw(url) as inside:
            for client in (idle, busy, inside):
                client.start()
            inside.query("BEGIN")
            inside.query("INSERT INTO thing VALUES (77)")
            busy.send(build_query("SELECT 1 FROM pg_sleep(0.2)"))
            serve.process.send_signal(signal.SIGTERM)
            shutdown = [("FATAL", "57P01", "terminating connection due to administrator command")]
            assert errors(idle.rest()) == shutdown
            with pytest.raises(ConnectionError):
                Raw(url)
            frames = busy.rest()
            assert codes(frames) == "TDCZE"
            assert errors(frames) == shutdown
            assert codes(inside.query("SELECT 1")) == "TDCZ"
            inside.send(build_query("COMMIT"))
            frames = inside.rest()
            assert codes(frames) == "CZE"
            assert errors(frames) == shutdown
        assert serve.process.wait(20) == 0
    with psycopg.connect(direct, autocommit=True) as connection:
        assert connection.execute("DELETE FROM thing WHERE id = 77").rowcount == 1


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]]
)
def test_sigint_or_a_second_signal_ends_at_once(direct: str, signals: list[signal.Signals]) -> None:
    with Serve("--upstream", direct) as serve:
        url = through(serve, direct)
        with Raw(url) as idle, Raw(url) as inside:
            idle.start()
            inside.start()
            inside.query("BEGIN")
            serve.process.send_signal(signals[0])
            assert errors(idle.rest())[0][1] == "57P01"
            for number in signals[1:]:
                serve.process.send_signal(number)
            assert errors(inside.rest())[0][1] == "57P01"
            process = inside.process
        assert serve.process.wait(20) == 0
    gone(direct, process)


def test_the_proxy_ends_while_everyone_is_busy(direct: str) -> None:
    """Nothing hangs: not a dialling, not a cancelling, not a stuck client."""
    with proxy_to(direct, cache=EVERYTHING) as proxy, ExitStack() as stack:
        slow = stack.enter_context(Raw(proxy.url, receive_buffer_bytes=4096))
        slow.start()
        slow.send(build_query(LARGE.format(20_000)))
        sleeper = stack.enter_context(Raw(proxy.url))
        sleeper.start()
        sleeper.send(build_query("SELECT pg_sleep(60)"))
        greeting = stack.enter_context(Raw(proxy.url))
        greeting.send(b"\0\0")
        partial = stack.enter_context(Raw(proxy.url))
        partial.start()
        partial.send(build_parse("", "SELECT id FROM thing"))
        before = threading.active_count()
    assert threading.active_count() < before
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (sleeper.process,))
    for client in (slow, sleeper, partial):
        gone(direct, client.process)
