"""The floor: what any proxy in this language and on this event loop must cost.

It reads from one side and writes to the other, both ways, and stops reading where the other side is full. It does not
look at a byte. What pgloupe costs over this is what looking costs; what this costs over PgBouncer is the price of the
event loop.

    python bench/relay.py HOST:PORT      relays to there; prints `listening on HOST:PORT` and runs until a signal
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of the two connections. `other` is None until the other one is there."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Client(Side):
    """A client's connection, which dials the server when the client has said something."""

    def __init__(self, host: str, port: int, dialling: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self._address = (host, port)
        self._dialling = dialling

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)
        elif self.transport is not None:
            # uvloop reads whatever connection_made says, so this is the first place where reading can be stopped
            self.transport.pause_reading()
            task = asyncio.get_running_loop().create_task(self._dial(self.transport, data))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    async def _dial(self, client: asyncio.Transport, first: bytes) -> None:
        try:
            backend, server = await asyncio.get_running_loop().create_connection(Side, *self._address)
        except OSError:
            client.close()
            return
        if client.is_closing():
            backend.close()
            return
        server.other = client
        self.other = backend
        backend.write(first)
        client.resume_reading()


async def relay(host: str, port: int) -> None:
    """Relay until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)
    dialling: set[asyncio.Task[None]] = set()
    server = await loop.create_server(lambda: Client(host, port, dialling), "127.0.0.1", 0)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await end.wait()
    server.close()


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(relay(host, int(port)))


if __name__ == "__main__":
    main()
