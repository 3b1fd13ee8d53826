"""A finding becomes advice: what to write instead, with the SQL where it can be written safely.

The SQL is made from the template by one change to its parsed form and keeps the placeholders' numbers; the placeholder
of the key then takes an array. Where the template is of another form than those understood here, `sql` is empty and the
text says what to do. All SQL given has been parsed again. Column and table names may need the schema that the
application knows and the wire does not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import sqlglot
from sqlglot import exp

from pgloupe_rules.types import Advice, Finding

MAX_TEMPLATE_CHARS: Final = 20_000
"""A longer template gets advice without SQL."""
MAX_MEMO: Final = 1024
_DIALECT: Final = "postgres"


def advise(finding: Finding) -> Advice | None:
    """The advice for a finding, None where there is nothing to say about its rule. Never raises."""
    if finding.rule == "redundant_query":
        return Advice(
            "reuse",
            "",
            f"The same question with the same parameters was asked {finding.count} times and nothing was written to its "
            "tables in between. Ask once before the loop and keep the answer.",
        )
    number = finding.child.parameter if finding.child is not None else 0
    column = finding.child.column if finding.child is not None else ""
    if finding.rule == "n_plus_one":
        parent = finding.parent
        if parent is not None and parent.fingerprint == finding.fingerprint:
            return Advice(
                "join",
                "",
                f"A tree is walked node by node over {column or 'its parent key'}. One query with a recursive CTE "
                "(WITH RECURSIVE … UNION ALL …) reads all levels; one query for each level with = ANY of the keys is "
                "the smaller change.",
            )
        kind, sql = _read(finding.template, number)
        return Advice(kind, sql, _read_text(finding, kind))
    if finding.rule == "n_plus_one_write":
        return Advice("batch_write", _write(finding.template), _write_text(finding))
    return None


def _read_text(finding: Finding, kind: str) -> str:
    source = "the keys"
    if finding.parent is not None:
        table = finding.parent.tables[0] if finding.parent.tables else "the list"
        source = f"the values of {table}.{finding.parent.column or '?'}"
    one = {
        "group_by": "count for all of them with GROUP BY",
        "lateral": "take the first rows for each of them with LATERAL",
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


@lru_cache(maxsize=MAX_MEMO)
def _read(template: str, number: int) -> tuple[str, str]:
    """Kind of advice and SQL for a SELECT that is run per value of placeholder `number`."""
    try:
        select = _parse(template)
        if (
            not isinstance(select, exp.Select)
            or not number
            or select.args.get("from_", select.args.get("from")) is None
        ):
            return "any_array", ""
        plain = not (select.args.get("distinct") or select.args.get("having") or select.args.get("offset"))
        grouped = select.args.get("group") is not None
        aggregate = not grouped and any(item.find(exp.AggFunc) for item in select.expressions)
        limited = select.args.get("limit") is not None or select.args.get("fetch") is not None
        kind = "group_by" if aggregate else "lateral" if limited and select.args.get("order") else "any_array"
        column = _key_column(select, number)
        if column is None or not plain or grouped or select.args.get("with_", select.args.get("with")) is not None:
            return kind, ""
        if kind == "group_by":
            _ask_for_all(select, column, number)
            key = column.copy()
            select.set("expressions", [key, *select.expressions])
            select.set("group", exp.Group(expressions=[column.copy()]))
            select.set("order", None)
            select.set("limit", None)
            return kind, _checked(select)
        if kind == "lateral":
            return kind, _checked(_lateral(select, column, number))
        _ask_for_all(select, column, number)
        if limited:
            # One row per key was asked for without an order: any row will do, the client takes the first of each key.
            select.set("limit", None)
            select.set("fetch", None)
        if not _selects(select, column):
            select.set("expressions", [column.copy(), *select.expressions])
        return kind, _checked(select)
    except Exception:  # advice is a courtesy; whatever sqlglot thinks of a template must not hide the finding
        return "any_array", ""


def _parse(template: str) -> exp.Expression | None:
    if len(template) > MAX_TEMPLATE_CHARS:
        return None
    tree = sqlglot.parse_one(template, dialect=_DIALECT)
    return tree if isinstance(tree, exp.Expression) else None


def _checked(tree: exp.Expression | None) -> str:
    """The SQL of a tree, "" where it would not be parsed again."""
    if tree is None:
        return ""
    sql = tree.sql(dialect=_DIALECT)
    again = sqlglot.parse_one(sql, dialect=_DIALECT)
    return sql if again is not None and not isinstance(again, exp.Command) else ""


def _is_placeholder(node: object, number: int) -> bool:
    if isinstance(node, (exp.Paren, exp.Tuple, exp.Cast)):
        inner = node.expressions if isinstance(node, exp.Tuple) else [node.this]
        return len(inner) == 1 and _is_placeholder(inner[0], number)
    return isinstance(node, (exp.Parameter, exp.Placeholder)) and node.name == str(number)


def _condition(select: exp.Expression, number: int) -> exp.Expression | None:
    """The comparison `column = $number` (or IN, or = ANY) that is one of the AND-ed conditions of the WHERE."""
    where = select.args.get("where")
    if where is None:
        return None
    condition = where.this
    for part in condition.flatten() if isinstance(condition, exp.And) else [condition]:
        bare = part.unnest()
        if isinstance(bare, exp.EQ):
            for side, other in ((bare.this, bare.expression), (bare.expression, bare.this)):
                key = other.this if isinstance(other, exp.Any) else other
                if isinstance(side, exp.Column) and _is_placeholder(key, number):
                    return bare
        elif isinstance(bare, exp.In) and isinstance(bare.this, exp.Column):
            items = bare.expressions
            if len(items) == 1 and _is_placeholder(items[0], number):
                return bare
    return None


def _key_column(tree: exp.Expression, number: int) -> exp.Column | None:
    condition = _condition(tree, number)
    if condition is None:
        return None
    if isinstance(condition.this, exp.Column):
        return condition.this
    other = condition.expression
    return other if isinstance(other, exp.Column) else None


def _ask_for_all(tree: exp.Expression, column: exp.Column, number: int) -> None:
    condition = _condition(tree, number)
    assert condition is not None
    array = exp.Any(this=exp.Paren(this=exp.Parameter(this=exp.Literal.number(number))))
    condition.replace(exp.EQ(this=column.copy(), expression=array))


def _selects(select: exp.Select, column: exp.Column) -> bool:
    """Whether the select list has the column, so that the client can tell whose row it is."""
    for item in select.expressions:
        if isinstance(item, exp.Star):
            return True
        if isinstance(item, exp.Column):
            same_table = not item.table or not column.table or item.table == column.table
            if same_table and (isinstance(item.this, exp.Star) or item.name == column.name):
                return True
    return False


def _lateral(select: exp.Select, column: exp.Column, number: int) -> exp.Expression | None:
    """`SELECT … FROM (keys) CROSS JOIN LATERAL (the child for one key)`; of one table only."""
    if select.args.get("joins"):
        return None
    source = select.args.get("from_", select.args.get("from"))
    table = source.this if source is not None else None
    if not isinstance(table, exp.Table):
        return None
    keys = exp.select(exp.alias_(column.copy(), "key")).distinct().from_(table.copy())
    array = exp.Any(this=exp.Paren(this=exp.Parameter(this=exp.Literal.number(number))))
    keys = keys.where(exp.EQ(this=column.copy(), expression=array))
    condition = _condition(select, number)
    assert condition is not None
    condition.replace(exp.EQ(this=column.copy(), expression=exp.column("key", table="keys")))
    lateral = exp.Lateral(this=exp.Subquery(this=select), alias=exp.TableAlias(this=exp.to_identifier("child")))
    return (
        exp.select(exp.column("key", table="keys"), exp.Column(this=exp.Star(), table=exp.to_identifier("child")))
        .from_(exp.alias_(exp.Subquery(this=keys), "keys", table=True))
        .join(lateral, join_type="cross")
    )


@lru_cache(maxsize=MAX_MEMO)
def _write(template: str) -> str:
    """SQL that writes all rows, "" where the template does not say enough."""
    try:
        tree = _parse(template)
        if isinstance(tree, exp.Insert):
            return _checked(_two_rows(tree))
        if isinstance(tree, exp.Delete) or (isinstance(tree, exp.Update) and not _sets_placeholder(tree)):
            numbers = _numbers(tree.args.get("where"))
            if len(numbers) == 1:
                column = _key_column(tree, numbers[0])
                if column is not None:
                    _ask_for_all(tree, column, numbers[0])
                    return _checked(tree)
    except Exception:  # as above
        return ""
    return ""


def _numbers(tree: exp.Expression | None) -> list[int]:
    if tree is None:
        return []
    found = tree.find_all(exp.Parameter, exp.Placeholder)
    return [int(node.name) for node in found if node.name.isdigit()]


def _sets_placeholder(update: exp.Update) -> bool:
    return any(_numbers(item) for item in update.expressions)


def _two_rows(insert: exp.Insert) -> exp.Expression | None:
    """The INSERT with a second row of placeholders; None where placeholders stand elsewhere as well."""
    values = insert.expression
    if not isinstance(values, exp.Values) or len(values.expressions) != 1:
        return None
    row = values.expressions[0]
    numbers = _numbers(row)
    if not numbers or len(numbers) != len(_numbers(insert)):
        return None
    width = max(numbers)
    second = row.copy()
    for node in list(second.find_all(exp.Parameter, exp.Placeholder)):
        if not node.name.isdigit():
            return None
        node.replace(exp.Parameter(this=exp.Literal.number(int(node.name) + width)))
    values.set("expressions", [row, second])
    return insert
