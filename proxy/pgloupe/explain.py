"""`pgloupe explain-cache`: would this statement be cached, under which rule and which key, or why not.

It asks what the proxy asks: the same rules, the same look at the server's catalogs. What is not known before a session is there
(its settings, whether it is in a transaction block, the parameters) is said, not guessed. Where the server cannot be asked,
the answer is by the rules alone, and says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from rich.console import Console

from pgloupe.cache.check import check_rules
from pgloupe.cache.dependencies import Dependencies
from pgloupe.config import Settings
from pgloupe.net.tls import TlsContexts
from pgloupe.report.wording import one_line
from pgloupe.urls import parse_upstream
from pgloupe_rules.allow import AllowRule, Hints
from pgloupe_rules.cacheable import NOT_IMMUTABLE, CacheRules, Verdict, suspects
from pgloupe_rules.normalise import recognise
from pgloupe_rules.shape import shape_of
from pgloupe_rules.tags import HINT
from pgloupe_rules.types import Recognised, SessionInfo, Shape

SETTINGS: Final = (
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "standard_conforming_strings",
    "search_path",
    "bytea_output",
    "extra_float_digits",
)
"""The settings that most often make two keys of one statement; any other that a session sets is in its keys too."""

_VOLATILITY: Final = """
SELECT p.proname::text, max(p.provolatile::text) FROM pg_catalog.pg_proc p WHERE p.proname = ANY($1::text[]) GROUP BY 1
"""
_VALUES: Final = """
SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY($1::text[]) ORDER BY pg_catalog.lower(name)
"""
_WORDS: Final = {"v": "volatile", "s": "stable", "i": "immutable in one of its forms"}
_WIDTH: Final = 12


@dataclass(slots=True)
class Explanation:
    """What there is to say. `reason` is "" where it is cached."""

    template: str
    fingerprint: str
    reason: str = ""
    rule: AllowRule | None = None
    ttl_s: float = 0.0
    tables: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    key: list[tuple[str, str]] = field(default_factory=list)
    rules: list[tuple[str, str]] = field(default_factory=list)
    """Each rule and why it is not for the statement; "" where it is."""
    notes: list[str] = field(default_factory=list)

    @property
    def cached(self) -> bool:
        return not self.reason

    def to_dict(self) -> dict[str, Any]:
        rule = self.rule
        return {
            "cached": self.cached,
            "reason": self.reason or None,
            "rule": rule.name if rule is not None else None,
            "ttl_s": self.ttl_s if rule is not None else None,
            "stale_while_revalidate_s": rule.stale_s if rule is not None else None,
            "max_entry_bytes": rule.max_entry_bytes if rule is not None else None,
            "max_rows": (rule.max_rows or None) if rule is not None else None,
            "template": self.template,
            "fingerprint": self.fingerprint,
            "tables": list(self.tables),
            "depends_on": list(self.depends_on),
            "key": [{"part": part, "value": value} for part, value in self.key],
            "rules": [{"rule": name, "applies": not why, "why": why or None} for name, why in self.rules],
            "notes": self.notes,
        }


def explain(settings: Settings, sql: str, session: SessionInfo, *, asked: bool = True) -> Explanation:
    """Explain one statement for a session like this one. `asked` is False where nobody said which server there is."""
    rules = CacheRules(settings.cache_allow, hints=Hints(settings.cache_hints))
    found = recognise(sql)
    if len(found) != 1:
        why = f"{len(found)} statements in one query string; each alone could be" if found else "it is empty"
        return Explanation("", "", why, notes=[f"refused at start: {problem}" for problem in rules.problems])
    return asyncio.run(_explain(settings, rules, found[0], session, asked))


async def _explain(
    settings: Settings, rules: CacheRules, recognised: Recognised, session: SessionInfo, asked: bool
) -> Explanation:
    url = settings.cache_catalog_url or settings.catalog_url
    catalog = parse_upstream(url) if url is not None else settings.upstream
    options = TlsContexts(settings.tls).catalog_options()
    dependencies = Dependencies(catalog.plain_url if asked else None, connect=options)
    try:
        await dependencies.refresh()
        out = _by_rules(rules, recognised, session)
        out.notes += [f"refused at start: {problem}" for problem in rules.problems]
        if dependencies.mode == "catalog":
            refused, warnings = check_rules(rules, dependencies)
            out.notes += [f"refused at start: {problem}" for problem in refused] + warnings
        else:
            out.notes.append(
                f"the server's catalogs were not read ({dependencies.last_error or 'no upstream is given'}): views, row-level "
                "security and what users have defined are not known"
            )
        if out.rule is not None:
            await _by_catalogs(out, recognised, session, dependencies)
        if out.cached and out.rule is not None:
            out.key = await _key(settings, recognised, session, out.rule, dependencies)
        return out
    finally:
        await dependencies.close()


def _by_rules(rules: CacheRules, recognised: Recognised, session: SessionInfo) -> Explanation:
    shape = shape_of(recognised.template)
    verdict = rules.judge(recognised, session)
    out = Explanation(recognised.template.text, recognised.template.fingerprint, tables=shape.tables)
    candidates = rules.candidates(recognised.template)
    for rule in rules.rules:
        out.rules.append((rule.name, _why_not(rule, rule in candidates, shape, recognised, session)))
    out.rule = verdict.allowing
    if verdict.decision is not None:
        out.ttl_s = verdict.decision.ttl_s
        if verdict.decision.dry_run:
            out.reason = f"the rule {verdict.rule!r} is a dry run, which looks up and compares and never answers"
    else:
        out.reason = _reason(verdict, rules, shape, recognised)
    if HINT in recognised.tags:
        out.notes.append(f"the comment says {recognised.tags[HINT]!r}; hints are set to {rules.hints}")
    return out


def _why_not(rule: AllowRule, candidate: bool, shape: Shape, recognised: Recognised, session: SessionInfo) -> str:
    if not candidate:
        if rule.tables is None:
            return "is for another statement"
        missing = rule.missing(shape.tables)
        return f"does not name {', '.join(missing)}" if missing else "is for reads of its tables, and this names none"
    unmet = rule.unmet(session, recognised.tags)
    if unmet is None:
        return ""
    what, wanted, found = unmet
    return f"is for {what} {' or '.join(map(repr, wanted))}, and this is {found!r}"


def _reason(verdict: Verdict, rules: CacheRules, shape: Shape, recognised: Recognised) -> str:
    if verdict.reason == NOT_IMMUTABLE:
        names = ", ".join(f"{name}()" for name in suspects(shape))
        return f"{names or 'it'} is not known to be immutable"
    if verdict.reason:
        return verdict.reason
    if verdict.allowing is not None:
        return "it is no plain read"
    if not rules.rules:
        return "there is no [[cache.allow]] rule"
    if shape.parsed and not shape.read_only:
        return "it is no plain read"
    return (
        "no rule is for it" if shape.parsed or not recognised.bare else "it is not understood, so no rule can be for it"
    )


async def _by_catalogs(
    out: Explanation, recognised: Recognised, session: SessionInfo, dependencies: Dependencies
) -> None:
    shape = shape_of(recognised.template)
    if dependencies.mode == "catalog" and not dependencies.covers(session.database):
        out.notes.append(f"the catalogs are those of the database {dependencies.database}")
    elif dependencies.mode == "catalog":
        blamed = suspects(shape)
        if blamed and out.reason.endswith("is not known to be immutable"):
            bare = [name.rpartition(".")[2] for name in blamed]
            words = {name: _WORDS[kind] for name, kind in await dependencies.fetch(_VOLATILITY, bare)}
            out.reason = "; ".join(
                f"{name}() is {words.get(name.rpartition('.')[2], 'not known to be immutable')}" for name in blamed
            )
    found = dependencies.reads(shape.tables, shape.functions, session.database, recognised.template)
    if not isinstance(found, str):
        out.depends_on = found
    elif out.cached:
        never = {table: why for table in shape.tables if (why := dependencies.never(table))}
        out.reason = ", ".join(f"{why}: {table}" for table, why in never.items()) or found


async def _key(
    settings: Settings, recognised: Recognised, session: SessionInfo, rule: AllowRule, dependencies: Dependencies
) -> list[tuple[str, str]]:
    shared = not rule.key_by_user and dependencies.impersonal(session.user, (), session.database)
    known = [f"{name} = {value}" for name, value in await dependencies.fetch(_VALUES, list(SETTINGS))]
    return [
        ("server", f"{settings.upstream.host}:{settings.upstream.port}" if dependencies.configured else "the upstream"),
        ("database", session.database or "that of the session"),
        ("user", "not in the key: key_by_user = false" if shared else session.user or "that of the session"),
        ("settings", f"{', '.join(known or SETTINGS)}, and every other one that the session sets or begins with"),
        ("text", recognised.bare),
        ("parameters", "types, formats and values as sent"),
        ("result", "formats of the columns, row limit, with or without RowDescription"),
    ]


def main(settings: Settings, sql: str, session: SessionInfo, *, as_json: bool, asked: bool) -> int:
    """Print the explanation. Exit code 0 if it would be cached, else 1."""
    logging.getLogger("pgloupe").addHandler(logging.NullHandler())  # what could not be read is one of the notes
    found = explain(settings, sql, session, asked=asked)
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=2) + "\n")
    else:
        show(found, sys.stdout)
    return 0 if found.cached else 1


def show(found: Explanation, stream: TextIO) -> None:
    """Print it for a person."""
    console = Console(file=stream)

    def line(label: str, text: str, style: str = "") -> None:
        console.print(
            f"  {label:<{_WIDTH}}{one_line(text)}", style=style, markup=False, highlight=False, soft_wrap=True
        )

    rule = found.rule
    if found.cached and rule is not None:
        head, style = f"yes, under the rule {rule.name!r}", "bold green"
    else:
        head, style = f"no: {found.reason}", "bold yellow"
    console.print(f"cached: {one_line(head)}", style=style, markup=False, highlight=False, soft_wrap=True)
    if found.template:
        line("template", found.template)
        line("id", found.fingerprint, "dim")
    if rule is not None and found.cached:
        stale = f", and {rule.stale_s:g} s more while a new one is fetched" if rule.stale_s else ""
        line("ttl", f"{found.ttl_s:g} s{stale}")
        line("at most", f"{rule.max_entry_bytes:,} bytes" + (f", {rule.max_rows:,} rows" if rule.max_rows else ""))
    if found.depends_on:
        line("depends on", ", ".join(found.depends_on))
    for number, (part, value) in enumerate(found.key):
        line("" if number else "key", f"{part}: {value}")
    for number, (name, why) in enumerate(found.rules):
        line("" if number else "rules", f"{name}: {why or 'is for it'}")
    for note in found.notes:
        line("note", note)
    if found.cached:
        line("note", "only outside of a transaction block, and while the session's settings can be followed")
