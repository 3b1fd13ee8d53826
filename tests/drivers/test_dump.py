"""pg_dump and pg_restore: the dump is that of the server in every format, and it is restored through the proxy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from support.commands import output
from support.stage import Stage, prepare
from support.versions import client

FILL = (
    "INSERT INTO note (item_id, body) SELECT 1 + n % 20, repeat('x', n) FROM generate_series(1, 500) n",
    """INSERT INTO typed (i8, t, by, ta)
       SELECT n, 'line ' || n, decode(repeat('00ff', n), 'hex'), ARRAY['a', NULL, '"'] FROM generate_series(1, 300) n""",
    "CREATE VIEW named AS SELECT name FROM item",
    "CREATE INDEX ON note (item_id)",
    "SELECT lo_from_bytea(0, repeat('large object ', 10000)::bytea)",
)

FORMATS = {
    "plain": (),
    "inserts": ("--inserts",),
    "custom": ("-Fc",),
    "directory": ("-Fd",),
    "parallel": ("-Fd", "-j3"),
}


@pytest.fixture
def filled(stage: Stage) -> Iterator[Stage]:
    with psycopg.connect(stage.direct, autocommit=True) as connection:
        prepare(stage.direct)
        for statement in FILL:
            connection.execute(statement)
    yield stage
    with psycopg.connect(stage.direct, autocommit=True) as connection:
        connection.execute("DROP VIEW named")
        connection.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")


def plain(stage: Stage, url: str, *options: str) -> str:
    code, dump, said = output(client("pg_dump", stage.server), *options, url)
    assert code == 0, said
    return dump


def names(folder: Path) -> dict[str, bytes]:
    """The files of a dump in the directory format, but for the table of contents, which has the time in it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "toc.dat"}


def test_a_dump_in_words_is_that_of_the_server(filled: Stage) -> None:
    for options in ((), ("--inserts", "--rows-per-insert=7"), ("--clean", "--if-exists", "--create"), ("-s",), ("-a",)):
        expected = plain(filled, filled.direct, *options)
        assert "item" in expected
        for proxy in (filled.watching, filled.caching):
            assert plain(filled, proxy.url, *options) == expected


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_dump_as_a_directory_is_that_of_the_server(filled: Stage, tmp_path: Path, jobs: str) -> None:
    pg_dump = client("pg_dump", filled.server)
    seen = []
    for number, (_, url) in enumerate(filled.places):
        folder = tmp_path / str(number)
        assert output(pg_dump, "-Fd", "-j", jobs, "-Z0", "-f", folder, url) == (0, "", "")
        seen.append(names(folder))
    assert len(seen[0]) >= 4
    assert all(files == seen[0] for files in seen)


@pytest.mark.parametrize("form", FORMATS)
def test_a_dump_is_restored_through_the_proxy(filled: Stage, tmp_path: Path, form: str) -> None:
    """Dumped and restored by way of the proxy, the new database is as the old one."""
    proxy, archive = filled.watching, tmp_path / "dump"
    restored = filled.server.create_database()
    options = FORMATS[form]
    if form in ("plain", "inserts"):
        dump = re.sub(r"(?m)^\\(un)?restrict$", "", plain(filled, proxy.url, *options))
        psql = client("psql", filled.server)
        said = output(psql, "-X", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", proxy.url_for(restored), script=dump)
    else:
        assert output(client("pg_dump", filled.server), *options, "-f", archive, proxy.url) == (0, "", "")
        jobs = () if form == "directory" else ("-j3",)
        pg_restore = client("pg_restore", filled.server)
        said = output(pg_restore, "--exit-on-error", *jobs, "-d", proxy.url_for(restored), archive)
    assert said == (0, "", "")
    assert plain(filled, restored) == plain(filled, filled.direct)
    filled.server.drop_database(restored)
