"""A run of the checker: rounds of random work with faults, each with proxies of its own and a history that is judged."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import psycopg
from tests.checker import world
from tests.checker.faults import FAULTS, Faults
from tests.checker.history import Operation
from tests.checker.judge import Violation, judge
from tests.checker.serving import Knobs, ProxyProcess
from tests.checker.stage import Servers
from tests.checker.valve import Valve
from tests.checker.workload import SETTINGS, Run, Worker, bypass, janitor

from support.raw import eventually

KNOBS: Final = Knobs(lease_s=5.0, member_lease_s=1.0, forget_s=4.0, redis_retry_s=0.05, redis_timeout_s=0.25)
"""Shorter than in production, so that what is lost is given up within a round."""

QUIET_S: Final = 3.0
"""Between two faults, so that the cache answers again."""

COUNTED: Final = ("hits", "memory_hits", "redis_hits", "misses", "bypasses", "fills", "fills_refused", "writes")

BYPASS_BOUND_S: Final = world.BRIEF_TTL_S + 0.25


@dataclass(slots=True)
class Report:
    """What rounds did and saw. Adds up."""

    operations: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why the cache did not answer."""
    violations: list[Violation] = field(default_factory=list)

    def add(self, other: Report) -> None:
        for mine, theirs in zip(self._counters(), other._counters(), strict=True):
            mine.update(theirs)
        self.violations += other.violations

    def _counters(self) -> tuple[Counter[str], ...]:
        return self.operations, self.figures, self.faults, self.errors, self.reasons

    @property
    def hit_share(self) -> float:
        """Answers from the cache among the reads that a rule allows."""
        asked = self.figures["hits"] + self.figures["misses"] + self.figures["bypasses"]
        return self.figures["hits"] / asked if asked else 0.0

    def __str__(self) -> str:
        lines = [
            f"operations: {sum(self.operations.values())}",
            *(f"  {count:8} {name}" for name, count in sorted(self.operations.items())),
            "cache: " + ", ".join(f"{self.figures[name]} {name}" for name in COUNTED),
            f"  answered from the cache: {self.hit_share:.0%} of the reads that a rule allows",
            "  not looked up: " + (", ".join(f"{count} {reason}" for reason, count in self.reasons.items()) or "none"),
            "faults: " + (", ".join(f"{count} {name}" for name, count in self.faults.items()) or "none"),
            "errors of clients: " + (", ".join(f"{count} {name}" for name, count in self.errors.items()) or "none"),
            f"violations: {len(self.violations)}",
            *(str(violation) for violation in self.violations[:5]),
        ]
        return "\n".join(lines)


def play_round(
    servers: Servers,
    *,
    seed: int,
    faults: Sequence[str],
    mutant: str = "",
    operations: int | None = None,
    seconds: float = 60.0,
    workers: int = 10,
    quiet_s: float = QUIET_S,
) -> Report:
    """One round: each worker does at least so many `operations` and sees each fault once, or works for so many `seconds`.
    Then the history is judged."""
    servers.empty_redis()
    _settled(servers)
    with contextlib.ExitStack() as stack:
        valve = stack.enter_context(Valve(servers.redis.port))
        proxies = [
            stack.enter_context(
                ProxyProcess(
                    servers.url,
                    rules=world.RULES,
                    redis=f"redis://127.0.0.1:{port}/0",
                    knobs=KNOBS,
                    mutant=mutant,
                    quiet=bool(faults),
                )
            )
            for port in (valve.port, servers.redis.port)
        ]
        broken = Faults(servers, proxies, valve, Random(seed))
        report = asyncio.run(_work(servers, proxies, broken, seed, faults, operations, seconds, workers, quiet_s))
        for found in [*broken.lost, *(proxy.figures() for proxy in proxies)]:
            counts = found["figures"]
            report.figures.update({name: counts[name] for name in COUNTED if name in counts})
            for rule in found["rules"].values():
                reasons = {name.removeprefix("bypass: "): n for name, n in rule.items() if name.startswith("bypass: ")}
                report.reasons.update(reasons)
        return report


def _settled(servers: Servers) -> None:
    """Nobody who worked before is still at work."""
    with psycopg.connect(servers.superuser(), autocommit=True) as connection:
        query = "SELECT FROM pg_stat_activity WHERE usename = 'app'"
        eventually(lambda: connection.execute(query).rowcount == 0)
        for (name,) in connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
            connection.execute(f"ROLLBACK PREPARED '{name}'".encode())
        connection.execute("GRANT SELECT ON guarded TO checker_bob")


async def _work(
    servers: Servers,
    proxies: Sequence[ProxyProcess],
    broken: Faults,
    seed: int,
    faults: Sequence[str],
    operations: int | None,
    seconds: float,
    workers: int,
    quiet_s: float,
) -> Report:
    report = Report()
    run = Run(lambda: [proxy.url for proxy in proxies], servers.url, seed)
    run.faults_to_come = len(faults) if operations is not None else 0
    settings = list(SETTINGS)
    team = [
        Worker(
            run,
            run.chance.getrandbits(32),
            settings[number] if number < len(settings) else "",
            write_share=0.15 if number % 2 else 0.03,
            special_share=0.5 if number == 5 else 0.0,
        )
        for number in range(workers)
    ]
    aside = [asyncio.create_task(bypass(run, seed)), asyncio.create_task(janitor(run))]
    if faults:
        aside.append(asyncio.create_task(_disturb(run, broken, faults, report, quiet_s)))
    working = asyncio.gather(*(worker.work(operations) for worker in team))
    try:
        if operations is None:
            await asyncio.sleep(seconds)
            run.stop = True
        await working
    finally:
        run.stop = True
        working.cancel()
        await asyncio.gather(working, *aside, return_exceptions=True)
    for task in aside:
        task.result()
    report.violations = judge(run.history, bypass_bound_s=BYPASS_BOUND_S)
    report.operations.update(_name(operation) for operation in run.history.operations)
    report.errors.update(run.errors)
    return report


async def _disturb(run: Run, broken: Faults, faults: Sequence[str], report: Report, quiet_s: float) -> None:
    deck: list[str] = []
    while not run.stop:
        if not deck:
            deck = run.chance.sample(list(faults), len(faults))
        name = deck.pop()
        for _ in range(int(quiet_s / 0.05)):
            if run.stop:
                return
            await asyncio.sleep(0.05)
        await FAULTS[name](broken)
        report.faults[name] += 1
        run.faults_to_come -= 1


def _name(operation: Operation) -> str:
    """Kind, way and outcome, without numbers."""
    if operation.kind == "read":
        return f"read by {operation.way}"
    words = "".join("#" if letter.isdigit() else letter for letter in operation.way)
    return f"write, {operation.outcome}: {words[:70]}"
