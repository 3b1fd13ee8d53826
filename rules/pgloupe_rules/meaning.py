"""The fingerprint: a 64-bit hash over what a statement means.

What is the same statement to libpg_query's fingerprint is meant to be the same here, short of reordering: names of
SELECT-list columns, of savepoints, cursors and prepared statements, the cast of a constant, type modifiers and
parentheses that change nothing go; schemas, digits in names, the order of things and their number stay. All of it
happens on the canonical tokens and never touches the template's text, and constants are neither added nor dropped, so
that all statements of a fingerprint have the same placeholders.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from pgloupe_rules import words
from pgloupe_rules.folds import cast_end
from pgloupe_rules.parentheses import without_parentheses, without_query_parentheses
from pgloupe_rules.tok import CONST, KEY, NAME, OPERAND_KEYS, RAW, Tok


def digest(text: str) -> str:
    """64 bits of BLAKE2b in 16 hex digits; lone surrogates do no harm."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def fingerprint(toks: list[Tok]) -> str:
    """The fingerprint of a statement in canonical form."""
    return digest(meaning(toks))


def meaning(toks: list[Tok]) -> str:
    """The text that is hashed: the tokens that count, key words in lower case."""
    kept = _utility(toks) if toks else toks
    kept = without_parentheses(kept)
    kept = _casts(kept)
    kept = without_query_parentheses(kept)
    kept = _aliases(kept)
    return " ".join([tok.text.lower() if tok.kind == KEY else tok.text for tok in kept])


def _text(toks: list[Tok], at: int) -> str:
    return toks[at].text if at < len(toks) else ""


def _key(text: str) -> Tok:
    return Tok(KEY, text)


def _utility(toks: list[Tok]) -> list[Tok]:
    """Utility commands: what is optional or only a name for the session goes."""
    texts = [tok.text.upper() for tok in toks[:6]]
    first = texts[0]
    if first in ("BEGIN", "START"):
        return [_key(first)]
    if first in ("COMMIT", "END", "ROLLBACK", "ABORT") and "PREPARED" not in texts:
        word = "COMMIT" if first in ("COMMIT", "END") else "ROLLBACK"
        if "TO" in texts:
            return [_key("ROLLBACK TO")]
        return [_key(word), *[tok for tok in toks[1:] if tok.text.upper() not in ("WORK", "TRANSACTION")]]
    if first in ("SAVEPOINT", "RELEASE", "CLOSE", "LISTEN", "UNLISTEN"):
        return [_key(first)]
    if first == "DEALLOCATE":
        return [_key(first), *[tok for tok in toks[-1:] if tok.text.upper() == "ALL"]]
    if first == "DISCARD":
        return [_key("TEMP") if tok.text.upper() == "TEMPORARY" else tok for tok in toks]
    if first in ("NOTIFY", "DECLARE", "EXECUTE"):
        return [toks[0], *toks[2:]]
    if first == "PREPARE" and "TRANSACTION" not in texts[1:2]:
        return [toks[0], *toks[2:]]
    if first in ("FETCH", "MOVE"):
        return _fetch(toks)
    if first == "SET" and "LEVEL" in texts:
        return [
            tok
            for index, tok in enumerate(toks)
            if tok.text.upper() not in _LEVELS and tok.text != "," and toks[index - 1].text.upper() != "LEVEL"
        ]
    if first == "COPY":
        return [tok for index, tok in enumerate(toks) if not (tok.text == "WITH" and _text(toks, index + 1) == "(")]
    if first in ("CREATE", "ALTER", "DROP", "GRANT", "REVOKE", "TRUNCATE", "LOCK", "ANALYSE", "COMMENT"):
        return _definition(toks, first)
    return toks


_LEVELS: Final = frozenset({"SERIALIZABLE", "REPEATABLE", "COMMITTED", "UNCOMMITTED"})


def _fetch(toks: list[Tok]) -> list[Tok]:
    """`FETCH NEXT FROM c`, `FETCH c`, `FETCH FORWARD 1 IN c` and `FETCH 1 c` are one; the cursor's name goes."""
    rest = [tok for tok in toks[1:-1] if tok.text.upper() not in ("FROM", "IN")]
    names = [tok.text.upper() for tok in rest]
    if names[:1] == ["FORWARD"]:
        rest = rest[1:]
        names = names[1:]
    if names in ([], ["NEXT"]):
        rest = [Tok(RAW, "1")]
    return [toks[0], *rest]


def _definition(toks: list[Tok], first: str) -> list[Tok]:
    """Noise words of commands that define something."""
    out: list[Tok] = []
    for index, tok in enumerate(toks):
        text = tok.text.upper()
        before = toks[index - 1].text.upper() if index else ""
        if text == "TABLE" and (
            (first in ("TRUNCATE", "LOCK") and index == 1) or (first in ("GRANT", "REVOKE") and before == "ON")
        ):
            continue
        if text == "COLUMN" and first == "ALTER" and before in ("ADD", "ALTER", "DROP", "RENAME"):
            continue
        if text == "RESTRICT" and first == "DROP" and index == len(toks) - 1:
            continue
        if text == "BTREE" and before == "USING" and first == "CREATE" and out:
            out.pop()
            continue
        if text == "VARYING" and before in ("CHARACTER", "CHAR"):
            out[-1] = Tok(NAME, "varchar")
        elif text == "TEMPORARY":
            out.append(_key("TEMP"))
        elif text == "ANALYSE":
            out.append(_key("ANALYZE"))
        elif tok.kind == NAME and text.lower() in words.SYNONYMS and before != ".":
            out.append(Tok(NAME, words.SYNONYMS[tok.text.lower()]))
        elif (
            tok.kind == RAW
            and index > 1
            and first in ("CREATE", "ALTER")
            and (before == "(" or (before == "," and toks[index - 2].kind == RAW))
        ):
            out.append(Tok(RAW, "0"))
        else:
            out.append(tok)
    return _modifiers(out)


def _modifiers(toks: list[Tok]) -> list[Tok]:
    """`varchar(10)` and `numeric(10, 2)` without their numbers."""
    out: list[Tok] = []
    index = 0
    while index < len(toks):
        if (
            toks[index].text == "("
            and index
            and toks[index - 1].text.lower() in words.SIZED
            and index + 1 < len(toks)
            and toks[index + 1].kind == RAW
        ):
            while index < len(toks) and toks[index].text != ")":
                index += 1
            index += 1
            continue
        out.append(toks[index])
        index += 1
    return out


def _casts(toks: list[Tok]) -> list[Tok]:
    """The first cast of a constant goes; of other casts the modifiers, and synonyms are written one way."""
    out: list[Tok] = []
    index = 0
    count = len(toks)
    while index < count:
        tok = toks[index]
        if tok.text == "::" and tok.kind != CONST:
            end = cast_end(toks, index, single=True)
            if not (out and out[-1].kind == CONST):
                out.append(tok)
                out.extend(_type(toks[index + 1 : end]))
                if out[-1].kind == CONST:  # a cut-off cast
                    out.append(Tok(RAW, ""))
            elif end <= index:
                out.append(tok)
                end = index + 1
            # Not another constant: what follows is a cast of this cast.
            elif end < count and toks[end].text == "::":
                out.append(toks[end])
                nested = cast_end(toks, end, single=True)
                out.extend(_type(toks[end + 1 : nested]))
                end = nested
            index = max(end, index + 1)
            continue
        out.append(tok)
        index += 1
    return out


def _type(toks: list[Tok]) -> list[Tok]:
    """A type name without modifiers and interval fields, in one of its spellings."""
    names = [tok.text.lower() for tok in toks]
    plain: list[str] = []
    depth = 0
    for name in names:
        if name == "(":
            depth += 1
        elif name == ")":
            depth -= 1
        elif depth == 0:
            plain.append(name)
    text = " ".join(plain)
    base = plain[0] if plain else ""
    tail = plain[1:]
    if text.startswith("double precision"):
        base, tail = "float", plain[2:]
    elif tail[:1] == ["varying"] and base in ("character", "char", "nchar"):
        base, tail = "varchar", tail[1:]
    elif tail[:1] == ["varying"] and base == "bit":
        base, tail = "bit varying", tail[1:]
    elif tail[:3] == ["without", "time", "zone"]:
        tail = tail[3:]
    elif tail[:3] == ["with", "time", "zone"]:
        base, tail = base + " with time zone", tail[3:]
    elif base == "interval":
        tail = [word for word in tail if word in ("[", "]")]
    elif base == "float" and "(" in names and len(names) > 2 and names[2].isdigit() and int(names[2][:4]) < 25:
        base = "real"
    elif base == "character" or base in words.SYNONYMS:
        base = "char" if base == "character" else words.SYNONYMS[base]
    if tail == ["array"]:
        tail = ["[", "]"]
    return [Tok(NAME, base), *[Tok(NAME, word) for word in tail]]


_ENDS_LIST: Final = frozenset(
    [
        "FROM",
        "WHERE",
        "GROUP",
        "HAVING",
        "UNION",
        "INTERSECT",
        "EXCEPT",
        "ORDER",
        "LIMIT",
        "OFFSET",
        "FETCH",
        "FOR",
        "WINDOW",
        "INTO",
        "RETURNING",
    ]
)

_ENDS_OPERAND: Final = OPERAND_KEYS | {"TRUE", "FALSE"}


def _aliases(toks: list[Tok]) -> list[Tok]:
    """Names given to columns of a SELECT list go, and the word AS everywhere."""
    out: list[Tok] = []
    lists = [False]  # for each open parenthesis: whether we are in the SELECT list of the query in it
    on_ends: set[int] = set()
    opened: list[bool] = []  # whether each open parenthesis is that of DISTINCT ON
    closes_on = False
    index = 0
    count = len(toks)
    while index < count:
        tok = toks[index]
        text = tok.text
        if text in ("(", "["):
            opened.append(index > 1 and toks[index - 1].text == "ON" and toks[index - 2].text == "DISTINCT")
            lists.append(False)
        elif text in (")", "]"):
            if len(lists) > 1:
                lists.pop()
            closes_on = opened.pop() if opened else False
            if closes_on:
                on_ends.add(index)
        elif tok.kind == KEY:
            if text == "SELECT":
                lists[-1] = True
            elif text in _ENDS_LIST:
                lists[-1] = False
            elif text == "AS":
                index += 2 if lists[-1] and index + 1 < count and toks[index + 1].kind in (NAME, KEY) else 1
                continue
        elif tok.kind == NAME and lists[-1] and index:
            before = toks[index - 1]
            if (
                before.kind in (NAME, CONST)
                or (before.text in (")", "]") and index - 1 not in on_ends)
                or (before.kind == KEY and before.text in _ENDS_OPERAND)
            ):
                index += 1
                continue
        out.append(tok)
        index += 1
    return out
