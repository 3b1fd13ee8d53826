"""Clients that send garbage, that vanish, that stop sending or reading: nobody else notices, what they sent is done, and nothing
is left behind.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest

from pgloupe.wire.frontend import build_bind, build_execute, build_parse, build_query, build_sync
from pgloupe.wire.startup import build_startup
from support.leftovers import (
    EVERYTHING,
    LARGE,
    database_of_things,
    gone,
    nothing_left,
    open_connections,
    settled,
    sockets,
    works,
)
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, copy_data, errors, eventually
from support.servers import Postgres, RedisServer

SYNC = build_sync()


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database for a role that needs no password."""
    return database_of_things(postgres)


@pytest.fixture(params=["watching", "caching"])
def proxy(direct: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with proxy_to(direct, **({"cache": EVERYTHING} if request.param == "caching" else {})) as started:
        yield started
        settled(started)


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


VICTIM = """
import sys, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
cursor = connection.cursor()
cursor.execute("CREATE TEMPORARY TABLE mine (id int)")
if sys.argv[2] == "a transaction":
    cursor.execute("BEGIN; INSERT INTO thing VALUES (66)")
elif sys.argv[2] == "a COPY":
    held = cursor.copy("COPY thing FROM STDIN")
    copy = held.__enter__()
    for _ in range(20_000):
        copy.write_row((66,))
else:
    rows = cursor.stream("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")
    next(iter(rows))
print(connection.info.backend_pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("inside", ["a transaction", "a COPY", "a result"])
def test_a_client_killed_in_the_middle_of_something_leaves_nothing(direct: str, proxy: Proxy, inside: str) -> None:
    with nothing_left(proxy):
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, proxy.url, inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as victim:
            assert victim.stdout is not None
            process = int(victim.stdout.readline())
            victim.kill()
        settled(proxy)
        gone(direct, process)
        works(proxy.url)


def test_a_burst_of_statements_of_one_client_does_not_stop_the_others(direct: str) -> None:
    """Hundreds of kilobytes of statements that were never seen before, and their answers, are taken in by turns."""
    with proxy_to(direct) as proxy, Raw(proxy.url) as busy, Raw(proxy.url) as other:
        busy.start()
        other.start()
        loop = proxy.running._loop
        turns = 0
        ended = threading.Event()

        def tick() -> None:
            nonlocal turns
            turns += 1
            if not ended.is_set():
                loop.call_soon(tick)

        queries = [f"SELECT {number} AS c{number}, 'x' AS d{number}" for number in range(8_000)]
        answers = threading.Thread(target=lambda: busy.until("Z", len(queries)))
        answers.start()
        loop.call_soon_threadsafe(tick)
        busy.send(b"".join(build_query(query) for query in queries))
        assert codes(other.query("SELECT id FROM thing")) == "TDDDDDCZ"
        answers.join(20)
        ended.set()
        assert not answers.is_alive()
        assert proxy.report()["statements"] == len(queries) + 1
        # a turn is one slice of what came at most; the whole burst is a hundred of them
        assert turns > 30
