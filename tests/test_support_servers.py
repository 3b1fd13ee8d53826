"""The tests' own servers: they are real, they have the promised roles, they come back and they leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from pgloupe.demo.process import OwnServer, ServerFailed
from pgloupe.demo.server import PostgresServer, wheel_binaries
from support import servers


def one(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_shared_server_answers_as_its_url_says(postgres: servers.Postgres) -> None:
    assert one(postgres.url, "SELECT current_user || '@' || current_database()") == f"{postgres.user}@{postgres.dbname}"
    assert str(one(postgres.url, "SHOW server_version")).startswith(postgres.version)


@pytest.mark.parametrize("role", servers.ROLES)
def test_each_role_logs_in_by_its_own_method(postgres: servers.Postgres, role: str) -> None:
    url = postgres.url_for(role)
    assert one(url, "SELECT current_user") == role
    assert one(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    wrong = f"host={postgres.host} port={postgres.port} user={role} dbname={postgres.dbname} password=wrong"
    if role == "trusted":
        assert one(wrong, "SELECT 1") == 1
    else:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)


def test_a_new_database_is_empty_and_can_be_dropped(postgres: servers.Postgres) -> None:
    url = postgres.create_database()
    assert one(url, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    postgres.drop_database(url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_a_server_known_by_its_superuser_alone_gets_the_roles() -> None:
    binaries = servers.installed_binaries() or wheel_binaries()
    assert binaries is not None
    with PostgresServer(binaries) as server:
        servers.prepare_by_superuser(server.url)
        for role in servers.ROLES:
            assert one(server.url_for(role, servers.PASSWORDS[role], "app"), "SELECT current_user") == role
        found = servers.given(server.url, servers.Source("url", "this test"))
        assert found.roles == set(servers.ROLES)
        assert found.superuser_url == server.url


def test_a_server_without_the_roles_says_so(own_postgres: servers.PostgresServer) -> None:
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("DROP ROLE plain")
    found = servers.given(own_postgres.role_url(), servers.Source("url", "this test"))
    assert found.roles == {"app", "md5user", "trusted"}
    assert found.superuser_url is None
    with pytest.raises(pytest.skip.Exception, match="no role plain with password authentication"):
        found.url_for("plain")


def test_a_killed_server_comes_back_on_its_port_with_its_data(own_postgres: servers.PostgresServer) -> None:
    with psycopg.connect(own_postgres.role_url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        port, first = own_postgres.port, own_postgres.pid
        own_postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    own_postgres.start()
    own_postgres.kill()
    assert own_postgres.pid is None
    own_postgres.start()
    assert own_postgres.port == port
    assert own_postgres.pid != first
    assert one(own_postgres.role_url(), "SELECT n FROM kept") == 7


def test_redis_pauses_resumes_and_restarts(own_redis: servers.RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.2) as client:
        client.set("key", "value")
        own_redis.pause()
        with pytest.raises(redis.TimeoutError):
            client.get("key")
        own_redis.resume()
        assert client.get("key") == b"value"
        own_redis.restart()
        assert client.get("key") is None


def test_the_shared_redis_answers(redis_server: servers.Redis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.ping() is True


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_closing_leaves_neither_process_nor_directory(kind: str, request: pytest.FixtureRequest) -> None:
    server: OwnServer = request.getfixturevalue(f"own_{kind}")
    directory, pid = server.directory, server.pid
    assert directory is not None
    assert pid is not None
    server.close()
    assert gone(pid)
    assert not directory.exists()
    server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="servers run as ourselves where we are not root")
def test_programs_that_the_servers_user_cannot_reach_are_copied_with_their_libraries(tmp_path: Path) -> None:
    binaries = wheel_binaries()
    assert binaries is not None
    package = binaries.parent.parent
    tmp_path.chmod(0o700)
    hidden = tmp_path / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, hidden, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, tmp_path / libraries.name, symlinks=True)
    with PostgresServer(hidden / "bin") as server:
        assert server.directory is not None
        assert server.binaries.is_relative_to(server.directory)
        assert one(server.url, "SELECT 1") == 1
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = servers.PostgresServer(settings={"max_connections": "nonsense"})
    with pytest.raises(ServerFailed, match="max_connections"):
        server.start()
    assert server.directory is None
    assert server.pid is None


def test_nothing_is_left_when_the_process_that_started_it_is_killed() -> None:
    program = (
        "import sys; from support import servers\n"
        "server = servers.PostgresServer(); server.start()\n"
        "print(server.pid, server.directory, flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    with child:
        assert child.stdout is not None
        pid, directory = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not (gone(int(pid)) and not Path(directory).exists()):
        assert time.monotonic() < deadline, "the server outlived us"
        time.sleep(0.02)
