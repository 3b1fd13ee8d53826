"""Commands run to their end, and what they said."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path


def output(*arguments: str | Path, script: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, without ports, process numbers and random keys."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        arguments, input=script, capture_output=True, text=True, env={**env, "LC_ALL": "C"}, check=False, timeout=60
    )
    texts = []
    for text in (done.stdout, done.stderr):
        shown = re.sub(r"(?m)^\\(un)?restrict .*$", r"\\\1restrict", text)
        texts.append(re.sub(r"port \S?\d+\S?|process ID \d+|PID \d+", "…", shown))
    return done.returncode, texts[0], texts[1]
