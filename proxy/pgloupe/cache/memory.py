"""The answers kept in this process: bounded by bytes, S3-FIFO.

A plain LRU loses its useful entries to one pass over many keys that are never asked again, which is what a crawler or a
report does to a read cache. S3-FIFO (Yang et al., SOSP 2023) puts newcomers into a small queue; only what is asked again
there, or comes back soon after it fell out, reaches the main queue. A hit writes one small counter and moves nothing.

Every operation is O(1): the queues are ordered dictionaries, and an eviction looks at a bounded number of entries, so no call
stalls the event loop however large the cache is.

Bytes are counted with the overhead of an entry and the keys of the ghosts, so `capacity_bytes` is about what the process
really spends.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from pgloupe.cache.entry import OVERHEAD_BYTES, Entry

GHOST_BYTES: Final = 200
"""What the memory of a key that fell out costs."""
_SECOND_CHANCES: Final = 64
"""How many entries one eviction may spare."""
_FREQUENT: Final = 3


class Slot:
    """An entry, the versions it was stored under, and its age's beginning (seconds of the cache's clock)."""

    __slots__ = ("entry", "frequency", "main", "size_bytes", "started_s", "versions")

    def __init__(self, entry: Entry, versions: object, started_s: float, size_bytes: int) -> None:
        self.entry = entry
        self.versions = versions
        self.started_s = started_s
        self.size_bytes = size_bytes
        self.frequency = 0
        self.main = False


class Memory:
    """Keys to slots, at most `capacity_bytes` of them. 0 keeps nothing."""

    __slots__ = ("_ghosts", "_main", "_small", "_small_target", "bytes", "capacity_bytes", "evictions", "small_bytes")

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = max(0, capacity_bytes)
        self._small_target = self.capacity_bytes // 10
        self._small: OrderedDict[bytes, Slot] = OrderedDict()
        self._main: OrderedDict[bytes, Slot] = OrderedDict()
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()
        self.bytes = 0
        """Bytes kept, ghosts and overhead included."""
        self.small_bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __contains__(self, key: bytes) -> bool:
        return key in self._main or key in self._small

    def get(self, key: bytes) -> Slot | None:
        """What is kept for the key, whatever its age and versions: the caller judges them, and calls `touch` for a hit."""
        return self._main.get(key) or self._small.get(key)

    @staticmethod
    def touch(slot: Slot) -> None:
        """The slot answered a read."""
        if slot.frequency < _FREQUENT:
            slot.frequency += 1

    def put(self, key: bytes, entry: Entry, versions: object, started_s: float, versions_bytes: int = 0) -> Slot | None:
        """Keep it, in the place of an older one of this key; None where it cannot fit."""
        size_bytes = entry.size_bytes + versions_bytes + OVERHEAD_BYTES
        old = self.get(key)
        if size_bytes > self.capacity_bytes:
            if old is not None:
                self.remove(key)
            return None
        slot = Slot(entry, versions, started_s, size_bytes)
        if old is not None:
            slot.main, slot.frequency = old.main, old.frequency
            self._remove(key, old)
        elif key in self._ghosts:
            del self._ghosts[key]
            self.bytes -= GHOST_BYTES
            slot.main = True
        while self.bytes + size_bytes > self.capacity_bytes:
            self._evict()
        self._insert(key, slot)
        return slot

    def remove(self, key: bytes) -> None:
        """Forget the key's entry, if there is one."""
        slot = self.get(key)
        if slot is not None:
            self._remove(key, slot)

    def clear(self) -> None:
        """Forget everything."""
        self._small.clear()
        self._main.clear()
        self._ghosts.clear()
        self.bytes = 0
        self.small_bytes = 0

    def _insert(self, key: bytes, slot: Slot) -> None:
        if slot.main:
            self._main[key] = slot
        else:
            self._small[key] = slot
            self.small_bytes += slot.size_bytes
        self.bytes += slot.size_bytes

    def _remove(self, key: bytes, slot: Slot) -> None:
        if slot.main:
            del self._main[key]
        else:
            del self._small[key]
            self.small_bytes -= slot.size_bytes
        self.bytes -= slot.size_bytes

    def _evict(self) -> None:
        """Make room: at least one ghost or entry goes. Called only while something is kept."""
        if len(self._ghosts) > len(self) or not (self._small or self._main):
            self._ghosts.popitem(last=False)
            self.bytes -= GHOST_BYTES
            return
        if self._small and (self.small_bytes > self._small_target or not self._main):
            for chance in range(_SECOND_CHANCES):
                key, slot = next(iter(self._small.items()))
                self._remove(key, slot)
                if slot.frequency < 2 or chance == _SECOND_CHANCES - 1:
                    self._ghosts[key] = None
                    self.bytes += GHOST_BYTES
                    self.evictions += 1
                    return
                slot.main, slot.frequency = True, 0
                self._insert(key, slot)
                if not self._small:
                    break
        for _ in range(_SECOND_CHANCES):
            key, slot = self._main.popitem(last=False)
            if slot.frequency == 0:
                break
            slot.frequency -= 1
            self._main[key] = slot
        else:
            key, slot = self._main.popitem(last=False)
        self.bytes -= slot.size_bytes
        self.evictions += 1
