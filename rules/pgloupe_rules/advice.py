"""A finding becomes advice: what to write instead, with the SQL where it can be written safely.

The SQL is made from the template by changes to its parsed form (see `rewrite` and `batch`) and keeps the order of the
placeholders; the placeholder of the key then takes an array. Where the template is of another form than those understood
there, `sql` is empty and the text says what to do. All SQL given has been parsed again. Column and table names may need the
schema that the application knows and the wire does not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sqlglot import exp

from pgloupe_rules.batch import rewrite_write
from pgloupe_rules.catalog import Catalog
from pgloupe_rules.orm import line_for
from pgloupe_rules.rewrite import rewrite_read
from pgloupe_rules.sqltree import clause, condition_on, conditions, numbers_in, parse, write_out
from pgloupe_rules.types import Advice, Finding, Role, Stands

MAX_MEMO: Final = 1024

_NOTHING: Final[tuple[str, tuple[Role, ...]]] = ("", ())


def advise(finding: Finding, catalog: Catalog | None = None) -> Advice | None:
    """The advice for a finding, None where there is nothing to say about its rule. `catalog` is that of its database, where
    it is known. Never raises."""
    if finding.rule == "redundant_query":
        return Advice(
            "reuse",
            "",
            f"The same question with the same parameters was asked {finding.count} times and nothing was written to its "
            "tables in between. Ask once before the loop and keep the answer.",
        )
    child = finding.child
    number = child.parameter if child is not None else 0
    varying = child.varying if child is not None else ()
    line = line_for(finding.rule, finding.tags, finding.samples)
    if finding.rule == "n_plus_one":
        parent = finding.parent
        if parent is not None and parent.fingerprint == finding.fingerprint:
            return _tree_advice(finding, number, varying, line)
        found = rewrite_read(
            finding.template,
            number,
            varying,
            parent.template if parent is not None else "",
            (parent.output or parent.column) if parent is not None else "",
            child is not None and child.unique,
        )
        text = _joined(_read_text(finding, found.kind), found.note if found.sql else "", line)
        return Advice(found.kind, found.sql, text, found.roles)
    if finding.rule == "n_plus_one_write":
        numbers = varying or ((number,) if number else ())
        sql, note = rewrite_write(finding.template, numbers, _types(finding, catalog))
        return Advice("batch_write", sql, _joined(_write_text(finding), note if sql else "", line))
    return None


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _types(finding: Finding, catalog: Catalog | None) -> dict[str, str]:
    """The types of the columns of the table that is written, where they are known for certain."""
    return catalog.types(finding.tables[0]) if catalog is not None and finding.tables else {}


def _tree_advice(finding: Finding, number: int, varying: tuple[int, ...], line: str) -> Advice:
    child, parent = finding.child, finding.parent
    column = child.column if child is not None else ""
    output = (parent.output or parent.column) if parent is not None else ""
    sql, roles = _NOTHING if len(varying) > 1 else _recursive(finding.template, number, output)
    text = (
        f"A tree is walked node by node over {column or 'its parent key'}. One query with a recursive CTE "
        "(WITH RECURSIVE … UNION ALL …) reads all levels; one query for each level with = ANY of the keys is "
        "the smaller change."
    )
    note = f"${number} is the key at which it begins." if sql else ""
    return Advice("join", sql, _joined(text, note, line), roles)


@lru_cache(maxsize=MAX_MEMO)
def _recursive(template: str, number: int, output: str) -> tuple[str, tuple[Role, ...]]:
    """`WITH RECURSIVE` over the template: its rows, and those for the keys in them; "" where it is not of one plain table.
    With what its placeholders stand for."""
    try:
        first, following = parse(template), parse(template)
        if not isinstance(first, exp.Select) or not isinstance(following, exp.Select):
            return _NOTHING
        plain = {"expressions", "from", "from_", "where", "order"}
        if any(value and name not in plain for name, value in first.args.items()):
            return _NOTHING
        source = clause(first, "from")
        source = source.this if source is not None else None
        if not isinstance(source, exp.Table) or len(list(first.find_all(exp.Select))) > 1:
            return _NOTHING
        stars = [item for item in first.expressions if item.is_star]
        if not stars and [item.alias_or_name for item in first.expressions].count(output) != 1:
            return _NOTHING
        found = condition_on(following, number)
        if found is None or len(numbers_in(following)) != len(conditions(following)):
            return _NOTHING
        condition, column = found
        name = source.alias_or_name
        for select in (first, following):
            select.set("order", None)
            for bare in list(select.find_all(exp.Column)):
                if not bare.table and not isinstance(bare.this, exp.Star):
                    bare.set("table", exp.to_identifier(name, quoted=source.this.args.get("quoted", False)))
            select.set(
                "expressions",
                [
                    exp.Column(this=exp.Star(), table=exp.to_identifier(name)) if isinstance(item, exp.Star) else item
                    for item in select.expressions
                ],
            )
        key = exp.column(output, table="tree", quoted=not (output.isidentifier() and output == output.lower()))
        condition.replace(exp.EQ(this=column.copy(), expression=key))
        following.append("joins", exp.Join(this=exp.to_table("tree"), kind="CROSS"))
        union = exp.Union(this=first, expression=following, distinct=False)
        tree = exp.select("*").from_("tree")
        whole = tree.with_("tree", as_=union, recursive=True)
        return write_out(whole, {number: Role(Stands.ROOT, number)})
    except Exception:  # as in `rewrite`
        return _NOTHING


def _read_text(finding: Finding, kind: str) -> str:
    source = "the keys"
    if finding.parent is not None:
        table = finding.parent.tables[0] if finding.parent.tables else "the list"
        source = f"the values of {table}.{finding.parent.column or '?'}"
    one = {
        "group_by": "count for all of them with GROUP BY",
        "lateral": "take the rows for each of them with LATERAL",
        "join": "join the two queries",
    }.get(kind, "ask for all of them at once with = ANY, or join the two queries")
    return (
        f"Instead of {finding.count} queries, one for each of {source}, {one}. In an ORM that is eager loading: joined, "
        "or in a second query for all keys."
    )


def _write_text(finding: Finding) -> str:
    verb = finding.template[:6].upper()
    how = {
        "INSERT": "Put the rows into one INSERT with several rows of VALUES, or pass one array for each column to unnest",
        "DELETE": "Delete all rows at once with = ANY of the keys",
    }.get(
        verb,
        "Write all rows with one statement: UPDATE … FROM (VALUES …) or unnest, = ANY where the new value is the same",
    )
    return f"{how}, instead of {finding.count} statements that each wait for their answer. At least pipeline them."
