"""A SELECT that runs once per key becomes one that answers for all keys.

Four forms, the simplest that is right for the template:

any_array   `column = ANY($n)`, with the column in the select list so that the client can tell whose row it is;
group_by    the same for aggregates, grouped by the column;
lateral     where the template takes the first rows of each key, or counts and groups within one: the template unchanged
            but for the key, once for each key that is there;
join        where the key stands in an expression, a subquery or an OR: the same over the rows of the parent query.

The rows of one key are those that the template gave for it, and in their order where it had one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from sqlglot import exp

from pgloupe_rules.sqltree import (
    any_of,
    clause,
    condition_on,
    conditions,
    fresh,
    numbers_in,
    parse,
    placeholder,
    placeholders,
    table_of,
    write_out,
)
from pgloupe_rules.types import Role, Stands

MAX_MEMO: Final = 1024
UNIQUE: Final = "id"
"""The one name of a column that is surely a key by itself where nobody knows the catalogs."""


class Rewrite(NamedTuple):
    """What to write instead; `sql` is "" where no safe form is known. `note` is a sentence on its use."""

    kind: str
    sql: str = ""
    note: str = ""
    roles: tuple[Role, ...] = ()
    """Of each placeholder of `sql`."""


_ARRAY: Final = "${} takes an array of the keys."


@lru_cache(maxsize=MAX_MEMO)
def rewrite_read(
    template: str, number: int, varying: tuple[int, ...], parent: str = "", output: str = "", unique: bool = False
) -> Rewrite:
    """For a SELECT that runs per value of placeholder `number`. `varying` are all placeholders whose values varied;
    `parent` is the template of the query whose column `output` had the keys; `unique` says that the key's column has each
    value once. Never raises."""
    try:
        tree = parse(template)
        if tree is None or not number:
            return Rewrite("any_array")
        others = set(varying) - {number}
        if others:
            return _composite(tree, sorted(others | {number}))
        if isinstance(tree, exp.Select):
            found = _by_key(tree, number, unique)
            if found is not None and found.sql:
                return found
            kind = found.kind if found is not None else "any_array"
        else:
            kind = "any_array"
        if parent and output:
            fresh_tree = parse(template)
            joined = _over_parent(fresh_tree, number, parent, output, template) if fresh_tree is not None else None
            if joined is not None and joined.sql:
                return joined
        return Rewrite(kind)
    except Exception:  # advice is a courtesy; whatever sqlglot thinks of a template must not hide the finding
        return Rewrite("any_array")


def _by_key(select: exp.Select, number: int, unique: bool) -> Rewrite | None:
    """None where the key is not an AND-ed condition of the WHERE."""
    inner = _exists(select)
    if inner is not None:
        return _existing(inner, number)
    found = condition_on(select, number)
    if found is None or clause(select, "from") is None:
        return None
    condition, column = found
    grouped = select.args.get("group") is not None
    limited = select.args.get("limit") is not None or select.args.get("fetch") is not None
    offset = select.args.get("offset") is not None
    distinct = select.args.get("distinct")
    windows = any(item.find(exp.Window) for item in select.expressions)
    inside = clause(select, "with") is not None
    if limited and not offset and not grouped and _constants(select) and not inside:
        return _existing(select, number)
    aggregate = not grouped and any(_aggregates(item, select) for item in select.expressions)
    if aggregate and not (windows or inside or distinct or offset):
        return _grouped(select, condition, column, number)
    first = limited and not (select.args.get("order") is None and (unique or column.name == UNIQUE) and not offset)
    within = grouped or offset or windows or inside or aggregate or (distinct is not None and distinct.args.get("on"))
    if first or within:
        return _rewritten("lateral", _lateral(select, condition, column, number), number)
    condition.replace(any_of(column, number))
    select.set("limit", None)  # one row was asked for by a key of its own
    select.set("fetch", None)
    _select_too(select, [column])
    return _rewritten("any_array", select, number)


def _rewritten(kind: str, tree: exp.Expression | None, number: int, note: str = "") -> Rewrite:
    """A query whose placeholder `number` takes an array of the keys, which is said behind the note."""
    keys = Role(Stands.KEYS, number)
    sql, roles = write_out(tree, {number: keys})
    return Rewrite(kind, sql, note + _ARRAY.format(roles.index(keys) + 1) if sql else "", roles)


def _exists(select: exp.Select) -> exp.Select | None:
    """The query inside of `SELECT EXISTS (…)`."""
    if len(select.expressions) != 1 or clause(select, "from") is not None or select.args.get("where"):
        return None
    item = select.expressions[0]
    item = item.this if isinstance(item, exp.Alias) else item
    inner = item.this if isinstance(item, exp.Exists) else None
    inner = inner.this if isinstance(inner, exp.Subquery) else inner
    return inner if isinstance(inner, exp.Select) else None


def _existing(select: exp.Select, number: int) -> Rewrite | None:
    """The keys for which there is a row."""
    found = condition_on(select, number)
    if (
        found is None
        or select.args.get("group")
        or select.args.get("having")
        or select.args.get("offset")
        or any(_aggregates(item, select) for item in select.expressions)
        or clause(select, "with") is not None
    ):
        return None
    condition, column = found
    condition.replace(any_of(column, number))
    for name in ("limit", "fetch", "order", "locks"):
        select.set(name, None)
    select.set("expressions", [column.copy()])
    select.set("distinct", exp.Distinct())
    select.pop()
    return _rewritten("any_array", select, number, "It gives the keys for which there is a row. ")


def _constants(select: exp.Select) -> bool:
    return all(not item.find(exp.Column, exp.Star, exp.Subquery, exp.Func) for item in select.expressions)


def _aggregates(item: exp.Expression, select: exp.Select) -> bool:
    return any(
        call.find_ancestor(exp.Select) is select and call.find_ancestor(exp.Window, exp.Select) is select
        for call in item.find_all(exp.AggFunc)
    )


def _grouped(select: exp.Select, condition: exp.Expression, column: exp.Column, number: int) -> Rewrite:
    condition.replace(any_of(column, number))
    select.set("expressions", [column.copy(), *select.expressions])
    select.set("group", exp.Group(expressions=[column.copy()]))
    for name in ("order", "limit", "fetch"):
        select.set(name, None)
    return _rewritten("group_by", select, number, "A key without rows has no row in the answer. ")


def _select_too(select: exp.Select, columns: list[exp.Column]) -> None:
    """Put those of the columns that are not in the select list in front of it."""
    missing = [column.copy() for column in columns if not _selects(select, column)]
    select.set("expressions", [*missing, *select.expressions])


def _selects(select: exp.Select, column: exp.Column) -> bool:
    for item in select.expressions:
        bare = item.this if isinstance(item, exp.Alias) else item
        if isinstance(bare, exp.Star):
            return True
        if isinstance(bare, exp.Column):
            if isinstance(bare.this, exp.Star):
                if not column.table or bare.table == column.table:
                    return True
            elif bare.name == column.name and (not bare.table or not column.table or bare.table == column.table):
                return True
    return False


def _lateral(select: exp.Select, condition: exp.Expression, column: exp.Column, number: int) -> exp.Expression | None:
    """The template for each of the keys that its table has."""
    table = table_of(select, column)
    if table is None:
        return None
    keys_name, child_name = fresh("keys", select.sql()), fresh("child", select.sql())
    keys = exp.select(exp.alias_(column.copy(), "key")).distinct().from_(table.copy()).where(any_of(column, number))
    condition.replace(exp.EQ(this=column.copy(), expression=exp.column("key", table=keys_name)))
    return _for_each(keys, keys_name, select, child_name)


def _for_each(keys: exp.Select, keys_name: str, child: exp.Expression, child_name: str) -> exp.Expression:
    """`SELECT keys.key, child.* FROM (keys) AS keys CROSS JOIN LATERAL (child) AS child`."""
    subquery = child if isinstance(child, exp.Subquery) else exp.Subquery(this=child)
    lateral = exp.Lateral(this=subquery, alias=exp.TableAlias(this=exp.to_identifier(child_name)))
    star = exp.Column(this=exp.Star(), table=exp.to_identifier(child_name))
    return (
        exp.select(exp.column("key", table=keys_name), star)
        .from_(exp.alias_(exp.Subquery(this=keys), keys_name, table=True))
        .join(lateral, join_type="cross")
    )


def _over_parent(child: exp.Expression, number: int, parent: str, output: str, template: str) -> Rewrite | None:
    """The template for each value of the parent's column; None where the column cannot be named for certain."""
    outer = parse(parent)
    if not isinstance(outer, exp.Select) or outer.args.get("locks") or not _names_one(outer, output):
        return None
    if not isinstance(child, (exp.Select, exp.SetOperation)) or numbers_in(child).count(number) != 1:
        return None
    keys_name, child_name = fresh("keys", template, parent), fresh("child", template, parent)
    parent_name = fresh("parent", parent)
    width = max([0, *numbers_in(outer)])
    roles = {theirs: Role(Stands.PARENT, theirs) for theirs in numbers_in(outer)}
    for node in placeholders(child):
        mine = int(node.name)
        if mine != number:
            node.replace(placeholder(width + mine))
            roles[width + mine] = Role(Stands.CHILD, mine)
            continue
        cast = node.parent if isinstance(node.parent, exp.Cast) else node  # the column has a type of its own
        cast.replace(exp.column("key", table=keys_name))
    name = exp.to_identifier(output, quoted=not (output.isidentifier() and output == output.lower()))
    keys = (
        exp.select(exp.alias_(exp.Column(this=name, table=exp.to_identifier(parent_name)), "key"))
        .distinct()
        .from_(exp.alias_(exp.Subquery(this=outer), parent_name, table=True))
    )
    sql, of = write_out(_for_each(keys, keys_name, child, child_name), roles)
    return Rewrite("join", sql, "It asks the first query again, and takes the keys from its rows.", of)


def _names_one(select: exp.Select, output: str) -> bool:
    """Whether exactly one column of the query's result has this name."""
    stars = [item for item in select.expressions if item.is_star]
    if stars:
        return len(select.expressions) == 1 and not select.args.get("joins")
    return [item.alias_or_name for item in select.expressions].count(output) == 1


def _composite(tree: exp.Expression, numbers: list[int]) -> Rewrite:
    """A key of several columns: `(a, b) IN (($1, $2), ($3, $4))`, two keys being written out."""
    if not isinstance(tree, exp.Select) or clause(tree, "from") is None:
        return Rewrite("any_array")
    plain = not any(
        tree.args.get(name) for name in ("group", "having", "offset", "distinct", "limit", "fetch", "with", "with_")
    )
    parts = key_conditions(tree, numbers)
    aggregate = any(_aggregates(item, tree) for item in tree.expressions)
    if parts is None or not plain or any(item.find(exp.Window) for item in tree.expressions):
        return Rewrite("group_by" if aggregate else "any_array")
    columns, first = ask_for_keys(tree, parts)
    width = len(numbers)
    roles = {first + place: Role(Stands.KEY, numbers[place % width]) for place in range(2 * width)}
    if aggregate:
        tree.set("expressions", [*[column.copy() for column in columns], *tree.expressions])
        tree.set("group", exp.Group(expressions=[column.copy() for column in columns]))
        tree.set("order", None)
        sql, of = write_out(tree, roles)
        return Rewrite("group_by", sql, "Two keys are written out; a key without rows has no row in the answer.", of)
    _select_too(tree, columns)
    sql, of = write_out(tree, roles)
    return Rewrite("any_array", sql, "Two keys are written out; a list has as many as there are rows.", of)


def key_conditions(tree: exp.Expression, numbers: list[int]) -> list[tuple[exp.Expression, exp.Column]] | None:
    """The AND-ed conditions on all of these placeholders, None where one has none."""
    parts = []
    for number in numbers:
        found = condition_on(tree, number)
        if found is None:
            return None
        parts.append(found)
    return parts


def ask_for_keys(tree: exp.Expression, parts: list[tuple[exp.Expression, exp.Column]]) -> tuple[list[exp.Column], int]:
    """Replace the conditions by one on two whole keys, row by row. Gives the columns, and the number of the first of the new
    placeholders."""
    columns = [column.copy() for _, column in parts]
    gone = {id(part) for part, _ in parts}
    rest = [part.copy() for part in conditions(tree) if id(part) not in gone]
    width = max([0, *[number for part in rest for number in numbers_in(part)], *numbers_in_but(tree, "where")])
    rows = [
        exp.Tuple(expressions=[placeholder(width + row * len(columns) + place + 1) for place in range(len(columns))])
        for row in range(2)
    ]
    keys = exp.In(this=exp.Tuple(expressions=[column.copy() for column in columns]), expressions=rows)
    tree.set(
        "where",
        exp.Where(
            this=exp.and_(*[exp.paren(part, copy=False) if isinstance(part, exp.Or) else part for part in rest], keys)
        ),
    )
    return columns, width + 1


def numbers_in_but(tree: exp.Expression, name: str) -> list[int]:
    """The numbers of the placeholders outside of one clause."""
    inside = numbers_in(tree.args.get(name))
    return [number for number in numbers_in(tree) if number not in inside]
