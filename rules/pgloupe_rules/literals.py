"""Values as SQL literals, and the constants of a statement as it wrote them.

Section 4.1.2 of the documentation has the literals, section 8.15.6 the array ones. A string with a backslash or with a character
that does not print is written as `E'…'`, so that it means the same whatever `standard_conforming_strings` is, stands on one
line and survives a terminal.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from decimal import Decimal
from math import isinf
from typing import Final, final
from uuid import UUID

from pgloupe_rules import lexer
from pgloupe_rules.normalise import MAX_TOKENS, plan_of
from pgloupe_rules.record import kept, plain
from pgloupe_rules.types import Literal, Slot, Template, Value, WrittenUUID

MAX_DIGITS: Final = 200

_SWALLOWED: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\uffff]|\\\\")
"""What is escaped in a string: controls, marks without a width, and the backslash."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BARE_ELEMENT: Final = re.compile(r"(?!null\Z)[A-Za-z0-9_.+:-]+", re.IGNORECASE)
_SHORT: Final = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class UnknownForm(Exception):
    """A value that cannot be written for certain."""


def text_of(value: Value) -> str:
    """The text of a value, as the input function of its type reads it. Raises UnknownForm."""
    if isinstance(value, str):
        if "\0" in value or _SURROGATE.search(value) is not None:
            raise UnknownForm  # a mark of `kept`, or bytes in another encoding
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        if not value.is_finite() or abs(value.adjusted()) > MAX_DIGITS:
            raise UnknownForm
        return format(value, "f")
    if isinstance(value, float):
        return ("-Infinity" if value < 0 else "Infinity") if isinf(value) else repr(value)
    if isinstance(value, UUID):
        return value.text if isinstance(value, WrittenUUID) else str(value)
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise UnknownForm


def quoted(text: str) -> str:
    """A string literal of the text."""
    body = text.replace("'", "''")
    if _SWALLOWED.search(body) is None:
        return f"'{body}'"
    return f"E'{_SWALLOWED.sub(_escaped, body)}'"


def _escaped(found: re.Match[str]) -> str:
    char = found.group()
    return _SHORT.get(char) or f"\\u{ord(char):04x}"


def array(values: tuple[Value, ...]) -> str:
    """A string literal of an array of the values, without a type; a tuple among them is an array of its own. Raises
    UnknownForm."""
    return quoted(_array(values))


def _array(values: tuple[Value, ...]) -> str:
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Value) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, tuple):
        return _array(value)
    text = text_of(value)
    if _BARE_ELEMENT.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@final
class Constants:
    """The constants of one statement as its text has them."""

    __slots__ = ("_layout", "_texts", "template")

    def __init__(self, text: str) -> None:
        """`text` is one statement without comments. Raises UnknownForm where it is none."""
        tokens, _ = lexer.lex(text, MAX_TOKENS + 1)
        if not tokens or len(tokens) > MAX_TOKENS:
            raise UnknownForm
        plan = plan_of(tokens)
        self.template: Template = plan.template
        self._layout = plan.layout
        self._texts = [token.text for token in tokens if token.kind in (lexer.STRING, lexer.NUMBER)]

    def slot(self, number: int) -> Slot:
        """Where placeholder `number` has its value from, as `normalise.Plan` says it. Raises UnknownForm."""
        if not 0 < number <= len(self._layout):
            raise UnknownForm
        return self._layout[number - 1]

    def is_number(self, number: int) -> bool:
        """Whether a placeholder is a numeric literal in the text."""
        slot = self.slot(number)
        item = slot[0] if isinstance(slot, tuple) and len(slot) == 1 else slot
        return isinstance(item, int) and item < 0 and self._texts[~item // 2][0] in "0123456789."

    def written(self, item: int | Literal, value: Value) -> str:
        """A literal of the text, as it stands there. Raises UnknownForm where it is not of this value: then it is another
        run's."""
        if isinstance(item, Literal):
            if kept(plain(item.value)) != kept(plain(value)):
                raise UnknownForm
            if item.value is None:
                return "NULL"
            if isinstance(item.value, int):
                return str(item.value)
            return {"t": "TRUE", "f": "FALSE"}.get(item.value) or quoted(text_of(item.value))
        index, negative = divmod(~item, 2)
        text = self._texts[index]
        if text[0] in "0123456789.":
            given = lexer.number(text, negative == 1)
            shown = f"-{text}" if negative else text
        else:
            given, shown = lexer.string(text), text
            if _SWALLOWED.search(text.replace("\\", "")) is not None:
                shown = quoted(text_of(given)) if text[0] in "'eE$" else ""
        if kept(plain(given)) != kept(plain(value)) or not shown:
            raise UnknownForm
        return shown
