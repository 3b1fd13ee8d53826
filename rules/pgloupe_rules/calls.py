"""The functions that a statement calls, from its tokens: a parser renames them and folds some away."""

from __future__ import annotations

from typing import Final

from pgloupe_rules.tok import CONST, KEY, NAME, Tok

BODIES: Final = frozenset({"SELECT", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE"})
"""Key words that begin the body of a WITH."""

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
        "CHECK",
        "DISTINCT",
        "ELSE",
        "EXCEPT",
        "EXISTS",
        "FROM",
        "GROUP",
        "GROUPING",
        "HAVING",
        "IN",
        "INTERSECT",
        "INTO",
        "IS",
        "JOIN",
        "KEY",
        "LATERAL",
        "LIKE",
        "ILIKE",
        "LIMIT",
        "NOT",
        "OFFSET",
        "ON",
        "ONLY",
        "OR",
        "ORDER",
        "PRIMARY",
        "REFERENCES",
        "RETURNING",
        "ROW",
        "SELECT",
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
        "CASE",
        "END",
        "NULL",
        "VARIADIC",
        "CROSS",
        "DO",
    ]
)


_AFTER: Final[dict[str, frozenset[str]]] = {
    "BY": frozenset({"GROUP", "ORDER", "PARTITION"}),
    "CONFLICT": frozenset({"ON"}),
    "CUBE": frozenset({"BY"}),
    "FILTER": frozenset({")"}),
    "MATERIALIZED": frozenset({"AS", "NOT"}),
    "OVER": frozenset({")"}),
    "ROLLUP": frozenset({"BY"}),
    "SETS": frozenset({"GROUPING"}),
    "WITHIN": frozenset({")"}),
}
"""Words that are no calls behind these; PostgreSQL does not reserve them, so elsewhere they may be names of functions."""


def _is_syntax(toks: list[Tok], index: int) -> bool:
    """Whether the key word in front of a parenthesis belongs to the statement's own syntax."""
    word = toks[index].text
    if word in _NO_CALLS:
        return True
    if index == 0:
        return word == "COPY"
    before = toks[index - 1]
    if word == "SET":
        return before.kind == NAME or before.text == "UPDATE"
    return before.text in _AFTER.get(word, frozenset())


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
            if tok.text in _NILADIC or (following == "(" and not _is_syntax(toks, index)):
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
    """Whether the parentheses that open at `at` are followed by `AS (SELECT`: the columns of a CTE. They hold names only,
    so the search ends at the next parenthesis of either kind."""
    for index in range(at + 1, len(toks)):
        text = toks[index].text
        if text == "(":
            return False
        if text == ")":
            tail = [tok.text for tok in toks[index + 1 : index + 6]]
            if not tail or tail[0] != "AS":
                return False
            tail = [text for text in tail[1:] if text not in ("NOT", "MATERIALIZED")]
            return len(tail) > 1 and tail[0] == "(" and tail[1] in (BODIES | {"WITH", "("})
    return False
