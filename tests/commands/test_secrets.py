"""Passwords and values never reach standard output, the log, the slow log, an error or the report.

Each secret is a word that stands nowhere else; what the program wrote is searched for it, whole and percent-decoded.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from support.proxy import Serve, pgloupe
from support.raw import eventually
from support.servers import PASSWORDS, Postgres, RedisServer, redis_binary

MARK = "h1dden"
"""In each of the secrets that the tests make up."""


def clean(text: str) -> bool:
    return MARK not in text and not any(secret in text or quote(secret) in text for secret in PASSWORDS.values())


@pytest.mark.parametrize("role", ["app", "md5user", "plain"])
def test_what_clients_log_in_with_and_send_is_written_nowhere(postgres: Postgres, tmp_path: Path, role: str) -> None:
    database = postgres.create_database()
    url = postgres.url_for(role, database.rpartition("/")[2])
    report = tmp_path / "report.json"
    with Serve("--upstream", url, "--slow-ms", "0", "--threshold", "2", "--report", str(report)) as serve:
        here = {"host": "127.0.0.1", "port": serve.port, "autocommit": True}
        with psycopg.connect(url, **here) as connection:
            connection.execute(
                "CREATE TEMPORARY TABLE item AS SELECT 'h1dden ' || n AS name FROM generate_series(1, 9) n"
            )
            connection.execute("BEGIN")  # one unit of work, however long the machine pauses
            for (name,) in connection.execute("SELECT name FROM item").fetchall():
                connection.execute(f"SELECT length(name) FROM item WHERE name = '{name}'")
            connection.execute("COMMIT")
            for number in range(6):
                connection.execute("SELECT %s::text, 'h1dden literal'", (f"h1dden value {number}",))
                connection.execute(f"SELECT $tag$h1dden {number}$tag$, E'h1dden\\' {number}', %s::text", ("h1dden",))
            connection.execute("SELECT set_config('my.secret', 'h1dden', false)")
            for statement in (
                "SET my.secret = 'h1dden'",
                "ALTER ROLE nobody PASSWORD 'h1dden'",
                "CREATE USER MAPPING FOR CURRENT_USER SERVER none OPTIONS (password 'h1dden')",
                "SELECT h1dden_is_no_secret_here('h1dden' +",
                "COMMENT ON TABLE none IS 'h1dden'",
                "DO $$ BEGIN PERFORM 'h1dden'; END $$",
            ):
                with contextlib.suppress(psycopg.Error):
                    connection.execute(statement.replace("h1dden_is_no_secret_here", "none"))
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(url, password="h1dden", **here)
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(url, options="-c my.secret=h1dden", user="nobody", password="h1dden", **here)
        assert serve.stop() == 0
        wrote = "\n".join(serve.lines) + serve.errors() + report.read_text()
    assert json.loads(report.read_text())["findings"]
    assert wrote.count('"template"') > 10
    assert clean(wrote), [line for line in wrote.splitlines() if not clean(line)]


@pytest.mark.parametrize(
    "upstream",
    [
        "postgres://app:h1dden@127.0.0.1:1/db",
        "postgres://app@127.0.0.1:1/db?password=h1dden",
        "postgres://app:h1dden@no-such-host.invalid/db",
    ],
)
def test_a_server_that_cannot_be_reached_is_named_without_the_password(upstream: str) -> None:
    rule = ["--threshold", "5"]
    with Serve("--upstream", upstream, *rule, environ={"PGLOUPE_CACHE_CATALOG_URL": upstream}) as serve:
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(f"host=127.0.0.1 port={serve.port} user=app dbname=db password=h1dden")
        assert serve.stop() == 0
        wrote = "\n".join(serve.lines) + serve.errors()
    assert "127.0.0.1:1" in wrote or "no-such-host.invalid" in wrote
    assert clean(wrote)
    assert clean(str(caught.value))


def test_the_passwords_of_redis_and_of_the_catalogs_are_written_nowhere(postgres: Postgres, tmp_path: Path) -> None:
    binary = redis_binary()
    assert binary is not None
    config = tmp_path / "pgloupe.toml"
    with RedisServer(binary) as redis:
        wrong = redis.url.replace("redis://", "redis://someone:h1dden@")
        catalog = postgres.url.replace(quote(postgres.password, safe=""), "h1dden")
        config.write_text(
            f'[cache]\nredis = "{wrong}"\ncatalog_url = "{catalog}"\n'
            '[[cache.allow]]\nname = "all"\ntables = ["item"]\nttl = "60s"\n'
        )
        with Serve("--upstream", postgres.url, "--config", str(config)) as serve:
            with psycopg.connect(postgres.url, host="127.0.0.1", port=serve.port, autocommit=True) as connection:
                for _ in range(3):
                    connection.execute("SELECT 1")
            eventually(lambda: "redis is not usable" in serve.errors() and "catalogs cannot be read" in serve.errors())
            assert serve.stop() == 0
            wrote = "\n".join(serve.lines) + serve.errors()
    assert clean(wrote), wrote


@pytest.mark.parametrize(
    "arguments",
    [
        ["--upstream", "postgres://app:h1dden@host:port/db"],
        ["--upstream", "mysql://app:h1dden@host/db"],
        ["--upstream", "app:h1dden@host/db"],
        ["--upstream", "postgres://app:h1dden@[::1/db"],
        ["--upstream", "host=localhost user=app password=h1dden"],
        ["--upstream", "postgres://app:h1dden?h1dden@host:5432/db"],
        ["--upstream", "postgres://app:h1dden/db"],
        ["--upstream", "postgres://app@host:x/db?password=a@h1dden"],
        ["--upstream", "postgres://app@host/db?password=h1dden&sslmod=require"],
        ["--upstream", "postgres://app@host/db?password=h1dden&SSLMODE=require"],
        ["--upstream", "postgres://app:h1dden@a,b/db"],
        ["--upstream", "postgres://app@host/db?password=h1dden&port=x"],
        ["--upstream", "mysql://app@host/db?password=h1dden"],
        ["--upstream", "postgres://app@host/db?password=h1dden&sslmode=perhaps"],
        ["--upstream", "postgres://app@host/db", "--redis", "http://:h1dden@host"],
        ["--upstream", "postgres://app@host/db", "--redis", "redis://:h1dden@host:port/0"],
        ["--upstream", "postgres://app@host/db", "--redis", "redis://:h1dden@host:1/zero"],
    ],
)
def test_a_setting_that_is_wrong_is_quoted_without_its_password(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "pgloupe.toml").write_text('[[cache.allow]]\nname = "all"\ntables = ["item"]\nttl = "60s"\n')
    done = pgloupe("serve", "--listen", "127.0.0.1:0", *arguments, cwd=str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert clean(done.stderr), done.stderr
