"""A network that fails: a relay on the loopback interface that breaks connections when and as it is told.

It knows nothing of PostgreSQL: it counts bytes. Put it between a client and pgloupe or between pgloupe and the server, say
what is to happen to the next connection (`next`), and look afterwards at what went through (`last`). It runs in a thread of
its own; a connection is two tasks, one for each direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

Ending = Literal["close", "reset", "half close", "stall"]

UP: Final = 0
"""From the client's side to the server's."""
DOWN: Final = 1

_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What happens to a connection when `after` bytes went in `direction`.

    `close` ends both sides in order, with what was sent delivered; `reset` ends both by RST, undelivered bytes are lost;
    `half close` ends this direction alone; `stall` neither reads nor writes in this direction any more until `Relay.resume`.
    `piece`: so many bytes are sent at a time in both directions, and after each the other tasks have their turn.
    `delay_s`: what arrives is passed on so much later, in both directions.
    """

    direction: int = DOWN
    after: int | None = None
    ending: Ending = "close"
    piece: int = _CHUNK_BYTES
    delay_s: float = 0.0


NO_FAULT: Final = Fault()


class Relay:
    """One connection: what went through it, by direction."""

    def __init__(self, fault: Fault, loop: asyncio.AbstractEventLoop) -> None:
        self.fault = fault
        self.passed = (bytearray(), bytearray())
        self.struck = threading.Event()
        """The fault has happened."""
        self.ended = threading.Event()
        """Both sides are closed."""
        self._resumed = asyncio.Event()
        self._held = False
        self._loop = loop

    def hold(self) -> None:
        """From now on pass nothing on, in neither direction, until `resume`: the data are lost if the relay ends first."""

        async def take_effect() -> None:
            self._resumed.clear()
            self._held = True

        asyncio.run_coroutine_threadsafe(take_effect(), self._loop).result()

    def resume(self) -> None:
        """End a stall."""
        self._held = False
        self._loop.call_soon_threadsafe(self._resumed.set)


class FaultProxy:
    """Relays to the server of `target`, a URL of PostgreSQL or Redis; `url` is the same by way of the relay. A context
    manager. With `tls` it speaks TLS with clients from their first byte on, and plain text with the server."""

    def __init__(self, target: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = urlsplit(target)
        self._tls = tls
        self.always = NO_FAULT
        """Of every connection that `next` was not called for."""
        self._plan: list[Fault] = []
        self.relays: list[Relay] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fault proxy", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self.port = 0

    @property
    def url(self) -> str:
        login = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{login}@127.0.0.1:{self.port}"))

    def next(self, fault: Fault) -> None:
        """The next connection has this fault; those behind it have `always`."""
        self._plan[:] = [fault]

    @property
    def last(self) -> Relay:
        """The connection that was accepted last."""
        return self.relays[-1]

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _work(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            fault = self._plan.pop() if self._plan else self.always
            relay = Relay(fault, self._loop)
            self.relays[:] = [*self.relays[-20:], relay]
            task = self._loop.create_task(self._connect(relay, reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, backlog=1000, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        for each in server.sockets:  # what has been accepted just now needs a turn or two to become a task
            self._loop.remove_reader(each.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
            writers.append(far_writer)
            for each in writers:
                each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up = self._pump(relay, UP, reader, far_writer, writers)
            down = self._pump(relay, DOWN, far_reader, writer, writers)
            await asyncio.gather(up, down)
        except OSError:
            reset(writers)
        except asyncio.CancelledError:
            for each in writers:  # what a side that stands still has not taken would keep it open
                each.transport.abort()
            raise
        finally:
            for each in writers:  # all before the first wait, which the end of the proxy may cancel
                each.close()
            for each in writers:
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            relay.ended.set()

    async def _pump(
        self,
        relay: Relay,
        direction: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
    ) -> None:
        fault = relay.fault
        passed = relay.passed[direction]
        left = fault.after if direction == fault.direction else None
        while True:
            if left == 0:
                relay.struck.set()
                if fault.ending != "stall":
                    await _break(fault.ending, reader, writer, both)
                    return
                await relay._resumed.wait()
                left = None
            data = await reader.read(min(_CHUNK_BYTES, left or _CHUNK_BYTES))
            if not data:
                with contextlib.suppress(OSError):
                    if writer.can_write_eof():
                        writer.write_eof()
                    else:  # TLS has no half of a connection
                        writer.close()
                return
            passed += data
            if relay._held:
                await relay._resumed.wait()
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            for start in range(0, len(data), fault.piece):
                writer.write(data[start : start + fault.piece])
                await writer.drain()
                if fault.piece < _CHUNK_BYTES:
                    await asyncio.sleep(0)
            if left is not None:
                left -= len(data)


async def _break(
    ending: Ending, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, both: list[asyncio.StreamWriter]
) -> None:
    if ending == "reset":
        reset(both)
    elif ending == "close":
        for each in both:
            each.close()
    else:
        writer.write_eof()
        while await reader.read(_CHUNK_BYTES):
            pass


def reset(writers: list[asyncio.StreamWriter]) -> None:
    """End connections as a crashed machine does that came up again."""
    for writer in writers:
        found: Any = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
