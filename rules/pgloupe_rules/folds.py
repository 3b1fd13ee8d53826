"""Rewritings of canonical tokens that need to see a whole clause: casts, SET, LIMIT, lists of constants."""

from __future__ import annotations

from typing import Final

from pgloupe_rules import words
from pgloupe_rules.lexer import OPERATOR, PUNCTUATION
from pgloupe_rules.tok import CONST, KEY, NAME, RAW, Tok
from pgloupe_rules.types import Literal, comparable

_MAX_NESTING: Final = 100

_MAX_AMOUNT: Final = 64
"""Tokens of the number in FETCH FIRST … ROWS."""


def fold_casts(toks: list[Tok]) -> list[Tok]:
    """`CAST(x AS t)` becomes `x::t`, or `(x)::t` where x is more than one operand."""
    out: list[Tok] = []
    frames: list[int] = []  # for each open parenthesis: where its operand starts, if it is that of a CAST, else -1
    types: list[int] = []
    index = 0
    while index < len(toks):
        tok = toks[index]
        if tok.text == "CAST" and index + 1 < len(toks) and toks[index + 1].text == "(" and len(frames) < _MAX_NESTING:
            frames.append(len(out))
            types.append(-1)
            index += 2
            continue
        if tok.text == "(":
            frames.append(-1)
            types.append(-1)
        elif tok.text == "AS" and frames and frames[-1] >= 0 and types[-1] < 0:
            types[-1] = len(out)
            index += 1
            continue
        elif tok.text == ")" and frames:
            start = frames.pop()
            at = types.pop()
            if start >= 0:
                if at >= 0:
                    operand = out[start:at]
                    if not _is_operand(operand):
                        operand = [Tok(PUNCTUATION, "("), *operand, Tok(PUNCTUATION, ")")]
                    out[start:at] = [*operand, Tok(PUNCTUATION, "::")]
                else:
                    out[start:start] = [Tok(KEY, "CAST"), Tok(PUNCTUATION, "(")]
                    out.append(tok)
                index += 1
                continue
        out.append(tok)
        index += 1
    for start in reversed([frame for frame in frames if frame >= 0]):
        out[start:start] = [Tok(KEY, "CAST"), Tok(PUNCTUATION, "(")]
    return out


def _is_operand(toks: list[Tok]) -> bool:
    depth = 0
    for tok in toks:
        if tok.text in ("(", "["):
            depth += 1
        elif tok.text in (")", "]"):
            depth -= 1
        elif depth == 0 and tok.kind in (OPERATOR, KEY):
            return len(toks) == 1
    return bool(toks)


def fold_set(toks: list[Tok]) -> list[Tok]:
    """`SET [LOCAL] name = $1` for every form of it and every value, several values being a list (documentation, SET)."""
    at = 1
    head = [toks[0]]
    upper = [tok.text.upper() for tok in toks[:6]] + [""] * 6
    if upper[1] == "SESSION" and upper[2] not in ("AUTHORIZATION", "CHARACTERISTICS"):
        at = 2
    elif upper[1] == "LOCAL":
        head.append(toks[1])
        at = 2
    if upper[at] == "TIME" and upper[at + 1] == "ZONE":
        head.extend((Tok(NAME, "timezone"), Tok(OPERATOR, "=")))
        at += 2
    elif upper[at] == "NAMES" and len(toks) > at + 1:
        head.extend((Tok(NAME, "client_encoding"), Tok(OPERATOR, "=")))
        at += 1
    elif upper[at] == "ROLE":
        head.append(Tok(KEY, "ROLE"))
        at += 1
    elif upper[at] == "SESSION" and upper[at + 1] == "AUTHORIZATION":
        head.extend((Tok(KEY, "SESSION"), Tok(KEY, "AUTHORIZATION")))
        at += 2
    else:
        while at < len(toks) and toks[at].text not in ("=", "TO"):
            head.append(toks[at])
            at += 1
        if at >= len(toks):
            return toks
        head.append(Tok(OPERATOR, "="))
        at += 1
    values: list[int | Literal] = []
    sign = ""
    for tok in toks[at:]:
        if tok.kind == CONST and not isinstance(tok.ref, tuple):
            values.append(tok.ref)
        elif tok.text == "-":
            sign = "-"
            continue
        elif tok.text == "DEFAULT":
            return [*head, tok]
        elif tok.text != ",":
            plain = tok.text[1:-1] if tok.text.startswith('"') else tok.text
            values.append(Literal(comparable(sign + (plain if tok.kind != KEY else plain.lower()))))
        sign = ""
    if not values:
        return toks
    return [*head, Tok(CONST, "$", values[0] if len(values) == 1 else tuple(values))]


def fold_limits(toks: list[Tok]) -> list[Tok]:
    """`FETCH FIRST n ROWS ONLY` becomes `LIMIT n`; LIMIT comes before OFFSET (documentation, SELECT)."""
    if not any(tok.text in ("FETCH", "OFFSET") for tok in toks) or toks[0].text == "FETCH":
        return toks
    out: list[Tok] = []
    offsets: dict[int, int] = {}
    depth = 0
    index = 0
    while index < len(toks):
        tok = toks[index]
        text = tok.text
        if text in ("(", "["):
            depth += 1
        elif text in (")", "]"):
            offsets.pop(depth, None)
            depth -= 1
        elif text in _CLAUSE_ENDS:
            offsets.pop(depth, None)
        elif text == "OFFSET" and tok.kind == KEY:
            offsets[depth] = len(out)
        elif text.lower() in ("row", "rows") and depth in offsets and index > 1:
            index += 1
            continue
        elif text == "FETCH" and index + 2 < len(toks) and toks[index + 1].text in ("FIRST", "NEXT"):
            end = index + 2
            while end < len(toks) and end - index < _MAX_AMOUNT and toks[end].text.lower() not in ("row", "rows"):
                end += 1
            if end + 1 < len(toks) and toks[end + 1].text == "ONLY":
                amount = toks[index + 2 : end] or [Tok(CONST, "$", Literal(1))]
                at = offsets.pop(depth, len(out))
                out[at:at] = [Tok(KEY, "LIMIT"), *amount]
                index = end + 2
                continue
        elif text == "LIMIT" and depth in offsets:
            end = index + 1
            level = 0
            while end < len(toks) and (level > 0 or toks[end].text not in _LIMIT_ENDS):
                level += (toks[end].text == "(") - (toks[end].text == ")")
                end += 1
            at = offsets.pop(depth)
            out[at:at] = toks[index:end]
            index = end
            continue
        out.append(tok)
        index += 1
    return out


_CLAUSE_ENDS: Final = frozenset({"UNION", "INTERSECT", "EXCEPT", "SELECT", "FOR"})

_LIMIT_ENDS: Final = _CLAUSE_ENDS | {")", "FETCH", "OFFSET"}


def _constant(toks: list[Tok], at: int) -> int:
    """Where the constant at `at` ends, with the casts it has; `at` if there is none."""
    if at >= len(toks) or toks[at].kind != CONST or isinstance(toks[at].ref, tuple):
        return at
    return cast_end(toks, at + 1)


def cast_end(toks: list[Tok], at: int, single: bool = False) -> int:
    """Where the casts that start at `at` end: `::a.b(1)[]::c`; or where the first of them does."""
    count = len(toks)
    while at + 1 < count and toks[at].text == "::":
        at += 2
        while at + 1 < count and toks[at].text == "." and toks[at + 1].kind == NAME:
            at += 2
        at = _modifier_end(toks, at)
        while at < count and toks[at].text in _TYPE_WORDS:
            if toks[at].text == "WITH" and not (at + 1 < count and toks[at + 1].text == "TIME"):
                break
            at = _modifier_end(toks, at + 1)
        while at + 1 < count and toks[at].text == "[" and toks[at + 1].text == "]":
            at += 2
        while at + 2 < count and toks[at].text == "[" and toks[at + 1].kind == RAW and toks[at + 2].text == "]":
            at += 3
        if at + 1 < count and toks[at].text == "TO" and toks[at + 1].text in words.FIELDS:
            at = _modifier_end(toks, at + 2)
        if at < count and toks[at].text == "ARRAY":
            at += 1
        if single:
            break
    return at


_TYPE_WORDS: Final = words.FIELDS | {"precision", "varying", "WITH", "WITHOUT", "TIME", "ZONE", "without"}


def _modifier_end(toks: list[Tok], at: int) -> int:
    if at + 1 < len(toks) and toks[at].text == "(" and toks[at + 1].kind == RAW:
        while at < len(toks) and toks[at].text != ")":
            at += 1
        return at + 1
    return at


class _Lists:
    """What folding the lists of one statement needs: the partner of each parenthesis, and how many tokens may still be
    copied. Lists in lists would otherwise be copied once for each level."""

    __slots__ = ("budget", "closing", "toks")

    def __init__(self, toks: list[Tok]) -> None:
        self.toks = toks
        self.budget = 8 * len(toks)
        self.closing: dict[int, int] = {}
        opened: list[int] = []
        for index, tok in enumerate(toks):
            if tok.text == "(":
                opened.append(index)
            elif tok.text == ")" and opened:
                self.closing[opened.pop()] = index


def fold_lists(toks: list[Tok]) -> list[Tok]:
    """Lists of constants become one placeholder, the rows of VALUES one row."""
    if not any(tok.text in _LISTS for tok in toks):
        return toks
    lists = _Lists(toks)
    out: list[Tok] = []
    index = 0
    count = len(toks)
    while index < count:
        tok = toks[index]
        out.append(tok)
        index += 1
        if index >= count or tok.kind != KEY or tok.text not in _LISTS:
            continue
        opening = toks[index].text
        if tok.text == "VALUES" and opening == "(":
            index = _rows(lists, index, out)
        elif (tok.text == "IN" and opening == "(") or (tok.text == "ARRAY" and opening == "["):
            index = _list(lists, index, out)
    return out


_LISTS: Final = frozenset({"VALUES", "IN", "ARRAY"})


def _list(lists: _Lists, start: int, out: list[Tok]) -> int:
    """Fold the list that opens at `start`; returns where to go on, `start` itself if it is no list of constants."""
    toks = lists.toks
    closing = ")" if toks[start].text == "(" else "]"
    if closing == ")" and start + 1 < len(toks) and toks[start + 1].text == "(":
        rows = _row_spans(lists, start + 1)
        end = rows[-1][1] if rows else len(toks)
        if end < len(toks) and toks[end].text == ")":
            merged = _merge_rows(lists, rows)
            if merged is not None and _only_constants(merged):
                out.append(toks[start])
                for tok in merged:
                    if tok.kind == CONST and not isinstance(tok.ref, tuple):
                        tok.ref = (tok.ref,)
                out.extend(merged)
                out.append(toks[end])
                return end + 1
        return start
    sources: list[int | Literal] = []
    at = start + 1
    while True:
        end = _constant(toks, at)
        if end == at or end >= len(toks):
            return start
        ref = toks[at].ref
        if not isinstance(ref, tuple):
            sources.append(ref)
        if toks[end].text == closing:
            break
        if toks[end].text != ",":
            return start
        at = end + 1
    first = _constant(toks, start + 1)
    out.append(toks[start])
    out.append(Tok(CONST, "$", tuple(sources)))
    out.extend(toks[start + 2 : first])
    out.append(toks[end])
    return end + 1


def _only_constants(row: list[Tok]) -> bool:
    """Whether a row, its parentheses included, holds constants and nothing else."""
    at = 1
    while at < len(row) - 1:
        end = _constant_or_list(row, at)
        if end == at or (row[end].text != "," and end != len(row) - 1):
            return False
        at = end + 1
    return len(row) > 2


def _constant_or_list(toks: list[Tok], at: int) -> int:
    return cast_end(toks, at + 1) if toks[at].kind == CONST else at


def _row_spans(lists: _Lists, at: int) -> list[tuple[int, int]]:
    """The rows `(…), (…)` that start at `at`, each with its parentheses."""
    toks = lists.toks
    spans: list[tuple[int, int]] = []
    while at < len(toks) and toks[at].text == "(":
        end = lists.closing.get(at, -1) + 1
        if end == 0:
            return []
        spans.append((at, end))
        if end + 1 < len(toks) and toks[end].text == "," and toks[end + 1].text == "(":
            at = end + 1
        else:
            break
    return spans


def _rows(lists: _Lists, start: int, out: list[Tok]) -> int:
    """Fold the rows of a VALUES that differ in constants alone; returns where to go on."""
    rows = _row_spans(lists, start)
    if len(rows) < 2:
        return start
    merged = _merge_rows(lists, rows)
    if merged is None:
        return start
    out.extend(merged)
    return rows[-1][1]


def _merge_rows(lists: _Lists, rows: list[tuple[int, int]]) -> list[Tok] | None:
    """The first row with all rows' constants in its placeholders; None if a row is built otherwise."""
    toks = lists.toks
    lists.budget -= rows[-1][1] - rows[0][0]
    if lists.budget < 0:
        return None
    first = toks[rows[0][0] : rows[0][1]]
    if len(rows) == 1:
        return [Tok(tok.kind, tok.text, tok.ref) for tok in first]
    shape = _row_shape(first)
    columns: list[list[int | Literal]] = [[] for text in shape if text == "$"]
    for start, end in rows:
        row = toks[start:end]
        if _row_shape(row) != shape:
            return None
        column = 0
        for tok in row:
            if tok.kind == CONST:
                if isinstance(tok.ref, tuple):
                    return None
                columns[column].append(tok.ref)
                column += 1
    merged: list[Tok] = []
    column = 0
    for tok in first:
        if tok.kind == CONST:
            merged.append(Tok(CONST, "$", tuple(columns[column])))
            column += 1
        else:
            merged.append(tok)
    return merged


def _row_shape(row: list[Tok]) -> list[str]:
    """What must be equal in rows that are folded: everything but the constants and their casts."""
    shape: list[str] = []
    at = 0
    while at < len(row):
        shape.append(row[at].text)
        at = cast_end(row, at + 1) if row[at].kind == CONST else at + 1
    return shape
