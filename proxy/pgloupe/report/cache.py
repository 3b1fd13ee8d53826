"""The cache in the report for a person: one line of figures for each rule, and one that says whether it pays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pgloupe.report.wording import one_line

_NAME: Final = 22
_WIDTHS: Final = (9, 8, 9, 9, 9, 9)
_HEAD: Final = ("hits", "misses", "bypassed", "server", "hit", "miss")
MAX_RULES: Final = 40
MAX_REASONS: Final = 3


def cache_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines with their styles; none without a cache or without a rule."""
    cache = report.get("cache")
    if not cache or not cache["rules"]:
        return []
    out = [(_columns("cache rule", _HEAD), "bold")]
    rules = cache["rules"]
    for rule in rules[:MAX_RULES]:
        hits = rule["dry_run_hits"] if rule["dry_run"] else rule["hits"]
        bypassed = sum(rule["bypasses"].values())
        times = [_time(rule[name]) for name in ("server_ms", "hit_ms", "miss_ms")]
        out.append((_columns(rule["rule"], (f"{hits:,}", f"{rule['misses']:,}", f"{bypassed:,}", *times)), ""))
        out.append((f"  {one_line(rule['advice'])}", {True: "green", False: "yellow"}.get(rule["pays"], "dim")))
        for kind, reasons in (("bypassed", rule["bypasses"]), ("not stored", rule["fills_refused"])):
            most = [f"{reason} {count:,}" for reason, count in list(reasons.items())[:MAX_REASONS]]
            if most:
                out.append((f"  {kind}: {one_line(', '.join(most))}", "dim"))
    if len(rules) > MAX_RULES:
        out.append((f"and {len(rules) - MAX_RULES:,} more rules", "dim"))
    if cache["redis"] == "down":
        out.append(("Redis is not usable now: nothing is answered from the cache", "yellow"))
    return out


def _columns(name: str, figures: tuple[str, ...]) -> str:
    cells = "".join(text.rjust(width) for text, width in zip(figures, _WIDTHS, strict=True))
    return f"{one_line(name, _NAME).ljust(_NAME)}{cells}"


def _time(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.3g} ms"
