"""Rules that can never hit, as far as the server's catalogs tell.

What a rule's own text tells is found when it is read (`CacheRules.problems`). This is what only the server knows: row-level
security, foreign and temporary tables, views over what moves, functions that hide a built-in one. A rule is refused if none
of its reads could ever be stored; where some could, the rest is a warning. A table that does not exist may come later.
"""

from __future__ import annotations

from pgloupe.cache.dependencies import Dependencies
from pgloupe_rules.allow import AllowRule, any_matches
from pgloupe_rules.cacheable import CacheRules
from pgloupe_rules.shape import shape_of

_UNKNOWN = "unknown table"


def check_rules(rules: CacheRules, dependencies: Dependencies) -> tuple[list[str], list[str]]:
    """Sentences: why rules are refused, and warnings. Both are empty while the catalogs are not known."""
    refused: list[str] = []
    warnings: list[str] = []
    if dependencies.mode != "catalog":
        return refused, warnings
    for rule in rules.rules:
        if rule.databases and not any_matches(rule.databases, dependencies.database):
            continue  # it is for a database whose catalogs nobody has read
        _check(rule, rules, dependencies, refused, warnings)
    return refused, warnings


def _check(
    rule: AllowRule, rules: CacheRules, dependencies: Dependencies, refused: list[str], warnings: list[str]
) -> None:
    template = rules.templates.get(rule.name)
    shape = shape_of(template) if template is not None else None
    tables = shape.tables if shape is not None else tuple(sorted(rule.tables or ()))
    never = {table: why for table in tables if (why := dependencies.never(table))}
    unknown = [table for table, why in never.items() if why == _UNKNOWN]
    hopeless = {table: why for table, why in never.items() if why != _UNKNOWN}
    where = f"the cache rule {rule.name!r}"
    if hopeless and (shape is not None or len(hopeless) == len(tables)):
        refused.append(
            f"{where} can never hit: {_named(hopeless)}; take them out of the statement, or delete the rule"
            if shape is not None
            else f"{where} can never hit: {_named(hopeless)}; name other tables, or delete the rule"
        )
        return
    secured = [table for table, why in hopeless.items() if why == "row-level security"]
    if secured and not rule.key_by_user:
        refused.append(
            f"{where} has key_by_user = false and row-level security on {', '.join(secured)}: what a user may read depends "
            "on who asks; take these tables or key_by_user out of the rule"
        )
        return
    if shape is not None:
        found = dependencies.reads(shape.tables, shape.functions)
        if isinstance(found, str) and not unknown:
            refused.append(f"{where} can never hit: {found}; change the template, or delete the rule")
            return
    if hopeless:
        warnings.append(f"{where} is of no use for some of its tables: {_named(hopeless)}")
    if unknown:
        warnings.append(
            f"{where} names {', '.join(unknown)}, which the database {dependencies.database} does not have yet"
        )


def _named(reasons: dict[str, str]) -> str:
    return ", ".join(f"{table} ({why})" for table, why in sorted(reasons.items()))
