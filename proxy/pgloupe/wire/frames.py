"""Bytes to frames.

A frame is what the documentation calls a message before anyone has looked into it: type byte, length, body. The reader
takes chunks as they come from a socket, cut anywhere, and gives frames as plain tuples `(code, raw, count)`:

* `count >= 1`: `raw` holds that many whole frames of one code, headers included. Only runs of DataRow and CopyData have
  a count over 1, so that a result of many rows is one tuple and not one for each row.
* `count == 0`: `raw` is a piece of a frame longer than the reader's limit; more follows.
* `count == -1`: the last piece of such a frame.
* `count == -2`: a length that no message can have; `raw` is the rest of the chunk, and all that comes later is the same.

The pieces in order are exactly the bytes that came in, less `pending` bytes of an unfinished frame that the reader keeps.
So whoever must hold bytes back forwards `raw`, and whoever forwarded the chunk already ignores it. Nothing is ever
allocated from a length that a peer declared: an unfinished frame grows with what really arrived, up to the limit.

Source: "Message Flow" and "Message Formats" of the protocol documentation.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, TypeAlias

from pgloupe.wire.codes import HEADER_BYTES, MAX_FRAME_BYTES

Frame: TypeAlias = tuple[int, bytes, int]

WHOLE: Final = 1
PIECE: Final = 0
LAST_PIECE: Final = -1
BROKEN: Final = -2

DEFAULT_LIMIT_BYTES: Final = 1 << 20

_LENGTH: Final = Struct("!I")
_DATA_ROW: Final = 0x44
_COPY_DATA: Final = 0x64


class FrameReader:
    """Cuts one direction of a connection into frames. See the head of the module for what it gives."""

    __slots__ = ("_broken", "_code", "_join_rows", "_left", "_need", "_tail", "limit_bytes")

    def __init__(self, *, join_rows: bool, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """`join_rows`: runs of DataRow become one tuple. Only the backend's direction: from the frontend the same code
        is Describe."""
        self._join_rows = join_rows
        self.limit_bytes = limit_bytes
        """The longest frame that is kept until it is whole. May be changed: it counts from the next frame on."""
        self._tail = bytearray()
        self._need = 0  # bytes that the frame (or its header) in the tail still lacks
        self._left = 0  # bytes to come of a frame over the limit
        self._code = 0  # its code
        self._broken = False

    @property
    def pending(self) -> int:
        """Bytes kept of a frame that is not whole yet."""
        return len(self._tail)

    @property
    def missing(self) -> int:
        """Bytes that the unfinished frame still lacks, or its header."""
        return self._left or (self._need if self._tail else 0)

    @property
    def unfinished(self) -> int:
        """The code of the frame of which the beginning is kept, -1 for none."""
        return self._tail[0] if self._tail else -1

    def tail(self, start: int = 0) -> bytes:
        """The bytes of the unfinished frame from `start` on."""
        return bytes(self._tail[start:])

    @property
    def clean(self) -> bool:
        """Between two frames."""
        return not self._tail and not self._left

    def feed(self, data: bytes) -> list[Frame]:
        """Take a chunk in, give the frames that it completes. Never raises."""
        frames: list[Frame] = []
        if self._broken:
            return [(0, data, BROKEN)]
        position = 0
        end = len(data)
        if self._left:
            position = self._continue_piece(data, frames)
        elif self._tail:
            position = self._continue_tail(data, frames)
        join_rows = self._join_rows
        while end - position >= HEADER_BYTES:
            code = data[position]
            length = _LENGTH.unpack_from(data, position + 1)[0] + 1
            if length < HEADER_BYTES or length > MAX_FRAME_BYTES:
                self._broken = True
                frames.append((code, data[position:], BROKEN))
                return frames
            stop = position + length
            if stop > end:
                break
            count = 1
            if code == _COPY_DATA or (code == _DATA_ROW and join_rows):
                start = position
                position = stop
                while end - position >= HEADER_BYTES and data[position] == code:
                    length = _LENGTH.unpack_from(data, position + 1)[0] + 1
                    if length < HEADER_BYTES or position + length > end:
                        break  # an absurd length is reported when its turn comes in the outer loop
                    position += length
                    count += 1
                frames.append((code, data[start:position], count))
            else:
                frames.append((code, data[position:stop], 1))
                position = stop
        if position < end:
            self._keep(data, position, frames)
        return frames

    def _keep(self, data: bytes, position: int, frames: list[Frame]) -> None:
        """Keep the start of a frame; or, where it is over the limit, give its first piece."""
        rest = len(data) - position
        if rest < HEADER_BYTES:
            self._tail += data[position:]
            self._need = HEADER_BYTES - rest
            return
        length = _LENGTH.unpack_from(data, position + 1)[0] + 1
        if length > self.limit_bytes:
            self._code = data[position]
            self._left = length - rest
            frames.append((self._code, data[position:], PIECE))
        else:
            self._tail += data[position:]
            self._need = length - rest

    def _continue_tail(self, data: bytes, frames: list[Frame]) -> int:
        """Fill the frame in the tail. Returns the position behind what was used."""
        tail = self._tail
        position = 0
        if len(tail) < HEADER_BYTES:
            position = min(self._need, len(data))
            tail += data[:position]
            self._need -= position
            if self._need:
                return position
            length = _LENGTH.unpack_from(tail, 1)[0] + 1
            if length < HEADER_BYTES or length > MAX_FRAME_BYTES:
                self._broken = True
                frames.append((tail[0], bytes(tail) + data[position:], BROKEN))
                tail.clear()
                return len(data)
            self._need = length - HEADER_BYTES
            if length > self.limit_bytes:
                return self._start_piece(data, position, frames)
        take = min(self._need, len(data) - position)
        tail += data[position : position + take]
        self._need -= take
        if not self._need:
            frames.append((tail[0], bytes(tail), WHOLE))
            tail.clear()
        return position + take

    def _start_piece(self, data: bytes, position: int, frames: list[Frame]) -> int:
        """The header in the tail is that of a frame over the limit."""
        self._code = self._tail[0]
        self._left = self._need
        frames.append((self._code, bytes(self._tail), PIECE))
        self._tail.clear()
        self._need = 0
        return self._continue_piece(data, frames, position)

    def _continue_piece(self, data: bytes, frames: list[Frame], position: int = 0) -> int:
        take = min(self._left, len(data) - position)
        if not take:
            return position
        self._left -= take
        frames.append((self._code, data[position : position + take], PIECE if self._left else LAST_PIECE))
        return position + take
