"""Whole conversations, frame by frame: what a client gets behind the proxy is what it gets from the server.

Each script is played direct and through a proxy that only watches, then twice through one that may cache everything.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_flush,
    build_frame,
    build_parse,
    build_query,
    build_sync,
    build_terminate,
)
from pgloupe.wire.startup import build_cancel_request, build_gssenc_request, build_ssl_request, build_startup
from support.proxy import Proxy, proxy_to
from support.raw import COPY_DONE, Raw, Script, codes, copy_data, copy_fail, errors, eventually, function_call, play
from support.servers import Postgres, PostgresServer

TABLES = ["item", "note"]
EVERYTHING = {"allow": [{"name": "all", "tables": TABLES, "ttl": "60s"}]}
RESET = "TRUNCATE note; DELETE FROM item; INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 9) n"

INT4PL = 177
"""OID of int4pl(integer, integer), the same in every server."""


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a database with nine items and no notes, for a role that needs no password."""
    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE item (id integer PRIMARY KEY, name text)")
        connection.execute("CREATE TABLE note (id integer PRIMARY KEY, body text)")
        connection.execute("GRANT ALL ON item, note TO PUBLIC")
        connection.execute(RESET)
    return postgres.url_for("trusted", database.rpartition("/")[2])


@pytest.fixture(scope="module")
def watching(direct: str) -> Iterator[Proxy]:
    with proxy_to(direct) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def caching(direct: str) -> Iterator[Proxy]:
    with proxy_to(direct, cache=EVERYTHING) as proxy:
        yield proxy


def ask(name: str, sql: str, *values: bytes, portal: str = "", limit: int = 0, oids: tuple[int, ...] = ()) -> bytes:
    """Parse Bind Describe Execute, without Sync."""
    return (
        build_parse(name, sql, oids)
        + build_bind(portal, name, values)
        + build_describe("P", portal)
        + build_execute(portal, limit)
    )


@dataclass
class Case:
    script: Script
    writes: bool = False
    hits: int = 0
    """How often it is answered by the cache once its answers are known, at least. 0 also where an Execute of nothing, which
    may have been anything, makes the cache forget all that it knows."""


SELECT_ALL = "SELECT id, name FROM item ORDER BY id"
SELECT_ONE = "SELECT name FROM item WHERE id = $1"
SYNC = build_sync()
FLUSH = build_flush()

CASES: dict[str, Case] = {
    "one simple query": Case([(build_query(SELECT_ALL), 1)], hits=1),
    "one simple query, again and again": Case([(build_query(SELECT_ALL), 1)] * 3, hits=3),
    "simple queries sent without waiting": Case([(build_query(SELECT_ALL) * 4, 4)]),
    "several statements in a query": Case([(build_query(f"{SELECT_ALL}; SELECT 1; SELECT count(*) FROM item"), 1)]),
    "an error among several statements": Case(
        [(build_query("INSERT INTO note VALUES (1, 'a'); SELECT 1/0; SELECT 2"), 1), (build_query(SELECT_ALL), 1)],
        writes=True,
    ),
    "several statements with a block of their own": Case(
        [
            (build_query("BEGIN; INSERT INTO note VALUES (1, 'a'); COMMIT; INSERT INTO note VALUES (1, 'b')"), 1),
            (build_query("SELECT * FROM note"), 1),
        ],
        writes=True,
    ),
    "an empty query": Case([(build_query(""), 1), (build_query(" ; /* nothing */ ;"), 1), (ask("", "") + SYNC, 1)]),
    "a syntax error": Case([(build_query("SELEC 1"), 1), (build_query(SELECT_ALL), 1)]),
    "an unterminated query string": Case([(build_frame(0x51, b"SELECT 1"), 1), (build_query("SELECT 2"), 1)]),
    "one extended query": Case([(ask("", SELECT_ONE, b"3") + SYNC, 1)] * 2, hits=2),
    # never answered from the cache: nothing says what the rows are
    "an extended query without Describe": Case(
        [(build_parse("", SELECT_ONE) + build_bind("", "", (b"3",)) + build_execute("") + SYNC, 1)] * 2
    ),
    "an extended query, each message by itself": Case(
        [
            (build_parse("", SELECT_ONE), None),
            (build_bind("", "", (b"3",)), None),
            (build_describe("P", ""), None),
            (build_execute(""), None),
            (SYNC, 1),
        ]
    ),
    "Sync alone": Case([(SYNC, 1), (SYNC + SYNC, 2)]),
    "a prepared statement": Case(
        [
            (build_parse("s", SELECT_ONE) + build_describe("S", "s") + SYNC, 1),
            (build_bind("", "s", (b"3",)) + build_execute("") + SYNC, 1),
            (build_bind("", "s", (b"4",)) + build_execute("") + SYNC, 1),
            (build_bind("", "s", (b"3",), (0,), (1,)) + build_describe("P", "") + build_execute("") + SYNC, 1),
            (build_close("S", "s") + SYNC, 1),
            (build_bind("", "s", (b"3",)) + build_execute("") + SYNC, 1),
        ],
    ),
    "binary results and text results of one statement": Case(
        [
            (
                build_parse("", SELECT_ALL)
                + build_bind("", "", (), (), f)
                + build_describe("P", "")
                + build_execute("")
                + SYNC,
                1,
            )
            for f in ((), (0,), (1,), (0, 1), (1, 0))
        ],
        hits=5,
    ),
    "binary parameters": Case(
        [
            (
                build_parse("", SELECT_ONE, (23,))
                + build_bind("", "", ((3).to_bytes(4, "big"),), (1,))
                + build_describe("P", "")
                + build_execute("")
                + SYNC,
                1,
            )
        ]
        * 2,
        hits=2,
    ),
    "a parameter that is no number": Case(
        [(ask("", SELECT_ONE, b"x") + SYNC, 1), (ask("", SELECT_ONE, b"3") + SYNC, 1)], hits=1
    ),
    "the unnamed statement is used again": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_bind("", "", (b"4",)) + build_describe("P", "") + build_execute("") + SYNC, 1),
            (build_describe("S", "") + SYNC, 1),
            (build_bind("p", "", (b"5",)) + build_execute("p") + SYNC, 1),
        ],
        hits=2,
    ),
    "a simple query destroys the unnamed statement": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (build_bind("", "", (b"4",)) + build_execute("") + SYNC, 1),
            (build_describe("S", "") + SYNC, 1),
        ],
    ),
    "Close of the unnamed statement": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_close("S", "") + SYNC, 1),
            (build_bind("", "", (b"4",)) + build_execute("") + SYNC, 1),
        ],
    ),
    "a Parse that fails destroys the unnamed statement": Case(
        [
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_parse("", "SELEC") + SYNC, 1),
            (build_bind("", "", (b"4",)) + build_execute("") + SYNC, 1),
        ],
    ),
    "the same name is prepared twice": Case(
        [
            (build_parse("s", SELECT_ONE) + SYNC, 1),
            (build_parse("s", "SELECT 1") + SYNC, 1),
            (build_bind("", "s", (b"3",)) + build_describe("P", "") + build_execute("") + SYNC, 1),
        ],
        hits=1,
    ),
    "names that SQL takes away": Case(
        [
            (build_parse("s", SELECT_ONE) + build_parse("t", SELECT_ALL) + SYNC, 1),
            (build_query("DEALLOCATE s"), 1),
            (build_bind("", "s", (b"3",)) + build_execute("") + SYNC, 1),
            (build_bind("", "t") + build_execute("") + SYNC, 1),
            (build_query("DISCARD ALL"), 1),
            (build_bind("", "t") + build_execute("") + SYNC, 1),
        ],
    ),
    "after an error everything up to Sync is skipped": Case(
        [
            (
                ask("", SELECT_ONE, b"3")
                + ask("", "SELECT 1/0")
                + ask("", "SELECT 2")
                + build_query("SELECT 3")
                + build_describe("S", "none")
                + SYNC
                + ask("", SELECT_ONE, b"4")
                + SYNC,
                2,
            ),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
        ],
        hits=1,
    ),
    "what comes after an error, before Sync, is skipped": Case(
        [
            (ask("", "SELECT 1/0") + FLUSH, "E"),
            (ask("", "SELECT 2") + build_query("SELECT 3"), None),
            (FLUSH, None),
            (SYNC, 1),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
        ],
    ),
    "Flush without Sync is answered": Case(
        [
            (build_parse("", SELECT_ONE) + build_describe("S", "") + FLUSH, "T"),
            (build_bind("", "", (b"3",)) + FLUSH, "2"),
            (build_execute("") + FLUSH, "C"),
            (build_bind("", "", (b"4",)) + build_execute("") + FLUSH, "C"),
            (SYNC, 1),
            (ask("", SELECT_ONE, b"3") + FLUSH, "C"),
            (SYNC, 1),
        ]
    ),
    "a query in the middle of an extended batch": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("s", SELECT_ONE) + build_bind("p", "s", (b"3",)), None),
            (build_query("SAVEPOINT a"), 1),
            (build_execute("p") + SYNC, 1),
            (build_parse("", SELECT_ONE) + build_query("SELECT 1") + build_bind("", "", (b"3",)) + SYNC, 2),
            (build_query("ROLLBACK TO a; COMMIT"), 1),
        ]
    ),
    "a query right behind an answered cycle": Case(
        [(ask("", SELECT_ONE, b"3") + SYNC + build_query(SELECT_ALL) + ask("", SELECT_ONE, b"4") + SYNC, 3)] * 2
    ),
    "a suspended portal": Case(
        [
            (build_parse("", SELECT_ALL) + build_bind("", "") + build_execute("", 4) + FLUSH, "s"),
            (build_execute("", 4) + FLUSH, "s"),
            (build_execute("", 4) + FLUSH, "C"),
            (build_execute("", 4) + FLUSH, "C"),
            (SYNC, 1),
        ]
    ),
    "a suspended portal in a transaction block": Case(
        [
            (build_query("BEGIN"), 1),
            (build_parse("", SELECT_ALL) + build_bind("p", "") + build_execute("p", 4) + SYNC, 1),
            (build_execute("p", 4) + SYNC, 1),
            (build_execute("p", 0) + SYNC, 1),
            (build_query("COMMIT"), 1),
            (build_execute("p", 0) + SYNC, 1),
        ]
    ),
    "a row limit, and the portal ends with Sync": Case(
        [(ask("", SELECT_ALL, limit=n) + SYNC, 1) for n in (1, 2, 9, 10, 1)], hits=5
    ),
    "a portal that ended with Sync": Case([(ask("", SELECT_ALL, limit=2) + SYNC, 1), (build_execute("", 2) + SYNC, 1)]),
    "several portals at once": Case(
        [
            (
                build_parse("a", SELECT_ALL)
                + build_parse("b", SELECT_ONE)
                + build_bind("p", "a")
                + build_bind("q", "b", (b"3",))
                + build_execute("p", 2)
                + build_execute("q")
                + build_execute("p", 3)
                + build_close("P", "p")
                + build_execute("p")
                + SYNC,
                1,
            ),
        ]
    ),
    "a cursor WITH HOLD": Case(
        [
            (build_query("BEGIN; DECLARE c CURSOR WITH HOLD FOR " + SELECT_ALL + "; FETCH 2 FROM c; COMMIT"), 1),
            (build_query("FETCH 2 FROM c"), 1),
            (build_describe("P", "c") + build_execute("c", 2) + SYNC, 1),
            (build_query("CLOSE c"), 1),
        ]
    ),
    "no data": Case(
        [(ask("", "INSERT INTO note VALUES ($1, $2)", b"1", b"x") + SYNC, 1), (ask("", "BEGIN") + SYNC, 1)],
        writes=True,
    ),
    "a write and the read behind it": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_query("UPDATE item SET name = 'new' WHERE id = 2"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", "UPDATE item SET name = $1 WHERE id = 3", b"newer") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "writes and reads in one pipeline": Case(
        [
            (
                ask("", "UPDATE item SET name = 'a' WHERE id = 1")
                + SYNC
                + build_query("SELECT name FROM item WHERE id = 1")
                + ask("", "UPDATE item SET name = 'b' WHERE id = 1")
                + SYNC
                + build_query("SELECT name FROM item WHERE id = 1")
                + build_query("UPDATE item SET name = 'c' WHERE id = 1")
                + build_query("SELECT name FROM item WHERE id = 1"),
                6,
            )
        ],
        writes=True,
    ),
    "a name whose second Parse fails, used before that is known": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", "DELETE FROM item WHERE id = 1") + SYNC, 1),
            (build_parse("s", "SELECT 1") + SYNC + build_bind("", "s") + build_execute("") + SYNC, 2),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a name whose Close and Parse are skipped, used before that is known": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("s", "DELETE FROM item WHERE id = 2") + SYNC, 1),
            (
                ask("", "SELECT 1/0")
                + build_close("S", "s")
                + build_parse("s", "SELECT 1")
                + SYNC
                + build_bind("", "s")
                + build_execute("")
                + SYNC,
                2,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "an unnamed Parse that is skipped, used before that is known": Case(
        [
            (build_query(SELECT_ALL), 1),
            (build_parse("", "DELETE FROM item WHERE id = 3") + SYNC, 1),
            (
                build_bind("", "missing")
                + build_parse("", "SELECT 1")
                + SYNC
                + build_bind("", "")
                + build_execute("")
                + SYNC,
                2,
            ),
            (build_query(SELECT_ALL), 1),
        ],
        writes=True,
    ),
    "a failed transaction": Case(
        [
            (build_query("BEGIN"), 1),
            (build_query("INSERT INTO note VALUES (1, 'a')"), 1),
            (build_query("SELECT 1/0"), 1),
            (build_query(SELECT_ALL), 1),
            (ask("", SELECT_ONE, b"3") + SYNC, 1),
            (build_query("COMMIT"), 1),
            (build_query("SELECT * FROM note"), 1),
        ],
        writes=True,
    ),
    "copy in": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta", "2\tb"), None),
            (copy_data("3\tc") + COPY_DONE, 1),
            (build_query("SELECT * FROM note ORDER BY id"), 1),
        ],
        writes=True,
    ),
    "copy in, sent without waiting": Case(
        [
            (build_query("COPY note FROM STDIN") + copy_data("1\ta") + COPY_DONE + build_query("TABLE note"), 2),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "Sync and Flush during copy in are ignored": Case(
        [
            (build_parse("", "COPY note FROM STDIN") + build_bind("", "") + build_execute("") + SYNC, "G"),
            (copy_data("1\ta") + FLUSH + SYNC, None),
            (copy_data("2\tb") + COPY_DONE + SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "CopyFail": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta") + copy_fail("no more"), 1),
            (build_parse("", "COPY note FROM STDIN") + build_bind("", "") + build_execute("") + FLUSH, "G"),
            (copy_data("1\ta") + copy_fail("no more") + SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "an error in the middle of copy in": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta", "x\tb"), 1),
            (copy_data("3\tc") + COPY_DONE, None),
            (build_query("TABLE note"), 1),
            (build_parse("", "COPY note FROM STDIN") + build_bind("", "") + build_execute("") + FLUSH, "G"),
            (copy_data("1\ta", "x\tb"), "E"),
            (copy_data("3\tc") + COPY_DONE + build_query("SELECT 1"), None),
            (SYNC, 1),
            (build_query("TABLE note"), 1),
        ],
        writes=True,
    ),
    "copy out": Case(
        [
            (build_query("COPY item TO STDOUT"), 1),
            (build_parse("", "COPY item TO STDOUT") + build_bind("", "") + build_execute("") + SYNC, 1),
            (build_query("COPY item TO STDOUT; SELECT 1; COPY (SELECT 1/0) TO STDOUT; SELECT 2"), 1),
        ]
    ),
    "a function call": Case(
        [
            (function_call(INT4PL, (2).to_bytes(4, "big"), (3).to_bytes(4, "big")), 1),
            (function_call(INT4PL, (2).to_bytes(4, "big")), 1),
            (function_call(1), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a notification to oneself": Case(
        [
            (build_query("LISTEN news"), 1),
            (build_query("NOTIFY news, 'now'"), 1),
            (build_query("BEGIN; NOTIFY news, 'later'"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("COMMIT"), 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "notices and reported settings": Case(
        [
            (build_query("SET application_name = 'other'"), 1),
            (build_query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$"), 1),
            (build_query("SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'"), 1),
            (build_query(SELECT_ALL), 1),
            (build_query("RESET ALL"), 1),
        ]
    ),
    "settings change what is read": Case(
        [
            (build_query("SELECT id, name::bytea FROM item ORDER BY id LIMIT 2"), 1),
            (build_query("SET bytea_output = 'escape'"), 1),
            (build_query("SELECT id, name::bytea FROM item ORDER BY id LIMIT 2"), 1),
            (build_query("SELECT id, name::bytea FROM item ORDER BY id LIMIT 2"), 1),
        ],
        hits=3,
    ),
    # the next ones end a session of which nobody can say what it wrote: what it may have been is not answered for a while
    "a query during copy in": Case(
        [
            (build_query("COPY note FROM STDIN"), "G"),
            (copy_data("1\ta") + build_query("SELECT 1"), "end"),
        ],
        writes=True,
    ),
    "a message of unknown type": Case([(build_frame(0x79, b"what"), "end")]),
    "a length that cannot be": Case([(b"Q\xff\xff\xff\xff" + b"x" * 20, "end")]),
    "a Query that is longer than a frame may be kept": Case(
        [(build_query("SELECT 1 /*" + "x" * (3 << 20) + "*/"), 1), (build_query(SELECT_ALL), 1)]
    ),
    "a Bind that is longer than a frame may be kept": Case(
        [
            (ask("", "SELECT length($1)", b"x" * (3 << 20)) + SYNC, 1),
            (build_bind("", "", (b"abc",)) + build_execute("") + SYNC, 1),
            (build_query(SELECT_ALL), 1),
        ]
    ),
    "a value that is longer than a frame may be kept": Case(
        [(build_query("SELECT repeat('x', 3000000) FROM item WHERE id < 3"), 1), (build_query(SELECT_ALL), 1)]
    ),
    "Terminate": Case([(build_terminate(), "end")]),
    "Terminate behind a query": Case([(build_query(SELECT_ALL) + build_terminate(), "end")]),
}


def answers(url: str, case: Case, *, chunk_bytes: int = 0) -> list[list[bytes]]:
    if case.writes:
        with Raw(url) as client:
            client.start()
            client.query(RESET)
    script = case.script
    if script[-1][1] != "end":
        script = [*script, (build_query("SHOW server_version_num"), 1)]
    if chunk_bytes:
        script = [
            (data[at : at + chunk_bytes], wait if at + chunk_bytes >= len(data) else None)
            for data, wait in script
            for at in range(0, len(data), chunk_bytes)
        ]
    return play(url, script)


def followed(proxy: Proxy) -> int:
    """How many conversations the proxy has understood to their last query."""
    return sum(calls for template, calls in proxy.calls().items() if "server_version_num" in template)


@pytest.mark.parametrize("name", CASES)
def test_a_watched_conversation_is_that_of_the_server(direct: str, watching: Proxy, name: str) -> None:
    expected = answers(direct, CASES[name])
    before = followed(watching)
    assert answers(watching.url, CASES[name]) == expected
    assert followed(watching) == before + (CASES[name].script[-1][1] != "end")


@pytest.mark.parametrize("name", CASES)
def test_a_conversation_with_the_cache_is_that_of_the_server(direct: str, caching: Proxy, name: str) -> None:
    case = CASES[name]
    expected = answers(direct, case)
    assert answers(caching.url, case) == expected

    def answered_by_the_cache() -> bool:
        before = caching.running.cache_statistics()["hits"]
        still_followed = followed(caching)
        assert answers(caching.url, case) == expected
        assert followed(caching) == still_followed + (case.script[-1][1] != "end")
        return caching.running.cache_statistics()["hits"] - before >= case.hits

    # not always at once: after a statement that may do anything, the catalogs are read again first
    eventually(answered_by_the_cache)


def cut(case: Case) -> bool:
    """It is short, and the server does not close before it has read all of it."""
    return not any(len(data) > 3000 or wait == "end" for data, wait in case.script)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if cut(case)])
def test_messages_cut_into_single_bytes_make_no_difference(
    direct: str, watching: Proxy, caching: Proxy, name: str
) -> None:
    expected = answers(direct, CASES[name])
    for proxy in (watching, caching):
        before = followed(proxy)
        assert answers(proxy.url, CASES[name], chunk_bytes=1) == expected
        assert followed(proxy) == before + 1


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
        with proxy_to(f"postgresql://nobody@127.0.0.1:{port}/none") as proxy, Raw(proxy.url) as canceller:
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


def session_elsewhere(url: str) -> list[bytes]:
    with Raw(url) as other:
        other.start()
        return other.query("SELECT 1")


def asleep(proxy: Proxy, client: Raw) -> None:
    """Wait until the server runs the client's pg_sleep."""
    with psycopg.connect(proxy.upstream, autocommit=True) as connection:
        state = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: connection.execute(state, (client.process,)).fetchone() == ("PgSleep",))


def test_a_notification_reaches_a_session_that_is_idle(direct: str, watching: Proxy, caching: Proxy) -> None:
    for proxy in (watching, caching):
        with Raw(proxy.url) as client, Raw(direct) as sender:
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
