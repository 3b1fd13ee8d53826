"""pgbench through `pgloupe serve`: no errors, and the tables end as they do without the proxy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.proxy import Serve
from support.servers import Postgres

FILL = ("-i", "-q", "-I", "dtGp")
"""Let the server make the rows."""

MODES = ("simple", "extended", "prepared")

CONTENTS = {
    "pgbench_accounts": "aid, bid, abalance",
    "pgbench_branches": "bid, bbalance",
    "pgbench_tellers": "tid, bid, tbalance",
    "pgbench_history": "tid, bid, aid, delta",
}

CACHE = """
[[cache.allow]]
name = "everything"
tables = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "read_back"]
ttl = "60s"
"""

READ_BACK = """
\\set aid random(1, 100)
\\set delta random(-500, 500)
SELECT abalance AS before FROM pgbench_accounts WHERE aid = :aid \\gset
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance AS after FROM pgbench_accounts WHERE aid = :aid \\gset
INSERT INTO read_back VALUES (:client_id, :aid, :before, :delta, :after);
"""


@pytest.fixture(scope="module")
def pgbench(postgres: Postgres) -> Path:
    if postgres.bin is None:
        pytest.skip("no pgbench beside the server and none on PATH")
    return postgres.bin / "pgbench"


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    return postgres.create_database()


@pytest.fixture(scope="module")
def serve(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve("--upstream", database, cwd=str(tmp_path_factory.mktemp("serve"))) as started:
        yield started


@pytest.fixture(scope="module")
def caching(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("cache")
    (folder / "pgloupe.toml").write_text(CACHE)
    with Serve("--upstream", database, cwd=str(folder)) as started:
        yield started


def through(serve: Serve, url: str) -> str:
    login, _, address = url.rpartition("@")
    return f"{login}@127.0.0.1:{serve.port}/{address.partition('/')[2]}"


def run(pgbench: Path, url: str, *arguments: str) -> str:
    """What pgbench says; no transaction may fail."""
    done = subprocess.run([pgbench, *arguments, url], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "abort" not in done.stderr, done.stderr
    if "-c" in arguments:
        assert "number of failed transactions: 0 (" in done.stdout, done.stdout
    return done.stdout


def contents(url: str) -> dict[str, Any]:
    """A digest of each table, whatever the order of its rows."""
    with psycopg.connect(url) as connection:
        return {
            table: connection.execute(
                f"SELECT count(*), md5(string_agg(line, ';' ORDER BY line))"
                f" FROM (SELECT row({columns})::text AS line FROM {table}) AS lines"
            ).fetchone()
            for table, columns in CONTENTS.items()
        }


def test_the_tables_can_be_filled_through_the_proxy(pgbench: Path, database: str, serve: Serve) -> None:
    run(pgbench, database, "-i", "-q")
    expected = contents(database)
    run(pgbench, through(serve, database), "-i", "-q")
    assert contents(database) == expected


@pytest.mark.parametrize("mode", MODES)
def test_the_same_transactions_end_in_the_same_tables(
    pgbench: Path, database: str, serve: Serve, caching: Serve, mode: str
) -> None:
    arguments = ("-n", "-M", mode, "-c", "8", "-j", "2", "-t", "25", "--random-seed", "7")
    digests = []
    for url in (database, through(serve, database), through(caching, database)):
        run(pgbench, url, *FILL)
        said = run(pgbench, url, *arguments)
        assert "number of transactions actually processed: 200/200" in said
        digests.append(contents(database))
    assert digests[0] == digests[1] == digests[2]
    assert digests[0]["pgbench_history"][0] == 200


@pytest.mark.parametrize("mode", MODES)
def test_reads_by_eight_clients_have_no_errors(
    pgbench: Path, database: str, serve: Serve, caching: Serve, mode: str
) -> None:
    run(pgbench, database, *FILL)
    for server in (serve, caching):
        said = run(pgbench, through(server, database), "-n", "-S", "-M", mode, "-c", "8", "-t", "150")
        assert "number of transactions actually processed: 1200/1200" in said


@pytest.mark.parametrize("mode", MODES)
def test_every_client_reads_its_own_writes(
    pgbench: Path, database: str, caching: Serve, tmp_path: Path, mode: str
) -> None:
    """Each client has accounts of its own, so what it reads after a write is what it read before and what it added."""
    script = tmp_path / "read_back.sql"
    script.write_text(READ_BACK.replace("random(1, 100)", "random(1, 5) + 10 * :client_id"))
    run(pgbench, database, *FILL)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS read_back")
        connection.execute("CREATE TABLE read_back (client int, aid int, before int, delta int, after int)")
        run(pgbench, through(caching, database), "-n", "-M", mode, "-c", "8", "-t", "40", "-f", str(script))
        total, right = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE after = before + delta) FROM read_back"
        ).fetchone() or (0, 0)
    assert total == right == 320


@pytest.mark.parametrize("mode", ["extended", "prepared"])  # the simple query mode has no pipeline
def test_a_pipeline_of_pgbench_is_answered(
    pgbench: Path, database: str, serve: Serve, caching: Serve, tmp_path: Path, mode: str
) -> None:
    script = tmp_path / "pipeline.sql"
    script.write_text(
        "\\set aid random(1, 1000)\n\\startpipeline\n"
        + "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n" * 4
        + "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n"
        + "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\\endpipeline\n"
    )
    run(pgbench, database, *FILL)
    for server in (serve, caching):
        run(pgbench, through(server, database), "-n", "-M", mode, "-c", "4", "-t", "40", "-f", str(script))
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT sum(abalance) FROM pgbench_accounts").fetchone() == (320,)
