"""A write that runs once per row becomes one that writes all rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import sqlglot
from sqlglot import exp

from pgloupe_rules.rewrite import ask_for_keys, key_conditions
from pgloupe_rules.sqltree import (
    DIALECT,
    any_of,
    clause,
    condition_on,
    fresh,
    is_placeholder,
    numbers_in,
    parse,
    placeholder,
    write,
)

MAX_MEMO: Final = 1024

TypeOf = Callable[[str], str]
"""The type of a column by its name, "" where it is not known."""


def rewrite_write(template: str, varying: tuple[int, ...], types: dict[str, str] | None = None) -> tuple[str, str]:
    """SQL and a sentence on its use; "" where the template does not say enough. `varying` are the placeholders whose values
    varied, `types` those of the target's columns where the catalogs are known. Never raises."""
    return _rewrite(template, varying, tuple(sorted((types or {}).items())))


@lru_cache(maxsize=MAX_MEMO)
def _rewrite(template: str, varying: tuple[int, ...], types: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    try:
        tree = parse(template)
        if isinstance(tree, exp.Insert):
            return write(_two_rows(tree)), "Two rows are written out; a list has as many as there are."
        if isinstance(tree, exp.Delete):
            return _by_keys(tree, varying)
        if isinstance(tree, exp.Update):
            if not set(varying) & {number for item in tree.expressions for number in numbers_in(item)}:
                return _by_keys(tree, varying)
            return _update(tree, varying, dict(types))
    except Exception:  # advice is a courtesy; whatever sqlglot thinks of a template must not hide the finding
        return "", ""
    return "", ""


def _by_keys(tree: exp.Expression, varying: tuple[int, ...]) -> tuple[str, str]:
    """The same for all keys: what is written does not depend on the row."""
    if len(varying) == 1:
        found = condition_on(tree, varying[0])
        if found is None:
            return "", ""
        condition, column = found
        condition.replace(any_of(column, varying[0]))
        return write(tree), f"${varying[0]} takes an array of the keys."
    parts = key_conditions(tree, list(varying)) if varying else None
    if parts is None:
        return "", ""
    ask_for_keys(tree, parts)
    return write(tree), "Two keys are written out; a list has as many as there are rows."


def _two_rows(insert: exp.Insert) -> exp.Expression | None:
    """The INSERT with a second row of placeholders; None where placeholders stand elsewhere as well."""
    values = insert.expression
    if not isinstance(values, exp.Values) or len(values.expressions) != 1:
        return None
    row = values.expressions[0]
    numbers = numbers_in(row)
    if not numbers or len(numbers) != len(numbers_in(insert)):
        return None
    width = max(numbers)
    second = row.copy()
    for node in list(second.find_all(exp.Parameter, exp.Placeholder)):
        if not node.name.isdigit():
            return None
        node.replace(placeholder(int(node.name) + width))
    values.set("expressions", [row, second])
    return insert


def _update(update: exp.Update, varying: tuple[int, ...], types: dict[str, str]) -> tuple[str, str]:
    """`UPDATE … FROM` the rows: VALUES with the columns' types where they are known, else the fields of a JSON array, which
    take their types from the table."""
    table = update.this
    if not isinstance(table, exp.Table) or update.args.get("from_") or update.args.get("from"):
        return "", ""
    name = table.alias_or_name
    rows = fresh("data", update.sql())
    fields: dict[str, int] = {}
    for item in update.expressions:
        numbers = numbers_in(item)
        if not set(numbers) & set(varying):
            if item.expression.find(exp.Column):
                _qualify(item.expression, name)
            continue
        if not isinstance(item, exp.EQ) or len(numbers) != 1 or not is_placeholder(item.expression, numbers[0]):
            return "", ""
        fields[item.this.name] = numbers[0]
        item.set("expression", _field(item.this, rows))
    keys = [number for number in varying if number not in fields.values()]
    parts = key_conditions(update, keys) if keys else None
    if parts is None:
        return "", ""
    for condition, column in parts:
        if column.name in fields:
            return "", ""  # the key itself is changed
        fields[column.name] = 0
        condition.replace(exp.EQ(this=_qualified(column, name), expression=_field(column, rows)))
    _qualify(update.args["where"], name)
    columns = [field for field, number in fields.items() if not number] + [f for f, number in fields.items() if number]
    if all(types.get(column) for column in columns):
        return _from_values(update, rows, columns, types), "Two rows are written out; a list has as many as there are."
    row_type = _bare(table).sql(dialect=DIALECT)
    last = max([0, *numbers_in(update)]) + 1
    function = f"SELECT 1 FROM jsonb_populate_recordset(NULL::{row_type}, ${last}) AS {rows}"  # noqa: S608 (for reading)
    update.set("from_", clause(sqlglot.parse_one(function, dialect=DIALECT), "from"))
    shown = ", ".join(f'"{column}": …' for column in columns)
    return write(update), f"Its last parameter is a JSON array of the rows, [{{{shown}}}, …]."


def _from_values(update: exp.Update, rows: str, columns: list[str], types: dict[str, str]) -> str:
    first = max([0, *numbers_in(update)]) + 1
    shown = []
    for row in range(2):
        cells = [f"${first + row * len(columns) + place}::{types[column]}" for place, column in enumerate(columns)]
        shown.append(f"({', '.join(cells)})")
    names = ", ".join(_quoted(column) for column in columns)
    values = f"SELECT 1 FROM (VALUES {', '.join(shown)}) AS {rows}({names})"  # noqa: S608 (for reading, and quoted)
    source = sqlglot.parse_one(values, dialect=DIALECT)
    update.set("from_", clause(source, "from"))
    return write(update)


def _field(column: exp.Expression, rows: str) -> exp.Column:
    identifier = column.this if isinstance(column, exp.Column) else column
    return exp.Column(this=identifier.copy(), table=exp.to_identifier(rows))


def _qualified(column: exp.Column, name: str) -> exp.Column:
    return column.copy() if column.table else exp.Column(this=column.this.copy(), table=exp.to_identifier(name))


def _qualify(expression: exp.Expression, name: str) -> None:
    for column in list(expression.find_all(exp.Column)):
        if not column.table:
            column.set("table", exp.to_identifier(name))


def _bare(table: exp.Table) -> exp.Table:
    copy = table.copy()
    copy.set("alias", None)
    return copy


def _quoted(name: str) -> str:
    return name if name.isidentifier() and name == name.lower() else '"' + name.replace('"', '""') + '"'
