"""A query string becomes statements; each statement becomes a template and the places its values come from.

No grammar: tokens are read once and rewritten by local rules, so that anything a client sends, also what the server
will refuse, has a template. What the rules do not fold is told apart, which costs a rule some evidence and never its
correctness.

A template is SQL that the server and sqlglot read: `$1`, `$2` … for constants and parameters in order of appearance,
key words in upper case, names in lower case, quotes only where they matter. A list of constants (`IN`, `ARRAY`,
row values) is one placeholder however long it is, and so is each column of a multi-row `VALUES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pgloupe_rules import canonical, meaning, tags
from pgloupe_rules.lexer import NUMBER, SPACE, STRING, WORD, Token, lex, literals, number, string
from pgloupe_rules.render import render
from pgloupe_rules.types import NO_TAGS, Literal, Recognised, Slot, Template

MAX_TEXT: Final = 1 << 18
"""Characters of a query string that are recognised whole."""
PREFIX: Final = 1 << 16
"""Characters by which a longer one is recognised."""
MAX_TOKENS: Final = 1 << 14
"""Tokens of a query string that are recognised whole: each takes a few microseconds, and every other session waits."""

UNRECOGNISED: Final = "<not recognised>"
"""How the template text of a query string begins that nobody could make sense of. It may change anything."""


class Plan:
    """What a statement's form decides: its template, and for each placeholder where the value is found.

    A layout item is a parameter number, `~(2 * n + negative)` for the literal number `n` (from 0, in order of the
    text), a `Literal` for a constant that is a key word, or a tuple of these.
    """

    __slots__ = ("layout", "template")

    def __init__(self, template: Template, layout: tuple[Slot, ...]) -> None:
        self.template = template
        self.layout = layout


def recognise(query_string: str) -> tuple[Recognised, ...]:
    """The statements of a query string, in order. Pure; never raises; an empty query string gives `()`.

    A text of more than `MAX_TEXT` characters is recognised by its first `PREFIX` characters and its length, as one
    statement without values; for one of more than `MAX_TOKENS` tokens see `crowded`.
    """
    if len(query_string) > MAX_TEXT:
        return (_oversized(query_string),)
    tokens, comments = lex(query_string, MAX_TOKENS + 1)
    if len(tokens) > MAX_TOKENS:
        return (crowded(query_string, tokens, literals(query_string)),)
    return recognise_tokens(query_string, tokens, comments, [])


def recognise_tokens(
    query_string: str, tokens: list[Token], comments: list[tuple[int, int]], plans: list[Plan]
) -> tuple[Recognised, ...]:
    """`recognise` for a text whose tokens are known; the plan of each statement is appended to `plans`."""
    out: list[Recognised] = []
    found = tags_of(query_string, comments)
    for start, end in split(tokens):
        part = tokens[start:end]
        plan = plan_of(part)
        plans.append(plan)
        texts = [token.text for token in part if token.kind in (STRING, NUMBER)]
        bare = bare_text(query_string, comments, part[0].start, part[-1].end)
        out.append(Recognised(plan.template, fill(plan.layout, texts), bare, found))
    return tuple(out)


def plan_of(tokens: list[Token]) -> Plan:
    """The template and layout of one statement's tokens."""
    toks = canonical.canonicalise(tokens)
    layout: list[Slot] = []
    text = render(toks, layout)
    return Plan(Template(meaning.fingerprint(toks), text, len(layout)), tuple(layout))


def fill(layout: tuple[Slot, ...], texts: list[str]) -> tuple[Slot, ...]:
    """The slots of one statement: its layout with the literals of its text, decoded."""
    return tuple([_slot(item, texts) for item in layout])


def _slot(item: Slot, texts: list[str]) -> Slot:
    if isinstance(item, tuple):
        return tuple([_source(inner, texts) for inner in item])
    return _source(item, texts)


def _source(item: int | Literal, texts: list[str]) -> int | Literal:
    if isinstance(item, Literal) or item >= 0:
        return item
    index, negative = divmod(~item, 2)
    text = texts[index]
    if text[0] in "0123456789.":
        return Literal(number(text, negative == 1))
    return Literal(string(text))


def split(tokens: list[Token]) -> list[tuple[int, int]]:
    """Where each statement begins and ends among the tokens: at `;` outside of parentheses and of the body of a
    `CREATE FUNCTION … BEGIN ATOMIC` (documentation, CREATE FUNCTION)."""
    out: list[tuple[int, int]] = []
    start = 0
    depth = 0
    blocks = 0
    routine = False
    for index, token in enumerate(tokens):
        text = token.text
        if len(text) == 1:
            if text == "(":
                depth += 1
            elif text == ")":
                depth = max(0, depth - 1)
            elif text == ";" and depth == 0 and blocks == 0:
                if index > start:
                    out.append((start, index))
                start = index + 1
                routine = False
        elif token.kind == WORD:
            word = text.lower()
            if word in _ROUTINE and index - start <= 3 and tokens[start].text.lower() == "create":
                routine = True
            elif routine and (word == "begin" or (word == "case" and blocks)):
                blocks += 1
            elif routine and word == "end" and blocks:
                blocks -= 1
    if len(tokens) > start:
        out.append((start, len(tokens)))
    return out


_ROUTINE: Final = frozenset({"function", "procedure"})


def bare_text(text: str, comments: list[tuple[int, int]], start: int = 0, end: int = -1) -> str:
    """The statement from `start` to `end`, or the only one of the text, without comments and white space around it.

    A block comment between two strings leaves `/**/`: strings with only white space between them would be one.
    """
    if end < 0:
        end = len(text)
        for first, last in comments:
            if text[start:first].strip(_EDGE):
                break
            start = last
        for first, last in reversed(comments):
            if first < start or text[last:end].strip(_EDGE):
                break
            end = first
    pieces: list[str] = []
    position = start
    for first, last in comments:
        if start <= first < end:
            before = text[position:first]
            pieces.append(before)
            if text[first] == "/":
                pieces.append("/**/" if before.rstrip(SPACE).endswith("'") else " ")
            position = last
    pieces.append(text[position:end])
    return "".join(pieces).strip(_EDGE)


_EDGE: Final = SPACE + ";"


def tags_of(text: str, comments: list[tuple[int, int]]) -> Mapping[str, str]:
    """The tags of a query string's comments."""
    return tags.merge([text[start:end] for start, end in comments]) if comments else NO_TAGS


_ATOM: Final = r"\s*+(?:-?\x00|\x01|\$[0-9]++|null|true|false)\s*+"
_ROW: Final = rf"\({_ATOM}(?:,{_ATOM})*+\)"
_CONSTANTS: Final = re.compile(
    rf'("[^"]*+")|((?<![\w$])values\s*+{_ROW})(?:\s*+,\s*+{_ROW})++|((?<![\w$])(?:in\s*+\(|array\s*+\[){_ATOM})(?:,{_ATOM})++',
    re.IGNORECASE,
)
"""Quoted names, the rows of a VALUES and the lists of an IN or ARRAY in a key of `lexer.literals`."""


def crowded(
    query_string: str, tokens: list[Token], parts: tuple[str, list[str], list[tuple[int, int]]] | None
) -> Recognised:
    """A text with too many tokens, `tokens` being the first of them, `parts` what `lexer.literals` says of it: one statement without values. What is long by its rows
    and lists of constants alone (a bulk INSERT) has the template of a short one; the rest has one that says what it begins
    with and that it was not recognised."""
    if parts is not None:
        key, _, comments = parts
        short = _CONSTANTS.sub(_first_alone, key)
        most = MAX_TOKENS if len(short) < len(key) else 0
        fewer, _ = lex(short.replace("\x00", "0").replace("\x01", "''"), most + 1)
        if len(fewer) <= most and len(split(fewer)) == 1:
            bare = bare_text(query_string, comments)
            return Recognised(plan_of(fewer).template, (), bare, tags_of(query_string, comments))
    text = f"{UNRECOGNISED} {render(canonical.canonicalise(tokens[:_SHOWN_TOKENS]), [])}"
    return Recognised(Template(meaning.digest(text), text, 0), (), query_string)


def _first_alone(found: re.Match[str]) -> str:
    return found.group(1) or found.group(2) or found.group(3)


_SHOWN_TOKENS: Final = 50


def _oversized(query_string: str) -> Recognised:
    tokens, _ = lex(query_string[:PREFIX])
    toks = canonical.canonicalise(tokens[: canonical.MAX_TOKENS])
    text = render(toks, [])
    template = Template(meaning.digest(f"{len(query_string)} {text}"), text, 0)
    return Recognised(template, (), query_string)
