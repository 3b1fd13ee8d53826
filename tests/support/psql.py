"""What a person gets who pastes SQL into psql: it comes on standard input, and psql's own lexer reads it first."""

from __future__ import annotations

import csv
import io
import subprocess

import pytest

from support.servers import Postgres


def paste(postgres: Postgres, url: str, sql: str) -> list[tuple[str, ...]]:
    """The rows that psql shows, every value as text and NULL as nothing. Fails the test where psql says anything else."""
    if postgres.bin is None:
        pytest.skip("there is no psql beside this server")
    command = [str(postgres.bin / "psql"), "-X", "-A", "-t", "-q", "--csv", "-v", "ON_ERROR_STOP=1", url]
    done = subprocess.run(command, input=sql + "\n", capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stderr}\n{sql}"
    return [tuple(row) for row in csv.reader(io.StringIO(done.stdout, newline=""))]


def shown(value: object) -> str:
    """A value as asyncpg gives it in the form that psql shows."""
    return "" if value is None else {True: "t", False: "f"}[value] if isinstance(value, bool) else str(value)
