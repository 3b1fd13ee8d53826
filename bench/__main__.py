"""`python -m bench`: pgloupe beside a direct connection, PgBouncer and a bare relay, in one run.

It asserts nothing about time. It does fail (exit code 1) where the figures would mean nothing: a transaction failed, the
proxy did not see every statement, or the cache answered none.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from bench import output
from bench.measure import CACHED, DIRECT, MODES, PGBOUNCER, RELAY, RULES, Load, Run, Target, fill, run_mode, summary
from bench.servers import (
    BenchFailed,
    PgBouncer,
    Pgloupe,
    Relay,
    find_binaries,
    find_pgbench,
    find_pgbouncer,
    installed,
    start_postgres,
    version_of,
)
from pgloupe import compiled
from pgloupe.demo.process import OwnServer
from pgloupe.errors import PgloupeError

_TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")


def _target(name: str, server: OwnServer) -> Target:
    return Target(name, server.port, server.pid)


def _check(report: dict[str, Any], name: str, mode: str, runs: Sequence[Run]) -> float:
    """The share of statements that the cache answered. Raises BenchFailed if the proxy did not see them all."""
    ran = sum(run.transactions for run in runs if run.target == name)
    calls: int = sum(row["calls"] for row in report["statistics"])
    hits: int = sum(row["cache_hits"] for row in report["statistics"])
    if calls < ran:
        raise BenchFailed(f"{name}, {mode}: pgbench ran {ran} statements and the report has {calls}")
    return hits / calls


def _measure(
    load: Load, port: int, pgbouncer: Path | None, modes: Sequence[str], rounds: int, console: Console
) -> tuple[list[Run], dict[str, float]]:
    def tell(run: Run) -> None:
        when = f"round {run.round}" if run.round else "warm-up"
        console.print(f"{run.mode:9} {when:8} {run.target:16} {run.tps:10,.0f} tps", highlight=False)

    runs: list[Run] = []
    hits: dict[str, float] = {}
    for mode in modes:
        # New proxies for each protocol, so that each report is about one.
        with contextlib.ExitStack() as stack:
            targets = [Target(DIRECT, port, None)]
            if pgbouncer is not None:
                targets.append(_target(PGBOUNCER, stack.enter_context(PgBouncer(pgbouncer, port))))
            targets.append(_target(RELAY, stack.enter_context(Relay(port))))
            rules = stack.enter_context(Pgloupe(port))
            cached = stack.enter_context(Pgloupe(port, cached=_TABLES))
            targets += [_target(RULES, rules), _target(CACHED, cached)]
            found = run_mode(load, targets, mode, rounds, tell)
            _check(rules.report(), RULES, mode, found)
            hits[mode] = _check(cached.report(), CACHED, mode, found)
            if not hits[mode]:
                raise BenchFailed(f"{CACHED}, {mode}: the cache answered nothing")
            runs += found
    return runs, hits


def _conditions(load: Load, rounds: int, postgres: str, pgbouncer: Path | None) -> dict[str, Any]:
    return {
        "pgloupe": installed("pgloupe"),
        "compiled": compiled(),
        "python": platform.python_version(),
        "uvloop": installed("uvloop"),
        "postgresql": postgres,
        "pgbouncer": version_of(pgbouncer) if pgbouncer is not None else None,
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "clients": load.clients,
        "seconds": load.seconds,
        "rounds": rounds,
        "keys": load.keys,
    }


def _caption(conditions: dict[str, Any], hits: dict[str, float]) -> str:
    bouncer = f"PgBouncer {conditions['pgbouncer']}, " if conditions["pgbouncer"] else ""
    answered = ", ".join(f"{mode} {share:.0%}" for mode, share in hits.items())
    return (
        f"pgbench -S, {conditions['clients']} clients, {conditions['keys']} keys, {conditions['rounds']} rounds of "
        f"{conditions['seconds']} s: median (lowest-highest); ratios are of throughput, within a round; µs are the "
        f"proxy's own, for each statement. Answered by the cache, warm-up included: {answered}. "
        f"PostgreSQL {conditions['postgresql']}, {bouncer}Python {conditions['python']}, uvloop {conditions['uvloop']}, "
        f"pgloupe {conditions['pgloupe']} ({'compiled' if conditions['compiled'] else 'not compiled'}), "
        f"{conditions['processors']} processors."
    )


def _ask_to_end(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each target.")
@click.option("--seconds", default=4, show_default=True, type=click.IntRange(1), help="Length of one run.")
@click.option("--quick", is_flag=True, help="Runs of one second.")
@click.option("--clients", default=8, show_default=True, type=click.IntRange(1, 40), help="Connections of pgbench.")
@click.option("--keys", default=1_000, show_default=True, type=click.IntRange(1), help="Different rows asked for.")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), help="This protocol alone; may be repeated.")
@click.option("--json", "json_file", metavar="FILE", help="Write figures and runs to FILE.")
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write the table to FILE.")
def main(
    rounds: int,
    seconds: int,
    quick: bool,
    clients: int,
    keys: int,
    modes: tuple[str, ...],
    json_file: str | None,
    markdown_file: str | None,
) -> None:
    """Measure pgloupe beside a direct connection, PgBouncer and a bare relay. Starts its own servers."""
    console = Console() if sys.stdout.isatty() else Console(width=140)
    progress = Console(stderr=True)
    signal.signal(signal.SIGTERM, _ask_to_end)
    try:
        binaries = find_binaries()
        load = Load(find_pgbench(binaries), clients, 1 if quick else seconds, keys)
        pgbouncer = find_pgbouncer()
        if pgbouncer is None:
            progress.print("PgBouncer is not installed: left out (Debian: apt install pgbouncer)")
        with start_postgres(binaries) as postgres:
            conditions = _conditions(load, rounds, postgres.version, pgbouncer)
            fill(load, postgres.port)
            runs, hits = _measure(load, postgres.port, pgbouncer, modes or MODES, rounds, progress)
    except KeyboardInterrupt:
        sys.exit(130)
    except PgloupeError as error:
        progress.print(f"bench: {error}", markup=False)
        sys.exit(1)
    rows = summary(runs)
    caption = _caption(conditions, hits)
    console.print(output.table(rows, caption))
    if json_file is not None:
        text = json.dumps(output.as_dict(rows, runs, conditions, hits), indent=2)
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    if markdown_file is not None:
        Path(markdown_file).write_text(output.markdown(rows, caption), encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="python -m bench")
