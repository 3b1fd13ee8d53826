"""A client that speaks messages, not SQL: it sends frames as they are given and shows frames as they come.

For what no driver does, and to compare what a server says with what arrives behind a proxy, byte by byte. It blocks; a peer
that says nothing for `PATIENCE_S` fails the test instead of hanging it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from pgloupe.wire.backend import parse_error_fields
from pgloupe.wire.frontend import build_frame, build_query, build_terminate
from pgloupe.wire.startup import build_startup

PATIENCE_S: Final = 20.0

Wait = str | int | None
"""What a step waits for: "Z" the code of a message, a number of ReadyForQuery, None for nothing, "end" for the end of the
connection."""


class Raw:
    """A connection to the server of `url`, not yet started unless `start` was called. A context manager."""

    def __init__(self, url: str, *, receive_buffer_bytes: int | None = None) -> None:
        parts = urlsplit(url)
        self.user = unquote(parts.username or "")
        self.database = unquote(parts.path[1:])
        self.socket = socket.socket()
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(PATIENCE_S)
        try:
            self.socket.connect((parts.hostname or "", parts.port or 5432))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.key = b""
        """Process number (4 bytes) and secret key of BackendKeyData."""
        self.at_end = False
        """`read_within` has seen the end of the connection."""
        self._data = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def start(self, **parameters: str) -> list[bytes]:
        """StartupMessage of a role that needs no password; everything up to ReadyForQuery."""
        self.send(build_startup({"user": self.user, "database": self.database, **parameters}))
        frames = self.until("Z")
        for frame in frames:
            if frame[:1] == b"K":
                self.key = frame[5:]
        return frames

    @property
    def process(self) -> int:
        return int.from_bytes(self.key[:4], "big")

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def receive(self) -> bytes:
        """The bytes that are there, b"" at the end of the connection (a reset is one)."""
        if self._data:
            data, self._data = self._data, b""
            return data
        with contextlib.suppress(ConnectionError):
            return self.socket.recv(1 << 16)
        return b""

    def read(self) -> bytes | None:
        """One frame, None at the end of the connection."""
        while len(self._data) < 5 or len(self._data) < self._length():
            held, self._data = self._data, b""
            more = self.receive()
            self._data = held + more
            if not more:
                assert not held, f"the connection ended inside of a message: {held[:80]!r}"
                return None
        length = self._length()
        frame, self._data = self._data[:length], self._data[length:]
        return frame

    def read_within(self, patience_s: float | None) -> bytes | None:
        """One frame; None at the end of the connection (`at_end`) and if nothing comes for so long."""
        if patience_s is None:
            frame = self.read()
            self.at_end = frame is None
            return frame
        self.socket.settimeout(patience_s)
        try:
            while len(self._data) < 5 or len(self._data) < self._length():
                try:
                    more = self.socket.recv(1 << 16)
                except ConnectionError:
                    more = b""
                self._data += more
                if not more:
                    self.at_end = True
                    return None
        except TimeoutError:
            return None
        finally:
            self.socket.settimeout(PATIENCE_S)
        return self.read()

    def _length(self) -> int:
        return 1 + int.from_bytes(self._data[1:5], "big")

    def until(self, code: str, count: int = 1) -> list[bytes]:
        """Frames up to the `count`-th of this code, or to the end of the connection."""
        frames: list[bytes] = []
        while count and (frame := self.read()) is not None:
            frames.append(frame)
            count -= frame[:1] == code.encode()
        return frames

    def rest(self) -> list[bytes]:
        """Frames up to the end of the connection."""
        frames: list[bytes] = []
        while (frame := self.read()) is not None:
            frames.append(frame)
        return frames

    def query(self, sql: str) -> list[bytes]:
        """A simple Query and its whole answer."""
        self.send(build_query(sql))
        return self.until("Z")

    def half_close(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish as a killed process with unread data does: by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def terminate(self) -> None:
        self.send(build_terminate())


Script = Sequence[tuple[bytes, Wait]]
"""Steps: what to send, what to wait for before the next one."""


def play(url: str, script: Script, **parameters: str) -> list[list[bytes]]:
    """The masked answers to each step; those to the start-up first, what comes after Terminate last."""
    with Raw(url) as client:
        answers = [client.start(**parameters)]
        for data, wait in script:
            client.send(data)
            if wait is None:
                continue
            if wait == "end":
                answers.append(client.rest())
            elif isinstance(wait, int):
                answers.append(client.until("Z", wait))
            else:
                answers.append(client.until(wait))
        with contextlib.suppress(ConnectionError):
            client.terminate()
        answers.append(client.rest())
    return [[masked(frame) for frame in frames] for frames in answers]


def masked(frame: bytes) -> bytes:
    """Without what differs between two sessions: process numbers and secret keys."""
    code = frame[:1]
    if code == b"K":
        return code + len(frame).to_bytes(4, "big")
    if code == b"A":
        return frame[:5] + b"...." + frame[9:]
    return frame


def codes(frames: Sequence[bytes]) -> str:
    return "".join(chr(frame[0]) for frame in frames)


def errors(frames: Sequence[bytes]) -> list[tuple[str, str, str]]:
    """Severity, SQLSTATE and text of each ErrorResponse."""
    found = [parse_error_fields(frame) for frame in frames if frame[:1] == b"E"]
    return [(fields.get("V", ""), fields.get("C", ""), fields.get("M", "")) for fields in found]


def copy_data(*lines: str) -> bytes:
    return b"".join(build_frame(0x64, line.encode() + b"\n") for line in lines)


COPY_DONE: Final = build_frame(0x63)


def copy_fail(reason: str) -> bytes:
    return build_frame(0x66, reason.encode() + b"\0")


def function_call(oid: int, *arguments: bytes) -> bytes:
    """FunctionCall with binary arguments and a binary result."""
    body = oid.to_bytes(4, "big") + b"\0\1\0\1" + len(arguments).to_bytes(2, "big")
    for argument in arguments:
        body += len(argument).to_bytes(4, "big") + argument
    return build_frame(0x46, body + b"\0\1")


def eventually(question: Callable[[], object]) -> None:
    """Ask until the answer is true: for what another process or thread is about to do."""
    end_s = time.monotonic() + PATIENCE_S
    while not question():
        assert time.monotonic() < end_s, f"never came true: {question}"
        time.sleep(0.005)
