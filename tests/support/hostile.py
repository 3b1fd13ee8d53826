"""Servers that are none: they accept one client after the other and say what they are told to say, whatever they are asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from struct import pack
from typing import Final

from pgloupe.wire.codes import BackendCode
from pgloupe.wire.frontend import build_frame

ASK_PASSWORD: Final = build_frame(BackendCode.AUTHENTICATION, pack("!i", 3))
WELCOME: Final = build_frame(BackendCode.AUTHENTICATION, pack("!i", 0)) + build_frame(BackendCode.READY_FOR_QUERY, b"I")

_CHUNK_BYTES: Final = 1 << 16


class FakeServer:
    """Says the first of `lines` when the client has said something, the next when it has again, and so on; then it closes, or
    with `stays` goes on reading. `talk` instead has the accepted socket to itself. A context manager; `url` is its URL."""

    def __init__(
        self, lines: Sequence[bytes] = (), *, stays: bool = False, talk: Callable[[socket.socket], None] | None = None
    ) -> None:
        self._lines = lines
        self._stays = stays
        self._talk = talk or self._say
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="fake server", daemon=True)
        self.heard = 0
        """Bytes that clients have said."""

    @property
    def url(self) -> str:
        return f"postgresql://nobody@127.0.0.1:{self._socket.getsockname()[1]}/none?sslmode=disable"

    def say(self, lines: Sequence[bytes], *, stays: bool = False) -> None:
        """What the next client is told."""
        self._lines, self._stays = lines, stays

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(20)
                self._talk(client)

    def _say(self, client: socket.socket) -> None:
        for line in self._lines:
            heard = client.recv(_CHUNK_BYTES)
            self.heard += len(heard)
            if not heard:
                return
            client.sendall(line)
        while self._stays and (heard := client.recv(_CHUNK_BYTES)):
            self.heard += len(heard)
        client.shutdown(socket.SHUT_WR)
        while client.recv(_CHUNK_BYTES):  # so that nothing of what was said is lost by a reset
            pass
