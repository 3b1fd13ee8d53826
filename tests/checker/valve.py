"""A relay on the loopback interface whose connections can be held and cut one by one, at once, in each direction.

`support.fault_proxy` breaks a connection at a byte that is known before. Here a script says `hold` when both sides are
silent, and what is sent from then on waits until `flow`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Final

from support.fault_proxy import DOWN, UP

_CHUNK_BYTES: Final = 1 << 16


class Pipe:
    """One connection through a valve."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._sockets = (near, far)
        self._open = (threading.Event(), threading.Event())
        for event in self._open:
            event.set()
        self.waiting = (threading.Event(), threading.Event())
        """Something has come while it was held, by direction."""
        self._threads = [
            threading.Thread(target=self._pump, args=(direction,), daemon=True) for direction in (UP, DOWN)
        ]
        for thread in self._threads:
            thread.start()

    def hold(self, direction: int) -> None:
        self._open[direction].clear()

    def flow(self, direction: int) -> None:
        self.waiting[direction].clear()
        self._open[direction].set()

    def cut(self) -> None:
        """Both sides see the end of the connection; what was held is lost."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for event in self._open:
            event.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _pump(self, direction: int) -> None:
        source, target = self._sockets if direction == UP else self._sockets[::-1]
        try:
            while data := source.recv(_CHUNK_BYTES):
                if not self._open[direction].is_set():
                    self.waiting[direction].set()
                    self._open[direction].wait()
                target.sendall(data)
        except OSError:
            pass
        for each, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                each.shutdown(how)


class Valve:
    """Relays to a port of the loopback address. A context manager."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.pipes: list[Pipe] = []
        self.closed = False
        """New connections are ended at once."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def last(self) -> Pipe:
        """The connection that was accepted last."""
        return self.pipes[-1]

    def close(self) -> None:
        """Cut every connection, and every new one until `open`."""
        self.closed = True
        for pipe in self.pipes:
            pipe.cut()

    def open(self) -> None:
        self.closed = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.closed:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pipes.append(Pipe(near, far))

    def __enter__(self) -> Valve:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for pipe in self.pipes:
            pipe.cut()
            pipe.join()
