"""Writes that go past the proxy are seen through the change stream: by real servers, with either plugin."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from pgloupe.cache import Dependencies
from support.change_stream import LAZY, LIVE, SCHEMA, Site, prepare, site
from support.raw import eventually
from support.servers import Postgres, Redis

AUTHORS = "SELECT id, name FROM author ORDER BY id"
POSTS = "SELECT id, author_id FROM post ORDER BY id"
ALONE = "SELECT id FROM alone"
ODD = '"Sch.ema"."O.d: ""d\n, x"'

PLACES = [(15, "pgoutput"), (15, "test_decoding"), (16, "test_decoding"), (18, "pgoutput"), (18, "test_decoding")]


@contextlib.contextmanager
def site_on(server: Postgres, plugin: str) -> Iterator[Site]:
    if server.superuser_url is None:
        pytest.skip("the server gives us no superuser")
    url = server.create_database()
    stream_url = prepare(server.superuser_url, url, publication=plugin == "pgoutput")
    # never late, so that no read is answered by the server because of that
    with site(url, stream_url, change_stream=plugin, change_stream_max_lag_s="1h") as made:
        eventually(made.live)
        yield made


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def place(request: pytest.FixtureRequest, postgres_of: Callable[[int], Postgres]) -> Iterator[Site]:
    """A database on a server of each version, and a proxy with each plugin."""
    with site_on(postgres_of(request.param[0]), request.param[1]) as made:
        yield made


@pytest.fixture(scope="module", params=["pgoutput", "test_decoding"])
def near(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Site]:
    """The same on the server that all tests share."""
    with site_on(postgres, request.param) as made:
        yield made


@pytest.mark.parametrize(
    ("query", "write"),
    [
        pytest.param(AUTHORS, "INSERT INTO author VALUES (10, 'new')", id="insert"),
        pytest.param(AUTHORS, "UPDATE author SET name = name || '.'", id="update"),
        pytest.param(AUTHORS, "DELETE FROM author WHERE id = 3", id="delete"),
        pytest.param(POSTS, "TRUNCATE post", id="truncate"),
        pytest.param(POSTS, "TRUNCATE author CASCADE", id="truncate cascade"),
        pytest.param(AUTHORS, "INSERT INTO audited VALUES (1)", id="trigger"),
        pytest.param(POSTS, "UPDATE author SET id = 21 WHERE id = 1", id="update cascade"),
        pytest.param(POSTS, "DELETE FROM author WHERE id = 2", id="delete cascade"),
        pytest.param("SELECT id FROM measure ORDER BY 1", "INSERT INTO measure VALUES (2)", id="through the parent"),
        pytest.param("SELECT id FROM measure_1 ORDER BY 1", "INSERT INTO measure VALUES (3)", id="partition"),
        pytest.param(
            "SELECT id FROM measure ORDER BY 1", "INSERT INTO measure_1 VALUES (4)", id="through the partition"
        ),
        pytest.param("SELECT id FROM animal ORDER BY 1", "INSERT INTO dog VALUES (2)", id="inheritance"),
        pytest.param("SELECT name FROM names ORDER BY 1", "INSERT INTO author VALUES (11, 'v')", id="under a view"),
        pytest.param(AUTHORS, "UPDATE names SET name = 'x'", id="through a view"),
        pytest.param(f"SELECT id FROM {ODD} ORDER BY 1", f"INSERT INTO {ODD} VALUES (2)", id="odd name"),
        pytest.param(
            AUTHORS,
            "DO $$ BEGIN BEGIN UPDATE author SET name = 'sub'; EXCEPTION WHEN others THEN NULL; END; END $$",
            id="subtransaction",
        ),
        pytest.param(
            "SELECT count(*) FROM author", "INSERT INTO author SELECT n, '' FROM generate_series(9, 9999) n", id="many"
        ),
    ],
)
def test_a_write_past_the_proxy_is_seen_and_other_tables_are_left_alone(place: Site, query: str, write: str) -> None:
    place.reset()
    place.keep(query, ALONE)
    place.write(write)
    with psycopg.connect(place.url) as direct:
        new = direct.execute(query).fetchall()
    place.await_hit(query, lambda rows: rows == new)
    assert place.is_hit(ALONE)


def test_copied_rows_are_seen(place: Site) -> None:
    place.reset()
    place.keep(AUTHORS)
    with psycopg.connect(place.url) as direct, direct.cursor().copy("COPY author FROM STDIN") as copy:
        copy.write_row((50, "copied"))
    place.await_hit(AUTHORS, lambda rows: (50, "copied") in rows)


def test_a_transaction_counts_when_it_is_committed_however_late_that_is(near: Site) -> None:
    near.reset()
    near.keep(AUTHORS)
    with psycopg.connect(near.url) as direct:
        direct.execute("UPDATE author SET name = 'late'")
        near.fence()
        assert near.is_hit(AUTHORS)
        direct.commit()
        near.await_hit(AUTHORS, lambda rows: rows[0][1] == "late")


def test_what_was_rolled_back_raises_nothing(near: Site) -> None:
    near.reset()
    near.keep(AUTHORS)
    with psycopg.connect(near.url) as direct:
        direct.execute("UPDATE author SET name = 'never'")
        direct.execute("SAVEPOINT one")
        direct.execute("DELETE FROM author")
        direct.rollback()
    near.fence()
    assert near.is_hit(AUTHORS)


def test_a_prepared_transaction_counts_when_it_is_committed(near: Site) -> None:
    near.reset()
    near.keep(AUTHORS)
    with psycopg.connect(near.url, autocommit=True) as direct:
        name = urlsplit(near.url).path[1:]
        direct.execute("BEGIN")
        direct.execute("UPDATE author SET name = 'two phases'")
        direct.execute(f"PREPARE TRANSACTION '{name}'")
        near.fence()
        assert near.is_hit(AUTHORS)
        direct.execute(f"COMMIT PREPARED '{name}'")
    near.await_hit(AUTHORS, lambda rows: rows[0][1] == "two phases")


def test_a_commit_that_is_not_on_the_disk_yet_is_seen_when_it_is(near: Site) -> None:
    near.reset()
    near.keep(AUTHORS)
    near.write("SET synchronous_commit = off", "UPDATE author SET name = 'soon'", "SET synchronous_commit = on")
    near.await_hit(AUTHORS, lambda rows: rows[0][1] == "soon")


def test_the_same_table_in_another_database_raises_nothing(near: Site, postgres: Postgres) -> None:
    other = postgres.create_database()
    with psycopg.connect(other, autocommit=True) as elsewhere:
        elsewhere.execute(SCHEMA)
        near.reset()
        near.keep(AUTHORS)
        elsewhere.execute("INSERT INTO author VALUES (1, 'elsewhere')")
        near.fence()
    assert near.is_hit(AUTHORS)


def test_in_another_database_rules_that_need_the_stream_give_no_answers(near: Site, postgres: Postgres) -> None:
    other = postgres.create_database()
    with psycopg.connect(other, autocommit=True) as elsewhere:
        elsewhere.execute(SCHEMA)
    before = near.statistics()["hits"], near.bypasses()
    with psycopg.connect(near.proxy.url_for(other), autocommit=True) as client:
        for _ in range(3):
            assert client.execute(AUTHORS).fetchall() == []
    assert (near.statistics()["hits"], near.bypasses()) == (before[0], before[1] + 3)


def test_a_table_that_the_catalogs_did_not_have_raises_everything_and_has_them_read_again(near: Site) -> None:
    near.reset()
    near.keep(AUTHORS)
    name = f"fresh_{near.statistics()['catalog_refreshes']}"
    refreshes = near.statistics()["catalog_refreshes"]
    near.write(f"CREATE TABLE {name} (id int PRIMARY KEY)", f"INSERT INTO {name} VALUES (1)")
    eventually(lambda: near.statistics()["catalog_refreshes"] > refreshes)
    near.fence()
    near.keep(AUTHORS)
    near.write(f"INSERT INTO {name} VALUES (2)")
    near.fence()
    assert near.is_hit(AUTHORS)


def test_the_figures_say_how_the_stream_is(near: Site) -> None:
    before = near.statistics()
    near.write("UPDATE alone SET name = 'a'", "UPDATE alone SET name = 'b'")
    eventually(lambda: near.statistics()["change_stream_changes"] >= before["change_stream_changes"] + 2)
    eventually(lambda: near.statistics()["change_stream_raises"] > before["change_stream_raises"])
    after = near.statistics()
    assert after["change_stream_live"] == 1
    assert after["change_stream_starts"] == before["change_stream_starts"]


def test_all_proxies_that_share_a_redis_see_what_one_of_them_was_shown(postgres: Postgres, redis_server: Redis) -> None:
    assert postgres.superuser_url is not None
    url = postgres.create_database()
    stream_url = prepare(postgres.superuser_url, url, publication=False)
    rules = (LIVE, LAZY)
    with (
        site(url, stream_url, *rules, redis=redis_server.url) as one,
        site(url, stream_url, *rules, redis=redis_server.url, change_stream="") as two,
    ):
        two.keep(AUTHORS)
        one.keep(AUTHORS)
        one.write("UPDATE author SET name = 'past both'")
        two.await_hit(AUTHORS, lambda rows: rows[0][1] == "past both")
        assert one.read(AUTHORS) == two.read(AUTHORS)
        assert not two.live()
        assert two.statistics()["change_stream_starts"] == 0


@pytest.fixture
async def dependencies(near: Site) -> AsyncIterator[Dependencies]:
    made = Dependencies(near.url)
    await made.refresh()
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("changed", "raised"),
    [
        ({"author"}, {"author", "names"}),
        ({"alone", "post"}, {"alone", "post"}),
        ({"measure"}, {"measure", "measure_1"}),
        ({"measure_1"}, {"measure", "measure_1"}),
        ({"dog"}, {"animal", "dog"}),
        ({"audited"}, {"audited"}),
        ({'O.d: "d\n, x'}, {'d: "d\n, x'}),
        ({"no_such_table"}, None),
        ({"author", "no_such_table"}, None),
        (set(), set()),
    ],
)
async def test_a_change_raises_what_depends_on_these_rows_and_no_more(
    dependencies: Dependencies, changed: set[str], raised: set[str] | None
) -> None:
    assert dependencies.changes(frozenset(changed)) == raised
    assert dependencies.changes(frozenset(changed), "another") is None
