"""Connections to the server, over TCP or a Unix-domain socket.

Source: libpq documentation, "Connection Strings"; protocol documentation, "Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from pgloupe.errors import ServerUnreachable
from pgloupe.urls import Upstream

_CANCEL_TIMEOUT_S = 10.0


async def dial(
    upstream: Upstream, factory: Callable[[], asyncio.Protocol], timeout_s: float
) -> tuple[asyncio.Transport, asyncio.Protocol]:
    """Connect `factory()` to the server. Raises ServerUnreachable with the reason."""
    loop = asyncio.get_running_loop()
    path = upstream.socket_path
    try:
        async with asyncio.timeout(timeout_s):
            if path is not None:
                transport, protocol = await loop.create_unix_connection(factory, path)
            else:
                transport, protocol = await loop.create_connection(factory, upstream.host, upstream.port)
                set_options(transport)
    except TimeoutError:
        raise ServerUnreachable(
            f"the server at {upstream} did not accept a connection within {timeout_s:g} s"
        ) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: no label of a host name can be like that
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ServerUnreachable(f"no connection to the server at {upstream}: {reason}") from None
    return transport, protocol


def set_options(transport: asyncio.BaseTransport) -> None:
    """Answer at once and notice dead peers, as PostgreSQL sets its own sockets."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class _UntilClosed(asyncio.Protocol):
    """Waits for the peer to close."""

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def cancel(upstream: Upstream, request: bytes, timeout_s: float) -> None:
    """Pass a CancelRequest on and wait until the server has closed, which is when it has signalled the backend.

    Raises ServerUnreachable.
    """
    transport, protocol = await dial(upstream, _UntilClosed, timeout_s)
    assert isinstance(protocol, _UntilClosed)
    try:
        transport.write(request)
        async with asyncio.timeout(_CANCEL_TIMEOUT_S):
            await protocol.closed
    except TimeoutError:
        pass
    finally:
        transport.close()
