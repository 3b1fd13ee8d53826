"""SIGHUP: what a running `pgloupe serve` takes over, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from support.proxy import Serve
from support.raw import eventually
from support.servers import Postgres


def write(path: Path, text: str) -> None:
    """As editors do: the new file takes the place of the old one at once."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def hup(serve: Serve, says: str) -> None:
    before = serve.errors().count("SIGHUP")
    serve.process.send_signal(signal.SIGHUP)
    eventually(lambda: serve.errors().count("SIGHUP") > before)
    eventually(lambda: says in serve.errors())


@pytest.fixture
def serve_with(postgres: Postgres, tmp_path: Path) -> Callable[..., Serve]:
    def start(text: str, *arguments: str) -> Serve:
        write(tmp_path / "pgloupe.toml", text)
        return Serve("--config", str(tmp_path / "pgloupe.toml"), "--upstream", postgres.url, *arguments)

    return start


def test_new_settings_are_taken_over_and_sessions_go_on(
    serve_with: Callable[..., Serve], postgres: Postgres, tmp_path: Path
) -> None:
    with serve_with("slow_ms = 60000") as serve:
        with psycopg.connect(postgres.url, host="127.0.0.1", port=serve.port, autocommit=True) as connection:
            connection.execute("SELECT 'before'")
            connection.execute("BEGIN")
            (process,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
            write(tmp_path / "pgloupe.toml", "slow_ms = 0\nmax_connections = 1")
            hup(serve, "the settings were read again")
            assert connection.execute("SELECT pg_backend_pid()").fetchone() == (process,)
            connection.execute("COMMIT")
            with pytest.raises(psycopg.OperationalError, match="sorry, too many clients already"):
                psycopg.connect(postgres.url, host="127.0.0.1", port=serve.port)
        assert serve.stop() == 0
        slow = [json.loads(line)["template"] for line in serve.errors().splitlines() if line.startswith("{")]
    assert slow == ["SELECT pg_backend_pid()", "COMMIT"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slow_ms = 'soon'", ["slow_ms", "'soon' is not a number"]),
        ("slow_sm = 1", ["unknown key 'slow_sm'", "did you mean 'slow_ms'"]),
        ("slow_ms = ", ["not valid TOML"]),
    ],
)
def test_a_file_that_became_wrong_changes_nothing(
    serve_with: Callable[..., Serve], postgres: Postgres, tmp_path: Path, text: str, words: list[str]
) -> None:
    with serve_with("slow_ms = 0") as serve:
        write(tmp_path / "pgloupe.toml", text)
        hup(serve, "nothing is changed")
        with psycopg.connect(postgres.url, host="127.0.0.1", port=serve.port, autocommit=True) as connection:
            connection.execute("SELECT 'still logged'")
        assert serve.stop() == 0
        (line,) = [line for line in serve.errors().splitlines() if "SIGHUP" in line]
        assert all(word in line for word in words), line
        assert '"template": "SELECT $1"' in serve.errors()


def test_what_needs_a_restart_is_named_and_the_rest_is_taken_over(
    serve_with: Callable[..., Serve], postgres: Postgres, tmp_path: Path
) -> None:
    with serve_with("slow_ms = 60000") as serve:
        rule = '[[cache.allow]]\nname = "all"\ntables = ["item"]\nttl = "60s"\n'
        write(tmp_path / "pgloupe.toml", f"slow_ms = 0\n[cache]\nmemory_bytes = 1000\n{rule}")
        hup(serve, "a new value of cache.allow needs a restart")
        assert "a new value of cache.memory_bytes needs a restart" in serve.errors()
        assert "a new value of slow_ms" not in serve.errors()
        with psycopg.connect(postgres.url, host="127.0.0.1", port=serve.port, autocommit=True) as connection:
            connection.execute("SELECT 1")
        assert serve.stop() == 0
        assert '"template": "SELECT $1"' in serve.errors()


def test_new_rules_of_the_cache_are_taken_over(
    serve_with: Callable[..., Serve], postgres: Postgres, tmp_path: Path
) -> None:
    def rules(*tables: str) -> str:
        names = ", ".join(f'"{table}"' for table in tables)
        return f'slow_ms = 0\n[[cache.allow]]\nname = "some"\ntables = [{names}]\nttl = "60s"\n'

    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE item (id int); CREATE TABLE note (id int)")

    seen: dict[str, int] = {}

    def cached(connection: psycopg.Connection, table: str) -> bool:
        for _ in range(2):
            connection.execute(f"SELECT id FROM {table}")
        seen[table] = seen.get(table, 0) + 2
        eventually(lambda: serve.errors().count(f"FROM {table}") == seen[table])
        last = [json.loads(line) for line in serve.errors().splitlines() if f"FROM {table}" in line][-1]
        return bool(last["cache"] == "hit")

    with (
        serve_with(rules("item"), "--upstream", database) as serve,
        psycopg.connect(database, host="127.0.0.1", port=serve.port, autocommit=True) as connection,
    ):
        connection.prepare_threshold = None  # naming a statement is another question
        assert cached(connection, "item")
        assert not cached(connection, "note")
        write(tmp_path / "pgloupe.toml", rules("note"))
        hup(serve, "the settings were read again")
        assert cached(connection, "note")
        assert not cached(connection, "item")
        write(tmp_path / "pgloupe.toml", rules("note", "item").replace("60s", "0s"))
        hup(serve, "ttl must be over 0")
        assert cached(connection, "note")


def test_as_many_files_are_asked_for_as_max_connections_needs(serve_with: Callable[..., Serve]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serve_with("max_connections = 1000") as serve:
        soft, _ = resource.prlimit(serve.process.pid, resource.RLIMIT_NOFILE)
        assert soft >= min(2000, hard)
        assert "open files" not in serve.errors()
    if hard == resource.RLIM_INFINITY or hard < 1 << 31:
        with serve_with("max_connections = 1000000000") as serve:
            eventually(lambda: "needs 2000000576 open files and the system allows" in serve.errors())
            assert os.path.exists(f"/proc/{serve.process.pid}")
