"""One line of JSON for each statement that took too long, with what is needed to act on it.

A line says where the time went (server or proxy), who sent the statement and from where, and which template it was. It
holds no value that the application sent unless parameters are asked for: templates have placeholders for literals.

The line is ASCII, with everything else escaped, so that no text in it can break it in two or reach a terminal as an escape
sequence. Every text is cut, so a line is bounded. A log that cannot be written must not end a session: failures are counted.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pgloupe_rules.types import Outcome, Status

KEPT: Final = 100
MAX_TEMPLATE_CHARACTERS: Final = 4_000
MAX_TEXT_CHARACTERS: Final = 200
"""Of a name, a tag or a parameter."""
MAX_TAGS: Final = 20
MAX_PARAMETERS: Final = 50


class SlowLog:
    """`write` gets each line without its line end. `clock` tells the time of day."""

    def __init__(
        self,
        threshold_ms: float,
        write: Callable[[str], None],
        *,
        parameters: bool = False,
        clock: Callable[[], datetime],
    ) -> None:
        self._write = write
        self.configure(threshold_ms, parameters=parameters)
        self._clock = clock
        self.recent: deque[dict[str, Any]] = deque(maxlen=KEPT)
        """The last slow statements as they were logged, oldest first."""
        self.lines = 0
        """Statements that were slow."""
        self.failures = 0
        """Those of which no line could be written."""

    def configure(self, threshold_ms: float, *, parameters: bool) -> None:
        """Judge by these settings from now on."""
        self._threshold_s = threshold_ms / 1000 if threshold_ms >= 0 else float("inf")
        self._parameters = parameters

    def observe(self, outcome: Outcome) -> None:
        """Log the outcome if it took the threshold or longer, as log_min_duration_statement has it: 0 logs every
        statement, a negative threshold none. Never raises."""
        if outcome.server_s + outcome.proxy_s < self._threshold_s or outcome.status is Status.SKIPPED:
            return
        self.lines += 1
        try:
            record = self._record(outcome)
            self.recent.append(record)
            self._write(json.dumps(record))
        except Exception:
            self.failures += 1

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        statement = outcome.statement
        session = statement.session
        record: dict[str, Any] = {
            "time": self._clock().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "duration_ms": _ms(outcome.server_s + outcome.proxy_s),
            "server_ms": _ms(outcome.server_s),
            "proxy_ms": _ms(outcome.proxy_s),
            "rows": outcome.rows,
            "bytes": outcome.bytes,
            "database": _cut(session.database),
            "user": _cut(session.user),
            "application_name": _cut(session.application_name),
            "client": _cut(session.client),
            "session": session.session,
            "transaction": statement.transaction or None,
            "position": statement.position or None,
            "status": str(outcome.status),
        }
        if outcome.sqlstate:
            record["sqlstate"] = _cut(outcome.sqlstate)
        template = statement.template
        record["fingerprint"] = template.fingerprint
        record["template"] = _cut(template.text, MAX_TEMPLATE_CHARACTERS)
        record["tags"] = _tags(statement.tags)
        record["cache"] = outcome.cache or None
        if self._parameters:
            record["parameters"] = [_as_text(value) for value in statement.values()[:MAX_PARAMETERS]]
        return record


def _ms(seconds: float) -> float:
    milliseconds = round(1000 * seconds, 3)
    # JSON has neither infinity nor NaN.
    return milliseconds if abs(milliseconds) < 1e15 else 0.0


def _cut(text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {_cut(name): _cut(value) for name, value in list(tags.items())[:MAX_TAGS]}


def _as_text(value: Any) -> str | None:
    """A decoded value as text, cut; a tuple in braces. Only what will be shown of a long value is made into text."""
    if value is None:
        return None
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, bytes):
        return _cut("\\x" + value[:MAX_TEXT_CHARACTERS].hex())
    if isinstance(value, tuple):
        parts: list[str] = []
        length = 0
        for item in value:
            part = _as_text(item)
            parts.append("NULL" if part is None else part)
            length += len(parts[-1]) + 1
            if length > MAX_TEXT_CHARACTERS:
                break
        return _cut("{" + ",".join(parts) + "}")
    if isinstance(value, int) and value.bit_length() > 4 * MAX_TEXT_CHARACTERS:
        return "…"  # its digits would be dear to count, and Python refuses more than 4300
    return _cut(str(value))
