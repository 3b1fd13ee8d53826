"""The figures as a table on the terminal, as Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from bench.measure import Figure, Row, Run

HEADINGS: Final = ("protocol", "target", "tps", "to direct", "to PgBouncer", "µs user", "µs system")


def _range(value: Figure | None, form: str) -> str:
    if value is None:
        return "-"
    middle, low, high = (format(part, form) for part in (value.median, value.low, value.high))
    return middle if low == high else f"{middle} ({low}-{high})"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.mode,
        row.target,
        _range(row.tps, ",.0f"),
        _range(row.to_direct, ".2f"),
        _range(row.to_pgbouncer, ".2f"),
        _range(row.user_us, ".1f"),
        _range(row.system_us, ".1f"),
    )


def table(rows: Sequence[Row], caption: str) -> Table:
    """For the terminal: a section for each protocol."""
    out = Table(caption=caption, caption_justify="left")
    for number, heading in enumerate(HEADINGS):
        out.add_column(heading, justify="left" if number < 2 else "right", no_wrap=True)
    last = ""
    for row in rows:
        if last and row.mode != last:
            out.add_section()
        cells = _cells(row)
        out.add_row(cells[0] if row.mode != last else "", *cells[1:])
        last = row.mode
    return out


def markdown(rows: Sequence[Row], caption: str) -> str:
    """The same as a table in Markdown, the caption below it."""
    lines = [
        f"| {' | '.join(HEADINGS)} |",
        "|---|---|" + "--:|" * (len(HEADINGS) - 2),
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
        "",
        caption,
    ]
    return "\n".join(lines) + "\n"


def as_dict(
    rows: Sequence[Row], runs: Sequence[Run], conditions: Mapping[str, Any], hits: Mapping[str, float]
) -> dict[str, Any]:
    """For machines: what was measured, how, and every run. `hits` is the share of cached answers by protocol, warm-up
    included."""
    return {
        "conditions": dict(conditions),
        "cache_hit_share": dict(hits),
        "summary": [row.to_dict() for row in rows],
        "runs": [asdict(run) for run in runs],
    }
