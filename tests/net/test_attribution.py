"""What the proxy tells of a conversation: each statement counted once, each reply given to the statement that it answers,
whatever the driver and however many statements are on their way at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest

from pgloupe.wire.frontend import build_bind, build_describe, build_execute, build_parse, build_query, build_sync
from support.proxy import Proxy, proxy_to
from support.raw import COPY_DONE, Raw, copy_data, copy_fail
from support.servers import Postgres

SYNC = build_sync()


@pytest.fixture(scope="module")
def direct(postgres: Postgres) -> str:
    """URL of a shop with eight posts of three comments each, for a role that needs no password."""
    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE post (id integer PRIMARY KEY, author_id integer, title text)")
        connection.execute("CREATE TABLE comment (id serial PRIMARY KEY, post_id integer, body text)")
        connection.execute("INSERT INTO post SELECT n, n % 3, 'post ' || n FROM generate_series(1, 8) n")
        connection.execute(
            "INSERT INTO comment (post_id, body) SELECT 1 + n % 8, 'c' || n FROM generate_series(0, 23) n"
        )
        connection.execute("CREATE TABLE scratch (id integer PRIMARY KEY, body text)")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
        connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC")
    return postgres.url_for("trusted", database.rpartition("/")[2])


@pytest.fixture(params=["watching", "caching"])
def proxy(direct: str, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """The cache has a rule that nothing here fits, so that every session is one that could be answered by it."""
    cache = {"allow": [{"name": "none", "tables": ["no_such_table"], "ttl": "60s"}]}
    with psycopg.connect(direct, autocommit=True) as connection:
        connection.execute("DELETE FROM scratch")
    with proxy_to(direct, **({"cache": cache} if request.param == "caching" else {})) as started:
        yield started


def counted(proxy: Proxy, word: str) -> tuple[int, int]:
    """Calls and rows of the one template that has this word in it."""
    rows = [row for row in proxy.report()["statistics"] if word in row["template"]]
    assert len(rows) == 1, [row["template"] for row in rows]
    return rows[0]["calls"], rows[0]["rows"]


def seen(proxy: Proxy) -> dict[str, tuple[int, int]]:
    return {row["template"]: (row["calls"], row["rows"]) for row in proxy.report()["statistics"]}


# --- counts ---


def test_rows_are_counted_right_in_a_pipeline_of_psycopg(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        with connection.pipeline():
            for key in range(1, 7):
                connection.execute("SELECT id, body FROM comment WHERE post_id = %s", (key,))
                connection.execute("SELECT title FROM post WHERE id = %s AND id < 5", (key,))
            connection.execute("INSERT INTO scratch SELECT n FROM generate_series(1, 11) n")
        connection.execute("SELECT id FROM scratch LIMIT 4")
    assert counted(proxy, "FROM comment") == (6, 18)
    assert counted(proxy, "FROM post") == (6, 4)
    assert counted(proxy, "INSERT INTO scratch") == (1, 11)
    assert counted(proxy, "FROM scratch") == (1, 4)


def test_every_execution_of_an_executemany_counts(proxy: Proxy) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(proxy.url)
        await connection.executemany("INSERT INTO scratch VALUES ($1, $2)", [(n, f"b{n}") for n in range(700)])
        await connection.executemany("UPDATE scratch SET body = $2 WHERE id < $1", [(3, "x"), (5, "y"), (0, "z")])
        await connection.close()

    asyncio.run(work())
    assert counted(proxy, "INSERT INTO scratch") == (700, 700)
    assert counted(proxy, "UPDATE scratch") == (3, 8)


def test_an_executemany_that_fails_counts_up_to_its_error(proxy: Proxy) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(proxy.url)
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.executemany("INSERT INTO scratch (id) VALUES ($1)", [(n,) for n in (1, 2, 3, 2, 4, 5)])
        assert await connection.fetchval("SELECT count(*) FROM scratch") == 0
        await connection.close()

    asyncio.run(work())
    assert counted(proxy, "INSERT INTO scratch")[1] == 3
    assert counted(proxy, "FROM scratch") == (1, 1)


def test_after_an_error_the_counts_of_the_next_batch_are_right(proxy: Proxy) -> None:
    def ask(sql: str) -> bytes:
        return build_parse("", sql) + build_bind("", "") + build_describe("P", "") + build_execute("")

    with Raw(proxy.url) as client:
        client.start()
        client.send(
            ask("SELECT id FROM post"),
            ask("SELECT 1/0 FROM post AS broken"),
            ask("SELECT id FROM comment"),
            build_query("SELECT body FROM comment"),
            SYNC,
            ask("SELECT title FROM post"),
            SYNC,
        )
        client.until("Z", 2)
        rows = {template: figures[1] for template, figures in seen(proxy).items()}
    assert rows.pop("SELECT id FROM post") == 8
    assert rows.pop("SELECT title FROM post") == 8
    assert set(rows.values()) <= {0}


def test_each_execution_of_a_prepared_statement_counts(proxy: Proxy) -> None:
    with Raw(proxy.url) as client:
        client.start()
        client.send(build_parse("s", "SELECT id FROM comment WHERE post_id = $1 AND id > 0") + build_describe("S", "s"))
        for _ in range(3):
            for key in (b"1", b"2", b"99"):
                client.send(build_bind("", "s", (key,)) + build_execute(""))
        client.send(SYNC)
        client.until("Z")
    assert seen(proxy) == {"SELECT id FROM comment WHERE post_id = $1 AND id > $2": (9, 18)}


def test_a_name_that_is_prepared_anew_means_the_new_statement(proxy: Proxy) -> None:
    with Raw(proxy.url) as client:
        client.start()
        for sql in ("SELECT id FROM post", "SELECT id FROM comment"):
            client.query("DEALLOCATE ALL")
            client.send(build_parse("s", sql) + build_bind("", "s") + build_execute("") + SYNC)
            client.send(build_parse("", sql + " LIMIT 2") + build_bind("", "") + build_execute("") + SYNC)
            client.until("Z", 2)
        # this Parse fails, so the name still means what it meant
        client.send(build_parse("s", "SELECT title FROM post") + SYNC)
        client.until("Z")
        client.send(build_bind("", "s") + build_execute("") + SYNC)
        client.until("Z")
    assert seen(proxy) == {
        "DEALLOCATE ALL": (2, 0),
        "SELECT id FROM post": (1, 8),
        "SELECT id FROM post LIMIT $1": (1, 2),
        "SELECT id FROM comment": (2, 48),
        "SELECT id FROM comment LIMIT $1": (1, 2),
    }


def test_each_statement_of_a_query_string_counts_its_own_rows(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        connection.execute(
            "SELECT id FROM post; SELECT id FROM comment WHERE post_id < 3; ; INSERT INTO scratch VALUES (1), (2);"
            "UPDATE scratch SET body = 'a'; SELECT 1 WHERE false"
        )
    assert counted(proxy, "FROM post") == (1, 8)
    assert counted(proxy, "FROM comment") == (1, 6)
    assert counted(proxy, "INSERT INTO scratch") == (1, 2)
    assert counted(proxy, "UPDATE scratch") == (1, 2)
    assert proxy.report()["statements"] == 5


def test_statements_behind_an_error_in_a_query_string_have_no_rows(proxy: Proxy) -> None:
    with Raw(proxy.url) as client:
        client.start()
        client.query("SELECT id FROM post; SELECT 1/0 FROM comment; SELECT body FROM scratch")
        client.query("SELECT title FROM post")
    assert counted(proxy, "SELECT id FROM post") == (1, 8)
    assert counted(proxy, "FROM comment")[1] == 0
    assert counted(proxy, "SELECT title FROM post") == (1, 8)


def test_a_portal_that_is_fetched_in_pieces_counts_its_rows_once(proxy: Proxy) -> None:
    with Raw(proxy.url) as client:
        client.start()
        client.query("BEGIN")
        client.send(build_parse("", "SELECT id FROM comment") + build_bind("p", "") + build_describe("P", "p"))
        for _ in range(4):
            client.send(build_execute("p", 7))
        client.send(SYNC)
        client.until("Z")
        client.query("COMMIT")
    calls, rows = counted(proxy, "FROM comment")
    assert rows == 24
    assert calls >= 1


def test_a_cursor_counts_the_rows_that_were_fetched(proxy: Proxy) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(proxy.url)
        async with connection.transaction():
            fetched = [row async for row in connection.cursor("SELECT id, body FROM comment", prefetch=5)]
            assert len(fetched) == 24
        await connection.close()

    asyncio.run(work())
    assert counted(proxy, "FROM comment")[1] == 24


def test_copied_rows_are_counted(proxy: Proxy) -> None:
    with Raw(proxy.url) as client:
        client.start()
        client.send(build_query("COPY scratch (id) FROM STDIN"))
        client.until("G")
        client.send(copy_data("1", "2") + copy_data("3") + COPY_DONE)
        client.until("Z")
        client.query("SELECT id FROM scratch")
        extended = build_parse("", "COPY scratch (id, body) FROM STDIN") + build_bind("", "") + build_execute("")
        client.send(extended + SYNC)  # the server ignores this Sync
        client.until("G")
        client.send(copy_data("4\tx", "5\ty") + SYNC + COPY_DONE + SYNC)
        client.until("Z")
        client.query("SELECT body FROM scratch WHERE body IS NOT NULL")
        client.query("COPY post TO STDOUT")
        client.query("SELECT title FROM post WHERE id < 3")
        client.send(build_query("COPY scratch (body, id) FROM STDIN"))
        client.until("G")
        client.send(copy_data("z\t9") + copy_fail("never mind"))
        client.until("Z")
        client.query("SELECT id FROM scratch WHERE id > 3")
    figures = seen(proxy)
    assert figures["COPY scratch(id) FROM STDIN"] == (1, 3)
    assert figures["SELECT id FROM scratch"] == (1, 3)
    assert figures["COPY scratch(id, body) FROM STDIN"] == (1, 2)
    assert figures["SELECT body FROM scratch WHERE body IS NOT NULL"] == (1, 2)
    assert figures["COPY post TO STDOUT"] == (1, 8)
    assert figures["SELECT title FROM post WHERE id < $1"] == (1, 2)
    assert figures["COPY scratch(body, id) FROM STDIN"][1] == 0
    assert figures["SELECT id FROM scratch WHERE id > $1"] == (1, 2)


def test_copies_of_asyncpg_are_counted(proxy: Proxy) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(proxy.url)
        await connection.copy_records_to_table("scratch", records=[(n, "r") for n in range(2500)])
        await connection.fetch("SELECT body FROM scratch LIMIT 10")
        await connection.close()

    asyncio.run(work())
    assert counted(proxy, "COPY")[1] == 2500
    assert counted(proxy, "SELECT body FROM scratch") == (1, 10)


def test_large_results_are_counted_to_the_last_row(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url, autocommit=True) as connection:
        connection.execute("SELECT n, repeat('x', n % 300) FROM generate_series(1, 50000) n").fetchall()
        connection.execute("SELECT repeat('y', 3000000) AS big FROM post").fetchall()
    assert counted(proxy, "generate_series") == (1, 50_000)
    assert counted(proxy, "big") == (1, 8)


# --- findings ---


def one_n_plus_one(proxy: Proxy, count: int = 8) -> dict[str, Any]:
    found = proxy.findings("n_plus_one")
    assert len(found) == 1, [finding["template"] for finding in found]
    assert found[0]["tables"] == ["comment"]
    assert found[0]["count"] == count
    assert found[0]["child"]["column"] == "post_id"
    return found[0]


def loop_psycopg(url: str) -> None:
    with psycopg.connect(url) as connection:
        for (post,) in connection.execute("SELECT id FROM post WHERE author_id < %s ORDER BY id", (5,)).fetchall():
            connection.execute("SELECT body FROM comment WHERE post_id = %s", (post,)).fetchall()


def loop_psycopg_binary(url: str) -> None:
    with psycopg.connect(url) as connection, connection.cursor(binary=True) as cursor:
        for (post,) in cursor.execute("SELECT id FROM post ORDER BY id").fetchall():
            cursor.execute("SELECT body FROM comment WHERE post_id = %s", (post,)).fetchall()


def loop_psycopg_client_cursor(url: str) -> None:
    with psycopg.connect(url, cursor_factory=psycopg.ClientCursor) as connection:
        for (post,) in connection.execute("SELECT id FROM post ORDER BY id").fetchall():
            connection.execute("SELECT body FROM comment WHERE post_id = %s", (post,)).fetchall()


def loop_psycopg2(url: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM post WHERE author_id < %s ORDER BY id", (5,))
        for (post,) in cursor.fetchall():
            cursor.execute("SELECT body FROM comment WHERE post_id = %s", (post,))
            cursor.fetchall()
    connection.close()


def _asyncpg(work: Callable[[Any], Any], url: str, **options: Any) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url, **options)
        # in a block, so that no pause of a busy machine is taken for the end of a request
        async with connection.transaction():
            await work(connection)
        await connection.close()

    asyncio.run(run())


def loop_asyncpg_fetch(url: str) -> None:
    async def work(connection: Any) -> None:
        for post in await connection.fetch("SELECT id FROM post ORDER BY id"):
            await connection.fetch("SELECT body FROM comment WHERE post_id = $1", post["id"])

    _asyncpg(work, url)


def loop_asyncpg_without_statement_cache(url: str) -> None:
    async def work(connection: Any) -> None:
        for post in await connection.fetch("SELECT id FROM post ORDER BY id"):
            await connection.fetch("SELECT body FROM comment WHERE post_id = $1", post["id"])

    _asyncpg(work, url, statement_cache_size=0)


def loop_asyncpg_prepared(url: str) -> None:
    async def work(connection: Any) -> None:
        child = await connection.prepare("SELECT body FROM comment WHERE post_id = $1")
        parent = await connection.prepare("SELECT id FROM post ORDER BY id")
        for post in await parent.fetch():
            await child.fetch(post["id"])

    _asyncpg(work, url)


def loop_asyncpg_fetchval(url: str) -> None:
    """A row limit of 1: the server answers PortalSuspended."""

    async def work(connection: Any) -> None:
        for post in await connection.fetch("SELECT id FROM post ORDER BY id"):
            await connection.fetchval("SELECT body FROM comment WHERE post_id = $1", post["id"])

    _asyncpg(work, url)


def loop_asyncpg_fetchrow(url: str) -> None:
    async def work(connection: Any) -> None:
        for post in await connection.fetch("SELECT id FROM post ORDER BY id"):
            await connection.fetchrow("SELECT id, body FROM comment WHERE post_id = $1", post["id"])

    _asyncpg(work, url)


def loop_asyncpg_cursor(url: str) -> None:
    """The parent itself is fetched in pieces."""

    async def work(connection: Any) -> None:
        async for post in connection.cursor("SELECT id FROM post ORDER BY id", prefetch=3):
            await connection.fetch("SELECT body FROM comment WHERE post_id = $1", post["id"])

    _asyncpg(work, url)


def loop_simple_queries(url: str) -> None:
    with Raw(url) as client:
        client.start()
        client.query("BEGIN")
        client.query("SELECT id FROM post ORDER BY id")
        for post in range(1, 9):
            client.query(f"SELECT body FROM comment WHERE post_id = {post} -- number {post}")


LOOPS: list[Callable[[str], None]] = [
    loop_psycopg,
    loop_psycopg_binary,
    loop_psycopg_client_cursor,
    loop_psycopg2,
    loop_asyncpg_fetch,
    loop_asyncpg_without_statement_cache,
    loop_asyncpg_prepared,
    loop_asyncpg_fetchval,
    loop_asyncpg_fetchrow,
    loop_asyncpg_cursor,
    loop_simple_queries,
]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_query_for_each_row_is_found_with_its_parent(proxy: Proxy, loop: Callable[[str], None]) -> None:
    loop(proxy.url)
    finding = one_n_plus_one(proxy)
    assert finding["parent"] is not None
    assert finding["parent"]["tables"] == ["post"]
    assert finding["parent"]["column"] == "id"
    assert finding["parent"]["rows"] == 8
    assert finding["confidence"] == "proven"


def test_clients_that_run_a_statement_once_each_are_never_added_up(proxy: Proxy) -> None:
    for post in range(1, 9):
        with psycopg.connect(proxy.url) as connection:
            connection.execute("SELECT id FROM post ORDER BY id").fetchall()
            connection.execute("SELECT body FROM comment WHERE post_id = %s", (post,)).fetchall()
    assert proxy.findings() == []
    assert counted(proxy, "FROM comment") == (8, 24)


def test_clients_that_run_a_statement_at_the_same_time_are_never_added_up(proxy: Proxy) -> None:
    async def client(number: int, together: asyncio.Barrier) -> None:
        connection = await asyncpg.connect(proxy.url)
        await connection.fetch("SELECT id FROM post ORDER BY id")
        await together.wait()
        await connection.fetch("SELECT body FROM comment WHERE post_id = $1", 1 + number % 8)
        await together.wait()
        await connection.close()

    async def work() -> None:
        together = asyncio.Barrier(12)
        await asyncio.gather(*(client(number, together) for number in range(12)))

    asyncio.run(work())
    assert proxy.findings() == []
    assert counted(proxy, "FROM comment") == (12, 36)


@pytest.mark.parametrize("size", [2, 5])
def test_queries_that_run_at_once_over_a_pool_are_one_loop(proxy: Proxy, size: int) -> None:
    async def work() -> None:
        # connected before, since a login may take longer than a unit of work may be silent
        async with asyncpg.create_pool(proxy.url, min_size=size, max_size=size) as pool:
            posts = await pool.fetch("SELECT id FROM post ORDER BY id")
            await asyncio.gather(
                *(pool.fetch("SELECT body FROM comment WHERE post_id = $1", post["id"]) for post in posts)
            )

    asyncio.run(work())
    finding = one_n_plus_one(proxy)
    assert finding["parent"]["tables"] == ["post"]
    assert (finding["parent"]["column"], finding["confidence"], finding["occurrences"]) == ("id", "proven", 1)


def test_requests_that_run_at_once_over_a_pool_are_none(proxy: Proxy) -> None:
    async def request(pool: asyncpg.Pool, post: int) -> None:
        async with pool.acquire() as connection:
            await connection.fetchrow("SELECT title FROM post WHERE id = $1", 1 + post % 3)
            await connection.fetch("SELECT body FROM comment WHERE post_id = $1", post)

    async def work() -> None:
        async with asyncpg.create_pool(proxy.url, min_size=3, max_size=3) as pool:
            await pool.fetch("SELECT id FROM post ORDER BY id")
            # three at a time, so that no connection has nearly all of them in turn: that would be a loop, as it sees it
            for first in (1, 4, 7):
                await asyncio.gather(*(request(pool, post) for post in range(first, min(first + 3, 9))))

    asyncio.run(work())
    assert proxy.findings() == []


def test_a_finding_belongs_to_its_session_whatever_the_others_do(proxy: Proxy) -> None:
    async def innocent(together: asyncio.Barrier) -> None:
        connection = await asyncpg.connect(proxy.url, server_settings={"application_name": "innocent"})
        for _ in range(8):
            await together.wait()
            await connection.fetch("SELECT title FROM post WHERE id = ANY($1)", [1, 2])
            await connection.execute("SET application_name = 'innocent'")
        await connection.close()

    async def guilty(together: asyncio.Barrier) -> None:
        connection = await asyncpg.connect(proxy.url, server_settings={"application_name": "guilty"})
        async with connection.transaction():
            for post in await connection.fetch("SELECT id FROM post ORDER BY id"):
                await together.wait()
                await connection.fetch("SELECT body FROM comment WHERE post_id = $1", post["id"])
        await connection.close()

    async def work() -> None:
        together = asyncio.Barrier(2)
        await asyncio.gather(innocent(together), guilty(together))

    asyncio.run(work())
    assert one_n_plus_one(proxy)["tags"]["application_name"] == ["guilty"]


def test_queries_sent_in_one_pipeline_are_no_loop(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url) as connection:
        posts = connection.execute("SELECT id FROM post ORDER BY id").fetchall()
        with connection.pipeline():
            for (post,) in posts:
                connection.execute("SELECT body FROM comment WHERE post_id = %s", (post,))
    for finding in proxy.findings("n_plus_one"):
        assert finding["avoidable_round_trips"] <= 1
