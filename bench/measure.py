"""Runs of pgbench against each target in turn, and what they say.

Runs are interleaved: in each round every target has its turn, and each round begins with another one, so that what else the
machine does meets all of them alike. A ratio is made within a round and the median is of ratios, because the speed of a
machine drifts more between rounds than the ratio does.

The processor time of a proxy is that of its process, all threads, from /proc/PID/stat before and after a run, for each
transaction of the run. It tells more than the throughput where client, proxy and server share few processors, and it
hardly depends on what else runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.servers import DATABASE, USER, BenchFailed
from pgloupe.demo.process import ADDRESS

MODES: Final = ("simple", "extended", "prepared")
"""pgbench's --protocol: Query; Parse, Bind, Execute each time; Parse once and then Bind, Execute."""

DIRECT: Final = "direct"
PGBOUNCER: Final = "PgBouncer"
RELAY: Final = "bare relay"
RULES: Final = "pgloupe"
CACHED: Final = "pgloupe, cached"

_ROWS_PER_SCALE: Final = 100_000
_ASKED_EACH: Final = 6
"""How often a key is asked for before anything is counted, on average: one in 400 is not."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_TPS: Final = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_DONE: Final = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED: Final = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_LATENCY: Final = re.compile(r"^latency average = ([0-9.]+) ms", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Target:
    """Something that speaks PostgreSQL's protocol on the loopback address. `pid` is the proxy's, None for the server."""

    name: str
    port: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Load:
    """What pgbench is told, the protocol aside."""

    pgbench: Path
    clients: int
    seconds: int
    keys: int
    """How many different rows are asked for."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pgbench."""

    mode: str
    target: str
    round: int
    tps: float
    transactions: int
    latency_ms: float
    user_us: float | None
    """Processor time of the proxy for each transaction, in user mode; None for the server itself."""
    system_us: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """A median with the lowest and the highest value."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """What the runs of one target in one mode come to. A ratio is None where its base was not measured."""

    mode: str
    target: str
    tps: Figure
    latency_ms: Figure
    to_direct: Figure | None
    to_pgbouncer: Figure | None
    user_us: Figure | None
    system_us: Figure | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def cpu_s(pid: int) -> tuple[float, float]:
    """User and system time that a process has used, in seconds. Source: proc(5)."""
    # The name in the second field may hold anything, so the fields are counted behind its closing bracket.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / _TICKS_PER_S, int(fields[12]) / _TICKS_PER_S


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The process is gone behind the block, whatever happens in it."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def pgbench(load: Load, port: int, *arguments: str) -> str:
    """Run pgbench and give what it said. Raises BenchFailed where it failed."""
    command = [str(load.pgbench), "-h", ADDRESS, "-p", str(port), "-U", USER, *arguments, DATABASE]
    # In a session of its own: Ctrl-C at the terminal is for us, and we end it.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,
    )
    with _ended(process):
        said, complained = process.communicate()
    if process.returncode != 0:
        raise BenchFailed(f"pgbench {' '.join(arguments)} failed: {complained.strip()[-600:]}")
    return said


def fill(load: Load, port: int) -> None:
    """Make pgbench's tables, large enough for the keys."""
    pgbench(load, port, "--initialize", "--quiet", f"--scale={-(-load.keys // _ROWS_PER_SCALE)}")


def _read(pattern: re.Pattern[str], said: str) -> float:
    found = pattern.search(said)
    if found is None:
        raise BenchFailed(f"pgbench did not say {pattern.pattern!r}: {said[-600:]}")
    return float(found.group(1))


def run(load: Load, target: Target, mode: str, number: int, *, transactions: int = 0) -> Run:
    """One run: of so many transactions of each client, else of the load's time. Raises BenchFailed if one failed."""
    before = cpu_s(target.pid) if target.pid is not None else (0.0, 0.0)
    said = pgbench(
        load,
        target.port,
        "--no-vacuum",
        "--select-only",
        f"--protocol={mode}",
        f"--client={load.clients}",
        f"--transactions={transactions}" if transactions else f"--time={load.seconds}",
        f"--define=scale={load.keys / _ROWS_PER_SCALE:g}",
    )
    after = cpu_s(target.pid) if target.pid is not None else (0.0, 0.0)
    done = int(_read(_DONE, said))
    # pgbench before version 15 ends with an error instead of counting failures.
    failed = _FAILED.search(said)
    if not done or (failed is not None and int(failed.group(1))):
        raise BenchFailed(f"{target.name}, {mode}: {failed.group() if failed else 'no transaction'}")
    user_us, system_us = ((end - start) / done * 1e6 for start, end in zip(before, after, strict=True))
    return Run(
        mode,
        target.name,
        number,
        _read(_TPS, said),
        done,
        _read(_LATENCY, said),
        user_us if target.pid is not None else None,
        system_us if target.pid is not None else None,
    )


def run_mode(load: Load, targets: Sequence[Target], mode: str, rounds: int, tell: Callable[[Run], None]) -> list[Run]:
    """`rounds` rounds over all targets, after a run of each that is not counted: it asks for most keys at least once, so
    that they are in memory, the server's and the cache's."""
    warm_up = -(-_ASKED_EACH * load.keys // load.clients)
    for target in targets:
        tell(run(load, target, mode, 0, transactions=warm_up))
    runs = []
    for number in range(1, rounds + 1):
        first = (number - 1) % len(targets)
        for target in (*targets[first:], *targets[:first]):
            runs.append(run(load, target, mode, number))
            tell(runs[-1])
    return runs


def figure(values: Sequence[float | None]) -> Figure | None:
    """Median, lowest and highest; None without values."""
    known = [value for value in values if value is not None]
    return Figure(median(known), min(known), max(known)) if known else None


def summary(runs: Sequence[Run]) -> list[Row]:
    """A row for each mode and target, in the order in which they first ran."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for one in runs:
        groups.setdefault((one.mode, one.target), []).append(one)

    def ratios(mine: Sequence[Run], mode: str, base: str) -> Figure | None:
        theirs = {one.round: one.tps for one in groups.get((mode, base), ())}
        return figure([one.tps / theirs[one.round] if one.round in theirs else None for one in mine])

    rows = []
    for (mode, target), mine in groups.items():
        tps, latency_ms = figure([one.tps for one in mine]), figure([one.latency_ms for one in mine])
        assert tps is not None
        assert latency_ms is not None
        rows.append(
            Row(
                mode,
                target,
                tps,
                latency_ms,
                ratios(mine, mode, DIRECT),
                ratios(mine, mode, PGBOUNCER),
                figure([one.user_us for one in mine]),
                figure([one.system_us for one in mine]),
            )
        )
    return rows
