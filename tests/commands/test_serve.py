"""`pgloupe serve`, `fingerprint` and `--version` as a user runs them."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import psycopg
import pytest

import pgloupe as package
from support.proxy import Serve, pgloupe
from support.servers import Postgres


def connect(serve: Serve, url: str) -> psycopg.Connection:
    return psycopg.connect(url, host="127.0.0.1", port=serve.port, autocommit=True)


def test_it_prints_the_url_to_use_without_the_password_and_then_that_it_is_ready(postgres: Postgres) -> None:
    with Serve("--upstream", postgres.url) as serve:
        assert serve.lines[-1] == f"listening on 127.0.0.1:{serve.port}"
        assert serve.lines[0].startswith("DATABASE_URL=postgres://")
        assert f"@127.0.0.1:{serve.port}/" in serve.lines[0]
        assert postgres.password not in "\n".join(serve.lines)
        with connect(serve, postgres.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert serve.stop() == 0


def test_slow_statements_go_to_stderr_as_lines_of_json(postgres: Postgres) -> None:
    with Serve("--upstream", postgres.url, "--slow-ms", "50") as serve:
        with connect(serve, postgres.url + "?application_name=reports") as connection:
            connection.execute("SELECT pg_sleep(0.12), 'secret' /*route='/monthly'*/")
            connection.execute("SELECT 1")
        assert serve.stop() == 0
        (line,) = [json.loads(line) for line in serve.errors().splitlines() if line.startswith("{")]
    assert line["template"] == "SELECT pg_sleep($1), $2"
    assert line["duration_ms"] >= 120
    assert line["server_ms"] >= 120
    assert line["proxy_ms"] < line["server_ms"]
    assert line["rows"] == 1
    assert line["application_name"] == "reports"
    assert line["tags"] == {"route": "/monthly"}
    assert line["user"] == postgres.user
    assert line["database"] == postgres.dbname
    assert len(line["fingerprint"]) == 16
    assert "secret" not in json.dumps(line)


def test_parameters_are_logged_when_asked_for(postgres: Postgres) -> None:
    with Serve("--upstream", postgres.url, "--slow-ms", "0", "--slow-log-parameters") as serve:
        with connect(serve, postgres.url) as connection:
            connection.execute("SELECT %s::text || %s", ("visible", "too"))
        serve.stop()
        lines = [json.loads(line) for line in serve.errors().splitlines() if line.startswith("{")]
    assert ["visible", "too"] in [line["parameters"] for line in lines]


def test_a_finding_is_logged_once_and_in_the_report_at_the_end(postgres: Postgres, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with Serve("--upstream", postgres.url, "--report", str(report)) as serve:
        with connect(serve, postgres.url) as connection:
            keys = connection.execute("SELECT 900 + n AS n FROM generate_series(1, 9) n").fetchall()
            connection.execute("CREATE TEMP TABLE wing (id int)")
            for (key,) in keys:
                connection.execute("SELECT id FROM wing WHERE id = %s", (key,)).fetchall()
        assert serve.stop() == 0
        logged = [line for line in serve.errors().splitlines() if "wing" in line and "WARNING" in line]
    assert len(logged) == 1
    found = json.loads(report.read_text())["findings"]
    assert [(finding["rule"], finding["tables"], finding["count"]) for finding in found] == [
        ("n_plus_one", ["wing"], 9)
    ]


def test_settings_come_from_flags_then_variables_then_the_file(postgres: Postgres, tmp_path: Path) -> None:
    (tmp_path / "pgloupe.toml").write_text(f'upstream = "{postgres.url}"\nslow_ms = 0\n')
    with Serve(cwd=str(tmp_path)) as serve:
        with connect(serve, postgres.url) as connection:
            connection.execute("SELECT 'by the file'")
        serve.stop()
        assert '"SELECT $1"' in serve.errors()
    with Serve(cwd=str(tmp_path), environ={"PGLOUPE_SLOW_MS": "60000"}) as serve:
        with connect(serve, postgres.url) as connection:
            connection.execute("SELECT 'by the variable'")
        serve.stop()
        assert '"SELECT $1"' not in serve.errors()
    with Serve("--slow-ms", "0", cwd=str(tmp_path), environ={"PGLOUPE_SLOW_MS": "60000"}) as serve:
        with connect(serve, postgres.url) as connection:
            connection.execute("SELECT 'by the flag'")
        serve.stop()
        assert '"SELECT $1"' in serve.errors()


def test_what_the_cache_cannot_reach_is_logged_once_each(tmp_path: Path) -> None:
    (tmp_path / "pgloupe.toml").write_text(
        '[cache]\nredis = "redis://127.0.0.1:1/0"\n[[cache.allow]]\ntables = ["item"]\nttl = "60s"\n'
    )
    with Serve("--upstream", "postgres://u:p@127.0.0.1:2/db", cwd=str(tmp_path)) as serve:
        assert serve.stop() == 0
        errors = serve.errors()
    assert errors.count("catalogs cannot be read") == 1
    assert errors.count("every write invalidates every answer") == 1
    (redis,) = [line for line in errors.splitlines() if "redis is not usable" in line]
    assert "; the server answers every read until it is" in redis
    assert ".;" not in redis


BAD_FILES = [
    ("slow_m = 5", ["unknown key 'slow_m'", "'slow_ms'"]),
    ("[cache]\nredis_url = 'redis://h'", ["unknown key 'cache.redis_url'", "'cache.redis'"]),
    ("[cache]\nredis = 'h:6379'", ["cache.redis", "h:6379", "redis://"]),
    ("slow_ms = 'soon'", ["slow_ms", "soon"]),
    ("slow_ms = [1", ["not valid TOML"]),
    ("[[cache.allow]]\nname = 'a'\nttl = '60s'", ["rule 1 (a)", "tables, template and fingerprint"]),
    ("[[cache.allow]]\nname = 'a'\ntables = ['t']", ["rule 1 (a)", "ttl"]),
    ("[[cache.allow]]\ntables = ['t']\nttl = 'long'", ["rule 1", "'long'", "60s"]),
    ("[[cache.allow]]\ntables = 't'\nttl = '1s'", ["rule 1", "list of names"]),
    ("[[cache.allow]]\nfingerprint = 'xyz'\nttl = '1s'", ["rule 1", "16 hex digits"]),
    ("[[cache.allow]]\ntable = ['t']\nttl = '1s'", ["unknown key 'table'", "'tables'"]),
    ("[[cache.allow]]\ntemplate = 'SELECT 1; SELECT 2'\nttl = '1s'", ["cache.allow", "not one statement"]),
    (
        "[[cache.allow]]\nname='a'\ntables=['t']\nttl='1s'\n[[cache.allow]]\nname='a'\ntables=['u']\nttl='1s'",
        ["two", "'a'"],
    ),
    ("[n_plus_one]\nthreshold = 1", ["n_plus_one.threshold", "2"]),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES)
def test_a_bad_file_is_one_sentence_and_exit_code_2(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    done = pgloupe("serve", "--upstream", "postgres://u@h/db", "--listen", "127.0.0.1:0", "--config", str(path))
    assert done.returncode == 2
    assert "listening" not in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "bad.toml" in done.stderr or "cache.allow" in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_port_in_use_is_one_sentence_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = pgloupe("serve", "--upstream", "postgres://u@h/db", "--listen", address)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert address in done.stderr
    assert "address already in use" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_by_a_signal_with_exit_code_0_and_tells_its_clients(postgres: Postgres, number: int) -> None:
    with Serve("--upstream", postgres.url) as serve:
        connection = connect(serve, postgres.url)
        assert serve.stop(number) == 0
        with pytest.raises(psycopg.OperationalError, match="administrator command"):
            connection.execute("SELECT 1")
        connection.close()
        assert "Traceback" not in serve.errors()


def test_version_says_whether_the_core_is_compiled() -> None:
    done = pgloupe("--version")
    assert done.returncode == 0
    assert done.stdout == f"pgloupe {package.__version__}\ncompiled: {'yes' if package.compiled() else 'no'}\n"


def test_fingerprint_prints_fingerprint_and_template() -> None:
    done = pgloupe("fingerprint", "select  ID from Author where name = 'x' -- who")
    fingerprint, tab, template = done.stdout.rstrip("\n").partition("\t")
    assert (done.returncode, tab, template) == (0, "\t", "SELECT id FROM author WHERE name = $1")
    lines = [json.dumps(text) for text in ("SELECT id FROM author WHERE name = $1", "SELECT\n1", "")]
    many = pgloupe("fingerprint", stdin="\n".join(lines) + "\n")
    rows = [line.split("\t") for line in many.stdout.splitlines()]
    assert rows[0] == [fingerprint, template]
    assert rows[1][1] == "SELECT $1"
    assert rows[2] == ["0" * 16, ""]


def test_half_a_character_in_a_json_string_ends_nothing() -> None:
    done = pgloupe("fingerprint", stdin='"SELECT \\ud800"\n"SELECT 1"\n')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].endswith("\tSELECT $1")


def test_a_line_that_is_no_json_string_is_named_and_the_others_are_answered() -> None:
    done = pgloupe("fingerprint", stdin='"SELECT 1"\nSELECT 2\n"SELECT 3"\n')
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ('pgloupe: line 2: not a JSON string, such as "SELECT name FROM author WHERE id = 1"\n')


@pytest.mark.parametrize(("arguments", "word"), [(["sevre"], "sevre"), (["serve", "--upsteam", "x"], "--upsteam")])
def test_a_wrong_word_is_named(arguments: list[str], word: str) -> None:
    done = pgloupe(*arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert "--help" in done.stderr
