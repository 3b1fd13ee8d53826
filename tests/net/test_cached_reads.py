"""The cache as clients see it: answers that are right, and hits that are real."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from support.proxy import Proxy, proxy_to
from support.raw import eventually
from support.servers import Postgres, RedisServer

READ = "SELECT id, name FROM author WHERE id = %s"
RULE = {"name": "catalogue", "tables": ["author", "post"], "ttl": "60s"}


@pytest.fixture
def catalogue(postgres: Postgres) -> str:
    """URL of a fresh database with authors and posts."""
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE author (id int PRIMARY KEY, name text)")
        connection.execute("CREATE TABLE post (id int PRIMARY KEY, author_id int REFERENCES author ON DELETE CASCADE)")
        connection.execute("INSERT INTO author SELECT n, 'author ' || n FROM generate_series(1, 20) n")
        connection.execute("INSERT INTO post SELECT n, 1 + n % 20 FROM generate_series(1, 40) n")
    return url


@contextlib.contextmanager
def cached(url: str, *rules: dict[str, Any], redis: str | None = None) -> Iterator[Proxy]:
    cache: dict[str, Any] = {"allow": list(rules) or [RULE]}
    if redis is not None:
        cache["redis"] = redis
    with proxy_to(url, cache=cache) as proxy:
        yield proxy


def connect(proxy: Proxy, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(proxy.url, autocommit=True, **options)


def hits(proxy: Proxy) -> int:
    return int(proxy.running.cache_statistics()["hits"])


@pytest.fixture(params=["memory", "redis"])
def proxy(request: pytest.FixtureRequest, catalogue: str) -> Iterator[Proxy]:
    """A proxy with a rule for author and post, with memory alone and with Redis behind it."""
    redis: RedisServer | None = request.getfixturevalue("own_redis") if request.param == "redis" else None
    with cached(catalogue, redis=redis.url if redis is not None else None) as started:
        yield started


# --- hits ---


def test_psycopg_hits_from_the_second_time_on_before_and_after_it_names_the_statement(proxy: Proxy) -> None:
    with connect(proxy) as client:
        for number in range(12):
            assert client.execute(READ, (3,)).fetchall() == [(3, "author 3")]
            # the sixth execution names the statement: one Parse goes to the server, the cycle behind it may hit again
            assert hits(proxy) == number


def test_asyncpg_hits_from_the_second_time_on(proxy: Proxy) -> None:
    async def program() -> None:
        client = await asyncpg.connect(proxy.url)
        try:
            for number in range(4):
                assert [tuple(row) for row in await client.fetch(READ.replace("%s", "$1"), 3)] == [(3, "author 3")]
                assert hits(proxy) == number
            for number in range(3, 6):
                assert await client.fetchval("SELECT name FROM author WHERE id = $1", 4) == "author 4"
                assert hits(proxy) == number
        finally:
            await client.close()

    run(program())


def test_what_was_read_in_a_snapshot_older_than_the_question_is_not_stored(proxy: Proxy) -> None:
    """asyncpg prepares, and executes in the same transaction of the server: by default that is one statement's snapshot,
    in REPEATABLE READ it is that of the preparation."""

    async def program() -> None:
        client = await asyncpg.connect(proxy.url, server_settings={"default_transaction_isolation": "repeatable read"})
        try:
            for number in range(4):
                assert len(await client.fetch(READ.replace("%s", "$1"), 3)) == 1
                assert hits(proxy) == max(0, number - 1)
        finally:
            await client.close()

    run(program())


def test_asyncpg_hits_after_it_looked_up_a_type_for_which_it_turns_jit_off(proxy: Proxy, catalogue: str) -> None:
    with psycopg.connect(catalogue) as setup:
        setup.execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")

    async def program() -> None:
        client = await asyncpg.connect(proxy.url)
        try:
            assert await client.fetchval("SELECT '{glad}'::mood[]") == ["glad"]
            for number in range(3):
                assert await client.fetchval("SELECT name FROM author WHERE id = $1", 4) == "author 4"
                await client.fetchval("SELECT '{sad}'::mood[]")
                assert hits(proxy) == number
        finally:
            await client.close()

    run(program())


def test_psql_hits_the_second_time_in_another_session(proxy: Proxy, postgres: Postgres) -> None:
    if postgres.bin is None:
        pytest.skip("psql is not installed")
    for number in range(3):
        done = subprocess.run(
            [postgres.bin / "psql", proxy.url, "-AXtc", "SELECT name FROM author WHERE id = 5"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "author 5\n"
        assert hits(proxy) == number


def test_a_comment_does_not_make_the_key_unique(proxy: Proxy) -> None:
    with connect(proxy) as client:
        for number in range(3):
            assert client.execute(f"SELECT name FROM author WHERE id = 6 /*traceparent='{number}'*/").fetchone()
        assert hits(proxy) == 2


def test_parameters_and_literals_are_part_of_the_question(proxy: Proxy) -> None:
    with connect(proxy) as client:
        for key in (1, 2, 1, 2):
            assert client.execute(READ, (key,)).fetchone() == (key, f"author {key}")
            assert client.execute(f"SELECT name FROM author WHERE id = {key}").fetchone() == (f"author {key}",)
        assert hits(proxy) == 4


def test_nothing_is_answered_without_a_rule(catalogue: str) -> None:
    with proxy_to(catalogue) as proxy, connect(proxy) as client:
        for _ in range(3):
            assert client.execute(READ, (3,)).fetchone() == (3, "author 3")
        assert proxy.running.cache_statistics() == {}


@pytest.mark.parametrize(
    "rule",
    [
        {"template": "select id, name from author where id = 99"},
        {"tables": ["author"]},
        {"tables": ["public.author"]},
    ],
)
def test_each_kind_of_rule_matches(catalogue: str, rule: dict[str, Any]) -> None:
    with cached(catalogue, {"name": "one", "ttl": 60, **rule}) as proxy, connect(proxy) as client:
        for _ in range(2):
            client.execute(READ, (3,)).fetchall()
            client.execute("SELECT count(*) FROM post").fetchall()
        assert hits(proxy) == 1


def test_a_read_of_a_table_that_is_not_listed_goes_to_the_server(catalogue: str) -> None:
    with cached(catalogue, {"name": "one", "tables": ["author"], "ttl": 60}) as proxy, connect(proxy) as client:
        for _ in range(3):
            client.execute("SELECT a.name FROM author a JOIN post p ON p.author_id = a.id WHERE p.id = 4").fetchall()
        assert hits(proxy) == 0


@pytest.mark.parametrize(
    "query",
    [
        "SELECT now(), name FROM author WHERE id = 1",
        "SELECT random() FROM author WHERE id = 1",
        "SELECT name FROM author WHERE id = 1 FOR UPDATE",
        "SELECT name FROM author TABLESAMPLE BERNOULLI (50)",
        "SELECT 1",
        "SELECT relname FROM pg_class LIMIT 1",
        "SELECT name FROM author WHERE id = 1; SELECT 2",
    ],
)
def test_what_may_not_be_stored_is_not(proxy: Proxy, query: str) -> None:
    with connect(proxy) as client:
        for _ in range(3):
            client.execute(query).fetchall()
    assert hits(proxy) == 0


# --- coherence ---


def changed(client: psycopg.Connection[Any], key: int = 3) -> str:
    row = client.execute(READ, (key,)).fetchone()
    return row[1] if row is not None else ""


WRITES = [
    "UPDATE author SET name = 'new' WHERE id = 3",
    "UPDATE public.author SET name = 'new' WHERE id = 3",
    "WITH w AS (UPDATE author SET name = 'new' WHERE id = 3 RETURNING 1) SELECT * FROM w",
    "BEGIN; UPDATE author SET name = 'new' WHERE id = 3; COMMIT",
    "DO $$ BEGIN UPDATE author SET name = 'new' WHERE id = 3; END $$",
    "SELECT rename_author(3)",
    "UPDATE author_view SET name = 'new' WHERE id = 3",
    "INSERT INTO journal VALUES (3)",
    "MERGE INTO author a USING (SELECT 3 AS id) s ON a.id = s.id WHEN MATCHED THEN UPDATE SET name = 'new'",
    "DROP VIEW author_view; ALTER TABLE author ALTER name TYPE text USING CASE id WHEN 3 THEN 'new' ELSE name END",
    "PREPARE p AS UPDATE author SET name = 'new' WHERE id = 3; EXECUTE p",
]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_through_the_proxy_is_seen_at_once_by_all_sessions(proxy: Proxy, catalogue: str, write: str) -> None:
    with psycopg.connect(catalogue, autocommit=True) as setup:
        setup.execute(
            "CREATE FUNCTION rename_author(int) RETURNS void LANGUAGE sql"
            " AS 'UPDATE author SET name = ''new'' WHERE id = $1'"
        )
        setup.execute("CREATE VIEW author_view AS SELECT * FROM author")
        setup.execute("CREATE TABLE journal (id int)")
        setup.execute(
            "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN UPDATE author SET name = 'new' WHERE id = NEW.id; RETURN NEW; END $$"
        )
        setup.execute("CREATE TRIGGER t AFTER INSERT ON journal FOR EACH ROW EXECUTE FUNCTION follow()")
    with connect(proxy) as writer, connect(proxy) as reader:
        writer.execute("CREATE TABLE ddl_done ()")  # what was set up past the proxy is known from here on
        for _ in range(3):
            assert changed(writer) == changed(reader) == "author 3"
        writer.execute(write)
        assert changed(reader) == "new"
        assert changed(writer) == "new"


def test_copy_from_is_a_write(proxy: Proxy) -> None:
    with connect(proxy) as writer, connect(proxy) as reader:
        for _ in range(2):
            assert changed(reader, 77) == ""
        with writer.cursor() as cursor, cursor.copy("COPY author FROM STDIN") as copy:
            copy.write_row((77, "copied"))
        assert changed(reader, 77) == "copied"


def test_a_cascade_is_a_write_of_the_table_behind_the_foreign_key(proxy: Proxy) -> None:
    count = "SELECT count(*) FROM post WHERE author_id = 3"
    with connect(proxy) as writer, connect(proxy) as reader:
        assert [reader.execute(count).fetchone() for _ in range(3)] == [(2,)] * 3
        assert hits(proxy) > 0
        writer.execute("DELETE FROM author WHERE id = 3")
        assert reader.execute(count).fetchone() == (0,)


def test_a_transaction_reads_its_own_writes_and_others_see_them_at_its_commit(proxy: Proxy) -> None:
    with connect(proxy) as writer, connect(proxy) as reader:
        for _ in range(2):
            assert changed(writer) == changed(reader) == "author 3"
        with writer.transaction():
            writer.execute("UPDATE author SET name = 'mine' WHERE id = 3")
            assert changed(writer) == "mine"
            assert changed(reader) == "author 3"
        assert changed(reader) == "mine"


def test_a_rolled_back_write_is_never_seen(proxy: Proxy) -> None:
    with connect(proxy) as writer, connect(proxy) as reader:
        for _ in range(2):
            assert changed(reader) == "author 3"
        with contextlib.suppress(ZeroDivisionError), writer.transaction():
            writer.execute("UPDATE author SET name = 'never' WHERE id = 3")
            assert changed(writer) == "never"
            raise ZeroDivisionError
        assert changed(reader) == changed(writer) == "author 3"


def test_what_the_server_refuses_as_no_sql_costs_no_answer(proxy: Proxy) -> None:
    with connect(proxy) as client, connect(proxy) as other:
        assert changed(other) == changed(other) == "author 3"
        for number in range(3):
            with pytest.raises(psycopg.errors.SyntaxError):
                client.execute("SELEC 1")
            assert changed(other) == "author 3"
            assert hits(proxy) == 2 + number
        with pytest.raises(psycopg.errors.SyntaxError):
            client.execute("UPDATE author SET name = 'new' WHERE id = 3; SELEC 1")
        assert changed(other) == "author 3"


def test_inside_of_a_transaction_the_server_answers(proxy: Proxy) -> None:
    with connect(proxy) as client:
        changed(client)
        with client.transaction():
            assert [changed(client) for _ in range(3)] == ["author 3"] * 3
        assert hits(proxy) == 0


def test_two_proxies_over_one_redis_see_each_others_writes(catalogue: str, own_redis: RedisServer) -> None:
    with (
        cached(catalogue, redis=own_redis.url) as one,
        cached(catalogue, redis=own_redis.url) as other,
        connect(one) as writer,
        connect(other) as reader,
    ):
        for number in range(5):
            assert changed(reader) == ("author 3" if not number else f"name {number}")
            assert changed(reader) == changed(writer)
            writer.execute("UPDATE author SET name = %s WHERE id = 3", (f"name {number + 1}",))
        assert hits(other) > 0
        fills = one.running.cache_statistics()["fills"]
        assert changed(writer, 9) == "author 9"
        eventually(lambda: one.running.cache_statistics()["fills"] > fills)  # it is stored in Redis behind the answer
        assert changed(reader, 9) == "author 9"
        assert other.running.cache_statistics()["redis_hits"] > 0


def test_with_redis_stopped_the_server_answers_and_writes_go_on(catalogue: str, own_redis: RedisServer) -> None:
    with cached(catalogue, redis=own_redis.url) as proxy, connect(proxy) as client:
        for _ in range(3):
            assert changed(client) == "author 3"
        before = hits(proxy)
        assert before == 2
        own_redis.stop()
        for number in range(3):
            client.execute("UPDATE author SET name = %s WHERE id = 3", (f"down {number}",))
            assert changed(client) == f"down {number}"
        assert hits(proxy) == before
        own_redis.start()
        for number in range(3):
            client.execute("UPDATE author SET name = %s WHERE id = 3", (f"up {number}",))
            assert changed(client) == changed(client) == f"up {number}"


# --- who asks ---


def test_settings_of_the_session_are_part_of_the_question(proxy: Proxy) -> None:
    query = "SELECT name, id::float8 / 7 FROM author WHERE id = 3"
    with connect(proxy) as plain, connect(proxy) as other:
        first = plain.execute(query).fetchone()
        other.execute("SET extra_float_digits = -10")
        assert other.execute(query).fetchone() != first
        other.execute("RESET extra_float_digits")
        assert other.execute(query).fetchone() == first


def test_the_search_path_is_part_of_the_question(proxy: Proxy, catalogue: str) -> None:
    with psycopg.connect(catalogue, autocommit=True) as setup:
        setup.execute("CREATE SCHEMA tenant")
        setup.execute("CREATE TABLE tenant.author AS SELECT id, 'tenant' AS name FROM author")
    with connect(proxy) as client, connect(proxy) as tenant:
        client.execute("CREATE TABLE ddl_done ()")
        tenant.execute("SET search_path = tenant")
        for _ in range(3):
            assert changed(client) == "author 3"
            assert changed(tenant) == "tenant"
        tenant.execute("RESET search_path")
        assert changed(tenant) == "author 3"


@pytest.mark.parametrize(
    "spell",
    ["SELECT set_config('search_path', 'tenant', false)", "DO $$ BEGIN SET search_path = tenant; END $$"],
)
def test_a_setting_that_cannot_be_followed_ends_the_answers(proxy: Proxy, catalogue: str, spell: str) -> None:
    with psycopg.connect(catalogue, autocommit=True) as setup:
        setup.execute("CREATE SCHEMA tenant")
        setup.execute("CREATE TABLE tenant.author AS SELECT id, 'tenant' AS name FROM author")
    with connect(proxy) as client:
        assert changed(client) == changed(client) == "author 3"
        client.execute(spell)
        assert changed(client) == "tenant"
        client.execute("DISCARD ALL", prepare=False)
        assert client.execute(READ, (3,), prepare=False).fetchone() == (3, "author 3")


def test_a_temporary_table_in_front_of_a_cached_one_is_read(proxy: Proxy) -> None:
    with connect(proxy) as client, connect(proxy) as other:
        assert changed(client) == changed(client) == "author 3"
        client.execute("CREATE TEMP TABLE author AS SELECT 3 AS id, 'temporary' AS name")
        assert changed(client) == "temporary"
        assert changed(other) == "author 3"


def test_another_role_is_not_given_what_it_may_not_read(proxy: Proxy, catalogue: str, postgres: Postgres) -> None:
    with connect(proxy) as client:
        assert changed(client) == changed(client) == "author 3"
        with (
            psycopg.connect(proxy.url_for(postgres.url_for("trusted", proxy.url.rpartition("/")[2]))) as stranger,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            stranger.execute(READ, (3,))


def test_revoke_ends_the_answers(proxy: Proxy, postgres: Postgres, catalogue: str) -> None:
    url = proxy.url_for(postgres.url_for("trusted", catalogue.rpartition("/")[2]))
    with connect(proxy) as owner:
        owner.execute("GRANT SELECT ON author TO PUBLIC")
        with psycopg.connect(url, autocommit=True) as reader:
            for _ in range(3):
                assert changed(reader) == "author 3"
            owner.execute("REVOKE SELECT ON author FROM PUBLIC")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                changed(reader)


def test_rows_of_a_statement_that_was_described_before_a_ddl_are_not_those_after_it(proxy: Proxy) -> None:
    query = "SELECT * FROM author WHERE id = $1"

    async def program() -> None:
        old, new = await asyncpg.connect(proxy.url), await asyncpg.connect(proxy.url)
        try:
            assert [tuple(row) for row in await old.fetch(query, 3)] == [(3, "author 3")]
            await new.execute("ALTER TABLE author DROP name; ALTER TABLE author ADD number bigint DEFAULT 77")
            fresh = await asyncpg.connect(proxy.url)
            for _ in range(2):
                assert [tuple(row) for row in await fresh.fetch(query, 3)] == [(3, 77)]
            await fresh.close()
            # by itself asyncpg prepares again when the server says that the plan has another result
            assert [tuple(row) for row in await old.fetch(query, 3)] == [(3, 77)]
        finally:
            await old.close()
            await new.close()

    run(program())


def test_sessions_from_before_and_after_a_change_of_a_role_s_settings_share_no_answers(
    catalogue: str, postgres: Postgres
) -> None:
    with psycopg.connect(catalogue, autocommit=True) as setup:
        setup.execute("CREATE SCHEMA tenant")
        setup.execute("CREATE TABLE tenant.author AS SELECT id, 'tenant' AS name FROM author")
    database = psycopg.conninfo.conninfo_to_dict(catalogue)["dbname"]
    with cached(catalogue) as proxy, connect(proxy) as before:
        with connect(proxy) as owner:
            owner.execute(f'ALTER ROLE CURRENT_USER IN DATABASE "{database}" SET search_path = tenant')
        try:
            for _ in range(3):
                assert changed(before) == "author 3"
            with connect(proxy) as after:
                for _ in range(3):
                    assert changed(after) == "tenant"
        finally:
            with psycopg.connect(catalogue, autocommit=True) as owner:
                owner.execute(f'ALTER ROLE CURRENT_USER IN DATABASE "{database}" RESET ALL')


def test_a_write_behind_a_quote_that_only_the_server_sees_is_a_write(proxy: Proxy) -> None:
    with connect(proxy) as writer, connect(proxy) as reader:
        assert changed(reader) == changed(reader) == "author 3"
        writer.execute("SET standard_conforming_strings = off")
        writer.execute(r"SELECT 'a\''; UPDATE author SET name = 'new' WHERE id = 3; -- '")
        assert changed(reader) == "new"


@pytest.mark.parametrize("value", ["database", "OFF", "f"])
def test_a_write_of_a_replication_connection_is_a_write(proxy: Proxy, postgres: Postgres, value: str) -> None:
    if postgres.superuser_url is None:
        pytest.skip("the server given has no superuser")
    database = proxy.url.rpartition("/")[2]
    url = proxy.url_for(postgres.superuser_url.rpartition("/")[0] + "/" + database)
    with connect(proxy) as reader:
        assert changed(reader) == changed(reader) == "author 3"
        with psycopg.connect(url, replication=value, autocommit=True, cursor_factory=psycopg.ClientCursor) as writer:
            assert writer.execute("UPDATE author SET name = 'new' WHERE id = 3").rowcount == 1
            assert changed(reader) == "new"


def test_set_config_in_another_spelling_ends_the_answers(proxy: Proxy, catalogue: str) -> None:
    with psycopg.connect(catalogue, autocommit=True) as setup:
        setup.execute("CREATE SCHEMA tenant")
        setup.execute("CREATE TABLE tenant.author AS SELECT id, 'tenant' AS name FROM author")
    for spell in ('"set_config"', 'U&"set\\005fconfig"', "pg_catalog.set_config"):
        with connect(proxy) as client:
            assert changed(client) == changed(client) == "author 3"
            client.execute(f"SELECT {spell}('search_path', 'tenant', false)")
            assert changed(client) == "tenant"


# --- findings go on ---


def test_a_loop_that_is_answered_from_the_cache_is_still_an_n_plus_one(proxy: Proxy) -> None:
    with connect(proxy) as client:
        for _ in range(2):
            for (key,) in client.execute("SELECT id FROM author ORDER BY id").fetchall():
                changed(client, key)
        client.execute("DISCARD ALL", prepare=False)
    assert hits(proxy) >= 20
    (finding,) = proxy.findings("n_plus_one")
    assert finding["tables"] == ["author"]
    assert finding["count"] >= 20
    row = next(row for row in proxy.report()["statistics"] if "WHERE id" in row["template"])
    assert row["cache_hits"] == 20


def run(program: Any) -> None:
    import asyncio

    asyncio.run(program)
