"""Parsed templates as advice needs them: parse, take apart, number the placeholders, write out again.

A template is only changed where sqlglot understood it: written out unchanged it must have the fingerprint that it had
before. Otherwise there is no SQL, since wrong SQL is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import sqlglot
from sqlglot import exp

from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Role, Stands

MAX_TEMPLATE_CHARS: Final = 20_000
"""A longer template gets advice without SQL."""
DIALECT: Final = "postgres"

_NOT: Final = re.compile(r'((?:"[^"]{1,64}"|[\w.]){1,200}) NOT (I?LIKE|IN|BETWEEN)\b')
"""sqlglot writes `NOT a IN (…)` for `a NOT IN (…)`."""


def parse(template: str) -> exp.Expression | None:
    """The tree of a template; None where it is too long, no statement, or would not survive the way there and back. The
    lists that a template has behind one placeholder, `IN ($1)`, are arrays in it. Raises whatever sqlglot raises."""
    if len(template) > MAX_TEMPLATE_CHARS:
        return None
    tree = sqlglot.parse_one(template, dialect=DIALECT)
    if not isinstance(tree, exp.Expression):
        return None
    before, after = recognise(_NOT.sub(r"NOT \1 \2", template)), recognise(tree.sql(dialect=DIALECT))
    if len(before) != 1 or len(after) != 1 or before[0].template.fingerprint != after[0].template.fingerprint:
        return None
    for node in list(tree.find_all(exp.In)):
        if len(node.expressions) == 1 and isinstance(node.expressions[0], (exp.Parameter, exp.Placeholder)):
            array = exp.Paren(this=node.expressions[0].copy())
            if isinstance(node.parent, exp.Not):
                node.parent.replace(exp.NEQ(this=node.this.copy(), expression=exp.All(this=array)))
            else:
                node.replace(exp.EQ(this=node.this.copy(), expression=exp.Any(this=array)))
    return tree


def write(tree: exp.Expression | None) -> str:
    """The SQL of a tree, its placeholders numbered without gaps; "" where it would not be parsed again."""
    return write_out(tree, {})[0]


def write_out(tree: exp.Expression | None, roles: Mapping[int, Role]) -> tuple[str, tuple[Role, ...]]:
    """As `write`, and what each placeholder of the SQL stands for. `roles` says it by the numbers that the tree has; those
    that it leaves out stand for the child's of the same number."""
    if tree is None:
        return "", ()
    numbers = sorted(set(numbers_in(tree)))
    dense = {number: place for place, number in enumerate(numbers, 1)}
    for node in placeholders(tree):
        node.replace(placeholder(dense[int(node.name)]))
    sql = tree.sql(dialect=DIALECT)
    again = sqlglot.parse_one(sql, dialect=DIALECT)
    if again is None or isinstance(again, exp.Command):
        return "", ()
    return sql, tuple([roles.get(number) or Role(Stands.CHILD, number) for number in numbers])


def placeholder(number: int) -> exp.Parameter:
    return exp.Parameter(this=exp.Literal.number(number))


def placeholders(tree: exp.Expression | None) -> list[exp.Expression]:
    """The placeholders in a tree, in no particular order."""
    if tree is None:
        return []
    return [node for node in tree.find_all(exp.Parameter, exp.Placeholder) if node.name.isdigit()]


def numbers_in(tree: exp.Expression | None) -> list[int]:
    """The numbers of the placeholders in a tree, each as often as it stands there."""
    return [int(node.name) for node in placeholders(tree)]


def is_placeholder(node: object, number: int) -> bool:
    """Whether an expression is `$number`, casts, parentheses and a list or array of one aside."""
    if isinstance(node, (exp.Tuple, exp.Array)):
        return len(node.expressions) == 1 and is_placeholder(node.expressions[0], number)
    if isinstance(node, (exp.Paren, exp.Cast)):
        return is_placeholder(node.this, number)
    return isinstance(node, (exp.Parameter, exp.Placeholder)) and node.name == str(number)


def conditions(tree: exp.Expression) -> list[exp.Expression]:
    """The AND-ed conditions of the WHERE."""
    where = tree.args.get("where")
    if where is None:
        return []
    found: list[exp.Expression] = []
    ahead = [where.this]
    while ahead:
        node = ahead.pop()
        if isinstance(node, exp.And):
            ahead += [node.expression, node.this]
        elif isinstance(node, exp.Paren):
            ahead.append(node.this)
        else:
            found.append(node)
    return found


def condition_on(tree: exp.Expression, number: int) -> tuple[exp.Expression, exp.Column] | None:
    """The AND-ed condition `column = $number` (or IN of one, or = ANY of an array of one) of the WHERE, and its column.
    None where `$number` stands elsewhere, or more than once."""
    if numbers_in(tree).count(number) != 1:
        return None
    for part in conditions(tree):
        if isinstance(part, exp.EQ):
            for side, other in ((part.this, part.expression), (part.expression, part.this)):
                key = other.this if isinstance(other, exp.Any) else other
                if isinstance(side, exp.Column) and is_placeholder(key, number):
                    return part, side
        elif isinstance(part, exp.In) and isinstance(part.this, exp.Column):
            items = part.expressions
            if len(items) == 1 and is_placeholder(items[0], number) and not isinstance(part.parent, exp.Not):
                return part, part.this
    return None


def any_of(column: exp.Column, number: int) -> exp.EQ:
    """`column = ANY($number)`."""
    return exp.EQ(this=column.copy(), expression=exp.Any(this=exp.Paren(this=placeholder(number))))


def clause(tree: exp.Expr, name: str) -> exp.Expression | None:
    """A clause of a query by its name, whose key in sqlglot has an underscore where Python reserves the word."""
    found = tree.args.get(f"{name}_") or tree.args.get(name)
    return found if isinstance(found, exp.Expression) else None


def table_of(select: exp.Expression, column: exp.Column) -> exp.Table | None:
    """The table of FROM or JOIN that a column belongs to, where its qualifier or there being one table says so."""
    source = clause(select, "from")
    items: list[object] = [source.this] if source is not None else []
    items += [join.this for join in select.args.get("joins") or []]
    if column.table:
        items = [item for item in items if isinstance(item, exp.Expression) and item.alias_or_name == column.table]
    if len(items) != 1 or not isinstance(items[0], exp.Table) or not isinstance(items[0].this, exp.Identifier):
        return None
    table = items[0]
    inside = clause(select, "with")
    if inside is not None and any(cte.alias == table.name for cte in inside.expressions):
        return None
    return table


def fresh(name: str, *texts: str) -> str:
    """The name, with a number behind it where one of the texts has it already."""
    taken = " ".join(texts).lower()
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}{number}"
    return candidate
