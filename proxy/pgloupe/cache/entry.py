"""The part of a reply that can be replayed, as the backend sent it.

An entry never re-encodes: it is a RowDescription frame (or nothing, where the reply had none) and the DataRow and
CommandComplete frames after it. ParseComplete, BindComplete and ReadyForQuery depend on how the question was put and are
made by the session.

Age is counted from the moment the read was handed to the server, because the server's snapshot may be as old as that. In a
process it is a time of the cache's monotonic clock. Clocks of two machines are never compared: Redis keeps its own time of
storing beside the bytes and tells the age.

Large entries are compressed for Redis, never in memory. LZ4 and not Zstandard: it makes a result 1.7 to 2.5 times smaller
where Zstandard reaches 2.4 to 3.4, but it unpacks 16 KB in 5 µs and 1 MB in 0.4 ms, three to four times as fast, and the
event loop, which all sessions share, is the scarcer thing here than the memory of Redis. For the same reason what is
larger than `COMPRESS_MOST_BYTES` stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any, Final
from zlib import crc32

import lz4.block

OVERHEAD_BYTES: Final = 576
"""What an entry costs beside its frames: objects, its key, its place in the tables of the memory cache. Rounded up."""

COMPRESS_BYTES: Final = 2048
"""Entries from this size on are compressed, if nobody says otherwise: below it there is little to gain."""
COMPRESS_MOST_BYTES: Final = 4 << 20

_PLAIN: Final = b"pgl\x01"
_LZ4: Final = b"pgl\x02"
_HEAD: Final = Struct(">4sIQdII")
"""Magic with the kind as its last byte, checksum of the rest, rows, seconds the server took, bytes of the head and of the
body. What follows is both of them, plain or as one block of LZ4."""

_compress: Final[Any] = lz4.block.compress
_decompress: Final[Any] = lz4.block.decompress


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

    def to_bytes(self, compress_bytes: int = 0) -> bytes:
        """For Redis; see `from_bytes`. From `compress_bytes` on it is compressed, where that saves an eighth; 0: never."""
        kind = _PLAIN
        content = (self.head, self.body)
        if 0 < compress_bytes <= self.size_bytes <= COMPRESS_MOST_BYTES:
            plain = self.head + self.body if self.head else self.body
            packed: bytes = _compress(plain, store_size=False)
            if len(packed) <= len(plain) - len(plain) // 8:
                kind = _LZ4
                content = (packed, b"")
        rest = _HEAD.pack(kind, 0, self.rows, self.server_s, len(self.head), len(self.body))[8:]
        checksum = crc32(content[1], crc32(content[0], crc32(rest)))
        return b"".join((kind, checksum.to_bytes(4, "big"), rest, *content))

    @staticmethod
    def from_bytes(data: bytes, limit_bytes: int) -> Entry | None:
        """The entry that `to_bytes` wrote; None for anything else, and for one that is larger than `limit_bytes`. Never
        raises, and takes no more memory than that, whatever the bytes claim."""
        if len(data) < _HEAD.size:
            return None
        kind, checksum, rows, server_s, head_bytes, body_bytes = _HEAD.unpack_from(data)
        size_bytes = head_bytes + body_bytes
        if size_bytes > limit_bytes or not server_s >= 0.0 or crc32(memoryview(data)[8:]) != checksum:
            return None
        if kind == _PLAIN:
            start = _HEAD.size
        elif kind == _LZ4 and size_bytes <= COMPRESS_MOST_BYTES:
            try:
                data = _decompress(memoryview(data)[_HEAD.size :], uncompressed_size=size_bytes)
            except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError):
                return None
            start = 0
        else:
            return None
        if len(data) != start + size_bytes:
            return None
        split = start + head_bytes
        return Entry(data[start:split], data[split:], rows, server_s)
