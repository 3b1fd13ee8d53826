"""Answers from before the server was started again, and settings that were changed past the proxy."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgloupe.cache import Dependencies
from support.proxy import Proxy, proxy_to
from support.raw import eventually
from support.servers import Postgres, PostgresServer

RULE = {"name": "all", "tables": ["author", "basket"], "ttl": "600s"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(settings={"fsync": "off", "synchronous_commit": "on"}) as started:
        yield started


def connect(proxy: Proxy) -> psycopg.Connection[Any]:
    return psycopg.connect(proxy.url, autocommit=True)


def hits(proxy: Proxy) -> int:
    return int(proxy.running.cache_statistics()["hits"])


def count(client: psycopg.Connection[Any]) -> int:
    row = client.execute("SELECT count(*) FROM basket").fetchone()
    assert row is not None
    return int(row[0])


def reachable(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("how", ["one backend", "all of it"])
def test_an_unlogged_table_is_read_anew_after_a_crash(server: PostgresServer, how: str) -> None:
    with psycopg.connect(server.role_url(), autocommit=True) as setup:
        setup.execute("DROP TABLE IF EXISTS basket; CREATE UNLOGGED TABLE basket (id int)")
        setup.execute("INSERT INTO basket SELECT generate_series(1, 5)")
    with proxy_to(server.role_url(), cache={"allow": [RULE]}) as proxy:
        with connect(proxy) as client:
            assert [count(client) for _ in range(3)] == [5, 5, 5]
            assert hits(proxy) > 0
        with psycopg.connect(server.role_url(), autocommit=True) as victim:
            pid = victim.info.backend_pid
            row = victim.execute("SELECT pg_postmaster_start_time()").fetchone()
            if how == "one backend":
                os.kill(pid, signal.SIGKILL)
            else:
                server.kill()
        if how != "one backend":
            server.start()
        eventually(lambda: reachable(server.role_url()))
        with psycopg.connect(server.role_url()) as other:
            same = other.execute("SELECT pg_postmaster_start_time()").fetchone() == row
            assert same is (how == "one backend")
        with connect(proxy) as client:
            assert [count(client) for _ in range(3)] == [0, 0, 0]


async def test_a_setting_of_the_server_that_was_changed_past_the_proxy_is_seen_at_a_refresh(
    server: PostgresServer,
) -> None:
    dependencies = Dependencies(server.role_url())
    await dependencies.refresh()
    assert await dependencies.refresh() is False
    with psycopg.connect(server.url, autocommit=True) as connection:
        for change in ("SET extra_float_digits = 0", "RESET extra_float_digits"):
            connection.execute(f"ALTER SYSTEM {change}")
            connection.execute("SELECT pg_reload_conf()")
            while not await dependencies.refresh():
                assert dependencies.refreshes < 500
    await dependencies.close()


def test_sessions_around_a_change_of_a_role_s_settings_past_the_proxy_share_no_answers_once_it_was_seen(
    postgres: Postgres,
) -> None:
    url = postgres.create_database()
    database = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as setup:
        setup.execute("CREATE TABLE author AS SELECT 3 AS id, 0.1::float8 + 0.2::float8 AS size")

        def size(client: psycopg.Connection[Any]) -> float:
            row = client.execute("SELECT size FROM author WHERE id = 3", prepare=False).fetchone()
            assert row is not None
            return float(row[0])

        def seen(client: psycopg.Connection[Any], after: int) -> bool:
            size(client)
            return int(proxy.running.cache_statistics()["catalog_refreshes"]) > after

        with proxy_to(url, cache={"allow": [RULE]}) as proxy, connect(proxy) as before:
            cache = proxy.running._app.cache
            assert cache is not None
            assert size(before) == size(before) == 0.1 + 0.2
            setup.execute(f'ALTER ROLE CURRENT_USER IN DATABASE "{database}" SET extra_float_digits = -5')
            try:
                with connect(proxy) as between:
                    cache.dependencies.refresh_s = 0.0
                    known = int(proxy.running.cache_statistics()["catalog_refreshes"]) + 1
                    eventually(lambda: seen(before, known))
                    with connect(proxy) as after:
                        for _ in range(3):
                            assert [size(before), size(between), size(after)] == [0.1 + 0.2, 0.3, 0.3]
            finally:
                setup.execute(f'ALTER ROLE CURRENT_USER IN DATABASE "{database}" RESET ALL')
