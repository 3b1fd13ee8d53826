"""Can a cache that keeps its promise have shown this history? A pure function.

For a read that began at b, of a counter:

stale              It shows less than the most that was acknowledged before b. What went past the proxies counts from
                   `bypass_bound_s` after its acknowledgement.
went back          It shows less than the same session has seen before b.
from nowhere       It shows more than all writes that were asked for before it ended could have made.
another's answer   The row is that of another register.
vanished           There is no row, and no write was under way that shows an empty table for a moment.
own write unseen   A read within a transaction does not show what this transaction wrote.

For a read of a state: `stale` where the value is that of no write that may be in force between the read's begin and end.

A write of unknown outcome may have happened at any time after it was asked for, or not at all. What was rolled back has not
happened. A write that does not tell what it raised a counter to raised it by its step above what had been acknowledged
when it was asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.checker.history import History, Kind, Operation, Outcome

AROUND = 12
"""How many operations of the register a violation shows."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one read, and the last operations on its register up to its end."""

    kind: str
    text: str
    operation: Operation | None = None
    around: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.text}"]
        if self.operation is not None:
            lines.append(f"  > {self.operation}")
        lines += [f"    {operation}" for operation in self.around]
        return "\n".join(lines)


class _Counter:
    """What is known of one counter, by time."""

    def __init__(self, first: int, writes: Sequence[Operation], bypass_bound_s: float) -> None:
        self._first = first
        done = [
            (write.end_s + (bypass_bound_s if write.bypass else 0.0), write)
            for write in writes
            if write.outcome is Outcome.ACKNOWLEDGED
        ]
        done.sort(key=lambda pair: pair[0])
        self._ends: list[float] = []
        self._floors: list[int] = []
        for end_s, write in done:
            value = write.value if write.value is not None else self.floor(write.begin_s) + write.step
            self._floors.append(max(value, self._floors[-1] if self._floors else first))
            self._ends.append(end_s)
        begun = [write for write in writes if write.outcome is not Outcome.ROLLED_BACK]
        begun.sort(key=lambda write: write.begin_s)
        self._begins: list[float] = []
        self._ceilings: list[int] = []
        added = most = first
        for write in begun:
            added += write.step
            most = max(most, added, write.value if write.value is not None else first)
            self._begins.append(write.begin_s)
            self._ceilings.append(most)
        self.bypassed = any(write.bypass for write in writes)

    def floor(self, at_s: float) -> int:
        """The least that may be shown to who asks at that time."""
        position = bisect_left(self._ends, at_s)
        return self._floors[position - 1] if position else self._first

    def ceiling(self, at_s: float) -> int:
        """The most that there can have been at that time."""
        position = bisect_left(self._begins, at_s)
        return self._ceilings[position - 1] if position else self._first


def judge(history: History, *, bypass_bound_s: float) -> list[Violation]:
    """What is wrong with the history: nothing, if the promise was kept."""
    by_register: dict[str, list[Operation]] = defaultdict(list)
    for operation in history.operations:
        by_register[operation.register].append(operation)
    found: list[Violation] = []
    for register, operations in by_register.items():
        operations.sort(key=lambda operation: operation.begin_s)
        writes = [operation for operation in operations if operation.kind is Kind.WRITE]
        reads = [
            operation
            for operation in operations
            if operation.kind is Kind.READ and operation.outcome is Outcome.ACKNOWLEDGED
        ]
        if register in history.states:
            wrong = _judge_state(history.states[register], writes, reads)
        else:
            wrong = _judge_counter(history.counters[register], writes, reads, bypass_bound_s)
        found += [Violation(kind, text, read, _around(read, operations)) for kind, text, read in wrong]
    found.sort(key=lambda violation: violation.operation.begin_s if violation.operation is not None else 0.0)
    return found


_Wrong = tuple[str, str, Operation]


def _judge_counter(
    first: int, writes: Sequence[Operation], reads: Sequence[Operation], bypass_bound_s: float
) -> list[_Wrong]:
    counter = _Counter(first, writes, bypass_bound_s)
    vanishing = [write for write in writes if write.vanishing and write.outcome is not Outcome.ROLLED_BACK]
    seen: dict[int, list[tuple[float, int]]] = defaultdict(list)
    """By session: when a read ended, and the most that had been seen by then."""
    found: list[_Wrong] = []
    for read in reads:
        value = read.value
        if read.shown:
            found.append(("another's answer", f"{read.register} was asked for", read))
        elif value is None:
            if not any(
                write.begin_s < read.end_s and (write.outcome is Outcome.UNKNOWN or write.end_s > read.begin_s)
                for write in vanishing
            ):
                found.append(("vanished", "no row, and no write makes it so", read))
        elif read.own is not None:
            if value != read.own:
                found.append(("own write unseen", f"{value} instead of {read.own}", read))
        else:
            least = counter.floor(read.begin_s)
            if value < least:
                found.append(("stale", f"{value}, and {least} was acknowledged before", read))
            elif value > (most := counter.ceiling(read.end_s)):
                found.append(("from nowhere", f"{value}, and at most {most} was written", read))
            earlier = seen[read.session]
            # a bypassing write may be seen by chance before it has to be
            before_s = read.begin_s - (bypass_bound_s if counter.bypassed else 0.0)
            position = bisect_left(earlier, (before_s, -1)) if earlier else 0
            if position and value < earlier[position - 1][1]:
                found.append(("went back", f"{value} after {earlier[position - 1][1]}", read))
            earlier.append((read.end_s, max(value, earlier[-1][1] if earlier else value)))
    return found


def _judge_state(first: int, writes: Sequence[Operation], reads: Sequence[Operation]) -> list[_Wrong]:
    found: list[_Wrong] = []
    begun = [write for write in writes if write.outcome is not Outcome.ROLLED_BACK]
    for read in reads:
        # the last one that was over before the read began is in force, and what has not surely been replaced by then
        over = [w for w in begun if w.outcome is Outcome.ACKNOWLEDGED and w.end_s < read.begin_s]
        last_s = max((write.begin_s for write in over), default=float("-inf"))
        possible = {
            write.value
            for write in begun
            if write.begin_s < read.end_s and (write.outcome is Outcome.UNKNOWN or write.end_s > last_s)
        }
        if not over:
            possible.add(first)
        if read.value not in possible:
            allowed = ", ".join(sorted(str(value) for value in possible))
            found.append(("stale", f"{read.value}, and only {allowed} can be in force", read))
    return found


def _around(read: Operation, operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The last writes before the end of the read, and the last reads of its session, in order."""
    near = [
        operation
        for operation in operations
        if operation is not read
        and operation.begin_s < read.end_s
        and (operation.kind is Kind.WRITE or operation.session == read.session)
    ]
    return tuple(near[-AROUND:])
