"""What the demonstration found, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from pgloupe.report.wording import headline, link, milliseconds, one_line, plural, title

_ADVICE_CHARACTERS: Final = 400
_TEMPLATE_CHARACTERS: Final = 160


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print findings by scenario, the fixed twins, the latencies and the slow statements."""
    demo = report["demo"]
    for scenario in demo["scenarios"]:
        if scenario["kind"] == "lazy":
            _lazy(report, scenario, console)
    _fixed(demo["scenarios"], console)
    _cache(demo, console)
    _slow(demo["slow_statements"], console)
    console.print(
        f"\n{plural(report['statements'], 'statement')} in {plural(report['sessions'], 'session')} through the proxy, "
        f"PostgreSQL {demo['postgres']}. Try it on your own application:"
    )
    console.print('  pgloupe check --upstream "$DATABASE_URL" -- pytest', highlight=False)


def _indented(console: Console, text: str, columns: int) -> None:
    console.print(Padding(escape(text), (0, 0, 0, columns), expand=False), highlight=False)


def _lazy(report: Mapping[str, Any], scenario: Mapping[str, Any], console: Console) -> None:
    name = scenario["application_name"]
    console.print(f"\n[bold]{escape(scenario['title'])}[/bold] [dim]{escape(name)}[/dim]", highlight=False)
    for finding in report["findings"]:
        if name not in finding["tags"].get("application_name", ()):
            continue
        columns = link(finding)
        times = f", {finding['count']} times" if finding["count"] > 1 else ""
        _indented(
            console,
            f"{title(finding['rule'])}: {headline(finding)}{times}" + (f" ({columns})" if columns else ""),
            2,
        )
        advice = finding["advice"]
        if advice is not None:
            _indented(console, "instead: " + one_line(advice["sql"] or advice["text"], _ADVICE_CHARACTERS), 4)


def _fixed(scenarios: list[Mapping[str, Any]], console: Console) -> None:
    fixed = [scenario for scenario in scenarios if scenario["kind"] == "fixed"]
    clean = sum(scenario["findings"] == 0 for scenario in fixed)
    equal = sum(scenario["checksum_equal"] for scenario in fixed)
    console.print("\n[bold]The same, written well[/bold]")
    _indented(console, f"{clean} of {len(fixed)} without a finding, {equal} of {len(fixed)} with the same result.", 2)


def _cache(demo: Mapping[str, Any], console: Console) -> None:
    where = "memory and Redis" if demo["redis"] else "memory alone"
    console.print(f"\n[bold]A product page, direct and from the cache[/bold] [dim]{where}[/dim]", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("", "median", "p95", "calls"):
        table.add_column(heading, justify="left" if not heading else "right")
    for way in ("direct", "cached"):
        figures = demo[f"{way}_ms"]
        table.add_row(way, milliseconds(figures["median"]), milliseconds(figures["p95"]), str(figures["calls"]))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    counters = demo["cache"]
    _indented(
        console,
        f"{demo['speedup']:g} times as fast at the median; {counters['hit_ratio']:.1%} of the look-ups were hits; "
        + ("a price changed through the proxy was on the next page." if demo["reads_own_writes"] else "stale page!"),
        2,
    )


def _slow(statements: list[Mapping[str, Any]], console: Console) -> None:
    console.print("\n[bold]Slow statements[/bold]")
    if not statements:
        _indented(console, "none", 2)
    for statement in statements:
        _indented(
            console,
            f"{milliseconds(statement['duration_ms'])}, {plural(statement['rows'], 'row')}, "
            f"{one_line(statement['application_name'])}: {one_line(statement['template'], _TEMPLATE_CHARACTERS)}",
            2,
        )
