"""The tokens of a template, and what can be said of one by its neighbours."""

from __future__ import annotations

from typing import Final

from pgloupe_rules.lexer import NUMBER, OPERATOR, PARAM, PUNCTUATION, QUOTED, WORD
from pgloupe_rules.types import Slot

KEY: Final = WORD
"""Key word, in upper case."""

NAME: Final = QUOTED
"""Identifier in lower case, or in its quotes; also a key word in the place of a name."""

CONST: Final = PARAM
"""Constant or parameter, or a list of them; `text` is `$`."""

RAW: Final = NUMBER
"""A number that stays in the text."""


class Tok:
    """One canonical token. `ref` of a CONST is its layout item: see `normalise.Plan`."""

    __slots__ = ("kind", "ref", "text")

    def __init__(self, kind: int, text: str, ref: Slot = 0) -> None:
        self.kind = kind
        self.text = text
        self.ref = ref

    def __repr__(self) -> str:
        return self.text


def is_unary(out: list[Tok], at: int) -> bool:
    """Whether the operator at `at` has nothing on its left."""
    if at == 0:
        return True
    before = out[at - 1]
    if before.kind == OPERATOR:
        return before.text != "*" or at < 2 or not (out[at - 2].text == "." or _unary_star(out, at - 1))
    if before.kind == KEY:
        return before.text not in OPERAND_KEYS
    return before.kind == PUNCTUATION and before.text not in (")", "]")


def _unary_star(out: list[Tok], at: int) -> bool:
    return at > 0 and out[at - 1].text in ("SELECT", "(", ",")


OPERAND_KEYS: Final = frozenset(
    [
        "END",
        "NULL",
        "CURRENT_CATALOG",
        "CURRENT_DATE",
        "CURRENT_ROLE",
        "CURRENT_TIME",
        "CURRENT_TIMESTAMP",
        "CURRENT_USER",
        "LOCALTIME",
        "LOCALTIMESTAMP",
        "SESSION_USER",
        "USER",
        "CURRENT_SCHEMA",
    ]
)
