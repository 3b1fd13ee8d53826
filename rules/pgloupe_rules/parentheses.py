"""Which parentheses change nothing (documentation, section 4.1.6, operator precedence)."""

from __future__ import annotations

from typing import Final

from pgloupe_rules.lexer import OPERATOR
from pgloupe_rules.tok import CONST, KEY, Tok, is_unary

_LEVEL: Final[dict[str, int]] = {
    "OR": 1,
    "AND": 2,
    "NOT": 3,
    "IS": 4,
    "=": 5,
    "<": 5,
    ">": 5,
    "<=": 5,
    ">=": 5,
    "<>": 5,
    "IN": 6,
    "LIKE": 6,
    "ILIKE": 6,
    "SIMILAR": 6,
    "BETWEEN": 6,
    "+": 8,
    "-": 8,
    "*": 9,
    "/": 9,
    "%": 9,
    "^": 10,
    "AT": 11,
    "COLLATE": 12,
    "OVERLAPS": 6,
    "ESCAPE": 6,
}

_OTHER: Final = 7

_UNARY: Final = 13

_HIGHEST: Final = 99

_LEFT_ASSOCIATIVE: Final = frozenset({1, 2, 7, 8, 9, 10})

_NEGATED: Final = frozenset({"IN", "LIKE", "ILIKE", "SIMILAR", "BETWEEN"})

_BEFORE_GROUP: Final = frozenset(
    [
        "(",
        "[",
        ",",
        "SELECT",
        "WHERE",
        "AND",
        "OR",
        "NOT",
        "ON",
        "HAVING",
        "WHEN",
        "THEN",
        "ELSE",
        "CASE",
        "BY",
        "RETURNING",
        "LIMIT",
        "OFFSET",
        "BETWEEN",
        "LIKE",
        "ILIKE",
        "DISTINCT",
        "FROM",
    ]
)

_QUERY: Final = frozenset({"SELECT", "VALUES", "WITH", "TABLE", "INSERT", "UPDATE", "DELETE"})

_TIGHT: Final = {"::": 15, "[": 14, ".": 16}


class _Frame:
    __slots__ = ("at", "between", "cases", "comma", "join", "level", "query")

    def __init__(self, at: int) -> None:
        self.at = at
        self.level = _HIGHEST
        self.comma = False
        self.query = False
        self.join = False
        self.between = 0
        self.cases = 0


def without_parentheses(toks: list[Tok]) -> list[Tok]:
    """Drop parentheses without which the expression is read the same (section 4.1.6); one pass."""
    if not any(tok.text == "(" for tok in toks):
        return toks
    dropped: set[int] = set()
    frames = [_Frame(-1)]
    last = ""  # text of the last token that stays
    left: list[int] = []
    for index, tok in enumerate(toks):
        text = tok.text
        frame = frames[-1]
        if text in ("(", "["):
            left.append(_left_level(toks, index, frame) if text == "(" else -1)
            frames.append(_Frame(index))
        elif text in (")", "]"):
            if len(frames) > 1:
                frames.pop()
                bound = left.pop()
                if text == ")" and bound >= 0 and _is_removable(toks, frame, index, bound):
                    dropped.add(frame.at)
                    dropped.add(index)
                    frames[-1].level = min(frames[-1].level, frame.level)
                    frames[-1].query |= frame.query
        elif tok.kind == OPERATOR:
            if text == "*" and last in ("(", ",", ".", "SELECT", "RETURNING", "DISTINCT"):
                pass
            else:
                frame.level = min(frame.level, _UNARY if is_unary(toks, index) else _LEVEL.get(text, _OTHER))
        elif text == ",":
            frame.comma = True
        elif tok.kind == KEY:
            if text == "CASE":
                frame.cases += 1
            elif text == "END":
                frame.cases -= 1
            elif text in _QUERY:
                frame.query = True
            elif text == "JOIN":
                frame.join = True
            elif frame.cases == 0:
                if text == "BETWEEN":
                    frame.between += 1
                if text == "AND" and frame.between:
                    frame.between -= 1
                elif text == "NOT" and index + 1 < len(toks) and toks[index + 1].text in _NEGATED:
                    pass
                elif text in _LEVEL:
                    if not (text == "NOT" and last == "IS"):
                        frame.level = min(frame.level, _LEVEL[text])
                elif text in _SEPARATE:
                    frame.comma = True
        last = text
    return [tok for index, tok in enumerate(toks) if index not in dropped]


# Inside parentheses these words mean that it is no plain expression: arguments of a function, of a window, of a join.
_SEPARATE: Final = frozenset(
    [
        "FROM",
        "FOR",
        "USING",
        "ORDER",
        "PARTITION",
        "AS",
        "ON",
        "PLACING",
        "WHERE",
        "WITH",
        "VARIADIC",
        "DISTINCT",
        "ALL",
        "BY",
    ]
)


def _left_level(toks: list[Tok], index: int, frame: _Frame) -> int:
    """How tightly what stands before the parenthesis at `index` binds; -1 where it must stay."""
    if index == 0:
        return 0
    before = toks[index - 1]
    text = before.text
    if before.kind == OPERATOR:
        if text == "*" and index > 1 and toks[index - 2].text in (".", "("):
            return -1
        return _UNARY if is_unary(toks, index - 1) else _LEVEL.get(text, _OTHER)
    if text not in _BEFORE_GROUP or before.kind == CONST:
        return -1
    if text == "ON" and index > 1 and toks[index - 2].text in ("DISTINCT", "CONFLICT"):
        return -1
    if text == "AND" and frame.between:
        return 6
    return _LEVEL.get(text, 0)


def _is_removable(toks: list[Tok], frame: _Frame, end: int, left: int) -> bool:
    after = toks[end + 1] if end + 1 < len(toks) else None
    following = after.text if after is not None else ""
    if end == frame.at + 1:
        return False
    before = toks[frame.at - 1].text if frame.at else ""
    if before == "FROM":
        # A join that no alias follows.
        keyword = after is not None and after.kind == KEY and following != "AS"
        return frame.join and not frame.query and (keyword or following in ("", ")", ","))
    if frame.query:
        return before == "(" and following == ")"
    if frame.comma or frame.join:
        return False
    if after is None or (after.kind != OPERATOR and following not in _LEVEL and following not in _TIGHT):
        right = 0
    elif following == "NOT":
        right = 6
    elif after.kind == OPERATOR:
        right = _LEVEL.get(following, _OTHER)
    else:
        right = _TIGHT.get(following, _LEVEL.get(following, 0))
    if following == ".":
        return False
    if right >= _TIGHT["["]:
        return frame.level == _HIGHEST and right == _TIGHT["::"]
    if frame.level <= left:
        return False
    return frame.level > right or (frame.level == right and right in _LEFT_ASSOCIATIVE)


def without_query_parentheses(toks: list[Tok]) -> list[Tok]:
    """Parentheses around a whole statement and around the plain branches of a UNION go."""
    opens: list[int] = []
    plain: list[bool] = []
    dropped: set[int] = set()
    for index, tok in enumerate(toks):
        text = tok.text
        if text == "(":
            opens.append(index)
            plain.append(True)
        elif text == ")" and opens:
            start = opens.pop()
            simple = plain.pop()
            before = toks[start - 1].text if start else ""
            after = toks[index + 1].text if index + 1 < len(toks) else ""
            if toks[start + 1].text != "SELECT":
                continue
            whole = start == 0 and index == len(toks) - 1
            branch = simple and before in _BEFORE_BRANCH and after in _AFTER_BRANCH
            if whole or (branch and (before not in ("", "(") or after not in ("", ")"))):
                dropped.add(start)
                dropped.add(index)
        elif tok.kind == KEY and text in _NOT_PLAIN and plain:
            plain[-1] = False
    return [tok for index, tok in enumerate(toks) if index not in dropped] if dropped else toks


_BEFORE_BRANCH: Final = frozenset({"", "(", "UNION", "ALL", "INTERSECT", "EXCEPT"})

_AFTER_BRANCH: Final = frozenset({"", ")", "UNION", "INTERSECT", "EXCEPT"})

_NOT_PLAIN: Final = frozenset({"UNION", "INTERSECT", "EXCEPT", "LIMIT", "OFFSET", "ORDER", "FOR", "WITH", "FETCH"})
