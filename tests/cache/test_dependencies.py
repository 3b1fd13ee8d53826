"""Dependencies from the catalogs of a real server: what a write reaches, and what is never stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from pgloupe.cache import Cache, Dependencies
from pgloupe.cache.catalog import version_name
from support.caches import Clock, answer, done, entry, keep, look, read, started, write
from support.servers import Postgres, Redis

ONE = entry("one")

SCHEMA = """
CREATE TABLE author (id int PRIMARY KEY, name text);
CREATE TABLE post (id int PRIMARY KEY, author_id int REFERENCES author ON DELETE CASCADE, t timestamptz);
CREATE TABLE comment (id int PRIMARY KEY, post_id int REFERENCES post ON UPDATE SET NULL);
CREATE TABLE label (id int PRIMARY KEY, post_id int REFERENCES post);
CREATE TABLE alone (id int PRIMARY KEY, n numeric DEFAULT 1);
CREATE VIEW names AS SELECT lower(name) AS name FROM author;
CREATE VIEW names2 AS SELECT name FROM names;
CREATE VIEW recent AS SELECT * FROM post WHERE t > now();
CREATE VIEW mine AS SELECT * FROM alone WHERE current_user = 'x';
CREATE VIEW system_view AS SELECT relname FROM pg_class;
CREATE MATERIALIZED VIEW counts AS SELECT count(*) FROM alone;
CREATE TABLE measure (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE measure_1 PARTITION OF measure FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE measure_2 PARTITION OF measure FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE animal (id int);
CREATE TABLE dog (tail int) INHERITS (animal);
CREATE TABLE audited (id int);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO alone VALUES (1); RETURN NEW; END';
CREATE TRIGGER audit AFTER INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TABLE ruled (id int);
CREATE RULE r AS ON INSERT TO ruled DO ALSO INSERT INTO alone VALUES (2);
CREATE FUNCTION next_id() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO alone VALUES (3) RETURNING id';
CREATE TABLE counted (id int DEFAULT next_id());
CREATE TABLE searched (t text, v tsvector);
CREATE TRIGGER v BEFORE INSERT ON searched FOR EACH ROW
  EXECUTE FUNCTION tsvector_update_trigger(v, 'pg_catalog.english', t);
CREATE TABLE secret (id int);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE VIEW secret_view AS SELECT * FROM secret;
CREATE TABLE secret_child () INHERITS (secret);
CREATE FUNCTION pure(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION steady() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM alone';
CREATE FUNCTION mixed(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION mixed(text) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
CREATE FUNCTION lower(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE TABLE "Mixed.Case" (id int);
CREATE SEQUENCE seq;
CREATE SCHEMA other;
CREATE TABLE other.author (id int);
"""


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> Iterator[str]:
    made = postgres.create_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute(SCHEMA)
    yield made
    postgres.drop_database(made)


@pytest.fixture
def own_url(postgres: Postgres) -> Iterator[str]:
    made = postgres.create_database()
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute("CREATE TABLE author (id int); CREATE TABLE post (id int)")
    yield made
    postgres.drop_database(made)


@pytest.fixture
async def known(url: str) -> AsyncIterator[Dependencies]:
    dependencies = Dependencies(url)
    await dependencies.refresh()
    assert (dependencies.mode, dependencies.last_error) == ("catalog", "")
    yield dependencies
    await dependencies.close()


@pytest.mark.parametrize(
    ("written", "reached"),
    [
        ("alone", {"alone", "mine"}),
        ("post", {"post", "comment", "recent"}),
        ("author", {"author", "post", "comment", "names", "names2", "recent"}),
        ("other.author", {"author", "post", "comment", "names", "names2", "recent"}),
        ("AUTHOR", {"author", "post", "comment", "names", "names2", "recent"}),
        ("label", {"label"}),
        ("names", {"author", "post", "comment", "names", "names2", "recent"}),
        ("measure", {"measure", "measure_1", "measure_2"}),
        ("measure_1", {"measure", "measure_1"}),
        ("animal", {"animal", "dog"}),
        ("dog", {"animal", "dog"}),
        ("searched", {"searched"}),
        ("counts", {"counts"}),
        ("Mixed.Case", {"case"}),
        ("audited", None),
        ("ruled", None),
        ("counted", None),
        ("no_such_table", None),
        ("pg_class", None),
    ],
)
async def test_a_write_reaches_cascades_partitions_and_views(
    known: Dependencies, written: str, reached: set[str] | None
) -> None:
    for _ in range(2):
        assert known.writes(frozenset({written})) == reached


@pytest.mark.parametrize(
    ("table", "depends"),
    [
        ("alone", ("alone",)),
        ("names2", ("author", "names", "names2")),
        ("measure", ("measure", "measure_1", "measure_2")),
        ("measure_2", ("measure_2",)),
        ("counts", ("counts",)),
        ("recent", "view with a function that is not immutable"),
        ("mine", "view with a function that is not immutable"),
        ("system_view", "view over system catalogs"),
        ("secret", "row-level security"),
        ("secret_view", "row-level security"),
        ("no_such_table", "unknown table"),
        ("pg_class", "unknown table"),
        ("seq", "unknown table"),
    ],
)
async def test_a_read_depends_on_what_is_under_it(
    known: Dependencies, table: str, depends: tuple[str, ...] | str
) -> None:
    for _ in range(2):
        assert known.reads((table,)) == depends


async def test_each_read_that_is_stored_depends_on_something_that_each_write_of_its_tables_raises(
    known: Dependencies,
) -> None:
    graph = known._graph
    assert graph is not None
    stored = {table: depends for table in graph.relations if not isinstance(depends := known.reads((table,)), str)}
    assert len(stored) > 15
    for table, depends in stored.items():
        for under in depends:
            raised = known.writes(frozenset({under}))
            assert raised is None or (raised & set(depends) and table in raised), (table, under)


async def test_functions_of_users_are_harmless_only_by_their_declaration(known: Dependencies) -> None:
    assert known.harmless({"pure", "public.steady"})
    assert not known.harmless({"mixed"})
    assert not known.harmless({"next_id"})
    assert not known.harmless({"no_such_function"})
    assert not known.harmless({"pure"}, "another_database")


async def test_a_built_in_name_that_a_user_defined_too_is_not_taken_for_the_built_in(known: Dependencies) -> None:
    assert known.reads(("alone",), ("upper",)) == ("alone",)
    assert known.reads(("alone",), ("lower",)) == "a user-defined function has this name"


async def test_temporary_and_foreign_tables_are_not_stored(own_url: str) -> None:
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE basket (id int)")
        dependencies = Dependencies(own_url)
        await dependencies.refresh()
        assert dependencies.reads(("basket",)) == "temporary table"
        await dependencies.close()


async def test_another_database_is_in_coarse_mode(known: Dependencies) -> None:
    assert known.writes(frozenset({"alone"}), "another") is None
    assert known.reads(("no_such_table",), (), "another") == ("no_such_table",)
    assert known.reads(("alone",), (), known.database) == ("alone",)


async def test_without_a_connection_the_mode_is_coarse() -> None:
    dependencies = Dependencies("postgresql://nobody@127.0.0.1:1/none", timeout_s=2.0)
    assert dependencies.mode == "refreshing"
    assert dependencies.reads(("author",)) == "dependencies are being read"
    assert dependencies.writes(frozenset({"author"})) is None
    await dependencies.refresh()
    assert dependencies.mode == "coarse"
    assert dependencies.last_error
    assert dependencies.reads(("public.Author",)) == ("author",)
    assert dependencies.writes(frozenset({"author"})) is None
    await dependencies.close()


async def test_catalogs_that_could_not_be_read_are_asked_for_again_soon() -> None:
    clock = Clock()
    dependencies = Dependencies("postgresql://nobody@127.0.0.1:1/none", timeout_s=2.0, refresh_s=30, clock=clock)
    await dependencies.refresh()
    assert not dependencies.due()
    clock.now_s += 6
    assert dependencies.due()
    await dependencies.close()


async def test_many_ddl_statements_have_the_catalogs_read_once(own_url: str) -> None:
    async with started(dependencies=Dependencies(own_url)) as cache:
        before = cache.dependencies.refreshes
        for _ in range(50):
            await write(cache)
        await settled(cache)
        assert cache.dependencies.refreshes == before + 1
        assert (await look(cache, read("a", "author"))).ticket is not None


async def test_a_lost_connection_is_made_again(own_url: str) -> None:
    dependencies = Dependencies(own_url)
    await dependencies.refresh()
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    while dependencies.refreshes < 5:
        await dependencies.refresh()
        if dependencies.mode == "catalog":
            break
    await dependencies.refresh()
    assert dependencies.mode == "catalog"
    await dependencies.close()


@pytest.mark.parametrize("name", ["x" * 64, "a." + "x" * 64, "é" * 32, "x" * 1_000_000])
def test_a_name_that_the_server_would_cut_has_no_version(name: str) -> None:
    assert version_name(name) is None


async def settled(cache: Cache) -> None:
    """Wait until the cache has read the catalogs that it wants to read."""
    while cache._refreshing is not None:
        await asyncio.wait([cache._refreshing])


async def test_in_catalog_mode_a_write_leaves_other_tables_alone(own_url: str) -> None:
    async with started(dependencies=Dependencies(own_url)) as cache:
        await keep(cache, read("a", "author"), ONE)
        await write(cache, "post")
        assert await answer(cache, read("a", "author")) is ONE
        await write(cache, "author")
        assert await answer(cache, read("a", "author")) is None


async def test_ddl_through_the_cache_renews_the_dependencies(own_url: str) -> None:
    async with started(dependencies=Dependencies(own_url)) as cache:
        await keep(cache, read("a", "author"), ONE)
        mark = await done(cache.begin_write(None))
        with psycopg.connect(own_url, autocommit=True) as connection:
            connection.execute("CREATE VIEW pairs AS SELECT author.id FROM author, post")
        await done(cache.end_write(mark))
        assert (await look(cache, read("v", "pairs"))).reason == "dependencies are being read"
        await settled(cache)
        await keep(cache, read("v", "pairs"), ONE)
        assert await answer(cache, read("v", "pairs")) is ONE
        await write(cache, "post")
        assert await answer(cache, read("v", "pairs")) is None


async def test_a_write_that_began_before_ddl_and_ended_after_it_raises_everything(own_url: str) -> None:
    async with started(dependencies=Dependencies(own_url)) as cache:
        slow = await done(cache.begin_write(frozenset({"author"})))
        await write(cache)
        await settled(cache)
        # a trigger made by that DDL may have written post on behalf of the slow write
        await keep(cache, read("p", "post"), ONE)
        await done(cache.end_write(slow))
        assert await answer(cache, read("p", "post")) is None


async def test_ddl_through_another_proxy_renews_the_dependencies_here(
    own_url: str, redis_server: Redis, request: pytest.FixtureRequest
) -> None:
    settings = {"redis_url": redis_server.url, "namespace": request.node.nodeid}
    async with (
        started(**settings, dependencies=Dependencies(own_url)) as one,
        started(**settings, dependencies=Dependencies(own_url)) as two,
    ):
        await keep(two, read("p", "post"), ONE)
        slow = await done(two.begin_write(frozenset({"author"})))
        mark = await done(one.begin_write(None))
        with psycopg.connect(own_url, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO post VALUES (1); RETURN NULL; END';"
                "CREATE TRIGGER t AFTER INSERT ON author FOR EACH ROW EXECUTE FUNCTION f()"
            )
        await done(one.end_write(mark))
        await settled(one)
        await keep(one, read("q", "post"), ONE)
        await done(two.end_write(slow))
        assert await answer(one, read("q", "post")) is None
        # two has old dependencies still: its writes reach everything until it has read them again
        await keep(one, read("q", "post"), ONE)
        await write(two, "author")
        assert await answer(one, read("q", "post")) is None
        assert (await look(two, read("p", "post"))).entry is None
        await settled(two)
        assert two.dependencies.writes(frozenset({"author"})) is None


async def test_ddl_that_went_past_us_is_seen_after_the_refresh_time(own_url: str) -> None:
    clock = Clock()
    dependencies = Dependencies(own_url, refresh_s=30, clock=clock)
    async with started(dependencies=dependencies, clock=clock) as cache:
        await keep(cache, read("a", "author", ttl_s=600), ONE)
        with psycopg.connect(own_url, autocommit=True) as connection:
            connection.execute("CREATE VIEW late AS SELECT id FROM author")
        assert (await look(cache, read("v", "late"))).reason == "unknown table"
        clock.now_s += 31
        await look(cache, read("v", "late"))
        await settled(cache)
        assert (await look(cache, read("v", "late"))).ticket is not None
        assert await answer(cache, read("a", "author", ttl_s=600)) is None


async def test_a_function_that_the_catalogs_call_harmless_does_not_mark_anything(own_url: str) -> None:
    with psycopg.connect(own_url, autocommit=True) as connection:
        connection.execute("CREATE FUNCTION area(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'")
        connection.execute("CREATE FUNCTION wild(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1'")
    async with started(dependencies=Dependencies(own_url)) as cache:
        await keep(cache, read("a", "author"), ONE)
        mark = await done(cache.begin_write(frozenset(), frozenset({"area"})))
        assert await answer(cache, read("a", "author")) is ONE
        await done(cache.extend(mark, frozenset(), frozenset({"wild"})))
        assert await answer(cache, read("a", "author")) is None
        await done(cache.end_write(mark))
        assert await answer(cache, read("a", "author")) is None
