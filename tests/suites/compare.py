"""What became of each test, and what differs between runs.

A test that two runs without the proxy tell apart is unsteady, and says nothing. There is no list of exceptions: what is
unsteady is found anew each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RANK: Final = ("started", "printed", "passed", "skipped", "xfailed", "xpassed", "failed", "error")
# What is another number each time: ports, process ids, object ids, addresses, durations, parts of file names.
_VARYING: Final = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?|/tmp/\S+")


@dataclass(frozen=True)
class Result:
    """`outcome` is that of the worst event of the test; "started" is one that did not end, "absent" one that did not run.
    "printed" is a line of output, which is compared as it is."""

    outcome: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}" if self.message else self.outcome


ABSENT: Final = Result("absent")


@dataclass(frozen=True)
class Difference:
    test: str
    direct: Result
    proxied: Result


def read(path: Path) -> dict[str, Result]:
    """The results of the tests in a file of lines of JSON; none where there is no file."""
    results: dict[str, Result] = {}
    if not path.exists():
        return results
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        known = results.get(event["id"])
        if known is None or _RANK.index(event["outcome"]) > _RANK.index(known.outcome):
            results[event["id"]] = Result(event["outcome"], event.get("message", ""))
    return results


def _essence(result: Result) -> tuple[str, str]:
    if result.outcome == "printed":
        return result.outcome, result.message
    if result.outcome == "skipped":
        # some suites name one of several reasons, whichever comes first out of a set
        return result.outcome, ""
    return result.outcome, _VARYING.sub("#", result.message.partition("\n")[0])


def same(one: Result, other: Result) -> bool:
    return _essence(one) == _essence(other)


def unsteady(first: Mapping[str, Result], second: Mapping[str, Result]) -> set[str]:
    """The tests that two runs of the same thing tell apart, by outcome or by the error's first line."""
    names = first.keys() | second.keys()
    return {name for name in names if not same(first.get(name, ABSENT), second.get(name, ABSENT))}


def differences(direct: Sequence[Mapping[str, Result]], proxied: Mapping[str, Result]) -> list[Difference]:
    """The tests whose outcome, or whose error, is not that of both runs without the proxy, in order of their names."""
    first, second = direct
    excused = unsteady(first, second)
    found = unsteady(first, proxied) - excused
    return [Difference(name, first.get(name, ABSENT), proxied.get(name, ABSENT)) for name in sorted(found)]


def counts(results: Mapping[str, Result]) -> dict[str, int]:
    """How many tests had which outcome."""
    number = dict.fromkeys(_RANK, 0)
    for result in results.values():
        number[result.outcome] += 1
    return {outcome: count for outcome, count in number.items() if count}
