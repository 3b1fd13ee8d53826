"""The rules of the cache as clients see them: conditions, hints, limits, shared answers and dry runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgloupe.errors import SettingsError
from support.proxy import Proxy, proxy_to
from support.raw import eventually
from support.servers import Postgres, RedisServer

READ = "SELECT name FROM author WHERE id = 3"
RULE = {"name": "r", "tables": ["author"], "ttl": "60s"}


@pytest.fixture(scope="module")
def shop(postgres: Postgres) -> str:
    """URL of a database that `plain` and `trusted` may read too."""
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE author (id int PRIMARY KEY, name text)")
        connection.execute("INSERT INTO author SELECT n, 'author ' || n FROM generate_series(1, 20) n")
        connection.execute("GRANT SELECT ON author TO PUBLIC")
    return url


@contextlib.contextmanager
def cached(url: str, *rules: dict[str, Any], **cache: Any) -> Iterator[Proxy]:
    with proxy_to(url, cache={"allow": list(rules), **cache}) as proxy:
        yield proxy


def connect(proxy: Proxy, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(proxy.url, autocommit=True, **options)


def hits(proxy: Proxy) -> int:
    return int(proxy.running.cache_statistics()["hits"])


def seen(proxy: Proxy, rule: str = "r") -> dict[str, Any]:
    """The figures of one rule in the report."""
    (found,) = [row for row in proxy.report()["cache"]["rules"] if row["rule"] == rule]
    return dict(found)


def gained(proxy: Proxy, read: Callable[[], object]) -> int:
    """How many hits it makes to read twice."""
    before = hits(proxy)
    read()
    read()
    return hits(proxy) - before


# --- conditions ---


@pytest.mark.parametrize(
    ("condition", "options", "comment", "others", "other_comment"),
    [
        ({"application_name": "web-*"}, {"application_name": "web-1"}, "", {"application_name": "job"}, ""),
        ({"application_name": ["a", "b"]}, {"application_name": "b"}, "", {"application_name": "bb"}, ""),
        ({"tags": {"route": "/books"}}, {}, "/*route='%2Fbooks'*/", {}, "/*route='%2Fauthors'*/"),
        ({"tags": {"route": ["/a*"]}}, {}, "/*route='%2Fauthors'*/", {}, ""),
    ],
)
def test_a_read_outside_of_the_conditions_is_not_answered(
    shop: str,
    condition: dict[str, Any],
    options: dict[str, Any],
    comment: str,
    others: dict[str, Any],
    other_comment: str,
) -> None:
    with (
        cached(shop, {**RULE, **condition}) as proxy,
        connect(proxy, **options) as client,
        connect(proxy, **others) as other,
    ):
        assert gained(proxy, lambda: client.execute(READ + comment).fetchall()) == 1
        assert gained(proxy, lambda: other.execute(READ + other_comment).fetchall()) == 0


def test_a_rule_is_for_its_user_and_its_database(postgres: Postgres, shop: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(shop)["dbname"]
    with cached(shop, {**RULE, "user": "plain", "database": name}) as proxy:
        with psycopg.connect(proxy.url_for(postgres.url_for("plain", str(name))), autocommit=True) as plain:
            assert gained(proxy, lambda: plain.execute(READ).fetchall()) == 1
        with connect(proxy) as owner:
            assert gained(proxy, lambda: owner.execute(READ).fetchall()) == 0
    with cached(shop, {**RULE, "database": "another"}) as proxy, connect(proxy) as owner:
        assert gained(proxy, lambda: owner.execute(READ).fetchall()) == 0


def test_a_new_application_name_counts_from_the_next_statement_on(shop: str) -> None:
    with cached(shop, {**RULE, "application_name": "web"}) as proxy, connect(proxy) as client:
        assert gained(proxy, lambda: client.execute(READ).fetchall()) == 0
        client.execute("SET application_name = 'web'")
        assert gained(proxy, lambda: client.execute(READ).fetchall()) == 1


# --- hints ---


def test_a_client_can_keep_a_read_from_the_cache_and_have_it_fresher(shop: str) -> None:
    with cached(shop, RULE) as proxy, connect(proxy) as client:
        assert gained(proxy, lambda: client.execute(READ).fetchall()) == 1
        assert gained(proxy, lambda: client.execute(f"{READ} /* pgloupe:nocache */").fetchall()) == 0
        # the same key: what was stored without the hint is young enough
        assert gained(proxy, lambda: client.execute(f"{READ} /* pgloupe:cache ttl=30s */").fetchall()) == 2

        def later() -> None:
            client.execute("SELECT pg_sleep(0.005)")  # older than the hint allows, however quick this machine is
            client.execute(f"{READ} /* pgloupe:cache ttl=1ms */").fetchall()

        assert gained(proxy, later) == 0
        assert seen(proxy)["bypasses"]["a hint says nocache"] == 2


def test_hints_switch_caching_on_only_where_the_settings_allow_it(shop: str) -> None:
    hint = f"{READ} /* pgloupe:cache ttl=30s */"
    with cached(shop, {**RULE, "tables": ["other"]}) as proxy, connect(proxy) as client:
        assert gained(proxy, lambda: client.execute(hint).fetchall()) == 0
    with proxy_to(shop, cache={"hints": "allow"}) as proxy, connect(proxy) as client:
        assert gained(proxy, lambda: client.execute(READ).fetchall()) == 0
        assert gained(proxy, lambda: client.execute(hint).fetchall()) == 1
        assert seen(proxy, "(hint)")["hits"] == 1


# --- limits ---


def test_an_answer_with_more_rows_than_max_rows_is_not_stored(shop: str) -> None:
    with cached(shop, {**RULE, "max_rows": 5}) as proxy, connect(proxy) as client:
        assert gained(proxy, lambda: client.execute("SELECT id FROM author LIMIT 5").fetchall()) == 1
        assert gained(proxy, lambda: client.execute("SELECT id FROM author LIMIT 6").fetchall()) == 0
        assert seen(proxy)["fills_refused"] == {"too many rows": 2}


def test_an_answer_with_more_bytes_than_max_entry_bytes_is_not_stored_and_counted(shop: str) -> None:
    with cached(shop, {**RULE, "max_entry_bytes": 100}) as proxy, connect(proxy) as client:
        assert gained(proxy, lambda: client.execute("SELECT * FROM author").fetchall()) == 0
        assert seen(proxy)["fills_refused"] == {"too large": 2}


# --- answers that users share ---


@pytest.fixture
def public(postgres: Postgres) -> Iterator[str]:
    """As `shop`, for one test alone: what it changes in roles goes with the database."""
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE author (id int PRIMARY KEY, name text, born date)")
        connection.execute("INSERT INTO author SELECT n, 'author ' || n, '2020-02-01' FROM generate_series(1, 20) n")
        connection.execute("GRANT SELECT ON author TO PUBLIC")
    yield url
    postgres.drop_database(url)


@contextlib.contextmanager
def two_users(proxy: Proxy, postgres: Postgres, url: str) -> Iterator[list[psycopg.Connection[Any]]]:
    name = str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
    with (
        psycopg.connect(proxy.url_for(postgres.url_for("plain", name)), autocommit=True) as plain,
        psycopg.connect(proxy.url_for(postgres.url_for("trusted", name)), autocommit=True) as trusted,
    ):
        yield [plain, trusted]


@pytest.mark.parametrize(("key_by_user", "expected"), [(True, 0), (False, 1)])
def test_users_share_answers_only_under_a_rule_that_says_so(
    postgres: Postgres, shop: str, key_by_user: bool, expected: int
) -> None:
    with (
        cached(shop, {**RULE, "key_by_user": key_by_user}) as proxy,
        two_users(proxy, postgres, shop) as (plain, trusted),
    ):
        for client in (plain, trusted):
            assert client.execute(READ).fetchone() == ("author 3",)
        assert hits(proxy) == expected


def test_who_shares_answers_shares_them_with_the_same_settings_only(postgres: Postgres, public: str) -> None:
    with cached(public, {**RULE, "key_by_user": False}) as proxy, two_users(proxy, postgres, public) as clients:
        for client, style in zip(clients, ("ISO, DMY", "SQL, DMY"), strict=True):
            client.execute(f"SET DateStyle = '{style}'")
        dates = [client.execute("SELECT born::text FROM author WHERE id = 1").fetchone() for client in clients]
        assert dates == [("2020-02-01",), ("01/02/2020",)]


def test_a_user_with_a_schema_of_its_name_shares_no_answers(postgres: Postgres, public: str) -> None:
    """`$user` in its search_path stands for that schema."""
    with psycopg.connect(public) as connection:
        connection.execute("CREATE SCHEMA trusted")
        connection.execute("CREATE TABLE trusted.author AS SELECT id, 'mine'::text AS name FROM public.author")
        connection.execute("GRANT USAGE ON SCHEMA trusted TO PUBLIC; GRANT SELECT ON trusted.author TO PUBLIC")
    with cached(public, {**RULE, "key_by_user": False}) as proxy, two_users(proxy, postgres, public) as clients:
        for _ in range(2):
            assert [client.execute(READ).fetchone() for client in clients] == [("author 3",), ("mine",)]
        assert hits(proxy) == 2


def test_a_user_with_settings_of_its_own_shares_no_answers(postgres: Postgres, public: str) -> None:
    if postgres.superuser_url is None:
        pytest.skip("nobody gave us a superuser")
    name = psycopg.conninfo.conninfo_to_dict(public)["dbname"]
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        # of all settings one that the server does not report
        superuser.execute(f"ALTER ROLE trusted IN DATABASE {name} SET bytea_output = 'escape'")
    with cached(public, {**RULE, "key_by_user": False}) as proxy, two_users(proxy, postgres, public) as clients:
        query = r"SELECT ('\x01'::bytea)::text FROM author WHERE id = 1"
        for _ in range(2):
            assert [client.execute(query).fetchone() for client in clients] == [("\\x01",), ("\\001",)]
        assert hits(proxy) == 2


def test_a_role_that_was_taken_on_counts_like_a_user(postgres: Postgres, public: str) -> None:
    if postgres.superuser_url is None:
        pytest.skip("nobody gave us a superuser")
    name = psycopg.conninfo.conninfo_to_dict(public)["dbname"]
    url = psycopg.conninfo.make_conninfo(postgres.superuser_url, dbname=name)
    with psycopg.connect(public) as connection:
        connection.execute("CREATE SCHEMA trusted")
        connection.execute("CREATE TABLE trusted.author AS SELECT id, 'mine'::text AS name FROM public.author")
        connection.execute("GRANT USAGE ON SCHEMA trusted TO PUBLIC; GRANT SELECT ON trusted.author TO PUBLIC")
    with cached(public, {**RULE, "key_by_user": False}) as proxy:
        through = psycopg.conninfo.make_conninfo(url, host=proxy.host, port=proxy.port)
        with psycopg.connect(through, autocommit=True) as client:
            for change, expected in (
                ("SET ROLE plain", "author 3"),
                ("SET ROLE trusted", "mine"),
                ("SET ROLE NONE", "author 3"),
                ("SET role = trusted", "mine"),
                ("RESET ROLE", "author 3"),
                ("SET ROLE E'tr\\x75sted'", "mine"),
                ("SET SESSION AUTHORIZATION trusted", "mine"),
                ("SET SESSION AUTHORIZATION DEFAULT", "author 3"),
            ):
                client.execute(change)
                assert client.execute(READ).fetchone() == (expected,)


# --- dry runs ---


@pytest.fixture(params=["memory", "redis"])
def dry(request: pytest.FixtureRequest, public: str) -> Iterator[Proxy]:
    redis: RedisServer | None = request.getfixturevalue("own_redis") if request.param == "redis" else None
    with cached(public, {**RULE, "dry_run": True}, **({"redis": redis.url} if redis is not None else {})) as proxy:
        yield proxy


def test_a_dry_run_never_answers_and_says_what_it_would_have_hit(dry: Proxy) -> None:
    with connect(dry) as client:
        for _ in range(4):
            assert client.execute(READ).fetchone() == ("author 3",)
        eventually(lambda: seen(dry)["dry_run_hits"] == 3)
        found = seen(dry)
        assert hits(dry) == 0
        assert (found["misses"], found["fills"], found["dry_run_different"]) == (1, 1, 0)
        assert found["dry_run_saved_ms"] > 0
        assert found["advice"].startswith("dry run: 3 of 4 would have hit, none of them different")
        figures = dry.running.cache_statistics()
        assert 0 < figures["bytes"] < 2_000


def test_a_dry_run_counts_what_it_would_have_served_stale(dry: Proxy, public: str) -> None:
    with connect(dry) as client:
        for _ in range(2):
            client.execute(READ)
        with psycopg.connect(public) as past:
            past.execute("UPDATE author SET name = 'changed' WHERE id = 3")
        assert client.execute(READ).fetchone() == ("changed",)
        eventually(lambda: seen(dry)["dry_run_different"] == 1)
        assert seen(dry)["dry_run_hits"] == 2


def test_a_write_through_the_proxy_is_no_difference(dry: Proxy) -> None:
    with connect(dry) as client:
        for number in range(3):
            client.execute(READ)
            client.execute("UPDATE author SET name = %s WHERE id = 3", (f"name {number}",))
        client.execute(READ)
        assert seen(dry)["dry_run_hits"] == 0
        client.execute(READ)
        eventually(lambda: seen(dry)["dry_run_hits"] == 1)
        assert seen(dry)["dry_run_different"] == 0


def test_what_a_dry_run_keeps_is_never_an_answer_of_another_rule(shop: str) -> None:
    dry_rule = {**RULE, "name": "dry", "application_name": "dry", "dry_run": True}
    with (
        cached(shop, dry_rule, RULE) as proxy,
        connect(proxy, application_name="dry") as one,
        connect(proxy, application_name="real") as other,
    ):
        for _ in range(2):
            assert one.execute(READ).fetchone() == ("author 3",)
        for _ in range(2):
            assert other.execute(READ).fetchone() == ("author 3",)
        assert one.execute(READ).fetchone() == ("author 3",)
        assert (seen(proxy)["hits"], seen(proxy)["misses"]) == (1, 1)
        eventually(lambda: seen(proxy, "dry")["dry_run_hits"] == 2)


# --- what is seen ---


def test_reads_that_were_not_looked_up_are_counted_by_their_reason(shop: str) -> None:
    with cached(shop, RULE) as proxy, connect(proxy) as client:
        client.execute("BEGIN")
        client.execute(READ)
        client.execute("COMMIT")
        client.execute("SELECT now() FROM author")
        client.execute(f"{READ}; {READ}")
        client.execute("SELECT 1")
        client.execute("DO $$ BEGIN END $$")
        client.execute(READ)
        assert seen(proxy)["bypasses"] == {
            "several statements in one Query": 2,
            "function that is not known to be immutable": 1,
            "in a transaction block": 1,
            "the session: a statement whose effects are not known": 1,
        }


def test_the_report_has_hits_bytes_ages_and_times_for_the_rule_and_its_templates(shop: str) -> None:
    with cached(shop, RULE, {**RULE, "name": "idle", "tables": ["other"]}) as proxy, connect(proxy) as client:
        for _ in range(30):
            client.execute(READ, prepare=False)
        report = proxy.report()["cache"]
        assert (report["redis"], report["catalogs"], report["totals"]["hits"]) == ("none", "catalog", 29)
        rule, idle = report["rules"]
        (template,) = rule["templates"]
        assert template["template"] == "SELECT name FROM author WHERE id = $1"
        for row in (rule, template):
            assert (row["hits"], row["misses"], row["fills"]) == (29, 1, 1)
            assert row["hit_ratio"] == 0.9667
            assert sum(row["age_s"]["hits"]) == 29
            assert row["bytes_served"] > 29 * len("author 3")
            assert 0 < row["server_ms"] <= row["miss_ms"]
            assert row["hit_ms"] > 0
            assert "0.97 reached" in row["advice"] or "never pays" in row["advice"]
        assert idle["advice"] == "never asked"


def test_a_report_without_a_cache_has_none(shop: str) -> None:
    with proxy_to(shop) as proxy:
        assert proxy.report()["cache"] is None


# --- rules that can never hit, by the catalogs ---


@pytest.fixture(scope="module")
def odd(postgres: Postgres) -> str:
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE author (id int, name text)")
        connection.execute("CREATE TABLE secret (id int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE VIEW clock AS SELECT id, now() AS t FROM author")
        connection.execute("CREATE VIEW secrets AS SELECT id FROM secret")
        connection.execute("CREATE FUNCTION lower(x author) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT $1.name'")
    return url


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"tables": ["secret"]}, ["'r' can never hit", "secret (row-level security)"]),
        (
            {"tables": ["secret", "public.secrets"]},
            ["secret (row-level security)", "public.secrets (row-level security)"],
        ),
        ({"tables": ["clock"]}, ["clock (view with a function that is not immutable)"]),
        ({"template": "SELECT a.id FROM author a JOIN secret s ON s.id = a.id"}, ["secret (row-level security)"]),
        ({"template": "SELECT lower(name) FROM author"}, ["a user-defined function has this name"]),
        (
            {"tables": ["author", "secret"], "key_by_user": False},
            ["key_by_user = false", "row-level security on secret"],
        ),
    ],
)
def test_a_rule_that_the_catalogs_say_can_never_hit_is_refused(
    odd: str, rule: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as refused, cached(odd, {"name": "r", "ttl": "60s", **rule}):
        pass
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("rule", "warning"),
    [
        ({"tables": ["author", "secret"]}, "no use for some of its tables: secret (row-level security)"),
        ({"tables": ["author", "later"]}, "names later, which the database"),
        ({"template": "SELECT id FROM later"}, "names later, which the database"),
        ({"tables": ["secret"], "database": "another"}, ""),
    ],
)
def test_a_rule_that_may_hit_some_time_is_at_most_warned_of(
    odd: str, caplog: pytest.LogCaptureFixture, rule: dict[str, Any], warning: str
) -> None:
    with cached(odd, {"name": "r", "ttl": "60s", **rule}):
        pass
    warnings = [
        record.getMessage() for record in caplog.records if record.name == "pgloupe" and record.levelname == "WARNING"
    ]
    assert bool(warnings) == bool(warning)
    assert warning in "".join(warnings)
