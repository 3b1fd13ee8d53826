"""What a session has set counts: two sessions ask one text of one real server, and neither is given the other's answer.

One of them never sets anything and has its answer in the cache already. Were a setting of the other one forgotten, it would
be given that answer; what is right is what the same steps give without a proxy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from pgloupe.wire.frontend import (
    build_bind,
    build_describe,
    build_execute,
    build_flush,
    build_parse,
    build_query,
    build_sync,
)
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, eventually
from support.servers import Postgres

READ = "SELECT name, at, day, span, number / 3, bytes FROM author"

SETUP = """
    CREATE TABLE author (name text, at timestamptz, day date, span interval, number float8, bytes bytea);
    INSERT INTO author VALUES ('public', '2024-02-29 12:00+00', '2024-03-04', '1 day 2 hours', 1, '\\x00ff');
    CREATE SCHEMA a; CREATE TABLE a.author AS TABLE author; UPDATE a.author SET name = 'a';
    CREATE SCHEMA b; CREATE TABLE b.author AS TABLE author; UPDATE b.author SET name = 'b';
    CREATE SCHEMA plain; CREATE TABLE plain.author AS TABLE author; UPDATE plain.author SET name = 'plain';
    CREATE SCHEMA front;
    CREATE FUNCTION move() RETURNS int LANGUAGE plpgsql
        AS $$ BEGIN PERFORM set_config('search_path', 'a', false); RETURN 1; END $$;
    GRANT USAGE ON SCHEMA a, b, plain TO plain, trusted;
    GRANT SELECT ON author, a.author, b.author, plain.author TO plain, trusted;
"""

Step = str | tuple[str, tuple[Any, ...]] | bytes
"""Text for a simple Query, text and parameters for an extended one; bytes for one that fails."""


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_database()
    if postgres.superuser_url is None:
        pytest.skip("the server of PGLOUPE_TEST_POSTGRES has no superuser, who may take on any role")
    superuser = urlsplit(postgres.superuser_url)._replace(path=urlsplit(url).path).geturl()
    with psycopg.connect(superuser, autocommit=True) as setup:
        setup.execute(SETUP)
    yield superuser
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def proxy(database: str) -> Iterator[Proxy]:
    rule = {"name": "authors", "tables": ["author", "a.author", "b.author", "plain.author"], "ttl": "60s"}
    with proxy_to(database, cache={"allow": [rule]}) as started:
        yield started


def hits(proxy: Proxy) -> int:
    return int(proxy.running.cache_statistics()["hits"])


def read(client: psycopg.Connection[Any]) -> list[bytes | None]:
    """The answer as it was sent."""
    result = client.pgconn.exec_(READ.encode())
    assert result.ntuples == 1, result.error_message
    return [result.get_value(0, number) for number in range(result.nfields)]


def warm(proxy: Proxy, client: psycopg.Connection[Any]) -> None:
    """Until what this session asks is a hit: behind DDL the catalogs are read again first."""

    def hit() -> bool:
        before = hits(proxy)
        read(client)
        return hits(proxy) > before

    eventually(hit)


def take(client: psycopg.Connection[Any], steps: tuple[Step, ...]) -> None:
    for step in steps:
        if isinstance(step, bytes):
            with pytest.raises(psycopg.Error):
                client.execute(step)
        elif isinstance(step, str):
            client.execute(step)
        else:
            client.execute(step[0], step[1], prepare=False)


FOLLOWED: list[tuple[Step, ...]] = [
    # SET and its scopes
    ("SET search_path = a",),
    ("SET SESSION search_path TO a, public",),
    ("SET search_path = 'a'; SET search_path = b",),
    ("SET LOCAL search_path = a",),
    ("BEGIN", "SET search_path = a", "COMMIT"),
    ("BEGIN", "SET LOCAL search_path = a", "COMMIT"),
    ("BEGIN", "SET search_path = a", "SET LOCAL search_path = b", "COMMIT"),
    ("BEGIN", "SET LOCAL search_path = b", "SET search_path = a", "COMMIT"),
    ("BEGIN", "SET search_path = a", "ROLLBACK"),
    ("SET search_path = b", "BEGIN", "SET search_path = a", "ABORT"),
    ("BEGIN; SET search_path = a; COMMIT",),
    ("BEGIN; SET search_path = a; COMMIT AND CHAIN; SET search_path = b; ROLLBACK",),
    ("SET search_path = a; ROLLBACK",),
    (b"SET search_path = a; SELECT 1/0",),
    ("BEGIN", "SET search_path = a", b"SELECT 1/0", "COMMIT"),
    # savepoints
    ("BEGIN", "SAVEPOINT s", "SET search_path = a", "ROLLBACK TO s", "COMMIT"),
    ("BEGIN", "SET search_path = a", "SAVEPOINT s", "SET search_path = b", "ROLLBACK TO SAVEPOINT s", "COMMIT"),
    ("BEGIN", "SAVEPOINT s", "SET search_path = a", "RELEASE s", "COMMIT"),
    ("BEGIN", "SAVEPOINT s", "SET search_path = a", "SAVEPOINT s", "SET search_path = b", "ROLLBACK TO s", "COMMIT"),
    ("BEGIN", "SAVEPOINT s", "SET search_path = a", b"SELECT 1/0", "ROLLBACK TO s", "COMMIT"),
    ("BEGIN", "SAVEPOINT s", "SET search_path = a", "SAVEPOINT t", "RELEASE s", "COMMIT"),
    (
        "BEGIN",
        'SAVEPOINT "S"',
        "SET search_path = a",
        "SAVEPOINT s",
        "SET search_path = b",
        'ROLLBACK TO "S"',
        "COMMIT",
    ),
    # reset
    ("SET search_path = a", "RESET search_path"),
    ("SET search_path = a", "RESET ALL"),
    ("SET search_path = a", "SET search_path TO DEFAULT"),
    ("SET search_path = a", "BEGIN", "RESET ALL", "ROLLBACK"),
    ("SET search_path = a", "DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP", "DEALLOCATE ALL"),
    ("SET search_path = a", "DISCARD ALL"),
    # every setting that shows in an answer
    ("SET TIME ZONE 'Asia/Tokyo'",),
    ("SET TIME ZONE -7",),
    ("SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",),
    ("SET TIME ZONE LOCAL",),
    ("SET TIME ZONE 'Asia/Tokyo'", "SET TIME ZONE DEFAULT"),
    ("SET DateStyle = 'German, DMY'",),
    ("SET IntervalStyle = iso_8601",),
    ("SET extra_float_digits = -10",),
    ("SET bytea_output = escape",),
    ("SET NAMES 'LATIN1'",),
    # who it is
    ("SET ROLE plain",),
    ("SET ROLE plain", "SET ROLE NONE"),
    ("SET ROLE plain", "RESET ROLE"),
    ("BEGIN", "SET LOCAL ROLE plain", "COMMIT"),
    ("SET SESSION AUTHORIZATION plain",),
    ("SET SESSION AUTHORIZATION plain", "SET SESSION AUTHORIZATION DEFAULT"),
    ("SET SESSION AUTHORIZATION plain", "RESET SESSION AUTHORIZATION"),
    ("SET ROLE plain", "SET SESSION AUTHORIZATION DEFAULT"),
    ("SET ROLE plain", "RESET ALL"),
    # set_config()
    ("SELECT set_config('search_path', 'a', false)",),
    ("SELECT set_config('search_path', 'a, public', false)",),
    ("SELECT set_config('search_path', 'a', true)",),
    ("BEGIN", "SELECT set_config('search_path', 'a', true)", "COMMIT"),
    ("BEGIN", "SELECT set_config('search_path', 'a', false)", "ROLLBACK"),
    ("SELECT set_config('search_path', 'b', false), set_config('search_path', 'a', false)",),
    ("SELECT set_config('search_path', 'a', false), set_config('search_path', 'b', true)",),
    ("SELECT set_config('search_path', 'a', false)", "SELECT set_config('search_path', NULL, false)"),
    ("SELECT set_config('SEARCH_PATH', 'a', 'no')", "SET search_path = b"),
    ("SELECT set_config('search_path', 'a', false)", "RESET search_path"),
    ("SELECT pg_catalog.set_config('role', 'plain', false)",),
    ("SELECT set_config('session_authorization', 'plain', false)",),
    ("SELECT set_config('timezone', 'Asia/Tokyo', false)",),
    (("SELECT set_config('search_path', %s, %s)", ("a", False)),),
    (("SELECT set_config('search_path', %b, %b)", ("a", False)),),
    (("SELECT set_config(%s, %s, %s)", ("search_path", "a", True)),),
    (("SELECT set_config(%s, %s, %b), set_config(%s, %s, %s)", ("search_path", "a", False, "app.x", "b", True)),),
    (("SELECT set_config('search_path', %s, false)", ("a",)), ("SELECT set_config('search_path', %s, false)", (None,))),
    # what else sessions do
    ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",),
    ("SET statement_timeout = '30s'; SET work_mem = '1MB'",),
    ("SELECT pg_advisory_unlock_all()", "CLOSE ALL", "UNLISTEN *", "RESET ALL"),
]

NOT_FOLLOWED: list[tuple[Step, ...]] = [
    ("BEGIN", "SET LOCAL search_path = a", "SET search_path FROM CURRENT", "COMMIT"),
    ("SELECT set_config('search_path', 'a' || '', false)",),
    ("SELECT set_config('search_path', s, false) FROM unnest(ARRAY['b', 'a']) s",),
    ("SELECT set_config('search_path', 'a', false) WHERE false",),
    ("DO $$ BEGIN SET search_path = a; END $$",),
    ("DO $$ BEGIN PERFORM set_config('search_path', 'a', false); END $$",),
    ("PREPARE p AS SELECT set_config('search_path', 'a', false)", "EXECUTE p"),
    ("BEGIN", "DECLARE c CURSOR FOR SELECT set_config('search_path', 'a', false)", "FETCH c", "COMMIT"),
    ("UPDATE pg_settings SET setting = 'a' WHERE name = 'search_path'",),
    ("SELECT move()",),
    ("WITH w AS (SELECT move()) SELECT count(*) FROM w",),
]


def name(steps: tuple[Step, ...]) -> str:
    return "; ".join(step if isinstance(step, str) else str(step) for step in steps)


def run(proxy: Proxy, database: str, steps: tuple[Step, ...]) -> int:
    """The steps in one session, with another one beside it; how many of its four reads after them were hits."""
    with psycopg.connect(database, autocommit=True) as direct:
        plainly = read(direct)
        take(direct, steps)
        right = read(direct)
    with psycopg.connect(proxy.url, autocommit=True) as plain, psycopg.connect(proxy.url, autocommit=True) as client:
        warm(proxy, plain)
        assert read(plain) == read(client) == plainly
        take(client, steps)
        warm(proxy, plain)
        answers = []
        own = 0
        for _ in range(4):
            before = hits(proxy)
            answers.append(read(client))
            own += hits(proxy) - before
            assert read(plain) == plainly
        assert answers == [right] * 4
    return own


@pytest.mark.parametrize("steps", FOLLOWED, ids=name)
def test_what_a_session_sets_is_followed_and_it_is_answered_from_the_cache_again(
    proxy: Proxy, database: str, steps: tuple[Step, ...]
) -> None:
    assert run(proxy, database, steps) >= 3


@pytest.mark.parametrize("steps", NOT_FOLLOWED, ids=name)
def test_what_cannot_be_followed_leaves_the_session_to_the_server(
    proxy: Proxy, database: str, steps: tuple[Step, ...]
) -> None:
    assert run(proxy, database, steps) == 0


START: list[dict[str, str]] = [
    {"options": "-c search_path=a"},
    {"options": "-c statement_timeout=9000 -c search_path=a"},
    {"options": "-c statement_timeout=9000"},
    {"options": "--search-path=a"},
]


@pytest.mark.parametrize("start", START, ids=str)
def test_options_at_the_start_are_part_of_the_question(proxy: Proxy, database: str, start: dict[str, str]) -> None:
    with psycopg.connect(database, **start) as direct:
        right = read(direct)
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(psycopg.connect(proxy.url, autocommit=True))
        client = stack.enter_context(psycopg.connect(proxy.url, autocommit=True, **start))
        warm(proxy, plain)
        plainly = read(plain)
        for _ in range(3):
            assert read(client) == right
            assert read(plain) == plainly


def test_sessions_that_differ_in_limits_only_share_answers(proxy: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(psycopg.connect(proxy.url, autocommit=True))
        warm(proxy, plain)
        before = hits(proxy)
        for number in range(1, 4):
            options = f"-c statement_timeout={number}min -c lock_timeout={number}s"
            client = stack.enter_context(
                psycopg.connect(proxy.url, autocommit=True, options=options, application_name=f"worker {number}")
            )
            client.execute(f"SET work_mem = '{number}MB'")
            client.execute(f"SELECT set_config('idle_in_transaction_session_timeout', '{number}min', false)")
            assert read(client) == read(plain)
            assert hits(proxy) == before + 2 * number


CYCLE = (build_bind("", ""), build_describe("P", ""), build_execute(""), build_sync())


@pytest.mark.parametrize(
    "setting", ["SET search_path = a", "SET LOCAL search_path = a", "SELECT set_config('search_path', 'a', true)"]
)
@pytest.mark.parametrize("through", [False, True])
def test_a_read_in_the_same_implicit_transaction_as_a_setting_sees_it(
    proxy: Proxy, postgres: Postgres, database: str, setting: str, through: bool
) -> None:
    """With Flush instead of Sync the transaction of the first statement goes on."""
    url = postgres.url_for("trusted", urlsplit(database).path[1:])
    with Raw(proxy.url_for(url) if through else url) as client:
        client.start()
        for _ in range(2):
            client.send(build_parse("", READ), *CYCLE)
            assert b"public" in b"".join(client.until("Z"))
        client.send(build_parse("s", setting), build_bind("", "s"), build_execute(""), build_flush())
        client.until("C")
        client.send(build_parse("", READ), *CYCLE)
        seen = client.until("Z")
        assert codes(seen) == "12TDCZ"
        assert b"public" not in seen[3]


def test_a_call_of_set_config_that_a_row_limit_ended_counts_once(
    proxy: Proxy, postgres: Postgres, database: str
) -> None:
    """Its portal is read to its end later, and does not set anything then."""
    direct = postgres.url_for("trusted", urlsplit(database).path[1:])
    for url in (direct, proxy.url_for(direct)):
        with Raw(url) as client:
            client.start()
            client.send(build_query(READ), build_query(READ))
            assert b"public" in b"".join(client.until("Z", 2))
            client.query("BEGIN")
            client.send(build_parse("", "SELECT set_config('search_path', 'a', false)"), build_bind("p", ""))
            client.send(build_execute("p", 1), build_sync())
            assert "s" in codes(client.until("Z"))
            client.query("SET search_path = b")
            client.send(build_execute("p"), build_sync())
            assert "C" in codes(client.until("Z"))
            client.query("COMMIT")
            for _ in range(2):
                assert b"\0\0\0\1b" in client.query(READ)[1]


def test_a_table_that_comes_to_stand_in_front_of_another_is_read(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url, autocommit=True) as other, psycopg.connect(proxy.url, autocommit=True) as client:
        client.execute("SET search_path = front, public")
        warm(proxy, client)
        plainly = read(client)
        other.execute("CREATE TABLE front.author AS TABLE b.author")
        assert [read(client)[0], read(client)[0]] == [b"b", b"b"]
        other.execute("DROP TABLE front.author")
        assert read(client) == read(client) == plainly


def test_a_temporary_table_by_select_into_is_read_by_its_session_alone(proxy: Proxy, database: str) -> None:
    """The last test: behind this the catalogs are read again, which takes a while."""
    with psycopg.connect(proxy.url, autocommit=True) as plain, psycopg.connect(proxy.url, autocommit=True) as client:
        warm(proxy, plain)
        plainly = read(plain)
        client.execute("SELECT * INTO TEMP author FROM b.author")
        for _ in range(3):
            assert read(client) == [b"b", *plainly[1:]]
            assert read(plain) == plainly
