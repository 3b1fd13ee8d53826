"""Answers kept as backend bytes, and what makes them unreachable.

`Cache` is the way in: `lookup`, `fill` and the marks of writes. `key` makes the keys, `entry` is an answer, `memory` and
`redis` keep them, `invalidation` (one process) and `shared` (several, through Redis) hold the versions of tables, and
`dependencies` knows from the server's catalogs which tables a write changes.
"""

from pgloupe.cache.answers import Answer, Read, Ticket
from pgloupe.cache.cache import Cache
from pgloupe.cache.dependencies import Dependencies
from pgloupe.cache.entry import Entry
from pgloupe.cache.invalidation import Mark
from pgloupe.cache.key import EXTENDED, SIMPLE, cache_key, names_moment, session_part

__all__ = [
    "EXTENDED",
    "SIMPLE",
    "Answer",
    "Cache",
    "Dependencies",
    "Entry",
    "Mark",
    "Read",
    "Ticket",
    "cache_key",
    "names_moment",
    "session_part",
]
