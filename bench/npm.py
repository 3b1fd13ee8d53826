"""Installs what a package.json names, beside it, once for a checkout; for the evaluation set and for the tests.

There is no lock file: it would record the address of the registry that was asked. No script of a package is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

INSTALL_S: Final = 600.0

_COMMAND: Final = ("npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")


def install(folder: Path, finish: Callable[[Path], None] | None = None) -> str:
    """ "" when all is there, else why it is not. `finish` gets the folder node_modules after it was made anew."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}"
    package, modules = folder / "package.json", folder / "node_modules"
    stamp = modules / ".installed"
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    # two runs in one checkout must not install into the same folder
    with package.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == digest:
            return ""
        try:
            done = subprocess.run(
                [*_COMMAND, "--loglevel=error"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=INSTALL_S,
            )
        except subprocess.TimeoutExpired:
            return f"npm install took longer than {INSTALL_S:.0f} s"
        if done.returncode != 0:
            return f"npm install failed: {done.stderr.strip()[-300:]}"
        if finish is not None:
            finish(modules)
        stamp.write_text(digest)
    return ""
