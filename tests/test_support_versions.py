"""The servers of several versions, and the client programs for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from support import node, versions
from support.servers import Postgres, installations


@pytest.mark.parametrize("major", versions.MAJORS)
def test_a_server_of_each_version_answers_with_all_roles(postgres_of: Callable[[int], Postgres], major: int) -> None:
    server = postgres_of(major)
    assert server.version.split(".")[0] == str(major)
    with psycopg.connect(server.url_for("trusted")) as connection:
        assert connection.info.server_version // 10000 == major
        # what a package that lost its links or its share folder lacks
        assert (
            connection.execute("SELECT '2024-07-01'::timestamptz AT TIME ZONE 'Europe/Zurich'").fetchone() is not None
        )
        assert connection.execute("SELECT 'stemming'::text @@ to_tsquery('english', 'stem')").fetchone() == (True,)
    assert postgres_of(major) is server


@pytest.mark.parametrize("name", ["psql", "pg_dump", "pg_restore"])
@pytest.mark.parametrize("major", versions.MAJORS)
def test_a_client_program_is_not_older_than_its_server(
    postgres_of: Callable[[int], Postgres], major: int, name: str
) -> None:
    assert versions.major_of(Path(versions.client(name, postgres_of(major)))) >= major


def test_a_version_that_nobody_has_is_said_to_be_missing() -> None:
    with pytest.raises(versions.NoServer, match="PostgreSQL 9 is not installed, and "):
        versions.source_of(9)


def test_what_is_required_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGLOUPE_TEST_REQUIRED", "16,node")
    with pytest.raises(pytest.fail.Exception, match="names 16: a reason"):
        versions.skip("16", "a reason")
    with pytest.raises(pytest.skip.Exception, match="a reason"):
        versions.skip("15", "a reason")


def test_links_of_a_package_lead_to_its_libraries() -> None:
    try:
        links = list(node.modules().glob("postgresql-*/native/lib/*.so"))
    except node.NoNode as error:
        versions.skip("node", str(error))
    if not links:
        pytest.skip("npm has no PostgreSQL for this system")
    assert all(link.is_symlink() and link.exists() for link in links)


def test_an_installed_server_is_taken_before_any_other() -> None:
    for folder in installations():
        major = versions.major_of(folder / "postgres")
        assert versions.source_of(major).kind == "local"
