"""One piece of the sample application: what it is called, what it shows, and how it is run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LAZY: Final = "lazy"
FIXED: Final = "fixed"


@dataclass(frozen=True, slots=True)
class Scenario:
    """The lazy and the fixed scenario of one name compute the same, and so return the same checksum."""

    name: str
    kind: str
    """`lazy` or `fixed`."""
    rule: str
    """The rule that the lazy one breaks."""
    title: str
    work: Callable[[str, str], str]

    @property
    def application_name(self) -> str:
        """What its connections are called; findings are told apart by it."""
        return f"shop-{self.name}-{self.kind}"

    def run(self, url: str) -> str:
        """Do the work on the database behind `url`; the checksum of what it computed. Raises what the driver raises."""
        return self.work(url, self.application_name)


def checksum(result: object) -> str:
    """16 hex digits of a result made of lists, tuples, numbers and texts."""
    return hashlib.sha256(repr(result).encode()).hexdigest()[:16]
