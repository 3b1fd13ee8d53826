"""Which savepoints of a transaction block are open, to tell where a piece of work in it is undone on purpose.

Test suites run many tests in one transaction block: each begins with SAVEPOINT and ends with ROLLBACK TO SAVEPOINT, and
what lies between has nothing to do with the next one. That an application takes a failed statement back is another
matter: then the block has failed and the work goes on. So what ends a piece of work is ROLLBACK TO of the outermost
savepoint in a block that has not failed.

PostgreSQL documentation: SAVEPOINT, RELEASE SAVEPOINT, ROLLBACK TO SAVEPOINT.
"""

from __future__ import annotations

import re
from typing import Final, final

from pgloupe_rules.types import Outcome, Status

MAX_OPEN: Final = 64
"""Savepoints whose names are kept; of deeper ones the outermost still count."""

_HEADS: Final = frozenset({"SAV", "REL", "ROL"})
_NAME: Final = r'("(?:[^"]|"")+"|[^\s;"]+)\s*;?\s*'
_SAVEPOINT: Final = re.compile(r"SAVEPOINT\s+" + _NAME, re.IGNORECASE)
_RELEASE: Final = re.compile(r"RELEASE\s+(?:SAVEPOINT\s+)?" + _NAME, re.IGNORECASE)
_ROLLBACK_TO: Final = re.compile(r"ROLLBACK\s+(?:WORK\s+|TRANSACTION\s+)?TO\s+(?:SAVEPOINT\s+)?" + _NAME, re.IGNORECASE)


@final
class Savepoints:
    """The open savepoints of one session."""

    __slots__ = ("_open", "_transaction")

    def __init__(self) -> None:
        self._open: list[str] = []
        self._transaction = 0

    def undone(self, outcome: Outcome) -> bool:
        """Take an outcome in. Whether it undid the outermost savepoint's work, though no statement had failed."""
        statement = outcome.statement
        if statement.template.text[:3].upper() not in _HEADS or outcome.status is not Status.COMPLETE:
            return False
        if statement.transaction != self._transaction:
            self._transaction = statement.transaction
            self._open.clear()
        text = statement.recognised.bare
        match = _SAVEPOINT.fullmatch(text)
        if match is not None:
            if len(self._open) < MAX_OPEN:
                self._open.append(_folded(match.group(1)))
            return False
        match = _RELEASE.fullmatch(text)
        if match is not None:
            self._close(_folded(match.group(1)))
            return False
        match = _ROLLBACK_TO.fullmatch(text)
        if match is None:
            return False
        # the server keeps the savepoint; but clients seldom use it again, and if they do it is the outermost one
        known = self._close(_folded(match.group(1)))
        if not known:
            self._open.clear()
        return not self._open and statement.status == "T"

    def _close(self, name: str) -> bool:
        """Forget the innermost savepoint of that name and those within it."""
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place] == name:
                del self._open[place:]
                return True
        return False


def _folded(name: str) -> str:
    """The name as the server compares it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
