"""What changes an answer without a write of its tables by name: code of users behind reads, views, roles, two-phase commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from support.proxy import Proxy, proxy_to
from support.servers import Postgres

TABLES = ["author", "names", "names2", "counts", "measure", "measure_1", "animal", "dog", "part", "item", "writer"]

SCHEMA = """
CREATE TABLE author (id int PRIMARY KEY, name text);
INSERT INTO author SELECT n, 'author ' || n FROM generate_series(1, 20) n;
CREATE TABLE journal (id int);
CREATE VIEW names AS SELECT id, name FROM author;
CREATE VIEW names2 AS SELECT id, name FROM names;
CREATE MATERIALIZED VIEW counts AS SELECT 3 AS id, max(name) FILTER (WHERE id = 3) AS name FROM author;
CREATE UNIQUE INDEX ON counts (id);
CREATE TABLE measure (id int, name text) PARTITION BY LIST (id);
CREATE TABLE measure_1 PARTITION OF measure FOR VALUES IN (3);
CREATE TABLE measure_2 (id int, name text);
INSERT INTO measure VALUES (3, 'author 3');
CREATE TABLE animal (id int, name text);
CREATE TABLE dog () INHERITS (animal);
INSERT INTO dog VALUES (3, 'author 3');
CREATE TABLE part (id int PRIMARY KEY);
CREATE TABLE item (id int, part int REFERENCES part ON UPDATE CASCADE ON DELETE SET NULL, name text);
INSERT INTO part VALUES (1); INSERT INTO item VALUES (3, 1, 'author 3');
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN UPDATE author SET name = 'new' WHERE id = 3; RETURN NULL; END $$;
CREATE TABLE late (id int);
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION follow();
CREATE VIEW door AS SELECT id FROM journal;
CREATE FUNCTION through() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN UPDATE author SET name = 'new' WHERE id = 3; RETURN NEW; END $$;
CREATE TRIGGER t INSTEAD OF INSERT ON door FOR EACH ROW EXECUTE FUNCTION through();
CREATE TABLE ruled (id int);
CREATE RULE r AS ON INSERT TO ruled DO ALSO UPDATE author SET name = 'new' WHERE id = 3;
CREATE FUNCTION rename(author) RETURNS text LANGUAGE sql AS 'UPDATE author SET name = ''new'' WHERE id = 3 RETURNING name';
CREATE FUNCTION rename(int, int) RETURNS bool LANGUAGE sql AS 'UPDATE author SET name = ''new'' WHERE id = 3 RETURNING true';
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = rename);
CREATE FUNCTION upper(int) RETURNS bool LANGUAGE sql AS 'UPDATE author SET name = ''new'' WHERE id = $1 RETURNING true';
CREATE FUNCTION renamed(text) RETURNS bool LANGUAGE sql AS 'UPDATE author SET name = ''new'' WHERE id = 3 RETURNING true';
CREATE DOMAIN renaming AS text CHECK (renamed(VALUE));
CREATE FUNCTION step(int, int) RETURNS int LANGUAGE sql AS 'UPDATE author SET name = ''new'' WHERE id = $2 RETURNING 1';
CREATE AGGREGATE stride(int) (SFUNC = step, STYPE = int, INITCOND = '0');
CREATE VIEW writer AS SELECT rename(3, 3);
"""


def connect(proxy: Proxy) -> psycopg.Connection[Any]:
    return psycopg.connect(proxy.url, autocommit=True)


def hits(proxy: Proxy) -> int:
    return int(proxy.running.cache_statistics()["hits"])


def name(client: psycopg.Connection[Any], table: str) -> str | None:
    row = client.execute(f"SELECT name FROM {table} WHERE id = 3").fetchone()
    return None if row is None else row[0]


def warm(proxy: Proxy, client: psycopg.Connection[Any], table: str) -> None:
    """Ask until the answer comes from the cache: the catalogs may be on their way."""
    before = hits(proxy)
    for _ in range(200):
        assert name(client, table) == "author 3"
        if hits(proxy) > before:
            return
        client.execute("SELECT pg_sleep(0.02)")
    raise AssertionError(f"{table} is never answered from the cache: {proxy.report()['cache']}")


CHANGES = [
    ("author", "SELECT a.rename FROM author a LIMIT 1", "new"),
    ("author", "SELECT 1 === 2", "new"),
    ("author", "SELECT upper(3)", "new"),
    ("author", "SELECT 'x'::renaming", "new"),
    ("author", "SELECT stride(3)", "new"),
    ("author", "SELECT * FROM writer", "new"),
    ("names2", "UPDATE author SET name = 'new' WHERE id = 3", "new"),
    ("author", "UPDATE names2 SET name = 'new' WHERE id = 3", "new"),
    ("author", "INSERT INTO door VALUES (1)", "new"),
    ("author", "INSERT INTO ruled VALUES (1)", "new"),
    ("author", "INSERT INTO late VALUES (1)", "new"),
    ("author", "BEGIN; INSERT INTO late VALUES (1); COMMIT", "new"),
    ("author", "INSERT INTO author VALUES (3, 'new') ON CONFLICT (id) DO UPDATE SET name = 'new'", "new"),
    ("author", "TRUNCATE author CASCADE", None),
    ("author", "BEGIN; LOCK TABLE author; DELETE FROM author; COMMIT", None),
    ("counts", "UPDATE author SET name = 'new' WHERE id = 3; REFRESH MATERIALIZED VIEW counts", "new"),
    ("counts", "UPDATE author SET name = 'new' WHERE id = 3", "author 3"),
    ("names", "CREATE OR REPLACE VIEW names AS SELECT id, 'new' AS name FROM author", "new"),
    ("measure", "UPDATE measure_1 SET name = 'new'", "new"),
    ("measure_1", "UPDATE measure SET name = 'new'", "new"),
    ("measure", "ALTER TABLE measure DETACH PARTITION measure_1", None),
    ("measure", "ALTER TABLE measure DETACH PARTITION measure_1 CONCURRENTLY", None),
    (
        "measure",
        "ALTER TABLE measure DETACH PARTITION measure_1; INSERT INTO measure_2 VALUES (3, 'new');"
        " ALTER TABLE measure ATTACH PARTITION measure_2 FOR VALUES IN (3)",
        "new",
    ),
    ("author", "CREATE TEMPORARY TABLE author AS SELECT 3 AS id, 'mine' AS name", "author 3"),
    ("counts", "UPDATE author SET name = 'new' WHERE id = 3; REFRESH MATERIALIZED VIEW CONCURRENTLY counts", "new"),
    ("author", "CREATE TABLE author3 AS WITH w AS (SELECT 1) SELECT rename(a) FROM author a LIMIT 1", "new"),
    ("animal", "UPDATE ONLY dog SET name = 'new'", "new"),
    ("dog", "DELETE FROM animal", None),
    ("item", "WITH gone AS (DELETE FROM part RETURNING id) UPDATE item SET name = 'new' FROM gone", "new"),
    ("author", "ALTER TABLE author RENAME TO author_old; CREATE TABLE author AS SELECT 3 AS id, 'new' AS name", "new"),
    (
        "author",
        "SELECT 3 AS id, 'new' AS name INTO author2; DROP TABLE author CASCADE; ALTER TABLE author2 RENAME TO author",
        "new",
    ),
]


@pytest.mark.parametrize(("table", "change", "then"), CHANGES)
def test_no_answer_outlives_what_changed_it(postgres: Postgres, table: str, change: str, then: str | None) -> None:
    url = postgres.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
    rules = [{"name": "all", "tables": TABLES, "ttl": "600s"}]
    with proxy_to(url, cache={"allow": rules}) as proxy, connect(proxy) as writer, connect(proxy) as reader:
        warm(proxy, reader, table)
        writer.execute(change)
        for _ in range(2):
            assert name(reader, table) == then
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def shop(postgres: Postgres) -> Iterator[str]:
    url = postgres.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def proxy(shop: str) -> Iterator[Proxy]:
    with proxy_to(shop, cache={"allow": [{"name": "all", "tables": TABLES, "ttl": "600s"}]}) as started:
        yield started


@pytest.mark.parametrize("end", ["COMMIT PREPARED 'k8'", "ROLLBACK PREPARED 'k8'"])
def test_a_prepared_transaction_counts_when_any_session_commits_it(proxy: Proxy, end: str) -> None:
    with connect(proxy) as writer, connect(proxy) as other, connect(proxy) as reader:
        warm(proxy, reader, "author")
        writer.execute("BEGIN; UPDATE author SET name = 'new' WHERE id = 3")
        writer.execute("PREPARE TRANSACTION 'k8'")
        try:
            assert name(reader, "author") == "author 3"
        finally:
            other.execute(end)
        for _ in range(2):
            assert name(reader, "author") == ("new" if end.startswith("COMMIT") else "author 3")
        other.execute("UPDATE author SET name = 'author 3' WHERE id = 3")


@pytest.mark.parametrize(
    "change",
    [
        "GRANT SELECT ON author TO PUBLIC",
        "REVOKE SELECT (name) ON author FROM PUBLIC",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER ROLE CURRENT_USER RESET work_mem",
        "GRANT CREATE ON SCHEMA public TO CURRENT_USER",
        "CREATE POLICY p ON author USING (id > 1)",
        "ALTER POLICY p ON author USING (id > 2)",
        "DROP POLICY p ON author",
        "ALTER TABLE author NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE author DISABLE ROW LEVEL SECURITY",
        "ALTER VIEW names OWNER TO CURRENT_USER",
        "ALTER VIEW names SET (security_barrier = true)",
        "REASSIGN OWNED BY CURRENT_USER TO CURRENT_USER",
        "COMMENT ON TABLE author IS 'x'",
    ],
)
def test_what_may_change_privileges_ends_all_answers(proxy: Proxy, change: str) -> None:
    with connect(proxy) as writer, connect(proxy) as reader:
        warm(proxy, reader, "author")
        writer.execute(change)
        before = hits(proxy)
        assert name(reader, "author") == "author 3"
        assert hits(proxy) == before


@pytest.mark.parametrize(
    "quiet",
    [
        "WITH gone AS (DELETE FROM journal RETURNING id) INSERT INTO measure SELECT 3, 'x' FROM gone",
        "VACUUM author",
        "CLUSTER author USING author_pkey",
        "ANALYZE author",
        "LOCK TABLE author IN ACCESS SHARE MODE",
    ],
)
def test_what_moves_no_row_of_a_table_ends_no_answer_of_it_and_leaves_the_session_trusted(
    proxy: Proxy, quiet: str
) -> None:
    with connect(proxy) as writer, connect(proxy) as reader:
        warm(proxy, reader, "author")
        writer.execute(f"BEGIN; {quiet}; COMMIT" if quiet.startswith("LOCK") else quiet)
        before = hits(proxy)
        assert name(reader, "author") == "author 3"
        assert hits(proxy) == before + 1
        warm(proxy, writer, "author")


def test_a_partition_that_is_a_foreign_table_is_not_stored(postgres: Postgres) -> None:
    if postgres.superuser_url is None:
        pytest.skip("only a superuser may make a foreign data wrapper")
    url = postgres.create_database()
    database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(postgres.superuser_url, dbname=database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE measure (id int, name text) PARTITION BY LIST (id); CREATE FOREIGN DATA WRAPPER w;"
            "CREATE SERVER s FOREIGN DATA WRAPPER w;"
            "CREATE FOREIGN TABLE measure_1 PARTITION OF measure FOR VALUES IN (1) SERVER s;"
            "GRANT SELECT ON measure TO PUBLIC"
        )
    with proxy_to(url, cache={"allow": [{"name": "all", "tables": ["measure", "author"], "ttl": "600s"}]}) as proxy:
        with connect(proxy) as reader:
            for _ in range(3):
                assert reader.execute("SELECT name FROM measure WHERE id = 2").fetchall() == []
        assert hits(proxy) == 0
        (rule,) = proxy.report()["cache"]["rules"]
        assert rule["bypasses"] == {"foreign table": 3}
