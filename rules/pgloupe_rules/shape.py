"""What a template does, from one parse by sqlglot: kind, tables, functions, predicates.

A cache decides by this, so absence must mean absence. Three things see to it: what sqlglot does not parse whole is
`parsed=False`; what writes is looked for among the tokens as well as in the tree; and functions are taken from the
tokens alone, because the parser renames them (`now()` becomes CURRENT_TIMESTAMP) and folds some away.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import sqlglot
from sqlglot import ErrorLevel, exp

from pgloupe_rules.canonical import CONST, KEY, NAME, Tok, canonicalise
from pgloupe_rules.lexer import lex
from pgloupe_rules.types import Kind, Predicate, Shape, Template

MAX_TEXT: Final = 16384
"""Characters of the longest template that is parsed."""
MAX_NESTING: Final = 100
"""Deepest nesting of parentheses that is parsed."""

# sqlglot logs a warning for each statement that it does not know; a proxy meets them all day, and `parsed` says it.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

_KINDS: Final[dict[str, Kind]] = {
    "SELECT": Kind.SELECT,
    "VALUES": Kind.SELECT,
    "TABLE": Kind.SELECT,
    "INSERT": Kind.INSERT,
    "UPDATE": Kind.UPDATE,
    "DELETE": Kind.DELETE,
    "MERGE": Kind.MERGE,
    "COPY": Kind.COPY,
    "FETCH": Kind.FETCH,
    "MOVE": Kind.FETCH,
    "BEGIN": Kind.BEGIN,
    "START": Kind.BEGIN,
    "COMMIT": Kind.COMMIT,
    "END": Kind.COMMIT,
    "ROLLBACK": Kind.ROLLBACK,
    "ABORT": Kind.ROLLBACK,
    "SAVEPOINT": Kind.SAVEPOINT,
    "RELEASE": Kind.SAVEPOINT,
    "SET": Kind.SET,
    "RESET": Kind.SET,
    "DISCARD": Kind.SET,
    "SHOW": Kind.SHOW,
    "CREATE": Kind.DDL,
    "ALTER": Kind.DDL,
    "DROP": Kind.DDL,
    "GRANT": Kind.DDL,
    "REVOKE": Kind.DDL,
    "COMMENT": Kind.DDL,
    "IMPORT": Kind.DDL,
    "REASSIGN": Kind.DDL,
    "SECURITY": Kind.DDL,
}
_UTILITIES: Final = frozenset(
    [
        "ANALYZE",
        "ANALYSE",
        "CALL",
        "CHECKPOINT",
        "CLOSE",
        "CLUSTER",
        "DEALLOCATE",
        "DECLARE",
        "DO",
        "EXECUTE",
        "EXPLAIN",
        "LISTEN",
        "LOAD",
        "LOCK",
        "NOTIFY",
        "PREPARE",
        "REFRESH",
        "REINDEX",
        "TRUNCATE",
        "UNLISTEN",
        "VACUUM",
    ]
)
_PLAIN: Final = frozenset({Kind.BEGIN, Kind.COMMIT, Kind.ROLLBACK, Kind.SAVEPOINT, Kind.SET, Kind.SHOW})
_PARSED: Final = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.COPY})
_BODIES: Final = frozenset({"SELECT", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE"})


def shape_of(template: Template) -> Shape:
    """The shape of a template, parsed at the first call and kept in it."""
    return template.shape(parse)


def parse(text: str) -> Shape:
    """The shape of a template's text. Never raises; a text that is too long, too deep or unknown is `parsed=False`."""
    if len(text) > MAX_TEXT:
        # Only the beginning tells the kind; WITH tells its kind by what may come after it.
        toks = canonicalise(lex(text[:MAX_TEXT])[0])
        return Shape(_kind(toks))
    toks = canonicalise(lex(text)[0])
    kind = _kind(toks)
    if kind in _PLAIN:
        return Shape(kind, parsed=True)
    truncate = bool(toks) and toks[0].text == "TRUNCATE"
    if (kind not in _PARSED and not truncate) or _nesting(toks) > MAX_NESTING:
        return Shape(kind)
    try:
        trees = sqlglot.parse(text, dialect="postgres", error_level=ErrorLevel.RAISE)
        if len(trees) != 1 or not isinstance(trees[0], _ROOTS[kind] if not truncate else exp.TruncateTable):
            return Shape(kind)
        tree = trees[0]
        if tree.find(exp.Command) is not None:
            return Shape(kind)
        return _shape(tree, kind, toks)
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return Shape(kind)


_ROOTS: Final[dict[Kind, type[exp.Expr] | tuple[type[exp.Expr], ...]]] = {
    Kind.SELECT: (exp.Select, exp.SetOperation, exp.Values, exp.Subquery, exp.Paren),
    Kind.INSERT: exp.Insert,
    Kind.UPDATE: exp.Update,
    Kind.DELETE: exp.Delete,
    Kind.MERGE: exp.Merge,
    Kind.COPY: exp.Copy,
}


def _kind(toks: list[Tok]) -> Kind:
    """The kind by the first key word, that of the body for WITH."""
    index = 0
    while index < len(toks) and toks[index].text == "(":
        index += 1
    if index == len(toks):
        return Kind.UNKNOWN
    words = [tok.text.upper() for tok in toks[index : index + 4]]
    first = words[0]
    if first == "WITH":
        depth = 0
        for tok in toks[index:]:
            if tok.text == "(":
                depth += 1
            elif tok.text == ")":
                depth -= 1
            elif depth == 0 and tok.kind == KEY and tok.text in _BODIES:
                return _KINDS[tok.text]
        return Kind.UNKNOWN
    if first in ("COMMIT", "ROLLBACK") and "PREPARED" in words[1:2]:
        return Kind.UTILITY
    if first in ("ROLLBACK", "ABORT") and "TO" in words:
        return Kind.SAVEPOINT
    if first in _UTILITIES:
        return Kind.UTILITY
    return _KINDS.get(first, Kind.UNKNOWN)


def _nesting(toks: list[Tok]) -> int:
    depth = 0
    deepest = 0
    for tok in toks:
        if tok.text in ("(", "[", "CASE"):
            depth += 1
            deepest = max(deepest, depth)
        elif tok.text in (")", "]", "END"):
            depth -= 1
    return deepest


def _shape(tree: exp.Expr, kind: Kind, toks: list[Tok]) -> Shape:
    tables: dict[str, None] = {}
    for table in tree.find_all(exp.Table, bfs=False):
        name = _table_name(table)
        if name is not None:
            tables[name] = None
    outer = tree
    while isinstance(outer, (exp.Subquery, exp.Paren)) and not outer.args.get("limit"):
        outer = outer.this
    sources = _sources(outer)
    return Shape(
        kind=kind,
        parsed=True,
        tables=tuple(tables),
        written=_written(tree, kind),
        functions=functions(toks),
        predicates=tuple(sorted(_predicates(tree), key=lambda predicate: predicate.placeholder)),
        read_only=kind == Kind.SELECT and not _writes(toks),
        aggregate=isinstance(outer, exp.Select) and not outer.args.get("group") and _aggregates(outer),
        limited=any(outer.args.get(name) is not None for name in ("limit", "fetch")),
        joined=len(sources) > 1,
    )


def _writes(toks: list[Tok]) -> bool:
    """Whether a word occurs with which a query may write or lock rows."""
    for index, tok in enumerate(toks):
        if tok.kind == KEY and tok.text in _WRITING:
            return True
        if tok.text == "FOR" and index + 1 < len(toks) and toks[index + 1].text.upper() in _LOCKING:
            return True
    return False


_WRITING: Final = frozenset({"INTO", "INSERT", "UPDATE", "DELETE", "MERGE"})
_LOCKING: Final = frozenset({"UPDATE", "SHARE", "NO", "KEY"})


def _name(identifier: object) -> str:
    return str(identifier.this) if isinstance(identifier, exp.Identifier) else ""


def _table_name(table: exp.Table) -> str | None:
    """`name` or `schema.name`; None for a function, a CTE and the list of FOR UPDATE OF."""
    name = _name(table.this)
    if not name or isinstance(table.parent, exp.Lock):
        return None
    schema = _name(table.args.get("db"))
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


def _written(tree: exp.Expr, kind: Kind) -> tuple[str, ...]:
    out: dict[str, None] = {}
    if isinstance(tree, exp.TruncateTable):
        targets: list[object] = list(tree.expressions)
    elif kind == Kind.COPY:
        targets = [tree.this] if tree.args.get("kind") else []
    else:
        targets = [node.this for node in tree.find_all(exp.Insert, exp.Update, exp.Delete, exp.Merge, bfs=False)]
    for target in targets:
        table = target.this if isinstance(target, exp.Schema) else target
        if isinstance(table, exp.Table):
            schema = _name(table.args.get("db"))
            out[f"{schema}.{_name(table.this)}" if schema else _name(table.this)] = None
    return tuple(out)


def _aggregates(select: exp.Select) -> bool:
    for item in select.expressions:
        for call in item.find_all(exp.AggFunc):
            if call.find_ancestor(exp.Select) is select and call.find_ancestor(exp.Window, exp.Select) is select:
                return True
    return False


def _sources(scope: exp.Expr | None) -> list[exp.Expr]:
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
        sources = _sources(scope)
        if len(sources) == 1 and isinstance(sources[0], exp.Table) and scope is not None and not _is_correlated(scope):
            return _table_name(sources[0])
        return None
    while scope is not None:
        for source in _sources(scope):
            if source.alias_or_name == qualifier:
                return _table_name(source) if isinstance(source, exp.Table) else None
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


def _predicates(tree: exp.Expr) -> Iterator[Predicate]:
    for node in tree.find_all(*_COMPARISONS, exp.In, exp.Between, bfs=False):
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


_NILADIC: Final = frozenset(
    [
        "CURRENT_CATALOG",
        "CURRENT_DATE",
        "CURRENT_ROLE",
        "CURRENT_TIME",
        "CURRENT_TIMESTAMP",
        "CURRENT_USER",
        "CURRENT_SCHEMA",
        "LOCALTIME",
        "LOCALTIMESTAMP",
        "SESSION_USER",
        "SYSTEM_USER",
        "USER",
    ]
)
_NO_CALLS: Final = frozenset(
    [
        "ALL",
        "ALIAS",
        "AND",
        "ANY",
        "ARRAY",
        "AS",
        "BETWEEN",
        "BY",
        "CHECK",
        "CONFLICT",
        "CUBE",
        "DISTINCT",
        "ELSE",
        "EXCEPT",
        "EXISTS",
        "FILTER",
        "FROM",
        "GROUP",
        "GROUPING",
        "HAVING",
        "IN",
        "INSERT",
        "INTERSECT",
        "INTO",
        "IS",
        "JOIN",
        "KEY",
        "LATERAL",
        "LIKE",
        "ILIKE",
        "LIMIT",
        "MATERIALIZED",
        "NOT",
        "OFFSET",
        "ON",
        "ONLY",
        "OR",
        "ORDER",
        "OVER",
        "PARTITION",
        "PRIMARY",
        "REFERENCES",
        "RETURNING",
        "ROLLUP",
        "ROW",
        "ROWS",
        "SELECT",
        "SET",
        "SETS",
        "SIMILAR",
        "SOME",
        "TABLE",
        "THEN",
        "TO",
        "UNION",
        "UNIQUE",
        "USING",
        "VALUES",
        "WHEN",
        "WHERE",
        "WINDOW",
        "WITH",
        "WITHIN",
        "CASE",
        "END",
        "NULL",
        "ESCAPE",
        "VARIADIC",
        "CROSS",
        "DO",
        "COPY",
    ]
)


def functions(toks: list[Tok]) -> tuple[str, ...]:
    """Names of the functions that a statement calls, as written, in lower case. May hold a name too many (a type with
    a modifier, an alias with columns), never one too few; operators and casts are not looked behind."""
    out: dict[str, None] = {}
    for index, tok in enumerate(toks):
        if tok.kind == CONST:
            continue
        following = toks[index + 1].text if index + 1 < len(toks) else ""
        before = toks[index - 1].text if index else ""
        if tok.kind == KEY:
            if tok.text in _NILADIC or (following == "(" and tok.text not in _NO_CALLS):
                out[tok.text.lower()] = None
            elif tok.text == "ZONE" and index > 1 and toks[index - 2].text == "AT":
                out["timezone"] = None
        elif tok.kind == NAME and following == "(":
            start = index
            while start > 1 and toks[start - 1].text == "." and toks[start - 2].kind == NAME:
                start -= 2
            before = toks[start - 1].text if start else ""
            if before not in _BEFORE_NO_CALL and not _is_cte_head(toks, index + 1):
                names = [item.text for item in toks[start : index + 1 : 2]]
                out[".".join(_unquoted(name) for name in names[-2:])] = None
    return tuple(out)


_BEFORE_NO_CALL: Final = frozenset({"::", "AS", "INTO", "WITH", "RECURSIVE", "COPY"})


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _is_cte_head(toks: list[Tok], at: int) -> bool:
    """Whether the parentheses that open at `at` are followed by `AS (SELECT`: the columns of a CTE."""
    depth = 0
    for index in range(at, len(toks)):
        text = toks[index].text
        if text == "(":
            depth += 1
        elif text == ")":
            depth -= 1
            if depth == 0:
                tail = [tok.text for tok in toks[index + 1 : index + 6]]
                if not tail or tail[0] != "AS":
                    return False
                tail = [text for text in tail[1:] if text not in ("NOT", "MATERIALIZED")]
                return len(tail) > 1 and tail[0] == "(" and tail[1] in (_BODIES | {"WITH", "("})
        elif text in _NESTED_QUERY:
            return False
    return False


_NESTED_QUERY: Final = frozenset({"SELECT", "FROM"})
