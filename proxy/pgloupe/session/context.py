"""What in a session, besides the statement, changes what a read returns.

The cache puts `key()` into the key of an answer: start-up parameters, what the server reported (ParameterStatus), and the
settings that the session made itself. What cannot be followed makes the session *untrusted*: it has no key, so it is never
answered from the cache, until DISCARD ALL brings back the state in which it began.

Followed: SET, RESET and set_config() (see `set_config`), once their transaction committed, with what savepoints undo; SET
ROLE and SET SESSION AUTHORIZATION; SET SESSION CHARACTERISTICS; RESET ALL; DISCARD ALL. Not followed, so untrusted: temporary
tables, and every statement that may do anything (DO, CALL, a function that nobody knows). What a transaction sets for itself
alone (SET LOCAL) changes no key, but while that transaction goes on there are no answers at all (`pending`).

Left out of the key is what no answer depends on (`NO_ANSWER`): pools and mappers give each session limits of its own.

Source: SQL commands SET, RESET, DISCARD, SET ROLE, SET SESSION AUTHORIZATION, SET TRANSACTION, SAVEPOINT; "Setting Parameters".
"""

from __future__ import annotations

import re
from itertools import count
from typing import Final

from pgloupe.session.set_config import NO_ANSWER, changes
from pgloupe.session.statements import Portal
from pgloupe_rules.types import Recognised

MAX_NAME: Final = 63
"""Bytes of an identifier that count for the server (NAMEDATALEN)."""

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
_serial: Final = count(1)
MAX_SETTINGS: Final = 200
MAX_SETTING: Final = 4_096
"""Characters of a setting's value that is kept."""

_NAME: Final = re.compile(r"[a-z0-9_.$ ]+")
_ONE_NAME: Final = r'("(?:[^"]|"")+"|[^\s;"]+)\s*;?\s*'
_SAVEPOINT: Final = re.compile(r"SAVEPOINT\s+" + _ONE_NAME, re.IGNORECASE)
_RELEASE: Final = re.compile(r"RELEASE\s+(?:SAVEPOINT\s+)?" + _ONE_NAME, re.IGNORECASE)
_ROLLBACK_TO: Final = re.compile(
    r"ROLLBACK\s+(?:(?:WORK|TRANSACTION)\s+)?TO\s+(?:SAVEPOINT\s+)?" + _ONE_NAME, re.IGNORECASE
)
_WHOLE: Final = re.compile(
    r"ROLLBACK(?:\s+(?:WORK|TRANSACTION))?(?:\s+AND\s+(?:NO\s+)?CHAIN)?|ABORT\b.*", re.IGNORECASE
)
_CHARACTERISTICS: Final = re.compile(r"SET\s+SESSION\s+CHARACTERISTICS\s+AS\s+TRANSACTION\s+(.+)", re.IGNORECASE)
_MODE: Final = re.compile(
    r"(?:ISOLATION\s+LEVEL\s+(SERIALIZABLE|REPEATABLE\s+READ|READ\s+COMMITTED|READ\s+UNCOMMITTED)"
    r"|READ\s+(ONLY|WRITE)|((?:NOT\s+)?DEFERRABLE))\s*(,|\Z)?\s*",
    re.IGNORECASE,
)
_MODES: Final = ("default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable")
_OPTION: Final = re.compile(r"(?:-c\s*|--)([A-Za-z0-9_.-]+)=([^\s\\]*)(?:\s+|\Z)")

_MADE_BY_FUNCTION: Final = "\1"
"""In front of a value from set_config(): as SET would write it, `a, b` may be one name there and two here."""


class Context:
    """State of one session. `key()` is what the cache's key is made of."""

    __slots__ = (
        "_foreign",
        "_key",
        "_made",
        "_pending",
        "_reported",
        "_savepoints",
        "_settings",
        "_startup",
        "_unsettled",
        "reason",
        "tainted",
    )

    def __init__(self, startup: dict[str, str], defaults: str = "") -> None:
        """`defaults` stands for the settings with which the server begins a session of this user and database now."""
        self._startup = _answering(startup)
        self._startup["\0defaults"] = defaults
        self._reported: dict[str, str] = {}
        self._settings: dict[str, str] = {}
        self._pending: list[tuple[str, str | None]] = []
        self._savepoints: list[tuple[str, int]] = []  # open ones, and how many of `_pending` came before
        self._unsettled = False  # the transaction that goes on has settings of its own
        self._made = False  # it has made settings, though a savepoint may have undone them
        self._foreign = False  # the client's encoding was not always UTF8: one text may have been sent as several bytes
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
                    if name not in NO_ANSWER:
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

    def separate(self) -> None:
        """Which settings the session began with is not known: it shares no answers with any other."""
        self._startup["\0session"] = str(next(_serial))
        self._key = None

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
            if name == "client_encoding" and value.upper() not in ("UTF8", "SQL_ASCII"):
                self._foreign = True

    def completed(
        self, recognised: Recognised, tag: str, *, unknown_effect: bool, portal: Portal | None = None
    ) -> None:
        """A statement has succeeded. What it set counts from the end of its transaction on (`ended`), the implicit one of
        a Query or of everything before a Sync included. `unknown_effect`: it may have done anything. `portal` is the one
        that was executed, None for a simple Query. `tag` is "" where a row limit ended it."""
        if tag == "SET":
            self._set(recognised.bare)
        elif tag == "RESET":
            self._reset(recognised.bare)
        elif tag == "DISCARD ALL":
            self._settings.clear()
            self._forget()
            self.reason = ""
            self._key = None
        elif tag in _SAVEPOINT_TAGS:
            self._savepoint(tag, recognised.bare)
        elif unknown_effect:
            self.distrust("a statement whose effects are not known")
        elif _TEMPORARY.search(recognised.bare):
            self.distrust("temporary objects")
        elif "set_config" in recognised.template.text and tag != "SELECT 0":  # such a one was fetched before
            self._by_function(recognised.bare, portal)

    def _by_function(self, text: str, portal: Portal | None) -> None:
        made = changes(text, portal)
        if made is None:
            self.distrust("a set_config() that cannot be followed")
            return
        for change in made:
            name = _ALIAS.get(change.name, change.name)
            if change.is_local:
                self._unsettled = True
            else:
                self._change(name, _MADE_BY_FUNCTION + change.value if change.value is not None else None)

    def _savepoint(self, tag: str, text: str) -> None:
        """SAVEPOINT, RELEASE, ROLLBACK and ROLLBACK TO: what came behind a savepoint is undone or not."""
        if tag == "SAVEPOINT":
            name = _identifier(_SAVEPOINT.fullmatch(text))
            if not name or len(self._savepoints) >= MAX_SETTINGS:
                self.tainted = True  # a later ROLLBACK TO may mean this one
            else:
                self._savepoints.append((name, len(self._pending)))
            return
        if tag == "ROLLBACK" and _WHOLE.fullmatch(text) is not None:
            return  # `ended` follows
        name = _identifier((_RELEASE if tag == "RELEASE" else _ROLLBACK_TO).fullmatch(text))
        for depth in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[depth][0] == name:
                if tag == "ROLLBACK":
                    del self._pending[self._savepoints[depth][1] :]
                    del self._savepoints[depth + 1 :]  # it stays itself
                else:
                    del self._savepoints[depth:]
                return
        if self._pending:
            self.tainted = True

    def _forget(self) -> None:
        self._pending.clear()
        self._savepoints.clear()
        self._unsettled = False
        self._made = False
        self.tainted = False

    def ended(self, *, committed: bool) -> None:
        """The transaction is over."""
        if self.tainted and committed and self._made:
            self.distrust("a SET and a rollback to a savepoint")
        elif committed:
            for name, value in self._pending:
                self._apply(name, value)
        self._forget()

    @property
    def pending(self) -> bool:
        """The transaction that goes on may have settings that `key()` does not know."""
        return self._unsettled or bool(self._pending) or self.tainted

    def _set(self, text: str) -> None:
        match = _SET_ROLE.match(text)
        if match is not None:
            scope, name, value = match.group(1), " ".join(match.group(2).lower().split()), match.group(3)
        else:
            match = _SET.match(text)
            if match is None:
                # SET TRANSACTION ends with its transaction; SET CONSTRAINTS too; anything else is not known
                if self._characteristics(text):
                    return
                self._unsettled = True
                if len(words := _WORD.findall(text)) < 2 or words[1].upper() not in ("TRANSACTION", "CONSTRAINTS"):
                    self.distrust("a SET that is not understood")
                return
            scope, value = match.group(1), match.group(4)
            name = _setting(match.group(2) or match.group(3))
        if scope is not None and scope.upper() == "LOCAL":
            self._unsettled = True
            return
        self._change(name, None if value.strip().upper() == "DEFAULT" else value.strip())

    def _characteristics(self, text: str) -> bool:
        """SET SESSION CHARACTERISTICS sets the defaults of three settings. False for any other statement."""
        match = _CHARACTERISTICS.fullmatch(text)
        if match is None:
            return False
        modes = match.group(1)
        position = 0
        made: list[tuple[str, str]] = []
        while position < len(modes):
            mode = _MODE.match(modes, position)
            if mode is None:
                return False
            for name, value in zip(_MODES, mode.group(1, 2, 3), strict=True):
                if value is not None:
                    made.append((name, " ".join(value.lower().split())))
            position = mode.end()
        for name, value in made:
            self._change(name, value)
        return True

    def _reset(self, text: str) -> None:
        match = _RESET.match(text)
        self._change(_setting(match.group(1)) if match is not None else "", None)

    def _change(self, name: str, value: str | None) -> None:
        if name in NO_ANSWER:
            return
        if _NAME.fullmatch(name) is None or len(name) > MAX_NAME:
            # which of its spellings are one name, and which are not, depends on the server's encoding
            self.distrust("a setting with an unusual name")
        elif value is not None and self._foreign and not value.isascii():
            self.distrust("a setting in another encoding")
        elif len(self._pending) >= MAX_SETTINGS:
            self.distrust("too many settings in one transaction")
        elif len(name) + len(value or "") > MAX_SETTING:
            self.distrust("a setting of an absurd length")
        else:
            self._made = True
            self._pending.append((name, value))

    def _apply(self, name: str, value: str | None) -> None:
        self._key = None
        if name == "session authorization":
            # it ends a SET ROLE, in both directions; RESET ROLE may mean another one, by ALTER ROLE … SET role
            self._settings.pop("role", None)
            if value is not None:
                self._settings["role"] = "none"
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


_SAVEPOINT_TAGS: Final = frozenset({"SAVEPOINT", "RELEASE", "ROLLBACK"})


def _identifier(found: re.Match[str] | None) -> str:
    """The savepoint's name; "" where it is not known which names are the same for the server."""
    text = found.group(1) if found is not None else ""
    name = text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()
    return name if name.isascii() and len(name) <= MAX_NAME else ""


def _answering(startup: dict[str, str]) -> dict[str, str]:
    """Of the start-up parameters those that an answer may depend on."""
    out = {name.lower(): value for name, value in startup.items()}
    if "options" in out:
        out["options"] = _options(out["options"])
    return {
        name: value
        for name, value in out.items()
        if name not in _NOT_IN_KEY and name not in NO_ANSWER and (value or name != "options")
    }


def _options(value: str) -> str:
    """`options` without settings that no answer depends on; as it is where it holds anything but `-c name=value`."""
    kept: list[str] = []
    position = len(value) - len(value.lstrip())
    while position < len(value):
        match = _OPTION.match(value, position)
        if match is None:
            return value
        if match.group(1).lower().replace("-", "_") not in NO_ANSWER:
            kept.append(f"-c {match.group(1)}={match.group(2)}")
        position = match.end()
    return " ".join(kept)
