"""What a template does, from one parse by sqlglot: kind, tables, functions, predicates.

A cache decides by this, so absence must mean absence. Three things see to it: what sqlglot does not parse whole is
`parsed=False`; what writes is looked for among the tokens as well as in the tree; and functions are taken from the
tokens alone, because the parser renames them (`now()` becomes CURRENT_TIMESTAMP) and folds some away.
"""

from __future__ import annotations

import logging
from typing import Final

import sqlglot
from sqlglot import ErrorLevel, exp

from pgloupe_rules.calls import BODIES, functions
from pgloupe_rules.canonical import canonicalise
from pgloupe_rules.lexer import lex
from pgloupe_rules.predicates import find_predicates, name_of, sources_of, table_name
from pgloupe_rules.tok import KEY, Tok
from pgloupe_rules.types import Kind, Shape, Template

__all__ = ["MAX_NESTING", "MAX_TEXT", "functions", "parse", "shape_of"]

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
            elif depth == 0 and tok.kind == KEY and tok.text in BODIES:
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
        name = table_name(table)
        if name is not None:
            tables[name] = None
    outer = tree
    while isinstance(outer, (exp.Subquery, exp.Paren)) and not outer.args.get("limit"):
        outer = outer.this
    sources = sources_of(outer)
    return Shape(
        kind=kind,
        parsed=True,
        tables=tuple(tables),
        written=_written(tree, kind),
        functions=functions(toks),
        predicates=tuple(sorted(find_predicates(tree), key=lambda predicate: predicate.placeholder)),
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
            schema = name_of(table.args.get("db"))
            out[f"{schema}.{name_of(table.this)}" if schema else name_of(table.this)] = None
    return tuple(out)


def _aggregates(select: exp.Select) -> bool:
    for item in select.expressions:
        for call in item.find_all(exp.AggFunc):
            if call.find_ancestor(exp.Select) is select and call.find_ancestor(exp.Window, exp.Select) is select:
                return True
    return False
