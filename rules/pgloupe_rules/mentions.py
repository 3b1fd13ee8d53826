"""What a statement mentions besides its tables: whatever may stand for code that a user defined.

A read runs more than the functions that it calls by name: operators, casts, the checks of a domain, and a function of a row
that is written like a column (`author.full_name`; documentation, sections 8.16.5 and 38.5). Whether a name stands for such
code only the catalogs know. So this gives the names in forms that can be compared with a list of suspects, one set
operation for a statement; it gives names too many rather than one too few.

    `lower()`   is called                      `::mood`   is cast to
    `.label`    stands behind a dot            `::`       there is a cast
    `===`       an operator                    `author`   any name

Casts to dates and times are looked at more closely: a text that is `now` means another moment each time (section 8.5.1.4),
and that it is none can be seen of a constant, or told by the catalogs of a column.
"""

from __future__ import annotations

from typing import Final

from pgloupe_rules.calls import functions
from pgloupe_rules.canonical import canonicalise
from pgloupe_rules.lexer import OPERATOR, lex
from pgloupe_rules.tok import CONST, KEY, NAME, RAW, Tok

_MEMO_LIMIT: Final = 4096
_MEMO_TEXT: Final = 16384
_TOKENS_LIMIT: Final = 4096
_OPERAND_LIMIT: Final = 256
"""Tokens of the longest operand that is looked into: casts may be nested."""

CLOCK_TYPE: Final = "a type whose values depend on more than themselves"
CLOCK_CAST: Final = "a cast that may depend on the time"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# An offset that is not written is today's; names of objects are what the catalogs and search_path make of them.
UNSTEADY: Final = _words(
    "timetz regclass regcollation regconfig regdictionary regnamespace regoper regoperator regproc regprocedure regrole"
    " regtype aclitem"
)
"""Built-in types whose values as text depend on the date or on the catalogs."""

_MOMENTS: Final = _words(
    "date time timestamp timestamptz daterange tsrange tstzrange datemultirange tsmultirange tstzmultirange"
)
"""Built-in types of which a text may mean the present."""

_STEADY: Final = _MOMENTS | _words("int int2 int4 int8 integer bigint smallint numeric decimal interval float8")
_TRANSPARENT: Final = frozenset({"min", "max", "coalesce", "nullif", "greatest", "least", "array_agg"})
_ARITHMETIC: Final = frozenset({"+", "-", "*", "/"})
_LIKE: Final = frozenset({"~~", "!~~", "~~*", "!~~*", "~"})


class Mentions:
    """See the head of the module."""

    __slots__ = ("names", "reason", "timed")

    def __init__(self, names: frozenset[str], timed: frozenset[str], reason: str) -> None:
        self.names = names
        self.timed = timed
        """Columns, without their tables, that are cast to a date or time."""
        self.reason = reason
        """Why such a read is never stored, whatever the catalogs say; "" where nothing speaks against it."""


_memo: Final[dict[str, Mentions]] = {}


def mentions(text: str) -> Mentions:
    """What the text of a template mentions. Kept by text; never raises."""
    found = _memo.get(text)
    if found is None:
        found = _mentions(text)
        if len(_memo) >= _MEMO_LIMIT:
            _memo.clear()
        if len(text) <= _MEMO_TEXT:
            _memo[text] = found
    return found


def _mentions(text: str) -> Mentions:
    toks = canonicalise(lex(text)[0])
    names = {f"{name.rpartition('.')[2].lower()}()" for name in functions(toks)}
    unfolded = any(tok.text == "CAST" for tok in toks)
    for index, tok in enumerate(toks):
        if tok.text == "::" or (tok.text == "AS" and unfolded):
            names.add("::")
            names.add(f"::{_plain(toks[_last_part(toks, index + 1)])}")
        if tok.kind == OPERATOR:
            names.add(tok.text)
        elif tok.kind == NAME:
            name = _plain(tok)
            names.add(name)
            if index and toks[index - 1].text == ".":
                names.add(f".{name}")
        elif tok.kind == KEY:
            names.add(tok.text.lower())
            if tok.text in ("LIKE", "ILIKE", "SIMILAR"):
                names |= _LIKE
    timed: set[str] = set()
    reason = CLOCK_CAST if len(toks) > _TOKENS_LIMIT else _casts(toks, timed)
    return Mentions(frozenset(names), frozenset(timed), reason)


def _plain(tok: Tok) -> str:
    text = tok.text
    return (text[1:-1].replace('""', '"') if text.startswith('"') else text).lower()


def _last_part(toks: list[Tok], at: int) -> int:
    """Where the last part is of the name that begins at `at`, or the last token if none does."""
    while at + 2 < len(toks) and toks[at].kind == NAME and toks[at + 1].text == ".":
        at += 2
    return min(at, len(toks) - 1)


def _casts(toks: list[Tok], timed: set[str]) -> str:
    """Look at each cast; columns that are cast to a date or time go to `timed`. Gives the reason, as `Mentions`."""
    for index, tok in enumerate(toks):
        if tok.text != "::":
            continue
        at = _last_part(toks, index + 1)
        name = _plain(toks[at]).removeprefix("_")
        if name in UNSTEADY or (name == "time" and _with_zone(toks, at + 1)):
            return CLOCK_TYPE
        if name in _MOMENTS and (index == 0 or not _steady(toks, index - 1, timed)):
            return CLOCK_CAST
    if timed and not _from_tables(toks, timed):
        return CLOCK_CAST
    return ""


def _with_zone(toks: list[Tok], at: int) -> bool:
    return any(tok.text == "WITH" for tok in toks[at : at + 4])


def _steady(toks: list[Tok], last: int, timed: set[str]) -> bool:
    """Whether the operand that ends at `last` is a constant, or surely no text if the columns in it, which go to `timed`,
    are none."""
    tok = toks[last]
    if tok.kind == CONST:
        return True
    if tok.kind == NAME:
        start = last
        while start > 1 and toks[start - 1].text == "." and toks[start - 2].kind == NAME:
            start -= 2
        if start and toks[start - 1].text == "::":
            return _plain(tok) in _STEADY  # the type of a cast inside of this one
        timed.add(_plain(tok))
        return True
    if tok.text not in (")", "]"):
        return False
    opening = _opening(toks, last)
    if opening < 0:
        return False
    before = toks[opening - 1] if opening else None
    if tok.text == "]":
        if before is None or before.text != "ARRAY":
            return False  # an element of something
    elif (
        before is not None
        and before.kind in (NAME, KEY)
        and before.text.lower() not in _TRANSPARENT
        and before.text not in _BEFORE_GROUP
    ):
        return False
    for index in range(opening + 1, last):
        inner = toks[index]
        if inner.kind in (CONST, RAW) or inner.text in ("(", ")", "[", "]", ",", ".", "::", "ARRAY", "DISTINCT"):
            continue
        if inner.kind == OPERATOR and inner.text in _ARITHMETIC:
            continue
        if inner.kind != NAME:
            return False
        following = toks[index + 1].text
        if toks[index - 1].text == "::":
            if inner.text not in _STEADY or following == ".":
                return False
        elif following == "(":
            if inner.text not in _TRANSPARENT:
                return False
        elif following != ".":
            timed.add(_plain(inner))
    return True


_BEFORE_GROUP: Final = _words("SELECT WHERE AND OR NOT ON BY HAVING THEN WHEN ELSE CASE IN BETWEEN DISTINCT")


def _opening(toks: list[Tok], closing: int) -> int:
    depth = 0
    for index in range(closing, max(-1, closing - _OPERAND_LIMIT), -1):
        text = toks[index].text
        if text in (")", "]"):
            depth += 1
        elif text in ("(", "["):
            depth -= 1
            if depth == 0:
                return index
    return -1


def _from_tables(toks: list[Tok], timed: set[str]) -> bool:
    """Whether these names can only be columns of tables: there is one SELECT, and nothing in its FROM is given such a name.
    What its output columns are called does not count: no expression can name those."""
    queries = 0
    listed = True
    for index, tok in enumerate(toks):
        if tok.kind == KEY:
            if tok.text in ("SELECT", "VALUES", "TABLE"):
                queries += 1
            elif tok.text == "FROM":
                listed = False
            continue
        if tok.kind != NAME or listed:
            continue
        before = toks[index - 1]
        if before.text == "AS" and index + 1 < len(toks) and toks[index + 1].text == "(":
            return False  # new names for the columns of a table
        if _plain(tok) in timed and (before.kind in (NAME, CONST) or before.text in ("AS", ")", "]", "END")):
            return False
    return queries <= 1
