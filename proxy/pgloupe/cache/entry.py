"""The part of a reply that can be replayed, as the backend sent it.

An entry never re-encodes: it is a RowDescription frame (or nothing, where the reply had none) and the DataRow and
CommandComplete frames after it. ParseComplete, BindComplete and ReadyForQuery depend on how the question was put and are
made by the session.

Age is counted from the moment the read was handed to the server, because the server's snapshot may be as old as that. In a
process it is a time of the cache's monotonic clock. Clocks of two machines are never compared: Redis keeps its own time of
storing beside the bytes and tells the age.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final
from zlib import crc32

OVERHEAD_BYTES: Final = 576
"""What an entry costs beside its frames: objects, its key, its place in the tables of the memory cache. Rounded up."""

_MAGIC: Final = b"pgl\x01"
_HEAD: Final = Struct(">4sIQdII")
"""Magic and version, checksum of the rest, rows, seconds the server took, bytes of the head and of the body."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer. `head` is one RowDescription frame or b""; `body` is DataRow frames and one CommandComplete frame."""

    head: bytes
    body: bytes
    rows: int = 0
    server_s: float = 0.0
    """How long the server and its network took to give it: what a hit saves."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its frames."""
        return len(self.head) + len(self.body)

    def to_bytes(self) -> bytes:
        """For Redis; see `from_bytes`."""
        rest = _HEAD.pack(_MAGIC, 0, self.rows, self.server_s, len(self.head), len(self.body))[8:]
        checksum = crc32(self.body, crc32(self.head, crc32(rest)))
        return b"".join((_MAGIC, checksum.to_bytes(4, "big"), rest, self.head, self.body))

    @staticmethod
    def from_bytes(data: bytes) -> Entry | None:
        """The entry that `to_bytes` wrote; None for anything else. Never raises."""
        if len(data) < _HEAD.size:
            return None
        magic, checksum, rows, server_s, head_bytes, body_bytes = _HEAD.unpack_from(data)
        if magic != _MAGIC or len(data) != _HEAD.size + head_bytes + body_bytes or crc32(data[8:]) != checksum:
            return None
        if not server_s >= 0.0:
            return None
        split = _HEAD.size + head_bytes
        return Entry(data[_HEAD.size : split], data[split:], rows, server_s)
