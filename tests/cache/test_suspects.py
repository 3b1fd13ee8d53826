"""Code that a statement runs without calling it by name: such reads are not stored, and what may write is a write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgloupe.cache import Cache, Dependencies
from pgloupe.cache.suspects import IMPLICIT, LOGIN, UNSTEADY_COLUMN
from pgloupe_rules.mentions import CLOCK_CAST
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Template
from support.caches import Clock, answer, entry, keep, look, read, started
from support.servers import Postgres

ONE = entry("one")
CODE = "mentions code of a user's that is not known to be immutable"

SCHEMA = """
CREATE TABLE author (id int PRIMARY KEY, name text, born date, at timestamptz, n int, note text);
CREATE TABLE post (id int PRIMARY KEY, at timestamptz, born text);
CREATE TABLE journal (id int);
CREATE FUNCTION full_name(author) RETURNS text LANGUAGE sql STABLE AS 'SELECT max(note) FROM author';
CREATE FUNCTION initial(author) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT left($1.name, 1)';
CREATE FUNCTION touch(author) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO journal VALUES (1) RETURNING id';
CREATE FUNCTION any_row(anyelement, int DEFAULT 1) RETURNS int LANGUAGE sql STABLE AS 'SELECT count(*)::int FROM journal';
CREATE FUNCTION stable_same(int, text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT exists(SELECT FROM journal)';
CREATE FUNCTION pure_same(int, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION write_same(int, text) RETURNS bool LANGUAGE sql VOLATILE
  AS 'INSERT INTO journal VALUES (2) RETURNING true';
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = text, FUNCTION = stable_same);
CREATE OPERATOR ==== (LEFTARG = int, RIGHTARG = text, FUNCTION = pure_same);
CREATE OPERATOR !== (LEFTARG = int, RIGHTARG = text, FUNCTION = write_same);
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT exists(SELECT FROM journal)';
CREATE FUNCTION logged(text) RETURNS bool LANGUAGE sql VOLATILE AS 'INSERT INTO journal VALUES (3) RETURNING true';
CREATE DOMAIN plain AS text CHECK (VALUE <> '');
CREATE DOMAIN checked AS text CHECK (known(VALUE));
CREATE DOMAIN checked2 AS checked;
CREATE DOMAIN logging AS text CHECK (logged(VALUE));
CREATE DOMAIN birthday AS date;
CREATE DOMAIN noon AS timetz;
CREATE TYPE pair AS (a int, b checked);
CREATE TABLE holder (id int, c checked[]);
CREATE TABLE logs (id int, c logging);
CREATE TABLE clock (id int, t timetz);
CREATE TABLE named (id int, c regclass);
CREATE TABLE moody (id int, m mood, p plain, b birthday);
CREATE FUNCTION to_pair(text) RETURNS pair LANGUAGE sql STABLE AS 'SELECT NULL::pair';
CREATE TYPE point3 AS (x int, y int, z int);
CREATE FUNCTION to_point3(text) RETURNS point3 LANGUAGE sql STABLE AS 'SELECT ROW(1, 2, count(*))::point3 FROM journal';
CREATE CAST (text AS point3) WITH FUNCTION to_point3(text);
CREATE CAST (text AS mood) WITH INOUT AS IMPLICIT;
CREATE FUNCTION lower(int) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO journal VALUES (4) RETURNING id';
CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO journal VALUES (5) RETURNING id';
CREATE FUNCTION add_pure(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE AGGREGATE product(int) (SFUNC = add_pure, STYPE = int, INITCOND = '0');
CREATE AGGREGATE tally(int) (SFUNC = add, STYPE = int, INITCOND = '0');
CREATE VIEW tallied AS SELECT tally(id) FROM post;
CREATE VIEW writing AS SELECT touch(author) FROM author;
CREATE VIEW writing2 AS SELECT * FROM writing;
CREATE VIEW checking AS SELECT name::checked FROM author;
"""


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> Iterator[str]:
    made = postgres.create_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute(SCHEMA)
    yield made
    postgres.drop_database(made)


@pytest.fixture(scope="module")
def known(url: str) -> Dependencies:
    """What was read once: the connection is closed."""
    dependencies = Dependencies(url)

    async def once() -> None:
        await dependencies.refresh()
        await dependencies.close()

    asyncio.run(once())
    assert (dependencies.mode, dependencies.last_error) == ("catalog", "")
    return dependencies


def template(sql: str) -> Template:
    (recognised,) = recognise(sql)
    return recognised.template


def why(known: Dependencies, sql: str, *tables: str) -> str:
    found = known.reads(tables or ("author",), (), "", template(sql))
    return found if isinstance(found, str) else ""


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.full_name FROM author a",
        "SELECT (a).full_name FROM author a",
        'SELECT a."full_name" FROM author a',
        "SELECT id FROM author ORDER BY author.full_name",
        "SELECT a.touch FROM author a",
        "SELECT a.any_row FROM author a",
        "SELECT a.to_jsonb FROM author a",
        "SELECT id === 'x' FROM author",
        "SELECT id FROM author WHERE id===name",
        "SELECT id OPERATOR(public.===) name FROM author",
        "SELECT id !== name FROM author",
        "SELECT 'x'::checked FROM author",
        "SELECT CAST(name AS public.checked) FROM author",
        "SELECT checked 'x' FROM author",
        "SELECT '{x}'::checked[] FROM author",
        "SELECT '{x}'::_checked FROM author",
        "SELECT name::checked2 FROM author",
        "SELECT '(1,x)'::pair FROM author",
        "SELECT ROW(1, '{}')::holder FROM author",
        "SELECT name::birthday FROM author",
        "SELECT '12:00'::noon FROM author",
        "SELECT name::point3 FROM author",
    ],
)
async def test_a_read_that_may_run_code_of_a_user_s_is_not_stored(known: Dependencies, sql: str) -> None:
    assert why(known, sql) == CODE


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.name, a.id FROM author a WHERE a.n = 3 AND a.name LIKE 'x%' ORDER BY a.at",
        "SELECT a.initial FROM author a",
        "SELECT author.id, public.author.at AS post FROM public.author",
        "SELECT AVG(a.n) AS author FROM public.author AS a",
        "SELECT id ==== 'x' FROM author",
        "SELECT 'sad'::mood, 'x'::plain, name::text, n::bigint, at::date FROM author",
        "SELECT (at + '1 day'::interval)::date, n::numeric, max(at)::date, at::timestamp::date AS at FROM author",
        "SELECT '2024-01-01'::date, $1::timestamptz, '{2024-01-01}'::date[] FROM author",
    ],
)
async def test_a_read_that_runs_no_such_code_is_stored(known: Dependencies, sql: str) -> None:
    assert why(known, sql) == ""


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT born::date FROM author",
        "SELECT note::timestamptz FROM author",
        "SELECT author.unknown::date FROM author",
    ],
)
async def test_a_column_that_is_a_text_somewhere_is_not_cast_to_a_date(known: Dependencies, sql: str) -> None:
    assert why(known, sql) == CLOCK_CAST


async def test_without_catalogs_no_column_is_cast_to_a_date() -> None:
    coarse = Dependencies(None)
    assert coarse.reads(("author",), (), "", template("SELECT at::date FROM author")) == CLOCK_CAST
    assert coarse.reads(("author",), (), "", template("SELECT '2024-01-01'::date FROM author")) == ("author",)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("holder", UNSTEADY_COLUMN),
        ("clock", UNSTEADY_COLUMN),
        ("named", UNSTEADY_COLUMN),
        ("logs", UNSTEADY_COLUMN),
        ("tallied", "view with a function that is not immutable"),
        ("writing", "view with a function that is not immutable"),
        ("checking", "view with a function that is not immutable"),
        ("moody", ""),
    ],
)
async def test_a_table_with_a_column_whose_text_moves_is_not_stored(
    known: Dependencies, table: str, reason: str
) -> None:
    assert why(known, f"SELECT * FROM {table}", table) == reason


@pytest.mark.parametrize(
    ("sql", "writes"),
    [
        ("SELECT a.touch FROM author a", True),
        ("SELECT id !== name FROM author", True),
        ("SELECT 'x'::logging", True),
        ("SELECT lower(3)", True),
        ("SELECT * FROM writing", True),
        ("SELECT * FROM writing2", True),
        ("SELECT * FROM tallied", True),
        ("INSERT INTO post SELECT n FROM writing2", True),
        ("SELECT a.full_name FROM author a", False),
        ("SELECT id === name FROM author", False),
        ("SELECT 'x'::plain, 'sad'::mood, upper(name) FROM author", False),
        ("SELECT * FROM author", False),
    ],
)
async def test_a_read_that_may_run_a_volatile_function_may_write(known: Dependencies, sql: str, writes: bool) -> None:
    assert known.may_write(template(sql).text) is writes


async def test_writing_a_column_of_a_domain_whose_check_may_write_may_write_anything(known: Dependencies) -> None:
    assert known.writes(frozenset({"logs"})) is None
    assert known.writes(frozenset({"moody"})) == {"moody"}


async def test_an_aggregate_is_what_its_functions_are(known: Dependencies) -> None:
    assert known.harmless({"product"})
    assert not known.harmless({"tally"})


@pytest.fixture
def own_url(postgres: Postgres) -> Iterator[str]:
    made = postgres.create_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute("CREATE TABLE author (id int, name text); CREATE TABLE post (id int)")
    yield made
    postgres.drop_database(made)


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE FUNCTION same(author, author) RETURNS bool LANGUAGE sql STABLE AS 'SELECT true';"
        "CREATE OPERATOR = (LEFTARG = author, RIGHTARG = author, FUNCTION = same)",
        "CREATE TYPE box3 AS (x int); CREATE FUNCTION to_box3(text) RETURNS box3 LANGUAGE sql STABLE AS 'SELECT ROW(1)::box3';"
        "CREATE CAST (text AS box3) WITH FUNCTION to_box3(text) AS IMPLICIT",
        "CREATE DOMAIN d AS date; CREATE TYPE box4 AS (d d); CREATE CAST (text AS box4) WITH INOUT AS IMPLICIT",
    ],
)
async def test_code_that_nothing_in_a_statement_tells_of_ends_all_storing(own_url: str, ddl: str) -> None:
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute(ddl)
    dependencies = Dependencies(own_url)
    await dependencies.refresh()
    assert why(dependencies, "SELECT id FROM author") == IMPLICIT
    assert not dependencies.may_write("SELECT id FROM author")
    await dependencies.close()


async def test_an_implicit_cast_that_writes_makes_each_statement_a_write(own_url: str) -> None:
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TYPE box3 AS (x int); CREATE FUNCTION to_box3(text) RETURNS box3 LANGUAGE sql VOLATILE"
            " AS 'INSERT INTO post VALUES (1) RETURNING ROW(1)::box3';"
            "CREATE CAST (text AS box3) WITH FUNCTION to_box3(text) AS IMPLICIT"
        )
    dependencies = Dependencies(own_url)
    await dependencies.refresh()
    assert dependencies.may_write("SELECT id FROM author")
    await dependencies.close()


async def settled(cache: Cache) -> None:
    while cache._refreshing is not None:
        await asyncio.wait([cache._refreshing])


PAST = [
    "REVOKE SELECT (name) ON author FROM PUBLIC",
    "REVOKE UPDATE ON author FROM PUBLIC",
    "GRANT USAGE ON SCHEMA public TO PUBLIC; REVOKE USAGE ON SCHEMA public FROM PUBLIC",
    "ALTER TABLE author OWNER TO pg_database_owner",
    "ALTER TABLE author ADD c int",
    "ALTER TABLE author RENAME name TO title",
    "ALTER TABLE author ALTER id TYPE bigint",
    "CREATE OR REPLACE VIEW names AS SELECT upper(title) AS name FROM author",
    "ALTER VIEW names SET (security_barrier = true)",
    "CREATE POLICY p ON author USING (id > 1)",
    "CREATE OR REPLACE FUNCTION pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2'",
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'sadder'",
]


async def test_what_is_changed_past_the_proxy_ends_the_answers_at_the_next_refresh(own_url: str) -> None:
    clock = Clock()
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute(
            "CREATE VIEW names AS SELECT lower(name) AS name FROM author; CREATE TYPE mood AS ENUM ('sad', 'ok');"
            "CREATE FUNCTION pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';"
            "GRANT UPDATE ON author TO PUBLIC; GRANT SELECT (name) ON author TO PUBLIC;"
        )
        async with started(dependencies=Dependencies(own_url, clock=clock), clock=clock) as cache:
            await keep(cache, read("a", "author", ttl_s=6000), ONE)
            for change in ["SELECT 1", *PAST]:
                identity = cache.server_identity
                connection.execute(change)
                clock.now_s += 31
                await look(cache, read("x", "author"))
                await settled(cache)
                same = change == "SELECT 1"
                assert (await answer(cache, read("a", "author", ttl_s=6000)) is ONE) is same, change
                assert (cache.server_identity == identity) is same, change
                if not same:
                    await keep(cache, read("a", "author", ttl_s=6000), ONE)


async def test_a_lost_connection_to_the_catalogs_ends_the_answers(own_url: str) -> None:
    async with started(dependencies=Dependencies(own_url)) as cache:
        await keep(cache, read("a", "author"), ONE)
        with psycopg.connect(own_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        for _ in range(10_000):
            if (await look(cache, read("a", "author"))).reason == "dependencies are being read":
                break
            await asyncio.sleep(0)  # the loop hears of the end
        else:
            raise AssertionError("the connection is still there")
        await settled(cache)
        assert cache.dependencies.mode == "catalog"
        assert await answer(cache, read("a", "author")) is None


async def test_an_event_trigger_on_login_ends_all_storing(postgres_of: Callable[[int], Postgres]) -> None:
    server = postgres_of(18)
    if server.superuser_url is None:
        pytest.skip("only a superuser may make an event trigger")
    made = server.create_database()
    database = psycopg.conninfo.conninfo_to_dict(made)["dbname"]
    with psycopg.connect(server.superuser_url, dbname=database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE author (id int); CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
            "CREATE EVENT TRIGGER t ON login EXECUTE FUNCTION f(); ALTER EVENT TRIGGER t ENABLE ALWAYS"
        )
        dependencies = Dependencies(made)
        await dependencies.refresh()
        assert why(dependencies, "SELECT id FROM author") == LOGIN
        connection.execute("ALTER EVENT TRIGGER t DISABLE")
        await dependencies.refresh()
        assert why(dependencies, "SELECT id FROM author") == ""
        await dependencies.close()
    server.drop_database(made)
