"""Calls of set_config() whose outcome is known, and settings that change no answer.

Object-relational mappers and applications of many tenants set by a function what SET sets by a statement, because its value
can be a parameter there. Followed is a SELECT of nothing but such calls, with constants and parameters for arguments: it
runs each of them once, in order. Anywhere else the call may run many times, or never, and its session is not trusted.

Source: "System Administration Functions" (set_config), "Server Configuration".
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pgloupe.errors import ProtocolViolation
from pgloupe.session.statements import Portal
from pgloupe.wire.frontend import parse_bind_values

MAX_FOLLOWED: Final = 16_384
"""Characters of a statement that is looked at."""

NO_ANSWER: Final = frozenset(
    [
        "application_name",
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "transaction_timeout",
        "deadlock_timeout",
        "client_connection_check_interval",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
        "tcp_user_timeout",
        "work_mem",
        "hash_mem_multiplier",
        "maintenance_work_mem",
        "autovacuum_work_mem",
        "logical_decoding_work_mem",
        "temp_buffers",
        "jit",
        "synchronous_commit",
    ]
)
"""Settings that no answer depends on, so sessions in which they differ share answers. Limits of time turn an answer into an
error, and errors are not stored. Memory and jit choose how the same rows are computed. synchronous_commit is about writes.

Not here, though nothing is known to go wrong: what chooses plans by name (enable_…), what decides which messages a client
gets beside its rows (client_min_messages, log_…), and whatever an extension brings."""

_TEXTS: Final = frozenset({0, 25, 1043})
_BOOLS: Final = frozenset({0, 16})

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*")
_ARGUMENT: Final = r"(?:'((?:[^']|'')*)'|\$(\d{1,5})|(true|false|null))(?:\s*::\s*(?:text|varchar|bool|boolean))?"
_ALIAS: Final = r"(?:\s+(?:as\s+)?(?:[a-z_]\w*|\"[^\"]*\"))?"
_CALL: Final = re.compile(
    rf"\s*(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*{_ARGUMENT}\s*,\s*{_ARGUMENT}\s*,\s*{_ARGUMENT}\s*\){_ALIAS}\s*(,|\Z)",
    re.IGNORECASE | re.ASCII,
)
_ASKED: Final = re.compile(
    rf"\s*(?:pg_catalog\s*\.\s*)?current_setting\s*\(\s*'[^']*'\s*(?:,\s*(?:true|false)\s*)?\){_ALIAS}\s*(,|\Z)",
    re.IGNORECASE | re.ASCII,
)
_SELECT: Final = re.compile(r"SELECT\b", re.IGNORECASE)

_TRUE: Final = frozenset({"t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"})
_FALSE: Final = frozenset({"f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"})


class Constant(NamedTuple):
    """An argument that stands in the text; None for NULL."""

    value: str | None


class Parameter(NamedTuple):
    """An argument that comes with the Bind message, from 1."""

    number: int


Argument = Constant | Parameter


class Call(NamedTuple):
    name: Argument
    value: Argument
    is_local: Argument


class Change(NamedTuple):
    """What one call has done; `value` None stands for the default."""

    name: str
    value: str | None
    is_local: bool


def sets_by_function(text: str, calls: int) -> bool:
    """The statement calls set_config() in a way that is not followed. `calls` is how often its template names the function,
    however it is spelled."""
    found = calls_in(text)
    return found is None or len(found) != calls


def calls_in(text: str) -> tuple[Call, ...] | None:
    """The calls of a SELECT of nothing but set_config() and current_setting(); None for any other statement."""
    head = _SELECT.match(text)
    if head is None or len(text) > MAX_FOLLOWED:
        return None
    out: list[Call] = []
    position = head.end()
    while True:
        match = _CALL.match(text, position)
        if match is not None:
            arguments = [_argument(*match.group(n, n + 1, n + 2)) for n in (1, 4, 7)]
            out.append(Call(*arguments))
        else:
            match = _ASKED.match(text, position)
            if match is None:
                return None
        position = match.end()
        if match.group(match.re.groups) != ",":
            return tuple(out)


def _argument(quoted: str | None, number: str | None, word: str | None) -> Argument:
    if quoted is not None:
        return Constant(quoted.replace("''", "'"))
    if number is not None:
        return Parameter(int(number))
    return Constant(None if word is None or word.lower() == "null" else word.lower())


def changes(text: str, portal: Portal | None) -> list[Change] | None:
    """What the statement has set, in order; [] if it does not set anything, None if nobody can tell. `portal` has its
    parameters, None for a simple Query. Never raises."""
    calls = calls_in(text)
    if calls is None:
        return []
    parameters = _Parameters(portal)
    out: list[Change] = []
    for call in calls:
        name = parameters.text(call.name)
        value = parameters.text(call.value)
        is_local = parameters.flag(call.is_local)
        if not (isinstance(name, str) and _NAME.fullmatch(name)) or value is _NOT_KNOWN or is_local is None:
            return None
        out.append(Change(name.lower(), value if isinstance(value, str) else None, is_local))
    return out


class _NotKnown:
    __slots__ = ()


_NOT_KNOWN: Final = _NotKnown()


class _Parameters:
    """The values of a Bind message, as far as they can be read."""

    __slots__ = ("_formats", "_oids", "_values")

    def __init__(self, portal: Portal | None) -> None:
        self._formats: tuple[int, ...] = ()
        self._values: tuple[bytes | None, ...] = ()
        self._oids: tuple[int, ...] = ()
        if portal is not None and portal.bind:
            try:
                self._formats, values, _ = parse_bind_values(portal.bind, portal.offset)
            except ProtocolViolation:
                return
            self._values = tuple(values)
            self._oids = portal.prepared.oids

    def _known(self, number: int, oids: frozenset[int]) -> bool:
        return 1 <= number <= len(self._values) and (number > len(self._oids) or self._oids[number - 1] in oids)

    def text(self, argument: Argument) -> str | _NotKnown | None:
        if isinstance(argument, Constant):
            return argument.value
        if not self._known(argument.number, _TEXTS):
            return _NOT_KNOWN
        value = self._values[argument.number - 1]
        # a text is the same bytes in both formats
        return value.decode("utf-8", "surrogateescape") if value is not None else None

    def flag(self, argument: Argument) -> bool | None:
        """None if not known; NULL is false, which is how the function takes it."""
        if isinstance(argument, Constant):
            return _flag(argument.value)
        index = argument.number - 1
        if not self._known(argument.number, _BOOLS):
            return None
        value = self._values[index]
        formats = self._formats
        binary = formats[index] if len(formats) > 1 else formats[0] if formats else 0
        if value is None:
            return False
        if binary:
            return {b"\0": False, b"\1": True}.get(value)
        return _flag(value.decode("ascii", "replace"))


def _flag(text: str | None) -> bool | None:
    """How PostgreSQL reads a boolean ("Boolean Type")."""
    if text is None:
        return False
    word = text.strip(" \t\n\v\f\r").lower()
    return True if word in _TRUE else False if word in _FALSE else None
