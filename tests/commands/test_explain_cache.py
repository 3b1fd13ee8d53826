"""`pgloupe explain-cache`: whether a statement would be cached, and why not."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from pgloupe.config import load
from pgloupe.explain import Explanation, explain, main
from pgloupe_rules.types import SessionInfo
from support.proxy import pgloupe
from support.servers import Postgres

RULES = """
[[cache.allow]]
name = "catalogue"
tables = ["author", "author_view", "secrets", "secret", "clock"]
ttl = "60s"

[[cache.allow]]
name = "jobs"
tables = ["post"]
application_name = "job-*"
ttl = "5m"
stale_while_revalidate = "10s"
max_rows = 100

[[cache.allow]]
name = "trial"
template = "SELECT count(*) FROM post"
ttl = "1h"
dry_run = true
"""


@pytest.fixture(scope="module")
def shop(postgres: Postgres) -> str:
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE author (id int, name text); CREATE TABLE post (id int)")
        connection.execute("CREATE VIEW author_view AS SELECT name FROM author")
        connection.execute("CREATE TABLE secret (id int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
        connection.execute("CREATE VIEW secrets AS SELECT id FROM secret")
        connection.execute("CREATE VIEW clock AS SELECT now()")
        connection.execute("CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT upper($1)'")
    return url


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return str(path)


def explained(url: str, config: str, sql: str, **session: str) -> Explanation:
    settings = load({"upstream": url}, {}, config)
    user = session.pop("user", settings.upstream.user)
    return explain(settings, sql, SessionInfo(0, settings.upstream.database, user, **session))


def test_a_statement_that_would_be_cached_is_explained_with_its_rule_key_and_tables(shop: str, config: str) -> None:
    done = pgloupe(
        "explain-cache",
        "--json",
        *("--upstream", shop, "--config", config, "-"),
        stdin="select name from author_view -- x\n where name = $1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["cached"], found["rule"], found["ttl_s"]) == (True, "catalogue", 60.0)
    assert found["tables"] == ["author_view"]
    assert found["depends_on"] == ["author", "author_view"]
    key = {part["part"]: part["value"] for part in found["key"]}
    assert key["database"] == psycopg.conninfo.conninfo_to_dict(shop)["dbname"]
    assert key["user"] == psycopg.conninfo.conninfo_to_dict(shop)["user"]
    assert "search_path = " in key["settings"]
    assert "-- x" not in key["text"]
    assert found["rules"][0] == {"rule": "catalogue", "applies": True, "why": None}
    assert found["rules"][1]["why"] == "does not name author_view"
    assert found["rules"][2]["why"] == "is for another statement"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT now() FROM author", "now() is stable"),
        ("SELECT random(), shout(name) FROM author", "random() is volatile; shout() is stable"),
        ("SELECT id FROM secrets", "row-level security: secrets"),
        ("SELECT id FROM secret", "row-level security: secret"),
        ("SELECT * FROM clock", "view with a function that is not immutable: clock"),
        ("SELECT a.id FROM author a, comment", "no rule is for it"),
        ("SELECT id FROM post", "no rule is for it"),
        ("SELECT count(*) FROM post", "the rule 'trial' is a dry run, which looks up and compares and never answers"),
        ("UPDATE author SET name = 'x'", "it is no plain read"),
        ("SELECT name FROM author FOR UPDATE", "locks or writes rows"),
        ("SELECT name FROM author /* pgloupe:nocache */", "a hint says nocache"),
        (" -- nothing", "it is empty"),
        ("SELECT 1; SELECT 2", "2 statements in one query string; each alone could be"),
        ("this is not sql", "it is not understood, so no rule can be for it"),
    ],
)
def test_a_statement_that_would_not_be_cached_is_told_why(shop: str, config: str, sql: str, reason: str) -> None:
    assert explained(shop, config, sql).reason == reason


def test_conditions_are_held_against_who_is_said_to_ask(shop: str, config: str) -> None:
    without = explained(shop, config, "SELECT id FROM post")
    assert without.rules[1] == ("jobs", "is for application_name 'job-*', and this is ''")
    found = explained(shop, config, "SELECT id FROM post", application_name="job-1")
    assert found.cached
    said = found.to_dict()
    assert (said["rule"], said["ttl_s"], said["stale_while_revalidate_s"], said["max_rows"]) == (
        "jobs",
        300.0,
        10.0,
        100,
    )


@pytest.mark.parametrize(
    ("upstream", "words"),
    [((), "no upstream is given"), (("--upstream", "postgres://a@127.0.0.1:1/b"), "('127.0.0.1', 1)")],
)
def test_without_a_server_the_rules_alone_are_asked_and_that_is_said(
    config: str, upstream: tuple[str, ...], words: str
) -> None:
    done = pgloupe("explain-cache", *upstream, "--config", config, "SELECT id FROM secret")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "cached: yes, under the rule 'catalogue'"
    assert "  ttl         60 s" in lines
    assert "  depends on  secret" in lines
    (note,) = [line for line in lines if "catalogs were not read" in line]
    assert words in note


def test_the_exit_code_is_1_where_it_would_not_be_cached(
    shop: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load({"upstream": shop}, {}, config)
    assert main(settings, "SELECT id FROM post", SessionInfo(0), as_json=False, asked=True) == 1
    assert capsys.readouterr().out.splitlines()[0] == "cached: no: no rule is for it"
    assert main(settings, "SELECT id FROM post", SessionInfo(0), as_json=True, asked=True) == 1
    assert json.loads(capsys.readouterr().out)["cached"] is False


def test_what_serve_would_refuse_is_a_note(shop: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[[cache.allow]]\nname = "s"\ntables = ["secret"]\nttl = "1s"\n')
    found = explained(shop, str(tmp_path / "bad.toml"), "SELECT id FROM secret")
    assert found.reason == "row-level security: secret"
    assert any("refused at start: the cache rule 's' can never hit" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((" ",), "no SQL"),
        (("--config", "/does/not/exist", "SELECT 1"), "--config: cannot read"),
        (("--upstream", "nonsense", "SELECT 1"), "--upstream"),
    ],
)
def test_a_usage_error_has_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    done = pgloupe("explain-cache", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
