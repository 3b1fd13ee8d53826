"""The port that clients connect to.

A connection goes through `Greeting` (what comes before there is a server), with a TLS handshake in between if the
client wants one; then the server is dialled, `login` does what a server on TLS needs, and a `Link` joins the two. A
connection that sends nonsense is closed and nobody else notices; one that takes too long is told so.

Limits (`Limits`, replaced as a whole when the settings are read again): a client over `max_connections` is still greeted, so
that it gets PostgreSQL's answer to its StartupMessage and not a broken handshake, and may cancel. So connections that have
sent no StartupMessage do not count; together with the others they are at most `GREETED` more, and what comes then is closed
unheard.

Stopping: `drain` closes the port and ends each session when it is idle, `stop` ends all at once. Both tell the clients as
PostgreSQL does (57P01).

Source: protocol documentation, "Start-up", "Canceling Requests in Progress".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from pgloupe.errors import (
    AuthenticationTimeout,
    ClientLeft,
    FeatureNotSupported,
    HandshakeFailed,
    IdleTimeout,
    NotEncrypted,
    PgloupeError,
    ProtocolViolation,
    ServerUnreachable,
    ShuttingDown,
    TooManyConnections,
)
from pgloupe.net.dial import cancel, dial, set_options
from pgloupe.net.link import Backend, Desk, Hooks, Link, clock, in_flight
from pgloupe.net.login import Peer, departed, log_in
from pgloupe.net.tasks import Tasks
from pgloupe.net.tls import ALPN, TlsContexts, TlsTransport, accept_tls
from pgloupe.session.greeting import Greeting
from pgloupe.session.session import LEFT, Session
from pgloupe.session.states import Phase
from pgloupe.urls import Address, Upstream
from pgloupe.wire.backend import build_error_response
from pgloupe.wire.codes import MAX_STARTUP_BYTES
from pgloupe.wire.startup import CancelRequest, StartupMessage
from pgloupe_rules.types import SessionInfo

_log = logging.getLogger(__name__)

BACKLOG: Final = 1024
GREETED: Final = 256
"""How many connections over `max_connections` are heard."""

POLL_S: Final = 0.05
"""How often a drain looks whether sessions have become idle."""

GOODBYE_S: Final = 1.0
"""How long clients that do not read are waited for at the end."""

GOODBYE_MOST_S: Final = 10.0
"""How long clients that read slowly are waited for."""

DECLINED: Final = "the client asked for TLS and left when it was told that there is none"

SHUTDOWN: Final = "terminating connection due to administrator command"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. Times in seconds."""

    connect_timeout_s: float = 10.0
    auth_timeout_s: float = 60.0
    max_connections: int = 2_000
    max_startup_bytes: int = MAX_STARTUP_BYTES
    client_idle_timeout_s: float = 0.0
    """0: never."""


SessionFactory = Callable[[SessionInfo, dict[str, str]], Session]


class Frontend(asyncio.Protocol):
    """The client's side: greets, then hands everything to its link."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._context = listener.tls.client
        self._tls = listener.tls.settings.client
        self._greeting: Greeting | None = Greeting(listener.limits.max_startup_bytes, tls=self._context is not None)
        self._link: Link | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._client = ""
        self._asked: Peer | None = None  # while the login asks the client itself
        self._joining: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link | None:
        return self._link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        set_options(transport)
        if len(self._listener.frontends) >= self._listener.limits.max_connections + GREETED:
            self._transport.abort()
            return
        peer = transport.get_extra_info("peername")
        self._client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "local"
        self._listener.frontends.add(self)
        self._deadline = asyncio.get_running_loop().call_later(self._listener.limits.auth_timeout_s, self._late)

    def data_received(self, data: bytes) -> None:
        if self._asked is not None:
            self._asked.data_received(data)
            return
        if self._link is not None:
            self._link.from_frontend(data)
            return
        greeting, transport = self._greeting, self._transport
        if greeting is None or transport is None:
            return
        try:
            reply = greeting.receive(data)
        except ProtocolViolation as error:
            _log.info("client %s: %s", self._client, str(error))
            if str(error).startswith("unsupported frontend protocol"):
                self.refuse(FeatureNotSupported(str(error)))
            else:
                transport.close()
            return
        if reply:
            transport.write(reply)
        if greeting.upgrade is not None:
            transport.pause_reading()
            self._listener.tasks.spawn(self._secure(greeting, transport, greeting.upgrade))
        elif greeting.result is not None:
            self._greeting = None
            transport.pause_reading()
            if isinstance(greeting.result, CancelRequest):
                self._listener.tasks.spawn(self._cancel(greeting.result))
            else:
                self._start(greeting.result, greeting.rest)

    async def _secure(self, greeting: Greeting, raw: asyncio.Transport, head: bytes) -> None:
        """The TLS handshake."""
        assert self._context is not None
        try:
            transport = await accept_tls(raw, self, self._context, head, self._listener.limits.auth_timeout_s)
        except HandshakeFailed as error:
            _log.info("client %s: %s", self._client, str(error))
            self.connection_lost(None)  # nobody else says so
            return
        if self._transport is None:
            transport.abort()
            return
        self._transport = transport
        if greeting.direct and transport.alpn != ALPN:
            _log.info("client %s: it began with TLS and did not name the protocol (ALPN %s) in it", self._client, ALPN)
            transport.close()
            return
        greeting.secured()

    def _start(self, startup: StartupMessage, rest: bytes) -> None:
        transport, limits = self._transport, self._listener.limits
        assert transport is not None
        if self._tls.required and not isinstance(transport, TlsTransport):
            self.refuse(NotEncrypted("this proxy accepts encrypted connections only: connect with sslmode=require"))
            return
        if self._tls.verified and isinstance(transport, TlsTransport) and transport.peer_certificate is None:
            self.refuse(NotEncrypted("connection requires a valid client certificate"))
            return
        if len(self._listener.admitted) >= limits.max_connections:
            _log.warning("client %s: refused, max_connections = %d are there", self._client, limits.max_connections)
            self.refuse(TooManyConnections("sorry, too many clients already"))
            return
        self._listener.admitted.add(self)
        user = startup.parameters.get("user", "")
        info = SessionInfo(
            session=self._listener.next_session(),
            database=startup.parameters.get("database", user),
            user=user,
            application_name=startup.parameters.get("application_name", ""),
            client=self._client,
            started_s=clock(),
        )
        session = self._listener.make_session(info, startup.parameters)
        link = Link(session, transport, self._listener.hooks, self._listener.desk, self._link_closed)
        self._link = link
        self._joining = self._listener.tasks.spawn(self._join(link, startup.raw, rest))

    async def _join(self, link: Link, first: bytes, rest: bytes) -> None:
        """Connect to the server, have the login done as far as it needs us, and let the link take over."""
        listener = self._listener
        said = b""
        try:
            # a Peer for each attempt: what became of the first says nothing of the second
            backend, protocol = await dial(listener.upstream, Peer, listener.limits.connect_timeout_s, listener.tls)
            server = cast(Peer, protocol)
            try:
                if isinstance(backend, TlsTransport):
                    backend.write(first)
                    first = b""
                    rest, said = await self._log_in(server, backend, rest)
                if self._transport is None or self._transport.is_closing():
                    raise ClientLeft("the client left")
            except BaseException:
                backend.abort()
                raise
        except ClientLeft:
            self._close()
            return
        except PgloupeError as error:
            if self._listener.log_refusals:
                _log.warning("client %s: %s", self._client, str(error))
            self.refuse(error)
            return
        finally:
            self._asked = self._joining = None
        backend.set_protocol(Backend(link))
        if not (server.ended or backend.is_closing() or backend.is_reading()):
            backend.resume_reading()  # the login had enough to do; the link begins with a side that is read from
        link.connected(backend, first)
        if rest:
            link.from_frontend(rest)
        said += server.rest()
        if said:
            link.from_backend(said)
        if server.ended:
            link.backend_gone(server.error)

    async def _log_in(self, server: Peer, backend: TlsTransport, rest: bytes) -> tuple[bytes, bytes]:
        """What the client sent beyond its part of the login, and what it is to get first."""
        frontend = self._transport
        if frontend is None:
            raise ClientLeft("the client left")
        server.attach(backend)
        self._asked = client = Peer()
        client.data_received(rest)
        said = await log_in(server, backend, frontend, client, self._client)
        if not frontend.is_closing():
            frontend.pause_reading()
        return client.rest(), said

    async def _cancel(self, request: CancelRequest) -> None:
        try:
            listener = self._listener
            listener.hurry(request.key)
            await cancel(listener.upstream, request.raw, listener.limits.connect_timeout_s, listener.tls)
        except ServerUnreachable as error:
            _log.warning("client %s: a cancel request got lost: %s", self._client, str(error))
        self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def refuse(self, error: PgloupeError) -> None:
        """Say why and close."""
        self._listener.refusal = str(error)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(build_error_response(error.sqlstate, str(error)))
            self._transport.close()

    def _late(self) -> None:
        self._deadline = None
        error = AuthenticationTimeout("canceling authentication due to timeout")
        if self._link is None:
            if self._transport is not None:
                self._transport.abort()
        elif self._link.session.phase < Phase.READY:
            self._link.terminate(error)

    def eof_received(self) -> bool:
        if isinstance(self._transport, TlsTransport):
            return False  # the transport closes in any case
        return self._link.frontend_eof() if self._link is not None else False

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._forget()
        if self._greeting is not None and self._greeting.declined:
            self._listener.refusal = DECLINED
        if self._asked is not None and self._asked.waiting:
            departed(self._client)
        if self._link is not None:
            self._link.frontend_gone()

    def pause_writing(self) -> None:
        if self._link is not None:
            self._link.frontend_full(True)

    def resume_writing(self) -> None:
        if self._link is not None:
            self._link.frontend_full(False)

    def end(self, error: PgloupeError) -> None:
        """The proxy stops."""
        if self._link is not None:
            self._link.terminate(error)
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection with what is still to be written."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def unread(self) -> int:
        """Bytes that the client has not read yet, as far as the system tells."""
        transport = self._transport
        return transport.get_write_buffer_size() + in_flight(transport) if transport is not None else 0

    def _link_closed(self) -> None:
        unready = self._link.session.unready if self._link is not None else ""
        if unready and not (unready == LEFT and self._listener.refusal):  # that says less
            self._listener.refusal = unready
        if self._joining is not None:
            self._joining.cancel()
        if self._transport is None or not self._transport.get_write_buffer_size():
            self._forget()

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._listener.frontends.discard(self)
        self._listener.admitted.discard(self)


class Listener:
    """Accepts clients for one server."""

    def __init__(
        self,
        upstream: Upstream,
        make_session: SessionFactory,
        hooks: Hooks,
        desk: Desk | None = None,
        limits: Limits | None = None,
        tls: TlsContexts | None = None,
    ) -> None:
        self.upstream = upstream
        self.make_session = make_session
        self.hooks = hooks
        self.desk = desk
        self.limits = limits or Limits()
        self.tls = tls or TlsContexts()
        self.frontends: set[Frontend] = set()
        self.admitted: set[Frontend] = set()
        """Those with a StartupMessage that was not refused."""
        self.refusal = ""
        """Why the last client that got no session got none; "" where each has got one."""
        self.log_refusals = True
        """False where whoever made the listener tells `refusal` itself."""
        self.tasks = Tasks()
        self._server: asyncio.Server | None = None
        self._sessions = 0

    def next_session(self) -> int:
        self._sessions += 1
        return self._sessions

    async def start(self, address: Address) -> Address:
        """Listen. Gives the address with the port that was taken. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Frontend(self), address.host, address.port, backlog=BACKLOG, reuse_address=True
        )
        port = self._server.sockets[0].getsockname()[1]
        return Address(address.host, port)

    def hurry(self, key: bytes) -> None:
        """A cancel request with this key is about to be passed on: its session's statement must be at the server then."""
        if self.desk is None:
            return
        for frontend in self.frontends:
            link = frontend.link
            if link is not None and link.session.cancel_key == key:
                self.desk.hurry(link.session)

    def tick(self, now_s: float) -> None:
        """End the sessions whose client has been idle for too long."""
        limit_s = self.limits.client_idle_timeout_s
        if not limit_s:
            return
        for frontend in list(self.frontends):
            link = frontend.link
            if link is not None and link.idle and now_s - link.session.last_s > limit_s:
                frontend.end(IdleTimeout("terminating connection due to idle-session timeout"))

    async def drain(self, timeout_s: float) -> None:
        """Accept nobody any more; end each session as soon as it is idle, the rest when the time is up."""
        self._close_port()
        error = ShuttingDown(SHUTDOWN)
        deadline = clock() + timeout_s
        while self.frontends and clock() < deadline:
            for frontend in list(self.frontends):
                if frontend.link is None or frontend.link.idle or frontend.link.session.phase >= Phase.OPAQUE:
                    frontend.end(error)
            if self.frontends:
                await asyncio.sleep(POLL_S)
        await self.stop()

    async def stop(self) -> None:
        """End everything now."""
        self._close_port()
        for frontend in list(self.frontends):
            frontend.end(ShuttingDown(SHUTDOWN))
        await self.tasks.close()
        began_s = seen_s = clock()
        left = self._unread()
        while self.frontends and clock() < min(seen_s + GOODBYE_S, began_s + GOODBYE_MOST_S):
            await asyncio.sleep(0.01)
            now_left = self._unread()
            if now_left < left:
                seen_s = clock()
            left = now_left
        for frontend in list(self.frontends):
            frontend.abort()
        await asyncio.sleep(0)  # let the transports say that they are closed

    def _unread(self) -> int:
        """Bytes on their way to clients."""
        return sum(frontend.unread for frontend in self.frontends)

    def _close_port(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
