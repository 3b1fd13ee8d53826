"""Proxies for tests: in a thread of this process, or as the command that users run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from pgloupe.app import Running, running
from pgloupe.config import settings
from pgloupe.urls import rewrite


class Proxy:
    """A proxy in front of `upstream`; `url` is the upstream's URL with the proxy's address."""

    def __init__(self, running_proxy: Running, upstream: str) -> None:
        self.running = running_proxy
        self.upstream = upstream
        self.host = "127.0.0.1"
        self.port = running_proxy.port
        self.url = rewrite(upstream, running_proxy.address)

    def url_for(self, upstream: str) -> str:
        """Another URL of the same server, by way of the proxy."""
        return rewrite(upstream, self.running.address)

    def report(self) -> dict[str, Any]:
        return self.running.report()

    def findings(self, rule: str | None = None) -> list[dict[str, Any]]:
        return [found for found in self.report()["findings"] if rule is None or found["rule"] == rule]

    def calls(self) -> dict[str, int]:
        """How often each template was seen."""
        return {row["template"]: row["calls"] for row in self.report()["statistics"]}


@contextlib.contextmanager
def proxy_to(upstream: str, **values: Any) -> Iterator[Proxy]:
    """A proxy in a thread. `values` are settings as in pgloupe.toml."""
    chosen = settings({"upstream": upstream, "listen": "127.0.0.1:0", **values})
    with running(chosen) as started:
        yield Proxy(started, upstream)


class Serve:
    """`pgloupe serve` as a process. `lines` is what it wrote to stdout, `errors()` what it wrote to stderr."""

    def __init__(self, *arguments: str, environ: Mapping[str, str] | None = None, cwd: str | None = None) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PGLOUPE_", "DATABASE_URL"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pgloupe", "serve", "--listen", "127.0.0.1:0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**env, **(environ or {})},
            cwd=cwd,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._errors.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        self.lines: list[str] = []
        self.port = 0
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("listening on "):
                self.port = int(line.rpartition(":")[2])
                break

    def errors(self) -> str:
        return "".join(self._errors)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(10)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self) -> Serve:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)


def pgloupe(
    *arguments: str, environ: Mapping[str, str] | None = None, stdin: str | None = None, cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of pgloupe to its end."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PGLOUPE_", "DATABASE_URL", "PG"))}
    return subprocess.run(
        [sys.executable, "-m", "pgloupe", *arguments],
        capture_output=True,
        text=True,
        env={**env, **(environ or {})},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        timeout=120,
        check=False,
        cwd=cwd,
    )
