"""`pgloupe serve`: the proxy until a signal ends it.

Standard output gets the DATABASE_URL to use and the line `listening on HOST:PORT`, which says that the proxy is ready; log,
slow log and findings go to standard error.

    SIGTERM   drains: nobody is accepted any more, open transactions may end, for `drain_timeout_s` at most
    SIGINT    ends at once, and so does a second signal of either kind
    SIGHUP    reads the settings and the certificates again; what is wrong is logged and everything stays as it was

Exit code 0 after SIGTERM and SIGINT, 2 where the proxy could not start or its report could not be written.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop

from pgloupe.app import App
from pgloupe.config import Settings
from pgloupe.errors import SettingsError
from pgloupe.net.certificate import warnings
from pgloupe.net.listener import GREETED
from pgloupe.report.model import Report
from pgloupe.report.wording import headline, plural
from pgloupe.urls import proxy_url
from pgloupe_rules.types import Finding

_log = logging.getLogger("pgloupe")

MAX_ANNOUNCED: Final = 1_000

OWN_FILES: Final = 64
"""Open files beside those of the clients: the log, Redis, the catalogs, the event loop."""


def _slow_line(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class _Announcer:
    """Logs a finding when it is made for the first time."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def __call__(self, finding: Finding) -> None:
        key = (finding.rule, finding.fingerprint)
        if key in self._seen or len(self._seen) >= MAX_ANNOUNCED:
            return
        self._seen.add(key)
        alone = Report()
        alone.add([finding])
        shown = alone.to_dict([], 0, 0, 0.0)["findings"][0]
        _log.warning("%s [%s] %s", headline(shown), finding.fingerprint, finding.template[:200])


def _check_writable(path: str) -> None:
    try:
        Path(path).open("a", encoding="utf-8").close()
    except OSError as error:
        raise SettingsError(f"--report {path}: {(error.strerror or str(error)).lower()}") from None


def _allow_files(settings: Settings) -> None:
    """Two sockets a client, and some for ourselves: ask the system for as many as that."""
    wanted = 2 * (settings.max_connections + GREETED) + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        _log.warning(
            "max_connections = %d needs %d open files and the system allows %d: raise its limit (ulimit -n), or set "
            "max_connections to %d",
            *(settings.max_connections, wanted, most, max(1, (most - OWN_FILES) // 2 - GREETED)),
        )


def _check_certificate(settings: Settings) -> None:
    tls = settings.tls.client
    if tls.mode != "disable":
        for line in warnings("client_tls_cert_file", tls.cert_file, datetime.now(UTC)):
            _log.warning("%s", line)


def _reload(app: App, read: Callable[[], Settings]) -> None:
    try:
        settings = read()
        restart = app.reload(settings)
    except SettingsError as error:
        _log.error("SIGHUP: nothing is changed: %s", error)
        return
    _allow_files(app.settings)
    _check_certificate(app.settings)
    _log.info("SIGHUP: the settings were read again")
    for key in restart:
        _log.warning("SIGHUP: a new value of %s needs a restart", key)


async def _serve(settings: Settings, report: str | None, read: Callable[[], Settings]) -> None:
    app = App(settings, _slow_line, on_finding=_Announcer())
    _allow_files(settings)
    _check_certificate(settings)
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    loop.add_signal_handler(signal.SIGHUP, _reload, app, read)
    address = await app.start()
    sys.stdout.write(
        f"DATABASE_URL={proxy_url(settings.upstream, address, password=False, encrypted=settings.tls.client.required)}\n"
    )
    sys.stdout.write(f"listening on {address}\n")
    sys.stdout.flush()
    if await signals.get() == signal.SIGTERM:
        _log.info("draining, for %g s at most", settings.drain_timeout_s)
        draining = asyncio.ensure_future(app.drain())
        again = asyncio.ensure_future(signals.get())
        await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not draining.done():
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
    await app.stop()
    if report is not None:
        text = json.dumps(app.report(), indent=2)
        await asyncio.to_thread(Path(report).write_text, text + "\n", encoding="utf-8")
    _log.info("%s in %s", plural(app.statements, "statement"), plural(app.sessions, "session"))
    figures = app.cache_statistics()
    if figures:
        _log.info(
            "cache: %d hits, %d misses, %d not looked up; %d answers stored, %d writes seen",
            *(figures[name] for name in ("hits", "misses", "bypasses", "fills", "writes")),
        )
    for name, advice in app.cache_advice():
        _log.info("cache rule %s: %s", name, advice)


def serve(settings: Settings, report: str | None, read: Callable[[], Settings]) -> int:
    """Run until a signal. `read` gives the settings anew. Gives the exit code. Raises SettingsError where the proxy cannot
    start."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if report is not None:
        _check_writable(report)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, report, read))
    return 0
