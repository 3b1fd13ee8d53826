"""What in a session, besides the statement, changes what a read returns.

The cache puts `key()` into the key of an answer: start-up parameters, what the server reported (ParameterStatus), and the
settings that the session made itself. What cannot be followed makes the session *untrusted*: it has no key, so it is never
answered from the cache, until DISCARD ALL brings back the state in which it began.

Followed: SET and RESET of a setting, once their transaction committed; SET ROLE and SET SESSION AUTHORIZATION; RESET ALL;
DISCARD ALL. Not followed, so untrusted: a rollback to a savepoint after a SET, temporary tables,
and every statement that may do anything (DO, CALL, a function that nobody knows).

Source: SQL commands SET, RESET, DISCARD, SET ROLE, SET SESSION AUTHORIZATION; "Setting Parameters".
"""

from __future__ import annotations

import re
from typing import Final

from pgloupe_rules.types import Recognised

_WORD: Final = re.compile(r"[A-Za-z_]+")
_SET: Final = re.compile(
    r"SET\s+(?:(SESSION|LOCAL)\s+)?(?:(TIME\s+ZONE|NAMES|SCHEMA)\s+|((?:\"[^\"]+\"|[\w.])+)\s*(?:=|\bTO\b)\s*)(.+)",
    re.IGNORECASE | re.DOTALL,
)
_SET_ROLE: Final = re.compile(
    r"SET\s+(?:(SESSION|LOCAL)\s+)?(ROLE|SESSION\s+AUTHORIZATION)\s+(.+)", re.IGNORECASE | re.DOTALL
)
_RESET: Final = re.compile(r"RESET\s+(.+)", re.IGNORECASE | re.DOTALL)
_ALIAS: Final = {
    "time zone": "timezone",
    "names": "client_encoding",
    "schema": "search_path",
    "session_authorization": "session authorization",
}
_IDENTITY: Final = ("role", "session authorization")
_TEMPORARY: Final = re.compile(
    r"\b(?:CREATE|INTO)\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\b|\bpg_temp", re.IGNORECASE
)

_UNSAFE_ENCODINGS: Final = frozenset({"SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004"})
"""In these a byte of a longer character may be a quote or a backslash, so text cannot be split by bytes."""

_WHO: Final = frozenset({*_IDENTITY, "application_name", "session_authorization", "is_superuser"})
"""What tells users apart, in what the server reports and in what sessions set."""

_NOT_IN_KEY: Final = frozenset({"application_name", "user", "database"})
MAX_SETTINGS: Final = 200
MAX_SETTING: Final = 4_096
"""Characters of a setting's value that is kept."""


_SET_CONFIG: Final = re.compile(r"\bset_config\s*\(\s*(?:'(\w+)'\s*,)?", re.IGNORECASE)
_ONLY_PLANS: Final = frozenset({"jit", "application_name"})
"""Settings that change no answer. asyncpg turns jit off and on again around its look-up of types."""


def sets_by_function(text: str, calls: int) -> bool:
    """The statement calls set_config() for a setting that may change an answer, or that nobody can tell. `calls` is how
    often its template names the function, however it is spelled."""
    plain = _SET_CONFIG.findall(text)
    return len(plain) != calls or any(name.lower() not in _ONLY_PLANS for name in plain)


class Context:
    """State of one session. `key()` is what the cache's key is made of."""

    __slots__ = ("_key", "_pending", "_reported", "_settings", "_startup", "reason", "tainted")

    def __init__(self, startup: dict[str, str], defaults: str = "") -> None:
        """`defaults` stands for the settings with which the server begins a session of this user and database now."""
        self._startup = {k.lower(): v for k, v in startup.items() if k.lower() not in _NOT_IN_KEY}
        self._startup["\0defaults"] = defaults
        self._reported: dict[str, str] = {}
        self._settings: dict[str, str] = {}
        self._pending: list[tuple[str, str | None]] = []
        self._key: bytes | None = None
        self.reason = ""
        """Why the session is untrusted, "" while it is trusted."""
        self.tainted = False

    def key(self) -> bytes | None:
        """Everything that may change an answer; None if untrusted."""
        if self.reason:
            return None
        if self._key is None:
            if not self.readable():
                self.distrust("standard_conforming_strings or client_encoding may hide quotes")
                return None
            parts: list[str] = []
            for source in (self._startup, self._reported, self._settings):
                for name in sorted(source):
                    if name != "application_name":
                        parts += (name, source[name])
                parts.append("")
            self._key = "\0".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogateescape")
        return self._key

    def common(self) -> tuple[bytes, tuple[str, ...]]:
        """`key()` without who asks, for a context that has one; and the roles that were taken on, as they were written."""
        parts: list[str] = []
        for source in (self._startup, self._reported, self._settings):
            for name in sorted(source):
                if name not in _WHO:
                    parts += (name, source[name])
            parts.append("")
        roles = tuple([self._settings[name] for name in _IDENTITY if name in self._settings])
        return "\0".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogateescape"), roles

    def readable(self) -> bool:
        """Quotes in a statement's text are where the lexer sees them."""
        return (
            self._reported.get("standard_conforming_strings", "on") == "on"
            and self._reported.get("client_encoding", "UTF8").upper() not in _UNSAFE_ENCODINGS
        )

    def distrust(self, reason: str) -> None:
        self.reason = reason
        self._key = None

    def reported(self, name: str, value: str) -> None:
        """A ParameterStatus came."""
        if len(name) + len(value) > MAX_SETTING:
            self.distrust("a reported setting of an absurd length")
        elif self._reported.get(name) != value and (name in self._reported or len(self._reported) < MAX_SETTINGS):
            self._reported[name] = value
            self._key = None

    def completed(self, recognised: Recognised, tag: str, *, unknown_effect: bool) -> None:
        """A statement has succeeded. What it set counts from the end of its transaction on (`ended`), the implicit one of
        a Query or of everything before a Sync included. `unknown_effect`: it may have done anything."""
        if tag == "SET":
            self._set(recognised.bare)
        elif tag == "RESET":
            self._reset(recognised.bare)
        elif tag == "DISCARD ALL":
            self._settings.clear()
            self._pending.clear()
            self.reason = ""
            self._key = None
        elif tag == "ROLLBACK" and self._pending and _WORD.findall(recognised.bare)[1:]:
            self.tainted = True  # ROLLBACK TO SAVEPOINT: which of the settings are undone is not followed
        elif unknown_effect:
            self.distrust("a statement whose effects are not known")
        elif _TEMPORARY.search(recognised.bare):
            self.distrust("temporary objects")

    def ended(self, *, committed: bool) -> None:
        """The transaction is over."""
        if self.tainted:
            self.tainted = False
            self._pending.clear()
            self.distrust("a SET and a rollback to a savepoint")
        if not self._pending:
            return
        if committed:
            for name, value in self._pending:
                self._apply(name, value)
        self._pending.clear()

    @property
    def pending(self) -> bool:
        return bool(self._pending) or self.tainted

    def _set(self, text: str) -> None:
        match = _SET_ROLE.match(text)
        if match is not None:
            scope, name, value = match.group(1), " ".join(match.group(2).lower().split()), match.group(3)
        else:
            match = _SET.match(text)
            if match is None:
                # SET TRANSACTION ends with its transaction; SET CONSTRAINTS too; anything else is not known
                if len(words := _WORD.findall(text)) < 2 or words[1].upper() not in ("TRANSACTION", "CONSTRAINTS"):
                    self.distrust("a SET that is not understood")
                return
            scope, value = match.group(1), match.group(4)
            name = _setting(match.group(2) or match.group(3))
        if scope is not None and scope.upper() == "LOCAL":
            return
        self._change(name, None if value.strip().upper() == "DEFAULT" else value.strip())

    def _reset(self, text: str) -> None:
        match = _RESET.match(text)
        self._change(_setting(match.group(1)) if match is not None else "", None)

    def _change(self, name: str, value: str | None) -> None:
        if len(self._pending) >= MAX_SETTINGS:
            self.distrust("too many settings in one transaction")
        elif len(name) + len(value or "") > MAX_SETTING:
            self.distrust("a setting of an absurd length")
        else:
            self._pending.append((name, value))

    def _apply(self, name: str, value: str | None) -> None:
        self._key = None
        if name == "session authorization":
            self._settings.pop("role", None)  # it ends a SET ROLE, in both directions
        if value is not None:
            self._settings[name] = value
            if len(self._settings) > MAX_SETTINGS:
                self.distrust("too many settings")
        elif name == "all":
            # RESET ALL leaves the role and the session authorization as they are
            self._settings = {k: v for k, v in self._settings.items() if k in _IDENTITY}
        else:
            self._settings.pop(name, None)


def _setting(text: str) -> str:
    """One name for all spellings of a setting: their order counts, and the settings are kept by name."""
    name = " ".join(text.replace('"', "").lower().split())
    return _ALIAS.get(name, name)
