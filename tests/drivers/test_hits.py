"""From which execution on the cache answers each driver, and that what it answers is what the server does.

One session asks the same again and again. The first execution fills the cache; where a driver needs more than one (it
prepares by messages of its own first, or names the statement later), the case says so. After a write the next execution is a
miss and the one after it a hit again.

Where nothing is ever answered that is tested too: drivers that begin a transaction of their own before each statement, and
psycopg's pipeline mode, which asks for its rows by a Flush and leaves the transaction open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pg8000.dbapi
import pg8000.native
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_flush,
    build_parse,
    build_query,
    build_sync,
)
from support import node
from support.raw import Raw, codes, eventually
from support.servers import Postgres
from support.stage import Stage, prepare, stage_on
from support.versions import skip

Rows = list[list[Any]]
Ask = Callable[[], Rows]
Opened = contextlib.AbstractContextManager[Ask]

TEXT = "SELECT id, name FROM item WHERE id = {}"
ROUNDS = 8


@pytest.fixture(scope="module")
def hits_stage(postgres: Postgres) -> Iterator[Stage]:
    with stage_on(postgres) as stage:
        prepare(stage.direct)
        with psycopg.connect(stage.direct, autocommit=True) as setup:
            setup.execute("GRANT SELECT ON item TO trusted")
        with psycopg.connect(stage.caching.url, autocommit=True) as client:
            # the catalogs are read again behind what happened past the proxy
            client.execute("CREATE TABLE ddl_done ()")
        with psycopg.connect(stage.caching.url, autocommit=True) as client:

            def hit() -> bool:
                before = stage.hits()
                client.execute("SELECT body FROM note")
                return stage.hits() > before

            eventually(hit)
        yield stage


def listed(rows: Any) -> Rows:
    return [list(row) for row in rows]


# --- one way to ask each ---


@contextlib.contextmanager
def psycopg_default(url: str, **options: Any) -> Iterator[Ask]:
    with psycopg.connect(url, autocommit=True, **options) as client:
        yield lambda: listed(client.execute(TEXT.format("%s"), (3,)).fetchall())


def psycopg_named_at_once(url: str) -> Opened:
    return psycopg_default(url, prepare_threshold=0)


def psycopg_never_named(url: str) -> Opened:
    return psycopg_default(url, prepare_threshold=None)


def psycopg_client_binding(url: str) -> Opened:
    return psycopg_default(url, cursor_factory=psycopg.ClientCursor)


@contextlib.contextmanager
def psycopg_binary(url: str) -> Iterator[Ask]:
    with psycopg.connect(url, autocommit=True) as client, client.cursor(binary=True) as cursor:
        yield lambda: listed(cursor.execute(TEXT.format("%s"), (3,)).fetchall())


@contextlib.contextmanager
def psycopg_pipeline(url: str) -> Iterator[Ask]:
    with psycopg.connect(url, autocommit=True) as client:

        def ask() -> Rows:
            with client.pipeline():
                return listed(client.execute(TEXT.format("%s"), (3,)).fetchall())

        yield ask


@contextlib.contextmanager
def psycopg_discarding(url: str) -> Iterator[Ask]:
    """As a pool that gives each user a session as new."""
    with psycopg.connect(url, autocommit=True) as client:

        def ask() -> Rows:
            client.execute("DISCARD ALL", prepare=False)
            return listed(client.execute(TEXT.format("%s"), (3,), prepare=False).fetchall())

        yield ask


@contextlib.contextmanager
def psycopg_transactions(url: str) -> Iterator[Ask]:
    with psycopg.connect(url) as client:

        def ask() -> Rows:
            with client.transaction():
                return listed(client.execute(TEXT.format("%s"), (3,)).fetchall())

        yield ask


@contextlib.contextmanager
def psycopg2_autocommit(url: str) -> Iterator[Ask]:
    client = psycopg2.connect(url)
    client.autocommit = True

    def ask() -> Rows:
        with client.cursor() as cursor:
            cursor.execute(TEXT.format("%s"), (3,))
            return listed(cursor.fetchall())

    yield ask
    client.close()


@contextlib.contextmanager
def asyncpg_client(url: str, **options: Any) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        client = runner.run(asyncpg.connect(url, **options))
        yield lambda: listed(runner.run(client.fetch(TEXT.format("$1"), 3)))
        runner.run(client.close())


def asyncpg_without_cache(url: str) -> Opened:
    return asyncpg_client(url, statement_cache_size=0)


@contextlib.contextmanager
def asyncpg_row(url: str) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        client = runner.run(asyncpg.connect(url))
        yield lambda: listed([runner.run(client.fetchrow(TEXT.format("$1"), 3))])
        runner.run(client.close())


@contextlib.contextmanager
def asyncpg_pool(url: str) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        pool = runner.run(_pool(url))
        yield lambda: listed(runner.run(pool.fetch(TEXT.format("$1"), 3)))
        runner.run(pool.close())


async def _pool(url: str) -> Any:
    return await asyncpg.create_pool(url, min_size=1, max_size=1)


@contextlib.contextmanager
def asyncpg_prepared(url: str) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        client = runner.run(asyncpg.connect(url))
        statement = runner.run(client.prepare(TEXT.format("$1")))
        yield lambda: listed(runner.run(statement.fetch(3)))
        runner.run(client.close())


def _pg8000_login(url: str) -> dict[str, Any]:
    login = psycopg.conninfo.conninfo_to_dict(url)
    return {
        "host": login["host"],
        "port": int(str(login["port"])),
        "user": login["user"],
        "password": login["password"],
        "database": login["dbname"],
    }


@contextlib.contextmanager
def pg8000_native(url: str) -> Iterator[Ask]:
    with pg8000.native.Connection(**_pg8000_login(url)) as client:
        yield lambda: listed(client.run(TEXT.format(":key"), key=3))


@contextlib.contextmanager
def pg8000_prepared(url: str) -> Iterator[Ask]:
    with pg8000.native.Connection(**_pg8000_login(url)) as client:
        statement = client.prepare(TEXT.format(":key"))
        yield lambda: listed(statement.run(key=3))


@contextlib.contextmanager
def pg8000_dbapi(url: str) -> Iterator[Ask]:
    with pg8000.dbapi.connect(**_pg8000_login(url)) as client:
        client.autocommit = True
        cursor = client.cursor()

        def ask() -> Rows:
            cursor.execute(TEXT.format("%s"), (3,))
            return listed(cursor.fetchall())

        yield ask


@contextlib.contextmanager
def sqlalchemy_of(url: str, driver: str, isolation_level: Any, **options: Any) -> Iterator[Ask]:
    engine = sa.create_engine(
        sa.make_url(url).set(drivername=f"postgresql+{driver}"),
        isolation_level=isolation_level,
        pool_pre_ping=True,
        pool_size=1,
        **options,
    )

    def ask() -> Rows:
        with engine.connect() as connection:
            return listed(connection.execute(sa.text(TEXT.format(":key")), {"key": 3}))

    yield ask
    engine.dispose()


def sqlalchemy_psycopg(url: str) -> Opened:
    return sqlalchemy_of(url, "psycopg", "AUTOCOMMIT")


def sqlalchemy_psycopg2(url: str) -> Opened:
    return sqlalchemy_of(url, "psycopg2", "AUTOCOMMIT")


def sqlalchemy_pg8000(url: str) -> Opened:
    return sqlalchemy_of(url, "pg8000", "AUTOCOMMIT")


def sqlalchemy_transactions(url: str) -> Opened:
    return sqlalchemy_of(url, "psycopg", None)


@contextlib.contextmanager
def sqlalchemy_discarding(url: str) -> Iterator[Ask]:
    """As its documentation proposes for poolers: DISCARD ALL when a connection goes back."""
    engine = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,
        pool_size=1,
        connect_args={"prepare_threshold": None},  # DISCARD ALL drops what psycopg has named
    )

    def discard(connection: Any, _record: Any, _state: Any = None) -> None:
        connection.autocommit = True
        connection.execute("DISCARD ALL", prepare=False)

    sa.event.listen(engine, "reset", discard)

    def ask() -> Rows:
        with engine.connect() as connection:
            return listed(connection.execute(sa.text(TEXT.format(":key")), {"key": 3}))

    yield ask
    engine.dispose()


@contextlib.contextmanager
def sqlalchemy_asyncpg(url: str) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        engine = create_async_engine(
            sa.make_url(url).set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT", pool_size=1
        )

        async def one() -> Rows:
            async with engine.connect() as connection:
                return listed(await connection.execute(sa.text(TEXT.format(":key")), {"key": 3}))

        yield lambda: runner.run(one())
        runner.run(engine.dispose())


@contextlib.contextmanager
def told(*command: object) -> Iterator[Ask]:
    """A program that answers each line on its standard input with the rows as JSON."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask() -> Rows:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return listed(json.loads(line))

    try:
        yield ask
    finally:
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")


PROGRAMS = Path(__file__).resolve().parent.parent / "programs"


def django(driver: str, *more: str) -> Callable[[str], Opened]:
    return lambda url: told(sys.executable, PROGRAMS / "django_reads.py", driver, url, *more)


def node_js(mode: str) -> Callable[[str], Opened]:
    def opened(url: str) -> Opened:
        try:
            node.modules()
        except node.NoNode as error:
            skip("node", str(error))
        return told("node", node.FOLDER / "hits.mjs", url, mode)

    return opened


# --- cycles as drivers in other languages send them ---

Cycles = Callable[[int], tuple[bytes, ...]]
"""The messages of the n-th execution, from 1."""

ONE = TEXT.format("$1")
INT4 = (23,)
THREE = (b"\0\0\0\3",)


def _bound(name: str = "", *, described: bool = True, results: tuple[int, ...] = ()) -> tuple[bytes, ...]:
    bind = build_bind("", name, THREE, (1,), results)
    return (bind, *([build_describe("P", "")] if described else []), build_execute(""), build_sync())


def jdbc(number: int) -> tuple[bytes, ...]:
    """pgjdbc: the fifth execution names the statement, the later ones leave out the Describe and ask for binary results."""
    if number < 5:
        return (build_parse("", ONE, INT4), *_bound())
    if number == 5:
        return (build_parse("S_1", ONE, INT4), *_bound("S_1"))
    return _bound("S_1", described=False, results=(1, 0))


def npgsql(number: int) -> tuple[bytes, ...]:
    """Npgsql: Parse, Bind, portal-Describe and Execute in one batch, with binary results."""
    return (build_parse("", ONE, INT4), build_bind("", "", THREE, (1,), (1,)), *_bound()[1:])


def pgx(number: int) -> tuple[bytes, ...]:
    """pgx: prepares with a Sync of its own, and describes the portal all the same."""
    prepared = (build_parse("stmt_1", ONE), build_describe("S", "stmt_1"), build_sync())
    return (*(prepared if number == 1 else ()), *_bound("stmt_1", results=(1, 0)))


def rust_postgres(number: int) -> tuple[bytes, ...]:
    """rust-postgres, Npgsql's prepared commands: Parse, statement-Describe, Sync; then executions without a Describe."""
    prepared = (build_parse("s1", ONE), build_describe("S", "s1"), build_sync())
    return (*(prepared if number == 1 else ()), *_bound("s1", described=False, results=(1,)))


def sqlx(number: int) -> tuple[bytes, ...]:
    """sqlx: the same, with a Close of the portal."""
    *messages, sync = rust_postgres(number)
    return (*messages, build_close("P", ""), sync)


def lib_pq(number: int) -> tuple[bytes, ...]:
    """lib/pq: prepares the unnamed statement anew for each execution."""
    return (build_parse("", ONE, INT4), build_describe("S", ""), build_sync(), *_bound(described=False))


def closing(number: int) -> tuple[bytes, ...]:
    """Clients that close the portal, or the statement, behind each execution."""
    return (*_bound_parts(), build_close("P", ""), build_sync())


def _bound_parts() -> tuple[bytes, ...]:
    return (build_parse("", ONE, INT4), *_bound()[:-1])


def flushed(number: int) -> tuple[bytes, ...]:
    """A Flush in front of the Sync, as PostgREST's and Erlang's clients do."""
    return (*_bound_parts(), build_flush(), build_sync())


def simple(number: int) -> tuple[bytes, ...]:
    return (build_query(TEXT.format(3)),)


def batches(messages: tuple[bytes, ...]) -> Iterator[list[bytes]]:
    """Up to each Sync or Query: the client waits there."""
    batch: list[bytes] = []
    for message in messages:
        batch.append(message)
        if message[:1] in (b"S", b"Q"):
            yield batch
            batch = []


@contextlib.contextmanager
def cycles(url: str, messages: Cycles) -> Iterator[Ask]:
    parts = urlsplit(url)
    with Raw(parts._replace(netloc=f"trusted@{parts.hostname}:{parts.port}").geturl()) as client:
        client.start()
        count = 0

        def ask() -> Rows:
            nonlocal count
            count += 1
            seen: Rows = []
            for batch in batches(messages(count)):
                client.send(*batch)
                frames = client.until("Z")
                assert "E" not in codes(frames), frames
                seen += [[codes(frames)], *([frame] for frame in frames if frame[:1] == b"D")]
            return seen

        yield ask


def raw(messages: Cycles) -> Callable[[str], Opened]:
    return lambda url: cycles(url, messages)


NEVER = 0

CASES: dict[str, tuple[Callable[[str], Opened], int | set[int]]] = {
    # the number is the first execution that is a hit; a set names those that are none
    "psycopg": (psycopg_default, 2),
    "psycopg, prepare_threshold=0": (psycopg_named_at_once, 2),
    "psycopg, prepare_threshold=None": (psycopg_never_named, 2),
    "psycopg, ClientCursor": (psycopg_client_binding, 2),
    "psycopg, binary=True": (psycopg_binary, 2),
    "psycopg, pipeline": (psycopg_pipeline, NEVER),
    "psycopg, DISCARD ALL": (psycopg_discarding, 2),
    "psycopg, transactions": (psycopg_transactions, NEVER),
    "psycopg2": (psycopg2_autocommit, 2),
    "asyncpg": (asyncpg_client, 2),
    "asyncpg, statement_cache_size=0": (asyncpg_without_cache, 2),
    "asyncpg, fetchrow": (asyncpg_row, 2),
    "asyncpg, prepare()": (asyncpg_prepared, 2),
    "asyncpg, pool": (asyncpg_pool, 2),
    "pg8000.native": (pg8000_native, 2),
    "pg8000.native, prepare()": (pg8000_prepared, 2),
    "pg8000.dbapi": (pg8000_dbapi, 2),
    "SQLAlchemy, psycopg": (sqlalchemy_psycopg, 2),
    "SQLAlchemy, psycopg2": (sqlalchemy_psycopg2, 2),
    "SQLAlchemy, pg8000": (sqlalchemy_pg8000, 2),
    "SQLAlchemy, asyncpg": (sqlalchemy_asyncpg, 2),
    "SQLAlchemy, DISCARD ALL": (sqlalchemy_discarding, 2),
    "SQLAlchemy, transactions": (sqlalchemy_transactions, NEVER),
    "Django, psycopg": (django("psycopg"), 2),
    "Django, psycopg2": (django("psycopg2"), 2),
    "pg simple": (node_js("pg simple"), 2),
    "pg unnamed": (node_js("pg unnamed"), 2),
    "pg named": (node_js("pg named"), 3),  # the first Parse goes to the server, with what was sent behind it
    "pg binary": (node_js("pg binary"), 2),
    "pg-pool": (node_js("pg-pool"), 2),
    "postgres.js": (node_js("postgres.js"), 2),
    "postgres.js unprepared": (node_js("postgres.js unprepared"), 2),
    "postgres.js simple": (node_js("postgres.js simple"), 2),
    "pgjdbc": (raw(jdbc), {1, 5, 6}),  # the statement gets a name, then the results another format
    "Npgsql": (raw(npgsql), 2),
    "pgx": (raw(pgx), 2),
    "rust-postgres": (raw(rust_postgres), 2),
    "sqlx": (raw(sqlx), 2),
    "lib/pq": (raw(lib_pq), 2),
    "a simple Query": (raw(simple), 2),
    "Close of the portal": (raw(closing), 2),
    "Flush": (raw(flushed), 2),
}


def misses(first: int | set[int]) -> list[int]:
    if isinstance(first, set):
        return sorted(first)
    return list(range(1, (first or ROUNDS + 1)))


@pytest.mark.parametrize("case", CASES)
def test_the_cache_answers_all_but_the_first_executions(hits_stage: Stage, case: str) -> None:
    opened, first = CASES[case]
    stage = hits_stage
    with psycopg.connect(stage.caching.url, autocommit=True) as writer, opened(stage.caching.url) as ask:
        writer.execute("UPDATE item SET name = 'item 3' WHERE id = 3")
        with opened(stage.direct) as direct:
            expected = [direct() for _ in range(ROUNDS)]
        seen = []
        missed = []
        for number in range(1, ROUNDS + 1):
            before = stage.hits()
            seen.append(ask())
            if stage.hits() == before:
                missed.append(number)
        assert seen == expected
        assert missed == misses(first)
        if first == NEVER:
            return
        writer.execute("UPDATE item SET name = 'written' WHERE id = 3")
        before = stage.hits()
        assert "written" in str(ask())
        assert stage.hits() == before
        assert "written" in str(ask())
        assert stage.hits() == before + 1


def hits_of(stage: Stage, command: list[object], shown: str, times: int) -> int:
    """How many of the reads of a command, run behind a write, were hits."""
    with psycopg.connect(stage.caching.url, autocommit=True) as writer:
        writer.execute("UPDATE item SET name = 'item 3' WHERE id = 3")
    before = stage.hits()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(shown) == times, done.stdout
    return stage.hits() - before


def test_psql_hits_from_the_second_time_on(hits_stage: Stage) -> None:
    if hits_stage.server.bin is None:
        pytest.skip("psql is not installed")
    reads = ["-c", TEXT.format(3)] * ROUNDS
    command = [hits_stage.server.bin / "psql", hits_stage.caching.url, "-AXt", *reads]
    assert hits_of(hits_stage, command, "3|item 3\n", ROUNDS) == ROUNDS - 1


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_hits_from_the_second_time_on(hits_stage: Stage, tmp_path: Path, mode: str) -> None:
    if hits_stage.server.bin is None:
        pytest.skip("pgbench is not installed")
    script = tmp_path / "read.sql"
    script.write_text("\\set key 3\n" + TEXT.format(":key") + ";\n")
    command = [hits_stage.server.bin / "pgbench", "-n", "-M", mode, "-t", ROUNDS, "-f", script, hits_stage.caching.url]
    assert hits_of(hits_stage, command, f"processed: {ROUNDS}/{ROUNDS}", 1) == ROUNDS - 1
