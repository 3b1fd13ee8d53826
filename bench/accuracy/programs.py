"""Runs the small programs for real: twice against a server that logs, for the label, and once through `pgloupe check`.

Each program gets a new copy of a seeded database every time. The server, its databases and the checks live in temporary
directories and end with the block, also where the benchmark is killed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from bench import npm
from bench.accuracy.counting import Seen, seen_in_log
from bench.accuracy.log import SETTINGS, Logged, StatementLog, label
from bench.accuracy.trace import Expected
from bench.accuracy.verdict import Reported, reported_by_check
from bench.servers import BenchFailed, find_binaries
from pgloupe.demo.server import PostgresServer

SMALL: Final = 5
LARGE: Final = 13
"""Rows that a loop goes over, in the two runs."""

FOLDER: Final = Path(__file__).parent / "programs"
ORMS: Final = ("sqlalchemy", "django", "drizzle")
_PROGRAM_S: Final = 120


@dataclass(frozen=True)
class Pair:
    """A program in two forms, which read or write the same; or in one, which repeats statements and is fine."""

    orm: str
    name: str
    kind: str
    parents: dict[str, str]
    shapes: tuple[str, ...] = ("lazy", "eager")


@dataclass(frozen=True)
class Ran:
    """One program: what the server's log says of it, and what `pgloupe check` reported."""

    pair: Pair
    shape: str
    """lazy, eager or steady."""
    expect: list[Expected]
    allow: list[Expected]
    reported: list[Reported]
    seen: list[Seen]
    """The statements of the larger run, for the counting rules."""

    @property
    def name(self) -> str:
        return f"{self.pair.orm}.{self.pair.name}_{self.shape}"


def pairs() -> list[Pair]:
    """What the manifest names."""
    manifest = tomllib.loads((FOLDER / "manifest.toml").read_text(encoding="utf-8"))
    found = [Pair(one["orm"], one["name"], one["kind"], one.get("parents", {})) for one in manifest["pair"]]
    found += [Pair(one["orm"], one["name"], one["kind"], {}, ("steady",)) for one in manifest["steady"]]
    return found


def missing(orm: str) -> str:
    """Why the programs with this ORM cannot run here; "" where they can. Installs what node needs at its first call."""
    if orm == "drizzle":
        return npm.install(FOLDER)
    wanted = ("sqlalchemy", "psycopg", "psycopg2", "asyncpg") if orm == "sqlalchemy" else ("django", "psycopg")
    absent = [name for name in wanted if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


class Bench:
    """A server that logs every statement, with a seeded database for each size. A context manager."""

    def __init__(self) -> None:
        self._server = PostgresServer(find_binaries(), settings={**SETTINGS, "log_timezone": "UTC"})
        self._made = 0
        self._directory = tempfile.TemporaryDirectory(prefix="pgloupe-accuracy-")
        self._log: StatementLog | None = None

    def __enter__(self) -> Self:
        self._server.__enter__()
        try:
            assert self._server.directory is not None
            schema = (FOLDER / "schema.sql").read_text(encoding="utf-8")
            seed = (FOLDER / "seed.sql").read_text(encoding="utf-8")
            for size in (SMALL, LARGE):
                self._execute(f"CREATE DATABASE seeded_{size}")
                url = self._url(f"seeded_{size}")
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(schema)
                    connection.execute(seed.replace("{n}", str(size)))
            self._log = StatementLog(self._server.directory / "data", self._server.url)
            self._log.take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)
        self._directory.cleanup()

    @property
    def version(self) -> str:
        return self._server.version

    def run(self, pair: Pair, shape: str) -> Ran:
        """Label the program, then check it. Raises BenchFailed where a program fails, a lazy one does not grow with the
        rows, or another one does."""
        small = self._logged(pair, shape, SMALL)
        large = self._logged(pair, shape, LARGE)
        expect = label(small, large, LARGE - SMALL, pair.parents)
        if bool(expect) != (shape == "lazy"):
            grown = ", ".join(f"{one.rule} on {one.table}" for one in expect) or "nothing"
            raise BenchFailed(f"{pair.orm}.{pair.name}_{shape}: with the rows grows {grown}")
        # without an identity map, some of the look-ups ask for what was asked before
        allow = [Expected("redundant_query", one.table) for one in expect if one.rule == "n_plus_one"]
        seen = [
            seen
            for one in large
            for seen in seen_in_log(one.session, one.text, one.parameters, one.at_s)
            if seen.tables
        ]
        return Ran(pair, shape, expect, allow, reported_by_check(self._check(pair, shape)), seen)

    def _logged(self, pair: Pair, shape: str, size: int) -> list[Logged]:
        assert self._log is not None
        url = self._database(size)
        self._log.take()
        environment = {**os.environ, "DATABASE_URL": url}
        _run(_command(pair, shape), environment, (0,))
        return self._log.take()

    def _check(self, pair: Pair, shape: str) -> dict[str, Any]:
        output = Path(self._directory.name) / f"{self._made}.json"
        options = ["--upstream", self._database(LARGE), "--format", "json", "--output", str(output)]
        # in a folder without a pgloupe.toml
        command = [sys.executable, "-m", "pgloupe", "check", *options, "--", *_command(pair, shape)]
        _run(command, {**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/"}, (0, 1), self._directory.name)
        report: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        if not report["statements"]:
            raise BenchFailed(f"{pair.orm}.{pair.name}_{shape}: pgloupe saw no statement")
        return report

    def _database(self, size: int) -> str:
        self._made += 1
        name = f"school_{self._made}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE seeded_{size}")
        return self._url(name)

    def _url(self, database: str) -> str:
        return self._server.url_for(self._server.user, self._server.password, database)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(statement)


def run_all(bench: Bench, chosen: Sequence[Pair], tell: Callable[[Ran], None]) -> list[Ran]:
    """Every pair in all its shapes."""
    done: list[Ran] = []
    for pair in chosen:
        for shape in pair.shapes:
            done.append(bench.run(pair, shape))
            tell(done[-1])
    return done


def _command(pair: Pair, shape: str) -> list[str]:
    argument = f"{pair.name}_{shape}"
    if pair.orm == "drizzle":
        return ["node", str(FOLDER / "with_drizzle.mjs"), argument]
    return [sys.executable, str(FOLDER / f"with_{pair.orm}.py"), argument]


def _run(
    command: Sequence[str], environment: dict[str, str], right: tuple[int, ...], folder: str | None = None
) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROGRAM_S,
        )
    except subprocess.TimeoutExpired:
        raise BenchFailed(f"{' '.join(command[-2:])} took longer than {_PROGRAM_S} s") from None
    if done.returncode not in right:
        raise BenchFailed(f"{' '.join(command[-2:])} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
