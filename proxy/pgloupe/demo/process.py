"""A server process of our own: a temporary directory, a free port of the loopback address, and an end in every case.

PostgreSQL refuses to run as root. For root the servers run as `postgres` or, where there is no such user, `nobody`;
programs that this user cannot reach (a virtual environment below /root) are copied into the server's directory.

Nothing is left behind, whatever ends us: beside each server a small shell waits for the end of a pipe that we hold open.
When we are gone without having said good-bye, it stops the server and removes the directory.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pgloupe.errors import PgloupeError

ADDRESS: Final = "127.0.0.1"

_READY_S: Final = 60.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.01
_GUARD: Final = """
read -r farewell && exit 0
kill -CONT "$1"; kill -INT "$1"
tries=0
while kill -0 "$1" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL "$1"
rm -rf -- "$2"
"""


class ServerFailed(PgloupeError):
    """A server of our own could not be started. The text ends with the last lines of its log."""


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now. Somebody may take it before it is used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


def account() -> tuple[int, int] | None:
    """User and group id that servers run as, None for our own. Only root takes another."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise ServerFailed("servers do not run as root: add a user named postgres or nobody to this system")


def reaches(path: Path, owner: tuple[int, int]) -> bool:
    """Whether a user may execute `path` and enter every folder above it."""
    for part in (path, *path.parents):
        found = part.stat()
        bit = 0o100 if found.st_uid == owner[0] else 0o010 if found.st_gid == owner[1] else 0o001
        if not found.st_mode & bit:
            return False
    return True


def _temporary_directory(owner: tuple[int, int] | None) -> Path:
    parent = Path(tempfile.gettempdir()).resolve()
    if owner is not None and not reaches(parent, owner):
        parent = Path("/tmp")  # noqa: S108  the directory made below it is private
    directory = Path(tempfile.mkdtemp(prefix="pgloupe-", dir=parent))
    if owner is not None:
        os.chown(directory, *owner)
    return directory


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put off SIGINT, SIGTERM and SIGHUP until the block ends: what it starts or removes is then known or gone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _remove(directory: Path) -> None:
    """Remove a directory. The children of a program that was interrupted, such as initdb, may write there a little longer
    and make what was just emptied not empty."""
    end_s = time.monotonic() + _STOP_S
    shutil.rmtree(directory, ignore_errors=True)
    while directory.exists() and time.monotonic() < end_s:
        time.sleep(_POLL_S)
        shutil.rmtree(directory, ignore_errors=True)


class OwnServer:
    """One server process, its directory and its guard. `PostgresServer` and `RedisServer` say what to run.

    `directory` is made at the first start and removed by `close()`; `port` stays the same over restarts; `pid` is that of
    the server, None while it is down. A context manager: starts, then closes.
    """

    name = "server"

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.port = 0
        self.owner = account()
        self.process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers. Raises ServerFailed; starting a running server does nothing."""
        if self.running:
            return
        self._reap()
        try:
            if self.directory is None:
                with undisturbed():
                    self.directory = _temporary_directory(self.owner)
                self._prepare(self.directory)
            self._start(self.directory)
        except BaseException:
            self.close()
            raise

    def _start(self, directory: Path) -> None:
        keep_port = self.port != 0
        end_s = time.monotonic() + _READY_S
        while time.monotonic() < end_s:
            if not keep_port:
                self.port = free_port()
            command = self._command(directory)
            with undisturbed():
                process = self._launch(directory, command)
            while process.poll() is None and time.monotonic() < end_s:
                if self._ready(directory):
                    return
                time.sleep(_POLL_S)
            self._end(signal.SIGKILL)
            # Somebody took the port, or the children of a killed postmaster still hold its memory: both pass.
            log = self.log()
            if not any(sign in log for sign in ("in use", "already exists", "could not bind")):
                break
            time.sleep(10 * _POLL_S)
        raise ServerFailed(f"{self.name} did not start: {' '.join(self.log().splitlines()[-5:]) or 'it said nothing'}")

    def stop(self) -> None:
        """Let it end in order (for PostgreSQL a fast shutdown: sessions are ended with 57P01), by force after 15 s."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, as a crash would. `start()` then recovers it."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again: same port, same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove its directory. Closing twice does nothing."""
        with undisturbed():
            self._end(signal.SIGINT)
            if self.directory is not None:
                _remove(self.directory)
                self.directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log(self) -> str:
        """What the server has said since it was last started, at most the last 64 KiB; empty after `close()`."""
        if self.directory is None:
            return ""
        try:
            return (self.directory / "log").read_bytes()[-65536:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    # What a kind of server must say.

    def _prepare(self, directory: Path) -> None:
        """Fill the new directory."""

    def _command(self, directory: Path) -> Sequence[str | Path]:
        raise NotImplementedError

    def _ready(self, directory: Path) -> bool:
        raise NotImplementedError

    # Processes.

    def _environment(self) -> dict[str, str]:
        """Ours without PGHOST, PGDATA and the like, which would lead PostgreSQL's programs astray."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        return kept | {"LC_ALL": "C", "TZ": "UTC"}

    def run(self, directory: Path, command: Sequence[str | Path]) -> None:
        """Run a program that ends by itself, as the user of the server."""
        uid, gid = self.owner or (None, None)
        done = subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=directory,
            env=self._environment(),
            user=uid,
            group=gid,
            extra_groups=None if uid is None else (),
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise ServerFailed(f"{Path(command[0]).name} failed for {self.name}: {said[-600:]}")

    def _launch(self, directory: Path, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        uid, gid = self.owner or (None, None)
        with (directory / "log").open("wb") as log:
            # A session of its own: Ctrl-C at the terminal is for us, and we stop the server when we have finished.
            self.process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=self._environment(),
                start_new_session=True,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else (),
            )
        self._guard = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _GUARD, "guard", str(self.process.pid), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        return self.process

    def _end(self, number: signal.Signals) -> None:
        process = self.process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._reap()

    def _reap(self) -> None:
        """Take leave of a process that has ended and of its guard."""
        if self.process is not None:
            self.process.wait()
            self.process = None
        if self._guard is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.communicate(b"farewell\n")
            self._guard.wait()
            self._guard = None

    def own(self, path: Path) -> None:
        """Give a file, or a folder and all in it, to the user of the server."""
        if self.owner is None:
            return
        os.chown(path, *self.owner, follow_symlinks=False)
        if path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                self.own(inner)
