"""Tables and predicates of a parsed template: which column of which table a placeholder is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from sqlglot import exp

from pgloupe_rules.types import Predicate


def name_of(identifier: object) -> str:
    return str(identifier.this) if isinstance(identifier, exp.Identifier) else ""


def table_name(table: exp.Table) -> str | None:
    """`name` or `schema.name`; None for a function, a CTE and the list of FOR UPDATE OF."""
    name = name_of(table.this)
    if not name or isinstance(table.parent, exp.Lock):
        return None
    schema = name_of(table.args.get("db"))
    if schema:
        return f"{schema}.{name}"
    return None if _is_cte(table, name) else name


def _is_cte(table: exp.Table, name: str) -> bool:
    """Whether a bare table name means a CTE that is visible where it stands (documentation, section 7.8)."""
    came_from: exp.Expr = table
    node = table.parent
    inside: exp.Expr | None = None  # the CTE that we climbed out of
    while node is not None:
        clause = node.args.get("with_") or node.args.get("with")
        if isinstance(clause, exp.With):
            for cte in clause.expressions:
                if came_from is clause and cte is inside and not clause.args.get("recursive"):
                    break
                if cte.alias == name:
                    return True
        if isinstance(node, exp.CTE):
            inside = node
        came_from = node
        parent = node.parent
        node = parent
    return False


def sources_of(scope: exp.Expr | None) -> list[exp.Expr]:
    """What one query reads from: the items of FROM, JOIN and USING, and the target of a write."""
    if scope is None:
        return []
    items: list[object] = []
    if isinstance(scope, (exp.Insert, exp.Update, exp.Delete, exp.Merge)):
        items.append(scope.this.this if isinstance(scope.this, exp.Schema) else scope.this)
    for name in ("from_", "from"):
        clause = scope.args.get(name)
        if isinstance(clause, exp.From):
            items.append(clause.this)
    using = scope.args.get("using")
    items.extend(using if isinstance(using, list) else [using])
    items.extend(join.this for join in scope.args.get("joins") or [])
    items.extend(scope.args.get("laterals") or [])
    out: list[exp.Expr] = []
    for item in items:
        if isinstance(item, exp.Expr):
            out.append(item)
            out.extend(join.this for join in item.args.get("joins") or [])
    return out


_SCOPES: Final = (exp.Select, exp.Update, exp.Delete, exp.Merge, exp.Insert)


def _table_of(column: exp.Column) -> str | None:
    """The table of a column, where the text alone makes it certain."""
    qualifier = column.table
    scope = column.find_ancestor(*_SCOPES)
    if not qualifier:
        sources = sources_of(scope)
        if len(sources) == 1 and isinstance(sources[0], exp.Table) and scope is not None and not _is_correlated(scope):
            return table_name(sources[0])
        return None
    while scope is not None:
        for source in sources_of(scope):
            if source.alias_or_name == qualifier:
                return table_name(source) if isinstance(source, exp.Table) else None
        scope = scope.find_ancestor(*_SCOPES)
    return None


def _is_correlated(scope: exp.Expr) -> bool:
    """Whether a bare column of this query may belong to an outer one: not from a CTE or a plain subquery in FROM."""
    hidden = False
    node = scope
    parent = node.parent
    while parent is not None:
        if isinstance(parent, exp.CTE) or (
            isinstance(parent, (exp.From, exp.Join)) and not isinstance(node, exp.Lateral)
        ):
            hidden = True
        elif isinstance(parent, exp.Insert):
            hidden = False
        elif isinstance(parent, _SCOPES):
            if not hidden:
                return True
            hidden = False
        node, parent = parent, parent.parent
    return False


_COMPARISONS: Final[dict[type[exp.Expr], str]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.Like: "like",
    exp.ILike: "ilike",
    exp.NullSafeEQ: "is not distinct from",
    exp.NullSafeNEQ: "is distinct from",
}

_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}


MAX_COMPARISONS: Final = 200
"""Comparisons of one template that are looked at: each of them looks upwards, and a chain of conditions is as deep as it is
long."""


def find_predicates(tree: exp.Expr) -> Iterator[Predicate]:
    for node in islice(tree.find_all(*_COMPARISONS, exp.In, exp.Between, bfs=False), MAX_COMPARISONS):
        if not _is_condition(node):
            continue
        column = _column(node.this)
        if isinstance(node, exp.In):
            prefix = "not in" if isinstance(node.parent, exp.Not) else "in"
            items = node.expressions
            if column is not None:
                for item in items:
                    yield from _predicate(column, item, prefix)
            elif isinstance(node.this, exp.Tuple) and len(items) == 1 and isinstance(items[0], exp.Tuple):
                for left, right in zip(node.this.expressions, items[0].expressions, strict=False):
                    member = _column(left)
                    if member is not None:
                        yield from _predicate(member, right, prefix)
        elif isinstance(node, exp.Between):
            if column is not None and not isinstance(node.parent, exp.Not):
                yield from _predicate(column, node.args.get("low"), ">=")
                yield from _predicate(column, node.args.get("high"), "<=")
        elif not isinstance(node.parent, exp.Not):
            yield from _comparison(node, _COMPARISONS[type(node)])


def _comparison(node: exp.Expr, operator: str) -> Iterator[Predicate]:
    left, right = node.this, node.args.get("expression")
    column = _column(left)
    if column is not None:
        if isinstance(right, (exp.Any, exp.All)):
            word = "any" if isinstance(right, exp.Any) else "all"
            yield from _predicate(column, right.this, f"{operator} {word}")
        else:
            yield from _predicate(column, right, operator)
        return
    column = _column(right)
    if column is not None and operator in _MIRRORED:
        yield from _predicate(column, left, _MIRRORED[operator])
    elif isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple) and operator == "=":
        for first, second in zip(left.expressions, right.expressions, strict=False):
            column = _column(first)
            if column is not None:
                yield from _predicate(column, second, operator)


def _predicate(column: exp.Column, value: object, operator: str) -> Iterator[Predicate]:
    placeholder = _placeholder(value)
    if placeholder:
        yield Predicate(placeholder, column.name, _table_of(column), operator)


def _is_condition(node: exp.Expr) -> bool:
    """Whether a comparison stands in WHERE, ON or HAVING rather than in a SELECT list or a SET."""
    child = node
    parent = node.parent
    while parent is not None:
        if isinstance(parent, (exp.Where, exp.Having)):
            return True
        if isinstance(parent, exp.Join):
            return parent.args.get("on") is child
        if isinstance(parent, exp.Merge):
            return parent.args.get("on") is child
        if isinstance(parent, (exp.Select, exp.Update, exp.Case, exp.Func)) and not isinstance(parent, exp.Connector):
            return False
        child, parent = parent, parent.parent
    return False


def _column(node: object) -> exp.Column | None:
    while isinstance(node, exp.Paren):
        node = node.this
    return node if isinstance(node, exp.Column) and isinstance(node.this, exp.Identifier) else None


def _placeholder(node: object) -> int:
    """Number of the placeholder that an expression is, casts and parentheses aside; 0 if it is none."""
    while isinstance(node, (exp.Paren, exp.Cast)) or (isinstance(node, exp.Array) and len(node.expressions) == 1):
        node = node.expressions[0] if isinstance(node, exp.Array) else node.this
    if isinstance(node, exp.Parameter) and isinstance(node.this, exp.Literal) and node.this.this.isdigit():
        return int(node.this.this)
    return 0
