"""Logging in: every method of the server works behind the proxy, and what the server refuses it refuses in its own words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgloupe.wire.frontend import build_frame, build_query
from pgloupe.wire.startup import build_startup
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, errors
from support.servers import ROLES, Postgres


@pytest.fixture(scope="module")
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with proxy_to(postgres.url) as started:
        yield started


def by_psycopg(url: str) -> str:
    with psycopg.connect(url) as connection:
        return connection.info.user


def by_psycopg2(url: str) -> str:
    connection = psycopg2.connect(url)
    user: str = connection.info.user
    connection.close()
    return user


def by_asyncpg(url: str) -> str:
    async def work() -> str:
        connection = await asyncpg.connect(url)
        user: str = await connection.fetchval("SELECT session_user::text")
        await connection.close()
        return user

    return asyncio.run(work())


def by_pg8000(url: str) -> str:
    found = conninfo_to_dict(url)
    connection = pg8000.native.Connection(
        str(found["user"]),
        password=str(found["password"]),
        host=str(found["host"]),
        port=int(str(found["port"])),
        database=str(found["dbname"]),
    )
    user: str = connection.run("SELECT session_user::text")[0][0]
    connection.close()
    return user


DRIVERS: list[Callable[[str], str]] = [by_psycopg, by_psycopg2, by_asyncpg, by_pg8000]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("role", ROLES)
def test_each_method_lets_its_role_in(
    postgres: Postgres, proxy: Proxy, role: str, driver: Callable[[str], str]
) -> None:
    assert driver(proxy.url_for(postgres.url_for(role))) == role


@pytest.mark.parametrize("role", ROLES)
def test_the_client_proves_itself_by_the_method_of_the_server(postgres: Postgres, proxy: Proxy, role: str) -> None:
    with psycopg.connect(proxy.url_for(postgres.url_for(role))) as connection:
        assert connection.pgconn.used_password == (ROLES[role] != "trust")


def refusal(url: str) -> tuple[str | None, str]:
    """SQLSTATE and text of a failed login, without the port."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(url)
    with pytest.raises(asyncpg.PostgresError) as also:
        by_asyncpg(url)
    return also.value.sqlstate, re.sub(r"port \d+", "port", str(caught.value))


@pytest.mark.parametrize("role", ["app", "md5user", "plain"])
def test_a_wrong_password_gets_the_error_of_the_server(postgres: Postgres, proxy: Proxy, role: str) -> None:
    url = re.sub(r":[^:@/]+@", ":wrong@", postgres.url_for(role))
    expected = refusal(url)
    assert expected[0] == "28P01"
    assert "password authentication failed" in expected[1]
    assert refusal(proxy.url_for(url)) == expected


@pytest.mark.parametrize("part", ["user", "dbname"])
def test_an_unknown_role_or_database_gets_the_error_of_the_server(postgres: Postgres, proxy: Proxy, part: str) -> None:
    texts = []
    for url in (postgres.url, proxy.url):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(make_conninfo(url, **{part: "nobody_knows_it"}))
        texts.append(re.sub(r"port \d+", "port", str(caught.value)))
    assert texts[0] == texts[1]
    assert "nobody_knows_it" in texts[0]


def test_a_client_without_a_password_is_told_by_its_driver(postgres: Postgres, proxy: Proxy) -> None:
    found = conninfo_to_dict(proxy.url)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(make_conninfo("", **{k: v for k, v in found.items() if k != "password"}, passfile="/nowhere"))


@pytest.mark.parametrize("role", ["app", "md5user", "plain"])
def test_a_password_message_that_is_nonsense_is_refused_by_the_server(
    postgres: Postgres, proxy: Proxy, role: str
) -> None:
    seen = []
    url = postgres.url_for(role)
    for way in (url, proxy.url_for(url)):
        with Raw(way) as client:
            client.send(build_startup({"user": client.user, "database": client.database}))
            first = client.read()
            assert first is not None
            client.send(build_frame(0x70, b"nonsense\0"))
            seen.append((first[:9], client.rest()))
    assert seen[0] == seen[1]
    assert errors(seen[0][1])[0][0] == "FATAL"


@pytest.mark.parametrize("role", ["app", "md5user", "plain"])
def test_a_query_during_authentication_is_refused_by_the_server(postgres: Postgres, proxy: Proxy, role: str) -> None:
    seen = []
    url = postgres.url_for(role)
    for way in (url, proxy.url_for(url)):
        with Raw(way) as client:
            client.send(build_startup({"user": client.user, "database": client.database}))
            client.read()
            client.send(build_query("SELECT 1"))
            seen.append(client.rest())
    assert seen[0] == seen[1]
    assert errors(seen[0])[0][0] == "FATAL"


@pytest.mark.parametrize("nonsense", [build_frame(0x79, b"what"), b"p\xff\xff\xff\xff", b"\0" * 40, "startup"])
def test_nonsense_during_authentication_ends_in_a_clear_error(proxy: Proxy, nonsense: bytes | str) -> None:
    with Raw(proxy.url) as client:
        startup = build_startup({"user": client.user, "database": client.database})
        client.send(startup)
        client.read()
        client.send(startup if isinstance(nonsense, str) else nonsense)
        assert [error[:2] for error in errors(client.rest())] == [("FATAL", "08P01")]


def test_start_up_parameters_reach_the_server(proxy: Proxy) -> None:
    with psycopg.connect(make_conninfo(proxy.url, options="-c work_mem=7MB", application_name="named")) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("7MB",)
        assert connection.execute("SHOW application_name").fetchone() == ("named",)


def test_what_the_server_reports_at_start_up_arrives_unchanged(postgres: Postgres, proxy: Proxy) -> None:
    url = postgres.url_for("trusted")
    with Raw(url) as direct, Raw(proxy.url_for(url)) as client:
        expected, frames = direct.start(), client.start()
        assert codes(frames) == codes(expected)
        assert [f for f in frames if f[:1] != b"K"] == [f for f in expected if f[:1] != b"K"]
        assert client.process != direct.process


def test_the_process_number_of_a_session_is_that_of_its_backend(proxy: Proxy) -> None:
    with psycopg.connect(proxy.url) as connection:
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == (connection.info.backend_pid,)
