"""The counting rules that pgloupe is compared with, on the same input.

They know texts, times, connections and, where the application sends it, a trace id. They are generous here: they look at
reading and writing of tables only, never at `BEGIN`, `SET` or a ping, each template is counted once for each input, and
what they report is right when it names the table, whatever the class.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pgloupe_rules.normalise import recognise
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Outcome, Value
from pgloupe_rules.unit_of_work import trace_id

REPEATS: Final = 5
_VERBS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH")
_SILENCE_S: Final = 0.1


@dataclass(frozen=True)
class Seen:
    """A statement as a log has it."""

    connection: Hashable
    text: str
    fingerprint: str
    tables: tuple[str, ...]
    values: tuple[Value, ...]
    at_s: float
    trace: str
    """Trace or request id in its comment, else ""."""


def seen_in(outcome: Outcome) -> Seen | None:
    """What a log has of a statement; None for what reads and writes no table."""
    statement = outcome.statement
    return _seen(
        statement.session.session,
        statement.query_string,
        statement.template.text,
        statement.template.fingerprint,
        shape_of(statement.template).tables,
        statement.values(),
        statement.received_s,
        trace_id(statement.tags),
    )


def seen_in_log(connection: Hashable, text: str, parameters: tuple[Value, ...], at_s: float) -> list[Seen]:
    """What a line of the server's log holds: mostly one statement."""
    found: list[Seen] = []
    for recognised in recognise(text):
        template = recognised.template
        values = parameters or tuple(_literals(recognised.slots))
        seen = _seen(
            connection,
            text,
            template.text,
            template.fingerprint,
            shape_of(template).tables,
            values,
            at_s,
            trace_id(recognised.tags),
        )
        if seen is not None:
            found.append(seen)
    return found


def _literals(slots: Iterable[object]) -> Iterable[Value]:
    for slot in slots:
        yield getattr(slot, "value", repr(slot))


def _seen(
    connection: Hashable,
    text: str,
    template: str,
    fingerprint: str,
    tables: tuple[str, ...],
    values: tuple[Value, ...],
    at_s: float,
    trace: str,
) -> Seen | None:
    if not tables or template.split(None, 1)[0].upper() not in _VERBS:
        return None
    return Seen(connection, text, fingerprint, tables, values, at_s, trace)


@dataclass(frozen=True)
class Alarm:
    """What a counting rule reports."""

    fingerprint: str
    tables: tuple[str, ...]


def _within(seen: Sequence[Seen], key: Callable[[Seen], Hashable], seconds: float) -> list[Alarm]:
    """`REPEATS` statements with one key within so many seconds."""
    times: dict[Hashable, deque[float]] = {}
    alarms: dict[str, Alarm] = {}
    for one in sorted(seen, key=lambda one: one.at_s):
        last = times.setdefault(key(one), deque(maxlen=REPEATS))
        last.append(one.at_s)
        if len(last) == REPEATS and one.at_s - last[0] <= seconds:
            alarms.setdefault(one.fingerprint, Alarm(one.fingerprint, one.tables))
    return list(alarms.values())


def identical_texts(seen: Sequence[Seen]) -> list[Alarm]:
    """Five identical texts within a second, over all connections."""
    return _within(seen, lambda one: one.text, 1.0)


def equal_templates(seen: Sequence[Seen]) -> list[Alarm]:
    """Five equal templates within five seconds on one connection."""
    return _within(seen, lambda one: (one.connection, one.fingerprint), 5.0)


def distinct_parameters(seen: Sequence[Seen]) -> list[Alarm]:
    """Five different sets of parameters of one template in one trace: what carries one trace id, else what one connection
    runs without a silence of 100 ms."""
    sets: dict[Hashable, set[tuple[Value, ...]]] = {}
    alarms: dict[str, Alarm] = {}
    bursts: dict[Hashable, tuple[int, float]] = {}
    for one in sorted(seen, key=lambda one: one.at_s):
        number, last_s = bursts.get(one.connection, (0, one.at_s))
        number += one.at_s - last_s > _SILENCE_S
        bursts[one.connection] = (number, one.at_s)
        found = sets.setdefault((one.trace or (one.connection, number), one.fingerprint), set())
        found.add(one.values)
        if len(found) >= REPEATS:
            alarms.setdefault(one.fingerprint, Alarm(one.fingerprint, one.tables))
    return list(alarms.values())


COUNTING: Final = {
    "five identical texts in a second, all connections": identical_texts,
    "five equal templates in five seconds, each connection": equal_templates,
    "five different parameter sets in a trace": distinct_parameters,
}
