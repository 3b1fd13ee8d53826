"""The text of a template, written from its tokens."""

from __future__ import annotations

from typing import Final

from pgloupe_rules.lexer import OPERATOR
from pgloupe_rules.tok import CONST, KEY, NAME, Tok, is_unary
from pgloupe_rules.types import Slot


def render(toks: list[Tok], layout: list[Slot]) -> str:
    """The template's text; the layout item of each placeholder is appended to `layout`."""
    out: list[str] = []
    previous: Tok | None = None
    glued = True
    numbers = 0
    for index, tok in enumerate(toks):
        text = tok.text
        if previous is not None and (
            # two operators side by side would be read as one, and two signs as a comment
            (previous.kind == OPERATOR and tok.kind == OPERATOR) or (not glued and not _glues_left(toks, index))
        ):
            out.append(" ")
        if tok.kind == CONST:
            numbers += 1
            layout.append(tok.ref)
            out.append(f"${numbers}")
        else:
            out.append(text)
        glued = text in _OPENING or (tok.kind == OPERATOR and text not in _BINARY and is_unary(toks, index))
        previous = tok
    return "".join(out)


_OPENING: Final = frozenset({"(", "[", ".", "::", ":"})

_BINARY: Final = frozenset({"=", "<", ">", "<=", ">=", "<>", "*", "/", "%", "||"})

_CLOSING: Final = frozenset({")", "]", ",", ";", ".", "::", "[", ":"})


def _glues_left(toks: list[Tok], index: int) -> bool:
    """Whether no space stands before a token."""
    text = toks[index].text
    if text in _CLOSING:
        return text != "[" or toks[index - 1].kind != OPERATOR
    if text != "(":
        return False
    before = toks[index - 1]
    if before.kind == NAME:
        # A list of columns stands apart, the arguments of a function do not.
        at = index - 1
        while at > 1 and toks[at - 1].text == ".":
            at -= 2
        return at == 0 or toks[at - 1].text not in ("INTO", "AS", "TABLE", "WITH", "ON")
    return before.kind == KEY and before.text in _CALLS


_CALLS: Final = frozenset(
    {"ANY", "ALL", "CAST", "ROW", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LEFT", "RIGHT", "LOCALTIME", "LOCALTIMESTAMP"}
)
