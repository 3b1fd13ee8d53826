"""`[[cache.allow]]` as `serve` takes it: at the start, at SIGHUP, and what it says at the end."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgloupe.config import settings
from pgloupe.errors import SettingsError
from pgloupe_rules.allow import AllowRule
from support.proxy import Serve
from support.raw import eventually
from support.servers import Postgres

UPSTREAM = "postgres://app@127.0.0.1/shop"


def rules(*tables: dict[str, Any], **cache: Any) -> tuple[AllowRule, ...]:
    return settings({"upstream": UPSTREAM, "cache": {"allow": list(tables), **cache}}).cache_allow


def test_every_key_of_a_rule_is_read() -> None:
    (rule,) = rules(
        {
            "name": "all",
            "tables": ["author", "book"],
            "user": "web",
            "database": ["shop", "shop-*"],
            "application_name": "a*",
            "tags": {"route": "/books", "job": ["x", "y"]},
            "ttl": "60s",
            "stale_while_revalidate": "5s",
            "max_entry_bytes": 1000,
            "max_rows": 10,
            "dry_run": True,
            "key_by_user": False,
            "hints": False,
        }
    )
    assert rule == AllowRule(
        "all",
        60.0,
        tables=frozenset({"author", "book"}),
        max_entry_bytes=1000,
        users=("web",),
        databases=("shop", "shop-*"),
        application_names=("a*",),
        tags=(("route", ("/books",)), ("job", ("x", "y"))),
        stale_s=5.0,
        max_rows=10,
        dry_run=True,
        key_by_user=False,
        hints=False,
    )


def test_what_is_not_said_is_as_documented() -> None:
    assert rules({"tables": ["author"], "ttl": 60}) == (AllowRule("rule-1", 60.0, tables=frozenset({"author"})),)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"user": []}, "user must be a name or a list of names"),
        ({"user": ["a", 1]}, "user must be a name or a list of names"),
        ({"application_name": 5}, "application_name must be a name"),
        ({"database": ""}, "database must be a name"),
        ({"tags": "route"}, "tags must be a table"),
        ({"tags": {}}, "tags must be a table"),
        ({"tags": {"route": 1}}, "route must be a name"),
        ({"tags": {"pgloupe": "nocache"}}, "the tag pgloupe is that of hints"),
        ({"ttl": 0}, "ttl must be over 0"),
        ({"ttl": "soon"}, "ttl: 'soon' is not a duration"),
        ({"stale_while_revalidate": "x"}, "stale_while_revalidate: 'x' is not a duration"),
        ({"max_rows": 0}, "max_rows: 0 is not a whole number from 1 up"),
        ({"max_entry_bytes": 0}, "max_entry_bytes: 0 is not a whole number from 1 up"),
        ({"dry_run": "maybe"}, "dry_run: 'maybe' is neither true nor false"),
        ({"key_by_user": 2}, "key_by_user: 2 is neither true nor false"),
        ({"hints": "restrict"}, "hints: 'restrict' is neither true nor false"),
        ({"name": "(hint)"}, "(hint) is the name of what comments allow"),
        ({"template": "SELECT 1"}, "needs exactly one of tables, template and fingerprint"),
        ({"usr": "a"}, "unknown key 'usr'; did you mean 'user'?"),
    ],
)
def test_a_rule_that_is_written_wrongly_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        rules({"name": "r", "tables": ["author"], "ttl": "60s", **keys})
    assert "[[cache.allow]] rule 1" in str(refused.value)
    assert words in str(refused.value)


def test_hints_are_one_of_three_words() -> None:
    with pytest.raises(SettingsError, match=r"cache\.hints: 'on' is none of ignore, restrict, allow"):
        rules(hints="on")


def test_rules_are_judged_by_the_catalogs_at_the_start_and_at_sighup_and_told_of_at_the_end(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE item (id int)")
        connection.execute("CREATE TABLE secret (id int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
    config = tmp_path / "pgloupe.toml"

    def write(name: str, table: str) -> None:
        config.write_text(f'[[cache.allow]]\nname = "{name}"\ntables = ["{table}"]\nttl = "60s"\n')

    write("first", "secret")
    with Serve("--config", str(config), "--upstream", url) as serve:
        assert serve.process.wait(60) == 2
        eventually(lambda: "'first' can never hit: secret (row-level security)" in serve.errors())
    write("second", "item")
    report = tmp_path / "report.json"
    with Serve("--config", str(config), "--upstream", url, "--report", str(report)) as serve:
        write("third", "secret")
        serve.process.send_signal(signal.SIGHUP)
        eventually(lambda: "SIGHUP: nothing is changed: [[cache.allow]]: the cache rule 'third'" in serve.errors())
        with psycopg.connect(url, host="127.0.0.1", port=serve.port, autocommit=True) as client:
            for _ in range(3):
                client.execute("SELECT id FROM item")
        assert serve.stop() == 0
        assert "cache rule second: too few reads to tell: 2 of 3 hit" in serve.errors()
    (rule,) = json.loads(report.read_text())["cache"]["rules"]
    assert (rule["rule"], rule["hits"]) == ("second", 2)
