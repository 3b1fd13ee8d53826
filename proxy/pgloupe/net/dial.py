"""Connections to the server, over TCP or a Unix-domain socket, encrypted as `sslmode` says.

The server answers an SSLRequest with one byte. More than that before the handshake was put in by somebody between us
(CVE-2021-23222), so the connection is given up. Where `sslmode` is prefer or allow, a handshake that fails is
followed by one more attempt without TLS, as libpq does it.

Source: libpq documentation, "Connection Strings", "SSL Support"; protocol documentation, "SSL Session Encryption",
"Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

from pgloupe.errors import HandshakeFailed, ServerUnreachable
from pgloupe.net.tls import ALPN, TlsContexts, connect_tls
from pgloupe.sslmode import ServerTls
from pgloupe.urls import Upstream
from pgloupe.wire.startup import build_ssl_request

_log = logging.getLogger(__name__)

_CANCEL_TIMEOUT_S = 10.0

Factory = Callable[[], asyncio.Protocol]


async def dial(
    upstream: Upstream, factory: Factory, timeout_s: float, tls: TlsContexts | None = None
) -> tuple[asyncio.Transport, asyncio.Protocol]:
    """Connect `factory()` to the server. A transport that is encrypted is a TlsTransport; protocols hear nothing of
    `connection_made` from those.

    Raises ServerUnreachable with the reason.
    """
    context = tls.server if tls is not None and upstream.socket_path is None else None
    try:
        async with asyncio.timeout(timeout_s):
            if tls is None or context is None:
                return await _plain(upstream, factory)
            server = tls.settings.server
            try:
                return await _encrypted(upstream, factory, timeout_s, context, server)
            except HandshakeFailed as error:
                if server.required:
                    raise ServerUnreachable(
                        f"no encrypted connection to the server at {upstream} (sslmode={server.mode}): {error}"
                    ) from None
                _log.warning(
                    "server %s: %s; connected without TLS, as sslmode=%s allows", upstream, str(error), server.mode
                )
                return await _plain(upstream, factory)
    except TimeoutError:
        raise ServerUnreachable(
            f"the server at {upstream} did not accept a connection within {timeout_s:g} s"
        ) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: no label of a host name can be like that
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ServerUnreachable(f"no connection to the server at {upstream}: {reason}") from None


async def _plain(upstream: Upstream, factory: Factory) -> tuple[asyncio.Transport, asyncio.Protocol]:
    loop = asyncio.get_running_loop()
    path = upstream.socket_path
    if path is not None:
        return await loop.create_unix_connection(factory, path)
    transport, protocol = await loop.create_connection(factory, upstream.host, upstream.port)
    set_options(transport)
    return transport, protocol


class _Answer(asyncio.Protocol):
    """Waits for the first bytes of the server and then stops reading. b"" stands for a connection that was closed."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
        self._tell(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._tell(b"")

    def _tell(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data)


async def _encrypted(
    upstream: Upstream, factory: Factory, timeout_s: float, context: ssl.SSLContext, server: ServerTls
) -> tuple[asyncio.Transport, asyncio.Protocol]:
    """Raises HandshakeFailed, ServerUnreachable and OSError."""
    raw, first = await asyncio.get_running_loop().create_connection(_Answer, upstream.host, upstream.port)
    try:
        set_options(raw)
        if not server.direct:
            raw.write(build_ssl_request())
            if not _agreed(await first.answer, upstream, server):
                protocol = factory()
                raw.set_protocol(protocol)
                protocol.connection_made(raw)
                raw.resume_reading()
                return raw, protocol
        protocol = factory()
        transport = await connect_tls(
            raw, protocol, context, upstream.host, timeout_s + 1
        )  # the caller's time is up before
        if server.direct and transport.alpn != ALPN:
            transport.abort()
            raise ServerUnreachable(
                f"the server at {upstream} does not know direct TLS: remove sslnegotiation=direct from its URL"
            )
    except BaseException:
        raw.abort()
        raise
    return transport, protocol


def _agreed(answer: bytes, upstream: Upstream, server: ServerTls) -> bool:
    """Whether TLS is to begin. Raises ServerUnreachable."""
    if answer == b"S":
        return True
    if answer == b"N":
        if server.required:
            raise ServerUnreachable(
                f"the server at {upstream} does not support TLS, and sslmode={server.mode} wants it: set ssl = on there, "
                "or sslmode=prefer here"
            )
        return False
    if not answer:
        raise ServerUnreachable(
            f"the server at {upstream} closed the connection when it was asked for TLS: is it PostgreSQL? "
            "sslmode=disable does not ask"
        )
    if answer[:1] == b"E":
        raise ServerUnreachable(
            f"the server at {upstream} answered a request for TLS with an error: its log has the reason"
        )
    if answer[:1] in (b"S", b"N"):
        raise ServerUnreachable(
            f"the server at {upstream}, or somebody before it, sent unencrypted data before TLS began"
        )
    raise ServerUnreachable(f"what answers at {upstream} is no PostgreSQL server")


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


async def cancel(upstream: Upstream, request: bytes, timeout_s: float, tls: TlsContexts | None = None) -> None:
    """Pass a CancelRequest on, encrypted as sessions are, and wait until the server has closed, which is when it has
    signalled the backend.

    Raises ServerUnreachable.
    """
    transport, protocol = await dial(upstream, _UntilClosed, timeout_s, tls)
    assert isinstance(protocol, _UntilClosed)
    try:
        transport.write(request)
        async with asyncio.timeout(_CANCEL_TIMEOUT_S):
            await protocol.closed
    except TimeoutError:
        pass
    finally:
        transport.close()
