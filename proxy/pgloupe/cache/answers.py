"""What passes between the cache and who asks it: a read, leave to store its answer, the answer."""

from __future__ import annotations

from dataclasses import dataclass

from pgloupe.cache.entry import Entry
from pgloupe.cache.flights import Flight
from pgloupe_rules.types import Template


@dataclass(frozen=True, slots=True)
class Read:
    """A read that may be answered: `key` by `key.cache_key`, the rest from the rule that allows it."""

    key: bytes
    tables: tuple[str, ...]
    """As the shape gives them: `name` or `schema.name`."""
    rule: str
    ttl_s: float
    max_entry_bytes: int
    functions: tuple[str, ...] = ()
    """Names of the functions called, as the shape gives them."""
    database: str = ""
    """Where it is asked; "" stands for the database of the catalog connection."""
    stale_s: float = 0.0
    """How long after its ttl an answer may be given while another reader asks for a new one."""
    template: Template | None = None
    """By which it is counted."""
    dry_run: bool = False
    """Only find out what would have been: `key` must be one that no other read has."""


class Ticket:
    """Leave to store the answer of one read, under the versions that were in force when it was looked up.

    Where it is let go without that, those who wait for the answer ask for themselves (see `flights`).
    """

    __slots__ = ("expected", "flight", "names", "read", "started_s", "versions")

    def __init__(
        self,
        read: Read,
        names: tuple[str, ...],
        versions: object,
        started_s: float,
        flight: Flight | None,
        expected: Entry | None = None,
    ) -> None:
        self.read = read
        self.names = names
        self.versions = versions
        self.started_s = started_s
        self.flight = flight
        self.expected = expected
        """What a dry run would have answered."""

    def used(self, *, hopeless: bool = False) -> None:
        """The answer was stored or refused."""
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.end(hopeless=hopeless)

    def __del__(self) -> None:
        self.used(hopeless=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """`entry` is the answer; else ask the server, and `fill` if there is a `ticket`. `reason` says why there is neither."""

    entry: Entry | None
    ticket: Ticket | None = None
    reason: str = ""
