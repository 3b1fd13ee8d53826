"""`pgloupe check` as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

import psycopg
import pytest

from support.proxy import pgloupe
from support.servers import PASSWORDS, Postgres

PROGRAM = str(Path(__file__).parents[1] / "programs" / "loop.py")
POSTS = 8


@pytest.fixture(scope="module")
def blog(postgres: Postgres) -> str:
    """URL of a database with posts and three remarks on each."""
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE post (id int PRIMARY KEY, title text)")
        connection.execute("CREATE TABLE remark (id serial PRIMARY KEY, post_id int REFERENCES post, body text)")
        connection.execute(f"INSERT INTO post SELECT 7000 + 13 * n, 'post ' || n FROM generate_series(1, {POSTS}) n")
        connection.execute("INSERT INTO remark (post_id, body) SELECT id, 'x' FROM post, generate_series(1, 3)")
    return url


def run(url: str, tmp_path: Path, *arguments: str, command: list[str]) -> tuple[Any, dict[str, Any]]:
    output = tmp_path / "report.json"
    done = pgloupe("check", "--upstream", url, "--format", "json", "--output", str(output), *arguments, "--", *command)
    return done, json.loads(output.read_text()) if output.exists() and output.read_text() else {}


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg2"])
def test_a_loop_is_found_with_child_and_parent_and_fails_the_check(blog: str, tmp_path: Path, driver: str) -> None:
    done, report = run(blog, tmp_path, command=[sys.executable, PROGRAM, driver, "lazy"])
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"{3 * POSTS} rows\n"
    (finding,) = report["findings"]
    assert finding["rule"] == "n_plus_one"
    assert finding["tables"] == ["remark"]
    assert finding["count"] == POSTS
    assert finding["distinct_params"] == POSTS
    assert finding["confidence"] == "proven"
    assert finding["parent"]["tables"] == ["post"]
    assert finding["parent"]["column"] == "id"
    assert finding["parent"]["rows"] == POSTS
    assert finding["child"] == {"parameter": 1, "column": "post_id"}
    assert finding["avoidable_round_trips"] == POSTS - 1


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg2"])
def test_the_joined_version_passes(blog: str, tmp_path: Path, driver: str) -> None:
    done, report = run(blog, tmp_path, command=[sys.executable, PROGRAM, driver, "joined"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{3 * POSTS} rows\n"
    assert report["findings"] == []
    assert report["statements"] >= 1


def test_the_advice_runs_and_gives_the_rows_of_the_loop(blog: str, tmp_path: Path) -> None:
    _, report = run(blog, tmp_path, command=[sys.executable, PROGRAM, "psycopg", "lazy"])
    advice = report["findings"][0]["advice"]
    assert advice["kind"] == "any_array"
    with psycopg.connect(blog) as connection:
        keys = [row[0] for row in connection.execute("SELECT id FROM post")]
        cursor = psycopg.RawCursor(connection)
        rows = cursor.execute(advice["sql"], (keys,)).fetchall()
    assert len(rows) == 3 * POSTS


def test_clients_that_run_a_statement_once_each_are_not_added_up(blog: str, tmp_path: Path) -> None:
    code = (
        "import os, psycopg\n"
        "clients = [psycopg.connect(os.environ['DATABASE_URL']) for _ in range(12)]\n"
        "for number, client in enumerate(clients):\n"
        "    client.execute('SELECT title FROM post WHERE id = %s', (7000 + 13 * number,)).fetchall()\n"
        "for client in clients: client.close()\n"
    )
    done, report = run(blog, tmp_path, command=[sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert report["sessions"] == 12
    assert report["findings"] == []


def test_the_exit_code_of_the_command_wins(blog: str, tmp_path: Path) -> None:
    code = f"import runpy, sys; sys.argv[1:] = ['psycopg', 'lazy']; runpy.run_path({PROGRAM!r}, run_name='__main__'); sys.exit(7)"
    done, report = run(blog, tmp_path, command=[sys.executable, "-c", code])
    assert done.returncode == 7
    assert [finding["rule"] for finding in report["findings"]] == ["n_plus_one"]


def test_rules_that_do_not_fail_are_reported_all_the_same(blog: str, tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "psycopg", "lazy"]
    done, report = run(blog, tmp_path, "--fail-on", "n_plus_one_write,redundant_query", command=command)
    assert done.returncode == 0
    assert [finding["rule"] for finding in report["findings"]] == ["n_plus_one"]


def test_a_database_url_keeps_its_scheme_driver_and_parameters(blog: str, tmp_path: Path) -> None:
    code = "import os; print(os.environ['DATABASE_URL'], os.environ['PGPORT'], os.environ['PGUSER'])"
    given = blog.replace("postgresql://", "postgresql+asyncpg://") + "?application_name=shop&x=1"
    done = pgloupe("check", "--", sys.executable, "-c", code, environ={"DATABASE_URL": given}, cwd=str(tmp_path))
    assert done.returncode == 0, done.stderr
    url, port, user = done.stdout.splitlines()[0].split()
    credentials, _, tail = given.rpartition("@")
    assert unquote(url) == unquote(f"{credentials}@127.0.0.1:{port}/{tail.partition('/')[2]}")
    assert user == credentials.partition("://")[2].partition(":")[0]


def test_the_upstream_says_which_server_user_and_database_and_the_variables_how_that_is_spelled(tmp_path: Path) -> None:
    code = "import os; print(os.environ['DATABASE_URL'], os.environ['OTHER'], os.environ['PGPORT'])"
    done = pgloupe(
        *("check", "--upstream", "postgres://app:s%40fe@db:5432/shop", "--env", "OTHER"),
        *("--", sys.executable, "-c", code),
        environ={"DATABASE_URL": "postgresql+psycopg://u:p@elsewhere/prod?x=1", "OTHER": "postgres://nobody@x:9/y"},
        cwd=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    url, other, port = done.stdout.splitlines()[0].split()
    assert url == f"postgresql+psycopg://app:s%40fe@127.0.0.1:{port}/shop?x=1"
    assert other == f"postgres://app:s%40fe@127.0.0.1:{port}/shop"


def test_a_database_url_that_was_not_set_has_the_scheme_that_every_library_takes(tmp_path: Path) -> None:
    code = "import os; print(os.environ['DATABASE_URL'], os.environ['PGPORT'])"
    done = pgloupe(
        *("check", "--upstream", "postgres://app:s%40fe@db:5432/shop", "--", sys.executable, "-c", code),
        cwd=str(tmp_path),
    )
    url, port = done.stdout.splitlines()[0].split()
    assert url == f"postgresql://app:s%40fe@127.0.0.1:{port}/shop"


LOGIN = "import os, psycopg\ntry: psycopg.connect(os.environ['DATABASE_URL'])\nexcept psycopg.Error: print('refused')"
ADVICE = "DATABASE_URL, or PGHOST and PGPORT"


def text_of(url: str, *command: str) -> tuple[int, str, str]:
    """Exit code, the report as one line, and standard error."""
    done = pgloupe("check", "--upstream", url, "--", *command)
    assert "Check passed" not in done.stdout
    return done.returncode, " ".join(done.stdout.split()), done.stderr


def test_a_command_that_never_reached_the_proxy_has_checked_nothing_and_is_told_once_what_to_do(
    blog: str, tmp_path: Path
) -> None:
    code, out, errors = text_of(blog, "true")
    assert (code, errors) == (0, "")
    assert "Nothing was checked: the command ended without connecting to the proxy." in out
    assert out.count(ADVICE) == 1
    done, report = run(blog, tmp_path, command=["true"])
    assert (done.returncode, report["statements"]) == (0, 0)
    assert done.stderr.count("nothing was checked: the command ended without connecting") == 1
    assert ADVICE in report["check"]["unchecked"]


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("exit 3", 3, "the command ended with 3 without connecting to the proxy. It has to take"),
        ("no-such-program-here", 127, "ended with 127, which is what a shell says of a command that cannot be found."),
        ("/etc/passwd", 126, "ended with 126, which is what a shell says of a command that cannot be executed."),
    ],
)
def test_a_command_that_failed_before_it_connected_keeps_its_code(
    blog: str, script: str, code: int, words: str
) -> None:
    found, out, _ = text_of(blog, "sh", "-c", script)
    assert found == code
    assert f"Nothing was checked: the command {words.removeprefix('the command ')}" in out
    assert (ADVICE in out) == (code == 3)


@pytest.mark.parametrize(("command", "code"), [("no-such-program-here", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_run_is_said_without_advice(blog: str, command: str, code: int) -> None:
    found, out, errors = text_of(blog, command)
    assert found == code
    assert "Nothing was checked: the command could not be run." in out
    assert errors.startswith(f"pgloupe: cannot run {command}: ")
    assert ADVICE not in out + errors
    assert len(errors.splitlines()) == 1


def test_a_wrong_password_is_why_nothing_was_checked(postgres: Postgres) -> None:
    url = postgres.url_for("app", postgres.dbname).replace(quote(PASSWORDS["app"], safe=""), "wrong")
    code, out, errors = text_of(url, sys.executable, "-c", LOGIN)
    assert (code, errors) == (0, "")
    assert 'its last connection failed: password authentication failed for user "app".' in out
    assert ADVICE not in out


def test_a_server_that_is_not_there_is_why_nothing_was_checked() -> None:
    code, out, errors = text_of("postgres://u:p@127.0.0.1:1/db", sys.executable, "-c", LOGIN)
    assert (code, errors) == (0, "")
    assert "Nothing was checked: the command ended, and its last connection failed: no connection to the server" in out
    assert out.endswith("127.0.0.1:1: Connection refused.")
    assert ADVICE not in out


def test_a_command_that_insists_on_tls_is_told_that_the_proxy_has_none(blog: str) -> None:
    code = "import os, psycopg\npsycopg.connect(os.environ['DATABASE_URL'], sslmode='require')"
    found, out, _ = text_of(blog, sys.executable, "-c", code)
    assert found == 1
    assert "the client asked for TLS" in out
    assert "sslmode=require must not be set" in out


def test_a_command_that_logs_in_and_sends_nothing_has_checked_nothing(blog: str) -> None:
    _, out, errors = text_of(blog, sys.executable, "-c", LOGIN)
    assert "Nothing was checked: the command ended, and it logged in to the database but sent no statement." in out
    assert errors == ""


@pytest.mark.parametrize(("number", "reaches"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_leaves_the_report_of_what_was_seen(blog: str, tmp_path: Path, number: int, reaches: bool) -> None:
    """SIGTERM is passed on; SIGINT, which a terminal sends to the command as well, is not."""
    code = (
        "import os, psycopg, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(8))\n"
        "connection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True)\n"
        "connection.execute('SELECT 1')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    output = tmp_path / "report.json"
    options = ["--upstream", blog, "--format", "json", "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "pgloupe", "check", *options, "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert process.stdin is not None
    process.send_signal(number)
    if not reaches:
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.wait(60) == (7 if reaches else 0)  # standard input stays open: its end would end the command
    process.stdin.close()
    process.stdout.close()
    assert json.loads(output.read_text())["statements"] == 1


@pytest.mark.parametrize("form", ["junit", "markdown", "github", "sarif"])
def test_no_format_says_that_a_check_of_nothing_passed(form: str) -> None:
    done = pgloupe("check", "--upstream", "postgres://u@h/db", "--format", form, "--", "true")
    assert done.returncode == 0
    assert "passed" not in done.stdout.lower()
    assert "othing was checked: the command ended without connecting" in done.stdout + done.stderr
    if form == "junit":
        assert len(ET.fromstring(done.stdout).findall(".//skipped")) == 1
    if form == "github":
        assert done.stdout.startswith("::warning title=pgloupe::Nothing was checked: ")


def test_the_source_of_a_wrong_url_is_named() -> None:
    wrong = "postgres://u@h/db?sslmode=prefer&sslnegotiation=direct"
    for arguments, environ, source in (
        (["--upstream", wrong], {}, "--upstream"),
        ([], {"PGLOUPE_UPSTREAM": wrong}, "PGLOUPE_UPSTREAM"),
        ([], {"DATABASE_URL": wrong}, "DATABASE_URL"),
        ([], {"DATABASE_URL": "postgres://u@h:x/db"}, "DATABASE_URL"),
    ):
        done = pgloupe("check", *arguments, "--", "true", environ=environ)
        assert done.returncode == 2
        assert done.stderr.startswith(f"pgloupe: {source}: ")


def test_a_variable_that_is_nearly_a_setting_is_a_warning() -> None:
    environ = {"PGLOUPE_SLOW_MSS": "1", "PGLOUPE_SERVICE_PORT": "6432", "PGLOUPE_TEST_SLOW_MSS": "1"}
    done = pgloupe("check", "--upstream", "postgres://u@h/db", "--", "true", environ=environ)
    assert done.returncode == 0
    assert done.stderr == "pgloupe: PGLOUPE_SLOW_MSS is no setting and is ignored; did you mean PGLOUPE_SLOW_MS?\n"


def test_the_help_says_what_a_limit_for_slow_statements_does() -> None:
    assert "fail the check as slow_query; by default none does" in " ".join(pgloupe("check", "--help").stdout.split())
    assert "go to the slow log; 0: all. [default: 100]" in " ".join(pgloupe("serve", "--help").stdout.split())


def test_a_limit_for_the_slow_log_fails_no_check_but_one_on_the_command_line_does(blog: str, tmp_path: Path) -> None:
    config = tmp_path / "pgloupe.toml"
    config.write_text("slow_ms = 0\n")
    command = [sys.executable, PROGRAM, "psycopg", "joined"]
    done, report = run(blog, tmp_path, "--config", str(config), command=command)
    assert (done.returncode, report["findings"]) == (0, [])
    done, report = run(blog, tmp_path, "--slow-ms", "0", command=command)
    assert done.returncode == 1
    assert {finding["rule"] for finding in report["findings"]} == {"slow_query"}


def test_a_report_goes_to_standard_output_as_a_dash_and_options_behind_the_command_are_its_own(blog: str) -> None:
    command = [sys.executable, PROGRAM, "psycopg", "joined"]
    done = pgloupe("check", "--upstream", blog, "--format", "json", "--output", "-", *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.partition("\n")[2])["findings"] == []
    code = "import sys; print(sys.argv[1:])"
    done = pgloupe("check", "--upstream", blog, sys.executable, "-c", code, "--output", "x")
    assert done.stdout.splitlines()[0] == "['--output', 'x']"


def test_a_full_disk_is_one_sentence(blog: str) -> None:
    done = pgloupe(
        "check", "--upstream", blog, "--output", "/dev/full", "--", sys.executable, PROGRAM, "psycopg", "lazy"
    )
    assert done.returncode == 2
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_values_of_parameters_are_shown_behind_the_statement(blog: str, tmp_path: Path) -> None:
    _, shown = run(blog, tmp_path, "--show-values", command=[sys.executable, PROGRAM, "asyncpg", "lazy"])
    assert "SELECT id, body FROM remark WHERE post_id = $1 -- $1 = 7013" in shown["findings"][0]["samples"]


def test_values_are_shown_on_request_only(blog: str, tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "psycopg2", "lazy"]
    _, hidden = run(blog, tmp_path, command=command)
    _, shown = run(blog, tmp_path, "--show-values", command=command)
    assert "7013" not in json.dumps(hidden)
    assert "7013" in json.dumps(shown["findings"][0]["samples"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upstream", "not-a-url"], ["--upstream", "not-a-url", "postgres://"]),
        (["--upstream", "postgres://u:geheim@h:port/db"], ["--upstream", "port"]),
        (["--upstream", "postgres://u@h/db", "--fail-on", "n_plus_on"], ["--fail-on", "n_plus_on", "n_plus_one"]),
        (["--upstream", "postgres://u@h/db", "--env", "NOWHERE"], ["--env", "NOWHERE", "not set"]),
        (["--upstream", "postgres://u@h/db", "--output", "/nowhere/r.json"], ["--output", "/nowhere/r.json"]),
        (["--upstream", "postgres://u@h/db", "--config", "/nowhere.toml"], ["--config", "/nowhere.toml"]),
        (["--upstream", "postgres://u@h/db", "--slow-ms", "quick"], ["--slow-ms", "quick"]),
        (["--upstream", "postgres://u@h/db?sslmode=strict"], ["--upstream", "sslmode=strict"]),
        ([], ["no upstream", "--upstream", "PGLOUPE_UPSTREAM", "DATABASE_URL", "pgloupe.toml"]),
        (["--upstream", "postgres://u@h/db?applicaton_name=x"], ["--upstream", "did you mean 'application_name'?"]),
        (["--upstream", "postgres://u@h/db", "--format", "xml"], ["--format", "xml"]),
        (["--upstream", "postgres://u@h/db", "--ouput", "r.json"], ["--ouput", "--output"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = pgloupe("check", *arguments, "--", sys.executable, "-c", "print('ran')", cwd=str(tmp_path))
    assert done.returncode == 2
    assert "ran" not in done.stdout
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_no_command_is_a_usage_error() -> None:
    done = pgloupe("check", "--upstream", "postgres://u@h/db")
    assert done.returncode == 2
    assert "behind --" in done.stderr


def test_a_command_that_does_not_exist_is_said(tmp_path: Path) -> None:
    done = pgloupe("check", "--upstream", "postgres://u@h/db", "--", "no-such-program-here")
    assert done.returncode == 127
    assert "no-such-program-here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_reaches_the_command_as_an_error(tmp_path: Path) -> None:
    code = (
        "import os, psycopg\n"
        "try: psycopg.connect(os.environ['DATABASE_URL'])\n"
        "except psycopg.OperationalError as error: print(error)\n"
    )
    done, report = run("postgres://u:p@127.0.0.1:1/db", tmp_path, command=[sys.executable, "-c", code])
    assert done.returncode == 0
    assert "no connection to the server at 127.0.0.1:1" in done.stdout
    assert report["findings"] == []
