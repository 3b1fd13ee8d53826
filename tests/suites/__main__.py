"""`python -m tests.suites NAME…`: test suites that are not ours, direct and through the proxy.

Each suite runs five times, each time against a new PostgreSQL: direct, direct again, through `pgloupe serve`, and through
`pgloupe serve` with a cache that may keep every table the suite reads, with the server's catalogs and without. A suite makes
and drops tables all the time, and while the catalogs are read nothing is cached; without them the cache is always on. The outcomes are compared test by test. What the
two direct runs tell apart is unsteady and is named, not compared. What differs runs again by itself, several times, direct
and through a bare relay, and is unsteady if it ever ends there as it did through the proxy. The exit code is 1 if anything
else differs, if the proxy logged a fault, if sessions are left on the server, or if the proxy was not used.

The suites come from PyPI by pip. Servers and suites run as an unprivileged user where we are root. A run that is not at an
end after `--timeout` seconds is ended, and the tests that it did not reach differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import psycopg
from bench.servers import Announcing, Relay, find_binaries
from psycopg import sql
from tests.suites.catalogue import SUITES, Suite, login
from tests.suites.compare import ABSENT, Result, counts, differences, read, same, unsteady

from pgloupe.demo.process import ADDRESS, account, reaches
from pgloupe.demo.server import PostgresServer
from pgloupe.errors import PgloupeError
from pgloupe_rules.normalise import recognise
from pgloupe_rules.shape import shape_of

_HERE: Final = Path(__file__).parent
_FAULTS: Final = (" ERROR ", " CRITICAL ", "Traceback (most recent call last)")
_LEFT_S: Final = 10.0
_REPEATS: Final = 5
_MAX_REPEATED: Final = 100
"""More tests than that do not differ by chance."""

PROXIED: Final = ("watching", "caching", "coarse")

SETTINGS: Final[Mapping[str, str]] = {
    "max_connections": "300",
    "max_prepared_transactions": "20",
    "max_wal_senders": "10",
    "wal_level": "logical",
    "jit": "off",
}


class SuiteFailed(PgloupeError):
    """A suite could not be fetched or started."""


class Proxy(Announcing):
    """`pgloupe serve`: watching, and with `tables` a cache for them all; without `catalogs` each write empties it."""

    name = "pgloupe"

    def __init__(self, upstream: str, tables: Sequence[str] = (), *, catalogs: bool = True) -> None:
        super().__init__()
        self._catalogs = catalogs
        self._upstream = upstream
        self._tables = tuple(tables)

    def _command(self, directory: Path) -> Sequence[str | Path]:
        settings = directory / "pgloupe.toml"
        rule = f'[[cache.allow]]\nname = "all"\ntables = {json.dumps(self._tables)}\nttl = "1h"\n'
        if not self._catalogs:
            # nobody answers there, so that no catalogs can be read
            rule = f'[cache]\ncatalog_url = "postgres://nobody@{ADDRESS}:1/none"\n{rule}'
        settings.write_text(rule if self._tables else "")
        settings.chmod(0o600)
        options: list[str | Path] = ["--upstream", self._upstream, "--listen", f"{ADDRESS}:0", "--config", settings]
        options += ["--slow-ms", "0", "--slow-log-parameters", "--report", directory / "report.json"]
        return [sys.executable, "-m", "pgloupe", "serve", *options]

    def faults(self) -> list[str]:
        """Lines of its log that say that something in it went wrong."""
        assert self.directory is not None
        with (self.directory / "log").open(encoding="utf-8", errors="replace") as lines:
            return [
                line.rstrip() for line in lines if not line.startswith("{") and any(sign in line for sign in _FAULTS)
            ]

    def report(self) -> dict[str, Any]:
        """Stop it and read its report, {} where it wrote none."""
        self.stop()
        assert self.directory is not None
        with contextlib.suppress(OSError, ValueError):
            report: dict[str, Any] = json.loads((self.directory / "report.json").read_bytes())
            return report
        return {}


@dataclass
class Run:
    results: dict[str, Result]
    seconds: float
    output: Path
    left: list[str]
    """Sessions that were still on the server when the suite was gone."""
    statements: int = 0
    hits: int = 0
    faults: Sequence[str] = ()
    tables: Sequence[str] = ()


def fetch(suite: Suite, folder: Path) -> Path:
    """Download a suite and what it needs; the folder of its source distribution. Raises SuiteFailed."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    commands: list[list[str | Path]] = [
        [*pip, "download", "--no-deps", "--no-binary", suite.project, "-d", folder / "sdist", suite.requirement]
    ]
    if suite.install:
        commands.append([*pip, "install", "--target", folder / "site", *suite.install])
    for command in commands:
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        if done.returncode:
            raise SuiteFailed(f"pip: {done.stderr.strip()[-800:]}")
    (archive,) = (folder / "sdist").iterdir()
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    for name in suite.remove:
        shutil.rmtree(source / name)
    plugins = folder / "plugins"
    plugins.mkdir()
    for name in ("suite_record.py", "suite_django.py", "suite_regress.py"):
        shutil.copy(_HERE / name, plugins)
    return source


def prepare(server: PostgresServer, suite: Suite) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        for name in suite.databases:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    for name, statements in suite.prepare.items():
        with psycopg.connect(server.url_for(server.user, server.password, name), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


def left_sessions(server: PostgresServer) -> list[str]:
    """What the sessions of clients do that are on the server when they had time to end. pgloupe reads the catalogs by a
    session of its own, which stays."""
    ask = (
        "SELECT concat_ws(' ', usename, datname, state, wait_event, now() - backend_start, left(query, 200)) "
        "FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid() "
        "AND application_name <> 'pgloupe'"
    )
    end_s = time.monotonic() + _LEFT_S
    with psycopg.connect(server.url, autocommit=True) as connection:
        while True:
            left = [str(row[0]) for row in connection.execute(ask).fetchall()]
            if not left or time.monotonic() > end_s:
                return left
            time.sleep(0.1)


def run_suite(
    suite: Suite, source: Path, server: PostgresServer, port: int, name: str, extra: Sequence[str], timeout_s: float
) -> Run:
    """Run the suite against `port` to its end, or end it."""
    folder = source.parent.parent
    record, output = folder / f"{name}.jsonl", folder / f"{name}.log"
    owner = account()
    if owner is not None and not reaches(Path(sys.executable).resolve(), owner):
        owner = None
    home = folder / f"home-{name}"
    shutil.copytree(source, home / "source")
    if owner is not None:
        subprocess.run(["chown", "-R", f"{owner[0]}:{owner[1]}", home], check=True)
        record.touch()
        os.chown(record, *owner)
    places = {"host": ADDRESS, "port": str(port), "url_login": login(server.user, server.password)}
    places["plugins"] = str(folder / "plugins")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "DATABASE_URL", "PYTEST"))}
    environ |= {
        "PGHOST": ADDRESS,
        "PGPORT": str(port),
        "PGUSER": server.user,
        "PGPASSWORD": server.password,
        "PGINSTALLATION": str(server.binaries),
        "PYTHONPATH": f"{folder / 'site'}:{folder / 'plugins'}",
        "SUITE_RECORD": str(record),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        **suite.environ,
    }
    command = [part.format(**places) for part in suite.command]
    start_s = time.monotonic()
    uid, gid = owner or (None, None)
    with output.open("wb") as log:
        process = subprocess.Popen(
            [*command, *extra, *suite.tests], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environ,
            cwd=home / "source" / suite.folder, start_new_session=True,
            user=uid, group=gid, extra_groups=None if uid is None else (),
        )  # fmt: skip
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            click.echo(f"  {name}: not at an end after {timeout_s:.0f} s")
        finally:
            # the suite's servers and helpers are in its session, and end with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - start_s
    return Run(read(record), seconds, output, left_sessions(server))


@contextlib.contextmanager
def postgres(suite: Suite) -> Iterator[PostgresServer]:
    # the superuser logs in by SCRAM, so that the proxy has something to pass on; roles that a suite makes need nothing
    lines = (*suite.authentication, f"host all postgres {ADDRESS}/32 scram-sha-256", f"host all all {ADDRESS}/32 trust")
    with PostgresServer(find_binaries(), settings={**SETTINGS, **suite.settings}, authentication=lines) as server:
        prepare(server, suite)
        yield server


def proxied(
    suite: Suite,
    source: Path,
    name: str,
    extra: Sequence[str],
    timeout_s: float,
    tables: Sequence[str] = (),
    *,
    catalogs: bool = True,
) -> Run:
    with postgres(suite) as server, Proxy(upstream(suite, server), tables, catalogs=catalogs) as proxy:
        run = run_suite(suite, source, server, proxy.port, name, extra, timeout_s)
        report = proxy.report()
        shutil.copy(proxy.directory / "log", source.parent.parent / f"{name}.proxy.log")  # type: ignore[operator]
        statistics = report.get("statistics", [])
        run.statements = sum(row["calls"] for row in statistics)
        run.hits = sum(row["cache_hits"] for row in statistics)
        run.faults = proxy.faults()
        run.tables = sorted(tables_of(row["template"] for row in statistics))
    return run


def upstream(suite: Suite, server: PostgresServer) -> str:
    return server.url_for(server.user, server.password, suite.database)


def tables_of(templates: Iterator[str]) -> set[str]:
    """The tables that the templates name."""
    found: set[str] = set()
    for text in templates:
        for recognised in recognise(text):
            found |= set(shape_of(recognised.template).tables)
    return found


def direct(suite: Suite, source: Path, name: str, extra: Sequence[str], timeout_s: float) -> Run:
    with postgres(suite) as server:
        return run_suite(suite, source, server, server.port, name, extra, timeout_s)


def examine(name: str, extra: Sequence[str], timeout_s: float, folder: Path) -> bool:
    """Run one suite five times and print what differs. True if nothing does."""
    suite = SUITES[name]
    click.echo(f"{name}: {suite.requirement}")
    source = fetch(suite, folder)
    runs = {"direct": direct(suite, source, "direct", extra, timeout_s)}
    say("direct", runs["direct"])
    if not {"passed", "printed"} & counts(runs["direct"].results).keys():
        raise SuiteFailed(f"no test passed: {runs['direct'].output.read_text(errors='replace')[-2000:]}")
    runs["again"] = direct(suite, source, "again", extra, timeout_s)
    say("again", runs["again"])
    runs["watching"] = proxied(suite, source, "watching", extra, timeout_s)
    say("watching", runs["watching"])
    runs["caching"] = proxied(suite, source, "caching", extra, timeout_s, runs["watching"].tables)
    say("caching", runs["caching"])
    runs["coarse"] = proxied(suite, source, "coarse", extra, timeout_s, runs["watching"].tables, catalogs=False)
    say("coarse", runs["coarse"])
    both = (runs["direct"].results, runs["again"].results)
    for test in sorted(unsteady(*both)):
        click.echo(f"  unsteady: {test}")
    good = True
    found = {mode: differences(both, runs[mode].results) for mode in PROXIED}
    seen = again(suite, source, sorted({one.test for mode in found for one in found[mode]}), timeout_s)
    for mode, disputed in found.items():
        run = runs[mode]
        for one in disputed:
            if any(same(one.proxied, results.get(one.test, ABSENT)) for results in seen):
                click.echo(f"  unsteady: {one.test}\n    {one.proxied}; so also without pgloupe, when it ran again")
                continue
            good = False
            click.echo(f"  DIFFERS, {mode}: {one.test}\n    direct   {one.direct}\n    proxied  {one.proxied}")
        for fault in run.faults:
            good = False
            click.echo(f"  FAULT, {mode}: {fault}")
        if len(run.left) > max(len(runs["direct"].left), len(runs["again"].left)):
            good = False
            click.echo(f"  LEFT, {mode}: {'; '.join(run.left)}")
        if not run.statements:
            good = False
            click.echo(f"  UNUSED, {mode}: no statement came through the proxy")
    return good


def again(suite: Suite, source: Path, tests: Sequence[str], timeout_s: float) -> list[dict[str, Result]]:
    """The results of these tests alone, several times direct and through a bare relay.

    Direct tells what a loaded machine does to them. A relay that looks at no byte tells what any hop does: a test may
    count on how much the kernel takes before the peer answers, and between two hops it takes twice as much.
    """
    if not tests or len(tests) > _MAX_REPEATED:
        return []
    names = {name.partition(" subtest ")[0] for name in tests}
    alone = replace(suite, tests=tuple(sorted(names))) if suite.alone else suite
    seen = []
    for number in range(_REPEATS if suite.alone else 1):
        seen.append(direct(alone, source, f"direct{number}", (), timeout_s).results)
        with postgres(suite) as server, Relay(server.port) as relay:
            seen.append(run_suite(alone, source, server, relay.port, f"relay{number}", (), timeout_s).results)
    return seen


def say(name: str, run: Run) -> None:
    """One line for one run."""
    number = ", ".join(f"{count} {outcome}" for outcome, count in counts(run.results).items())
    more = f"; {run.statements} statements, {run.hits} from the cache" if run.statements else ""
    click.echo(f"  {name:9} {run.seconds:7.1f} s  {number}{more}")


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(SUITES)))
@click.option("--option", "extra", multiple=True, help="Handed to the suite's own command; may be given again.")
@click.option("--timeout", "timeout_s", default=1800.0, show_default=True, help="Seconds for one run of a suite.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for what the runs write; it stays.")
def main(names: Sequence[str], extra: Sequence[str], timeout_s: float, keep: Path | None) -> None:
    """Run test suites of others, direct and through the proxy; 1 if any test tells the difference."""
    # so that the suite and the servers end with us
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    good = True
    for name in names:
        with contextlib.ExitStack() as stack:
            if keep is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgloupe-suite-", dir="/tmp")))
            else:
                folder = keep / name
                folder.mkdir(parents=True)
            folder.chmod(0o755)
            try:
                good &= examine(name, extra, timeout_s, folder)
            except PgloupeError as error:
                click.echo(f"{name}: {error}", err=True)
                good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
