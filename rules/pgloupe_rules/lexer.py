"""PostgreSQL's tokens (documentation, section 4.1), by compiled patterns that cannot backtrack.

Client text is read as the server reads it with `standard_conforming_strings` on. Repetitions are possessive and every
quoted form may also end with the text, so each character is looked at a bounded number of times and a statement that
is cut off in a string or a comment still has tokens. The one form that a pattern cannot hold, the nested comment, is
counted by hand.

`lex` gives all tokens. `literals` gives only what differs between two statements of one template, and the rest as a
key: it costs a tenth and is all that a statement needs whose form was seen before.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

from pgloupe_rules.types import Value, comparable

WORD: Final = 1
"""Unquoted identifier or keyword."""
QUOTED: Final = 2
"""Quoted identifier."""
STRING: Final = 3
NUMBER: Final = 4
PARAM: Final = 5
"""`$1`"""
OPERATOR: Final = 6
PUNCTUATION: Final = 7
"""`( ) [ ] , ; . : :: :=` and any character that PostgreSQL has no use for."""

SPACE: Final = " \t\n\r\f\v"
_IDENT: Final = r"[A-Za-z0-9_$\x80-\U0010ffff]"
_START: Final = r"[A-Za-z_\x80-\U0010ffff]"
_PLAIN: Final = r"'[^']*+(?:''[^']*+)*+(?:'|\Z)"
_ESCAPED: Final = r"'(?:[^'\\]++|''|\\(?:.|\Z))*+(?:'|\Z)"
# A string goes on after white space that holds a line break; a line comment counts as white space there.
_GAP: Final = r"[ \t\f\v]*+(?:--[^\n\r]*+)?+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+(?=[\n\r]))*+(?=')"
_STRINGS: Final = (
    rf"[eE]{_ESCAPED}(?:{_GAP}{_ESCAPED})*+"
    rf"|(?:[bBxXnN]|[uU]&)?{_PLAIN}(?:{_GAP}{_PLAIN})*+"
)
_QUOTED: Final = r'(?:[uU]&)?"[^"]*+(?:""[^"]*+)*+(?:"|\Z)'
_NUMBER: Final = (
    r"0[xX](?:_?[0-9a-fA-F])++|0[oO](?:_?[0-7])++|0[bB](?:_?[01])++"
    r"|(?:[0-9](?:_?[0-9])*+(?:\.(?!\.)(?:[0-9](?:_?[0-9])*+)?+)?+|\.[0-9](?:_?[0-9])*+)(?:[eE][-+]?[0-9](?:_?[0-9])*+)?+"
)
_DOLLAR: Final = rf"\$((?:{_START}[A-Za-z0-9_\x80-\U0010ffff]*+)?)\$(?:[^$]++|\$(?!{{tag}}\$))*+(?:\${{tag}}\$|\Z)"
_COMMENT: Final = r"--[^\n\r]*+|/\*(?:[^*/]++|\*(?!/)|/(?!\*))*+(?:\*/)?+"
# An operator of several characters ends in + or - only if it holds one of ~ ! @ # % ^ & | ` ? as well. The server takes
# at most 63 characters, and so do we: that bounds the second look.
_BASIC: Final = r"(?:(?!--|/\*)[-+*/<>=])"
_ANY: Final = r"(?:(?!--|/\*)[-+*/<>=~!@#%^&|`?])"
_OPERATOR: Final = (
    rf"(?=[-+*/<>=]{{0,62}}+[~!@#%^&|`?]){_BASIC}{{0,62}}+(?:(?!--|/\*)[~!@#%^&|`?]){_ANY}{{0,62}}+"
    rf"|(?=[-+]{{0,62}}+[*/<>=]){_BASIC}{{0,62}}(?!--|/\*)[*/<>=]|(?!--|/\*)[-+]"
)

_TOKEN: Final = re.compile(
    rf"[ \t\n\r\f\v]*+(?:(?P<comment>{_COMMENT})|(?P<string>{_STRINGS}|{_DOLLAR.format(tag='(?P=tag)').replace('((?:', '(?P<tag>(?:', 1)})"
    rf"|(?P<quoted>{_QUOTED})|(?P<word>{_START}{_IDENT}*+)|(?P<number>{_NUMBER})|(?P<param>\$[0-9]++)"
    rf"|(?P<operator>{_OPERATOR})|(?P<punctuation>::|:=|\.\.|.)|\Z)",
    re.DOTALL,
)
_VARYING: Final = re.compile(
    rf"({_COMMENT}|(?<!{_IDENT})(?:{_STRINGS}|{_NUMBER}|{_DOLLAR.format(tag=chr(92) + '2')})|{_QUOTED}|{_PLAIN})",
    re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_KINDS: Final = {
    "word": WORD,
    "quoted": QUOTED,
    "string": STRING,
    "number": NUMBER,
    "param": PARAM,
    "operator": OPERATOR,
    "punctuation": PUNCTUATION,
}


class Token:
    """One token: its kind, its text as sent, and where it stands in the query string."""

    __slots__ = ("end", "kind", "start", "text")

    def __init__(self, kind: int, text: str, start: int, end: int) -> None:
        self.kind = kind
        self.text = text
        self.start = start
        self.end = end


def lex(text: str, most: int = 1 << 30) -> tuple[list[Token], list[tuple[int, int]]]:
    """The tokens of a query string, `most` of them, and the spans of its comments. Never raises; time grows with the length
    alone."""
    tokens: list[Token] = []
    comments: list[tuple[int, int]] = []
    position = 0
    length = len(text)
    match = _TOKEN.match
    while position < length and len(tokens) < most:
        found = match(text, position)
        if found is None or found.lastgroup is None:
            break
        name = "string" if found.lastgroup == "tag" else found.lastgroup
        start, end = found.span(name)
        if name == "comment":
            if text.startswith("/*", start):
                end = _comment_end(text, start)
            comments.append((start, end))
        else:
            tokens.append(Token(_KINDS[name], text[start:end], start, end))
        position = end
    return tokens, comments


def _comment_end(text: str, start: int) -> int:
    """Where the comment that opens at `start` ends, inner comments counted."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def literals(text: str) -> tuple[str, list[str], list[tuple[int, int]]] | None:
    """Key, literals and spans of the comments of a query string.

    The key is the text with a mark for each literal and without comments, so that texts of one key have the same
    tokens but for the literals. None where only `lex` can tell.
    """
    parts = _VARYING.split(text)
    if len(parts) == 1:
        return text, [], []
    key: list[str] = [parts[0]]
    found: list[str] = []
    comments: list[tuple[int, int]] = []
    for index in range(1, len(parts), 3):
        token = parts[index]
        first = token[0]
        if first in _DIGITS:
            key.append("\x00")
            found.append(token)
        elif first == '"' or (first in "uU" and token[2] == '"'):
            key.append(token)
        elif first in "/-":
            if first == "/":
                if not token.endswith("*/") or len(token) < 4:
                    return None  # nested or cut off
                key.append(" ")
            start = sum([len(part) for part in parts[:index] if part]) - sum(
                [len(tag) for tag in parts[2:index:3] if tag]
            )
            comments.append((start, start + len(token)))
            if len(comments) > _MAX_COMMENTS:
                return None
        else:
            # Numbers and strings have marks of their own: `date '...'` is a constant, `date 1` is not.
            key.append("\x01")
            found.append(token)
        key.append(parts[index + 2])
    return "".join(key), found, comments


_DIGITS: Final = frozenset("0123456789.")
_MAX_COMMENTS: Final = 8
_TOUCHING: Final = re.compile(r"[\x00\x01][A-Za-z0-9_$.\x80-\U0010ffff\x00\x01]|[.$]\x00")


def is_safe_key(key: str, text: str) -> bool:
    """Whether every text of this key is read alike: no literal touches what could join it to another token."""
    return "\x00" not in text and "\x01" not in text and _TOUCHING.search(key) is None


def fold(word: str) -> str:
    """An unquoted identifier as the server stores it: ASCII letters in lower case (section 4.1.1)."""
    if word.isascii():
        return word.lower()
    return "".join(char.lower() if char.isascii() else char for char in word)


def number(text: str, negative: bool = False) -> Value:
    """The value of a numeric constant: int or Decimal; text where it is too long to be anything sensible."""
    if len(text) > 1000:
        return text
    digits = text.replace("_", "")
    try:
        value: int | Decimal = int(digits, 0) if digits[:2].lower() in _RADIX else int(digits)
    except ValueError:
        try:
            value = Decimal(digits)
        except InvalidOperation:
            return text
    return -value if negative else value


_RADIX: Final = frozenset({"0x", "0o", "0b"})
_JOIN_PLAIN: Final = re.compile(rf"'(?P<body>[^']*+(?:''[^']*+)*+)(?:'|\Z)(?:{_GAP})?+", re.DOTALL)
_JOIN_ESCAPED: Final = re.compile(r"'(?P<body>(?:[^'\\]++|''|\\(?:.|\Z))*+)(?:'|\Z)" + rf"(?:{_GAP})?+", re.DOTALL)
_ESCAPE: Final = re.compile(
    r"''|\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL
)
_CONTROL: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def string(text: str) -> Value:
    """The value of a string constant of any form, decoded and comparable. Bit strings keep their digits."""
    first = text[0]
    if first == "'":
        if text.find("'", 1) == len(text) - 1:
            return comparable(text[1:-1])
        return comparable(_body(text))
    if first in "eE":
        body = "".join(found.group("body") for found in _JOIN_ESCAPED.finditer(text, 1))
        return comparable(_ESCAPE.sub(_unescape, body))
    if first == "$":
        tag = text[: text.index("$", 1) + 1]
        return comparable(text[len(tag) : -len(tag)] if text.endswith(tag, len(tag)) else text[len(tag) :])
    if first in "uU":
        return comparable(unicode_escapes(_body(text[2:]), "\\"))
    return comparable(_body(text[1:]))


def _body(text: str) -> str:
    return "".join(found.group("body") for found in _JOIN_PLAIN.finditer(text)).replace("''", "'")


def _character(code: int) -> str:
    return chr(code) if 0 < code < 0xD800 or 0xE000 <= code <= 0x10FFFF else "\ufffd"


def _unescape(found: re.Match[str]) -> str:
    octal, hexadecimal, short, long, other = found.groups()
    if octal is not None:
        return _character(int(octal, 8) & 0xFF)
    if hexadecimal is not None:
        return _character(int(hexadecimal, 16))
    if short is not None or long is not None:
        return _character(int(short or long, 16))
    if other is not None:
        return _CONTROL.get(other, other)
    return "'"


def unicode_escapes(body: str, escape: str) -> str:
    r"""The text of `U&'…'`: `\0041` and `\+000041` are code points, the escape character doubled is itself."""
    if escape not in body:
        return body
    mark = re.escape(escape)
    pattern = re.compile(rf"{mark}(?:([0-9a-fA-F]{{4}})|\+([0-9a-fA-F]{{6}})|{mark})")
    return pattern.sub(lambda m: _character(int(m[1] or m[2], 16)) if m[1] or m[2] else escape, body)
