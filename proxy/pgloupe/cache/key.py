"""The key of an answer: everything that can change the bytes of it.

Two reads share an answer only if the server would have sent the same bytes to both, so the key holds who asks, in which
settings, with which text, parameters and formats, and which reply was asked for. Each part goes in with its own length and
each group with its own count, so no two different reads make the same input of the hash, whatever bytes a client puts
into names or parameters. The hash is BLAKE2b with 256 bits: a client cannot find two reads with one key.

Comments never get here: `bare` is the statement without them, so a trace id in a comment does not make each key unique.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final

KEY_BYTES: Final = 32
"""Length of a key."""

_LENGTH: Final = Struct(">q").pack

_MOMENT: Final = re.compile(rb"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])", re.IGNORECASE)

SIMPLE: Final = b"Q"
"""Protocol kind of a simple Query: every column comes as text and a RowDescription comes first."""
EXTENDED: Final = b"P"
"""Protocol kind of `Parse Bind Execute`."""
DRY_RUN: Final = b"D"
"""Before the kind of a read whose answer is not kept, only a digest of it."""


def _group(parts: list[bytes], items: Sequence[bytes | None]) -> None:
    parts.append(_LENGTH(len(items)))
    for item in items:
        if item is None:
            parts.append(_LENGTH(-1))
        else:
            parts.append(_LENGTH(len(item)))
            parts.append(item)


def digest(*groups: Sequence[bytes | None]) -> bytes:
    """32 bytes that stand for these groups of byte strings (None is NULL, which is not the empty string)."""
    parts: list[bytes] = [_LENGTH(len(groups))]
    for group in groups:
        _group(parts, group)
    return blake2b(b"".join(parts), digest_size=KEY_BYTES).digest()


def session_part(server: str, database: str, session_user: str, role: str, settings: bytes) -> bytes:
    """What the session adds to each of its keys; computed when one of these changes, not for each read.

    `settings` is the session's own account of every setting that changes an answer: search_path with `$user` resolved,
    client_encoding, DateStyle, TimeZone and so on, in any unambiguous encoding.
    """
    return digest([server.encode(), database.encode(), session_user.encode(), role.encode(), settings])


def cache_key(
    session: bytes,
    kind: bytes,
    bare: str | bytes,
    parameter_types: Sequence[int] = (),
    parameter_formats: Sequence[int] = (),
    parameters: Sequence[bytes | None] = (),
    result_formats: Sequence[int] = (),
    row_description: bool = True,
) -> bytes:
    """The key of one read, 32 bytes.

    `session` comes from `session_part`; `kind` is `SIMPLE` or `EXTENDED`; types are the OIDs that Parse declared, formats and
    parameters are those of Bind as sent (None is NULL). `row_description` says whether the reply holds one. Raises
    struct.error for an OID outside of 32 bits or a format code outside of 16, which no message can carry.
    """
    text = bare.encode("utf-8", "surrogateescape") if isinstance(bare, str) else bare
    numbers = Struct(f">{len(parameter_types)}I").pack(*parameter_types)
    formats = Struct(f">{len(parameter_formats)}h").pack(*parameter_formats)
    results = Struct(f">{len(result_formats)}h").pack(*result_formats)
    return digest(
        [session, kind, text, numbers, formats, results, b"T" if row_description else b""],
        parameters,
    )


def names_moment(parameters: bytes) -> bool:
    """A parameter may be a word that stands for another moment each time (`now`, `today` …; documentation, section 8.5.1.4).

    `parameters` are values as sent, in one piece. A read with such a parameter is not to be answered from the cache: what
    it returns depends on the time. Binary values may look so by chance.
    """
    return _MOMENT.search(parameters) is not None
