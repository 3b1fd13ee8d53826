"""What may be cached and what a statement may change: the narrow reading in both."""

from __future__ import annotations

import psycopg
import pytest

from pgloupe_rules.builtin import CONSTRUCTS, HARMLESS, IMMUTABLE
from pgloupe_rules.cacheable import AllowRule, CacheRules, Effect, EffectKind, effect_of
from pgloupe_rules.normalise import MAX_TEXT, recognise
from pgloupe_rules.types import FORWARD, Cacheable, SessionInfo, Statement
from support.servers import Postgres

ALL = AllowRule("shop", 60.0, frozenset({"author", "post", "É", "other.thing"}))


def statement(sql: str) -> Statement:
    (recognised,) = recognise(sql)
    return Statement(SessionInfo(1), 1, recognised, sql)


def reason(sql: str, *rules: AllowRule) -> str:
    return CacheRules(rules or (ALL,)).judge(statement(sql).recognised).reason


def effect(sql: str) -> Effect:
    (recognised,) = recognise(sql)
    return effect_of(recognised)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM author",
        "SELECT a.name, count(*) FROM author a JOIN post p ON p.author_id = a.id WHERE p.id = 3 GROUP BY a.name",
        "select lower(name), coalesce(x, 1), substring(name from 1 for 2) from public.author where id in (1, 2, 3)",
        "WITH t AS (SELECT * FROM author) SELECT * FROM t ORDER BY 1 LIMIT 3",
        "TABLE author",
        "SELECT id FROM author UNION ALL SELECT id FROM post",
        "SELECT pg_catalog.upper(name) FROM author",
        "SELECT name FROM author WHERE EXISTS (SELECT 1 FROM post WHERE author_id = author.id) -- route:/x",
        "SELECT * FROM other.thing",
        "SELECT row_number() OVER (PARTITION BY name ORDER BY id) FROM author",
    ],
)
def test_a_read_that_is_understood_may_be_cached(sql: str) -> None:
    decision = CacheRules((ALL,)).decide(statement(sql))
    assert isinstance(decision, Cacheable)
    assert (decision.rule, decision.ttl_s) == ("shop", 60.0)
    assert decision.tables


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT now() FROM author", "function that is not known to be immutable"),
        ("SELECT current_user FROM author", "function that is not known to be immutable"),
        ("SELECT CURRENT_DATE FROM author", "function that is not known to be immutable"),
        ("SELECT my_function(name) FROM author", "function that is not known to be immutable"),
        ("SELECT public.lower(name) FROM author", "function that is not known to be immutable"),
        ("SELECT nextval('s') FROM author", "function that is not known to be immutable"),
        ("SELECT to_char(x, 'a') FROM author", "function that is not known to be immutable"),
        ("SELECT * FROM author ORDER BY random()", "function that is not known to be immutable"),
        ("SELECT * FROM author, generate_series(1, 2)", "function that is not known to be immutable"),
        ("SELECT 1 OPERATOR(public.+) 2 FROM author", "function that is not known to be immutable"),
        ("SELECT * FROM author TABLESAMPLE bernoulli (10)", "function that is not known to be immutable"),
        ("SELECT * FROM author FOR UPDATE", "locks or writes rows"),
        ("SELECT * FROM author FOR KEY SHARE", "locks or writes rows"),
        ("SELECT xmin, id FROM author", "system column"),
        ("SELECT * FROM author WHERE t > 'now'", "names a moment"),
        ("SELECT * FROM author WHERE t > ' Today 12:00'::timestamptz", "names a moment"),
        ("SELECT * FROM author WHERE t > E'n\\157w'", "names a moment"),
        ("SELECT * FROM author WHERE t > 'no'\n'w'", "names a moment"),
    ],
)
def test_what_may_differ_from_one_moment_to_the_next_is_not_cached_and_says_why(sql: str, why: str) -> None:
    rules = CacheRules((ALL,))
    assert rules.decide(statement(sql)) is FORWARD
    verdict = rules.judge(statement(sql).recognised)
    assert (verdict.rule, verdict.reason) == ("shop", why)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT * FROM pg_class",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM author, pg_catalog.pg_class",
        "SELECT * FROM author, elsewhere.post",
        "SELECT * FROM thing",
        "INSERT INTO author VALUES (1) RETURNING *",
        "WITH x AS (DELETE FROM author RETURNING *) SELECT * FROM x",
        "UPDATE author SET name = 'x'",
        "EXPLAIN SELECT * FROM author",
        "SHOW search_path",
        "COPY author TO STDOUT",
        "EXECUTE author",
        "this is not sql",
    ],
)
def test_everything_else_goes_to_the_server(sql: str) -> None:
    assert CacheRules((ALL,)).decide(statement(sql)) is FORWARD


def test_system_catalogs_are_not_cached_whatever_a_rule_says() -> None:
    rule = AllowRule("bold", 60.0, frozenset({"pg_class", "information_schema.tables"}))
    assert reason("SELECT * FROM pg_class", rule) == "system catalog"
    assert reason("SELECT * FROM information_schema.tables", rule) == "system catalog"


def test_a_word_that_only_looks_like_a_moment_is_none() -> None:
    assert isinstance(CacheRules((ALL,)).decide(statement("SELECT * FROM author WHERE x = 'know nowhere'")), Cacheable)


def test_a_template_rule_allows_that_statement_in_any_spelling_and_no_other() -> None:
    rules = CacheRules((AllowRule("one", 5.0, template="select * from author where id = $1"),))
    assert not rules.problems
    assert isinstance(rules.decide(statement("SELECT * FROM author /* x */ WHERE id=42;")), Cacheable)
    assert rules.decide(statement("SELECT * FROM author WHERE name = 'x'")) is FORWARD


def test_a_fingerprint_rule_allows_that_statement() -> None:
    (recognised,) = recognise("SELECT * FROM post WHERE id = 3")
    rules = CacheRules((AllowRule("one", 5.0, fingerprint=recognised.template.fingerprint.upper()),))
    assert isinstance(rules.decide(statement("SELECT * FROM post WHERE id = 4")), Cacheable)
    assert rules.decide(statement("SELECT * FROM post")) is FORWARD


def test_the_first_rule_that_names_all_tables_counts() -> None:
    rules = CacheRules(
        (
            AllowRule("a", 1.0, frozenset({"author"})),
            AllowRule("b", 2.0, frozenset({"author", "post"}), max_entry_bytes=7),
        )
    )
    one = rules.decide(statement("SELECT id FROM author"))
    both = rules.decide(statement("SELECT lower(p.t) FROM author a, post p"))
    assert isinstance(one, Cacheable)
    assert isinstance(both, Cacheable)
    assert (one.rule, both.rule) == ("a", "b")
    assert both.max_entry_bytes == 7
    assert both.functions == ("lower",)


def test_a_schema_other_than_public_has_to_be_named() -> None:
    bare = AllowRule("bare", 1.0, frozenset({"thing"}))
    assert bare.allows(["thing", "public.thing"])
    assert not bare.allows(["other.thing"])
    qualified = AllowRule("qualified", 1.0, frozenset({"public.thing"}))
    assert qualified.allows(["thing", "public.thing"])
    assert not qualified.allows(["other.thing"])


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (AllowRule("r", 1.0), "names no tables, template or fingerprint"),
        (AllowRule("r", 1.0, frozenset()), "names no table"),
        (AllowRule("r", 1.0, template="SELECT 1; SELECT 2"), "is not one statement"),
        (AllowRule("r", 1.0, template=""), "is not one statement"),
        (AllowRule("r", 1.0, template="SELECT now() FROM t"), "cannot be cached: function that is not known"),
        (AllowRule("r", 1.0, template="DELETE FROM t"), "cannot be cached: not a read"),
    ],
)
def test_a_rule_that_can_never_help_is_a_problem_when_it_is_loaded(rule: AllowRule, problem: str) -> None:
    (found,) = CacheRules((rule,)).problems
    assert problem in found


def test_decisions_are_kept_and_bounded() -> None:
    rules = CacheRules((ALL,))
    first = rules.decide(statement("SELECT * FROM author WHERE id = 1"))
    assert rules.decide(statement("SELECT * FROM author WHERE id = 2")) is first
    for number in range(9000):
        rules.decide(statement(f"SHOW s{number}"))
    assert len(rules._memo) <= 8192


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM author",
        "SELECT now(), random(), current_user, nextval('s'), set_config('a', 'b', false) FROM author",
        "SELECT * FROM author FOR UPDATE SKIP LOCKED",
        "SELECT * FROM author FOR NO KEY UPDATE",
        "SELECT x::numeric(10, 2), CAST(y AS varchar(3)) FROM author",
        "VALUES (1), (2)",
        "BEGIN",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "COMMIT",
        "ROLLBACK TO SAVEPOINT a",
        "SAVEPOINT a",
        "SET search_path = a, b",
        "SET LOCAL ROLE x",
        "RESET ALL",
        "DISCARD ALL",
        "SHOW all",
        "LISTEN x",
        "LOCK TABLE author",
        "VACUUM author",
        "ANALYZE",
        "FETCH 10 FROM c",
        "CLOSE c",
        "DEALLOCATE a",
        "PREPARE a AS DELETE FROM author",
        "DECLARE c CURSOR FOR SELECT * FROM author",
        "EXPLAIN SELECT * FROM author",
        "COPY author TO STDOUT",
        "COPY public.author (id, name) TO STDOUT WITH (FORMAT csv)",
        "COPY (SELECT lower(name) FROM author) TO STDOUT",
    ],
)
def test_what_surely_changes_no_table(sql: str) -> None:
    assert effect(sql).kind == EffectKind.NOTHING


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("INSERT INTO author (id, name) VALUES (1, 'x') RETURNING id", {"author"}),
        ("INSERT INTO author VALUES (1, now()), (2, gen_random_uuid())", {"author"}),
        ("INSERT INTO author SELECT lower(x) FROM post", {"author"}),
        ("INSERT INTO author (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 2", {"author"}),
        ("INSERT INTO public.author DEFAULT VALUES", {"public.author"}),
        ("UPDATE public.author SET name = 'x' WHERE id = 3", {"public.author"}),
        ('UPDATE "Author" AS a SET name = p.x FROM post p WHERE p.id = a.id', {"Author"}),
        ("DELETE FROM author USING post WHERE post.id = author.id", {"author"}),
        (
            "WITH old AS (SELECT id FROM post FOR UPDATE) DELETE FROM author WHERE id IN (SELECT id FROM old)",
            {"author"},
        ),
        ("WITH x AS (INSERT INTO author VALUES (1) RETURNING *) SELECT * FROM x", {"author"}),
        ("WITH x AS (DELETE FROM author RETURNING *) INSERT INTO post SELECT * FROM x", {"author", "post"}),
        (
            "WITH x AS (UPDATE ONLY s.author SET id = 1 RETURNING 1), y AS (DELETE FROM post) SELECT 1",
            {"s.author", "post"},
        ),
        ('WITH x AS (INSERT INTO "Big" (id) VALUES (1) ON CONFLICT DO UPDATE SET id = 2) SELECT 1', {"Big"}),
        ("MERGE INTO author a USING post p ON a.id = p.id WHEN MATCHED THEN DELETE", {"author"}),
        (
            "MERGE INTO public.author AS a USING (SELECT 1 AS id) p ON a.id = p.id WHEN MATCHED THEN UPDATE SET id = 2"
            " WHEN NOT MATCHED THEN INSERT (id) VALUES (p.id)",
            {"public.author"},
        ),
        ("COPY author FROM STDIN", {"author"}),
        ("COPY author(id, name) FROM STDIN WITH (FORMAT csv)", {"author"}),
        ("TRUNCATE author, post RESTART IDENTITY", {"author", "post"}),
    ],
)
def test_what_changes_known_tables(sql: str, tables: set[str]) -> None:
    assert effect(sql) == Effect(EffectKind.TABLES, frozenset(tables))


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x (id int)",
        "ALTER TABLE author ADD c int",
        "DROP VIEW v",
        "GRANT SELECT ON author TO x",
        "REFRESH MATERIALIZED VIEW v",
        "CALL p()",
        "DO $$ BEGIN DELETE FROM author; END $$",
        "EXECUTE a(1)",
        "EXPLAIN ANALYZE DELETE FROM author",
        "EXPLAIN (ANALYZE, BUFFERS) SELECT 1",
        "COMMIT PREPARED 'x'",
        "PREPARE TRANSACTION 'x'",
        "TRUNCATE author CASCADE",
        "SELECT * INTO x FROM author",
        "CREATE TABLE x AS SELECT 1",
        "WITH x AS (SELECT 1) SELECT * INTO y FROM x",
        "WITH x AS (INSERT INTO author VALUES (1) RETURNING *) SELECT * INTO y FROM x",
        "MERGE INTO author a USING post p ON CASE WHEN true THEN insert(1) END WHEN MATCHED THEN DELETE",
        "WITH x AS (UPDATE author SET id = f(1) RETURNING *) SELECT * INTO y FROM x",
        "MERGE INTO author a USING post p ON a.id = p.id WHEN MATCHED THEN DO SOMETHING",
        "SELECT CASE WHEN true THEN DELETE END FROM author",
        "COPY (DELETE FROM author RETURNING *) TO STDOUT",
        "COPY author FROM STDIN WHERE f(id)",
        "UPDATE author SET id = 1 WHERE CURRENT OF c",
        "LOAD 'x'",
        "this is not sql",
        "(INSERT INTO author VALUES (1))",
    ],
)
def test_what_may_change_anything(sql: str) -> None:
    found = effect(sql)
    assert found.kind == EffectKind.EVERYTHING
    assert found.everything


@pytest.mark.parametrize(
    ("sql", "tables", "functions"),
    [
        ("SELECT f(1)", set(), {"f"}),
        ("SELECT * FROM author, LATERAL s.f(author.id)", set(), {"s.f"}),
        ('SELECT "Now"()', set(), {"Now"}),
        ("SELECT public.now()", set(), {"public.now"}),
        ("INSERT INTO author VALUES (1, f(2)), (3, lower('x'))", {"author"}, {"f"}),
        ("UPDATE author SET id = f(g(now()))", {"author"}, {"f", "g"}),
        ("DECLARE c CURSOR FOR SELECT f(1)", set(), {"f"}),
        ("COPY (SELECT f(1)) TO STDOUT", set(), {"f"}),
        ("SELECT query_to_xml('DELETE FROM author', true, true, '')", set(), {"query_to_xml"}),
        ("SELECT ts_stat('SELECT f()')", set(), {"ts_stat"}),
    ],
)
def test_an_unknown_function_may_change_anything_and_is_told(sql: str, tables: set[str], functions: set[str]) -> None:
    assert effect(sql) == Effect(EffectKind.EVERYTHING, frozenset(tables), frozenset(functions))


def test_a_text_that_is_recognised_by_its_beginning_only_may_change_anything() -> None:
    assert effect("SELECT 1" + " " * MAX_TEXT + "; DELETE FROM author").everything


def test_effects_of_long_statements_take_the_narrow_reading() -> None:
    rows = ", ".join(f"({number}, f({number}))" for number in range(5000))
    assert effect(f"INSERT INTO author VALUES {rows}").kind == EffectKind.EVERYTHING
    assert effect(f"SELECT * FROM author WHERE id IN ({', '.join(map(str, range(20_000)))})").kind == EffectKind.NOTHING


# Declared STABLE because it asks for a conversion between encodings, which only DDL changes.
EXCEPTIONS = {"length(bytea, name)"}


def test_the_list_of_immutable_functions_agrees_with_the_server(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url) as connection:
        rows = connection.execute(
            "SELECT proname, provolatile::text, proname || '(' || pg_get_function_identity_arguments(oid) || ')'"
            " FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s)",
            [sorted(IMMUTABLE)],
        ).fetchall()
    assert [row[2] for row in rows if row[1] != "i" and row[2] not in EXCEPTIONS] == []
    missing = (IMMUTABLE - CONSTRUCTS) - {row[0] for row in rows}
    if int(postgres.version.split(".")[0]) >= 15:
        assert missing == set()
    else:
        assert len(missing) < 20


def test_every_function_that_runs_sql_given_to_it_is_not_harmless(postgres: Postgres) -> None:
    """What the server itself documents as running a query, and whatever has one as its argument's name."""
    with psycopg.connect(postgres.url) as connection:
        rows = connection.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND"
            " (proargnames && '{query,sqlquery,cursor,tbl}' OR proname ~ '^(lo_|pg_logical|pg_replication|binary_upgrade)')"
            " AND provolatile = 'v'"
        ).fetchall()
    assert len(rows) > 5
    assert {row[0] for row in rows} & HARMLESS == set()
