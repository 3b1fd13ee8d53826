"""What has to happen between an encrypted server and the client before a link relays everything as it comes.

A server on TLS offers SCRAM-SHA-256-PLUS, which binds the login to its own TLS connection. It cannot pass a proxy:

    client       what is done
    -----------  -------------------------------------------------------------------------------------------
    plain text   PLUS is taken out of the offer: libpq refuses a server that offers it without TLS. The rest passes.
    TLS          The login ends here. Taking PLUS out is not enough: the client, on TLS, would say that it could have
                 bound, and the server refuses that as a downgrade. So the client is asked for its password, inside its
                 TLS, and the proxy logs in with it, bound to the server's certificate. What the server says to that
                 reaches the client.

Every other method, and a server that does not offer PLUS, passes byte for byte.

A client that has `channel_binding=require`, or a `require_auth` without `password`, goes away when it is asked for a
password: that is logged with what to do. The protocol has no place to tell it.

The password is in memory while its login lasts, and nowhere in a log or an error.

Source: protocol documentation, "SASL Authentication"; libpq documentation, "channel_binding".
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from collections.abc import Callable
from typing import Final

from pgloupe.errors import ClientLeft, EmptyPassword, ProtocolViolation, ServerUnreachable
from pgloupe.net.tls import TlsTransport
from pgloupe.wire.backend import parse_authentication
from pgloupe.wire.codes import HEADER_BYTES, BackendCode, FrontendCode
from pgloupe.wire.frontend import build_frame
from pgloupe.wire.scram import SCRAM, SCRAM_PLUS, ScramClient, end_point_binding

_log = logging.getLogger(__name__)

MAX_AUTH_BYTES: Final = 65_535
"""PG_MAX_AUTH_TOKEN_LENGTH of the server: body of the longest message before the end of the authentication."""

MAX_ITERATIONS: Final = 5_000_000
"""As many as a server may make us do: some seconds of one core."""

_SASL: Final = 10
_SASL_CONTINUE: Final = 11
_SASL_FINAL: Final = 12
_ASK_PASSWORD: Final = build_frame(
    BackendCode.AUTHENTICATION, (3).to_bytes(4, "big")
)  # AuthenticationCleartextPassword


class Peer(asyncio.Protocol):
    """One side of a login: its frames, taken one by one. Never holds much more than the longest frame."""

    def __init__(self) -> None:
        self.ended = False
        self.error: Exception | None = None
        """Why it ended, where that is known."""
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Somebody waits for its next frame."""
        return self._waiter is not None and not self._waiter.done()

    def attach(self, transport: asyncio.Transport) -> None:
        """Read from here, while there is room."""
        self._transport = transport
        self._steer()

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._steer()
        self._wake()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        self.error = self.error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _steer(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if len(self._data) > MAX_AUTH_BYTES + HEADER_BYTES:
                transport.pause_reading()
            elif not transport.is_reading():
                transport.resume_reading()

    async def frame(self) -> bytes | None:
        """The next frame, None at the end of the connection. Raises ProtocolViolation for one that is too long."""
        while True:
            if len(self._data) >= HEADER_BYTES:
                length = int.from_bytes(self._data[1:HEADER_BYTES], "big")
                if not 4 <= length <= MAX_AUTH_BYTES + 4:
                    raise ProtocolViolation(f"a message of {length} bytes during authentication")
                if len(self._data) > length:
                    frame = bytes(self._data[: length + 1])
                    del self._data[: length + 1]
                    self._steer()
                    return frame
            if self.ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def rest(self) -> bytes:
        """What is there beyond the frames that were taken. Gives it once."""
        data = bytes(self._data)
        self._data.clear()
        return data


async def log_in(server: Peer, transport: TlsTransport, frontend: asyncio.Transport, client: Peer, name: str) -> bytes:
    """From the StartupMessage, which is sent, to where a link can take over. Gives what the client is to get first.

    `client` gets what the client sends, and is attached to `frontend`, if the client has to be asked. `name` is the
    client's, for the log.

    Raises ClientLeft, and for what the client is to be told ServerUnreachable, ProtocolViolation and EmptyPassword.
    """
    held = b""
    frame = await _frame_of(server)
    if frame is not None and frame[0] == BackendCode.NEGOTIATE_PROTOCOL_VERSION:
        held = frame
        frame = await _frame_of(server)
    if frame is None:
        return held + server.rest()
    mechanisms = _mechanisms(frame)
    if SCRAM_PLUS not in mechanisms:
        return held + frame + server.rest()
    if not isinstance(frontend, TlsTransport):
        others = [mechanism for mechanism in mechanisms if mechanism != SCRAM_PLUS]
        if not others:
            raise ServerUnreachable(
                "the server wants channel binding, which cannot pass a proxy: have it offer SCRAM-SHA-256 too, or "
                "connect to the proxy with TLS"
            )
        return held + _build_sasl(others) + server.rest()
    frontend.write(held + _ASK_PASSWORD)
    client.attach(frontend)
    password = await _password(client, name)
    last = await _scram(server, transport, mechanisms, password)
    return last + server.rest()


async def _frame_of(server: Peer) -> bytes | None:
    try:
        return await server.frame()
    except ProtocolViolation as error:
        raise ServerUnreachable(f"the server sent {error}") from None


def _mechanisms(frame: bytes) -> list[str]:
    """Of an AuthenticationSASL; empty for any other frame."""
    if frame[0] != BackendCode.AUTHENTICATION or len(frame) < HEADER_BYTES + 4 or parse_authentication(frame) != _SASL:
        return []
    names = frame[HEADER_BYTES + 4 :].split(b"\0")
    return [name.decode("ascii", "replace") for name in names if name]


def _build_sasl(mechanisms: list[str]) -> bytes:
    names = b"".join(name.encode("ascii", "replace") + b"\0" for name in mechanisms)
    return build_frame(BackendCode.AUTHENTICATION, _SASL.to_bytes(4, "big") + names + b"\0")


def departed(name: str) -> None:
    """Log that a client left when it was asked for its password, and why that may be."""
    _log.info(
        "client %s left when it was asked for its password: with TLS on both sides the proxy asks for it, inside of TLS, "
        "because SCRAM-SHA-256-PLUS cannot pass a proxy; channel_binding=require, or require_auth without password, does "
        "not work then: use channel_binding=prefer with sslmode=verify-full to the proxy, and "
        "server_tls_sslmode=verify-full behind it",
        name,
    )


async def _password(client: Peer, name: str) -> bytes:
    frame = await client.frame()
    if frame is None or frame[0] == FrontendCode.TERMINATE:
        departed(name)
        raise ClientLeft("the client left when it was asked for its password")
    if frame[0] != FrontendCode.PASSWORD:
        raise ProtocolViolation(f"expected password response, got message type {frame[0]}")
    body = frame[HEADER_BYTES:]
    if not body or body.find(b"\0") != len(body) - 1:
        raise ProtocolViolation("invalid password packet size")
    if len(body) == 1:
        raise EmptyPassword("empty password returned by client")
    return body[:-1]


async def _scram(server: Peer, transport: TlsTransport, mechanisms: list[str], password: bytes) -> bytes:
    """Log in. Gives the frame in which the server says how that ended: AuthenticationOk, or its error."""
    certificate = transport.peer_certificate
    binding = end_point_binding(certificate) if certificate is not None else None
    if binding is None and SCRAM not in mechanisms:
        raise ServerUnreachable("the server wants channel binding, and nobody defined how for its certificate")
    scram = ScramClient(base64.b64encode(secrets.token_bytes(18)), binding)
    first = scram.first()
    mechanism = scram.mechanism.encode() + b"\0"
    transport.write(build_frame(FrontendCode.PASSWORD, mechanism + len(first).to_bytes(4, "big") + first))
    frame = await _answer(server, _SASL_CONTINUE)
    if frame[0] == BackendCode.ERROR_RESPONSE:
        return frame
    _checked(scram.receive_first, frame)
    if scram.iterations > MAX_ITERATIONS:
        raise ServerUnreachable(
            f"the server asks for {scram.iterations} iterations of SCRAM; {MAX_ITERATIONS} are done at most"
        )
    final = await asyncio.to_thread(scram.finish, password)
    transport.write(build_frame(FrontendCode.PASSWORD, final))
    frame = await _answer(server, _SASL_FINAL)
    if frame[0] == BackendCode.ERROR_RESPONSE:
        return frame
    _checked(scram.receive_final, frame)
    return await _answer(server, 0)


def _checked(receive: Callable[[bytes], None], frame: bytes) -> None:
    try:
        receive(frame[HEADER_BYTES + 4 :])
    except ProtocolViolation as error:
        raise ServerUnreachable(str(error)) from None


async def _answer(server: Peer, kind: int) -> bytes:
    """The next message, which is an Authentication of this kind or an ErrorResponse."""
    frame = await _frame_of(server)
    if frame is None:
        reason = f": {server.error}" if server.error is not None else ""
        raise ServerUnreachable(f"the server closed the connection during authentication{reason}")
    if frame[0] == BackendCode.ERROR_RESPONSE:
        return frame
    if (
        frame[0] == BackendCode.AUTHENTICATION
        and len(frame) >= HEADER_BYTES + 4
        and parse_authentication(frame) == kind
    ):
        return frame
    raise ServerUnreachable(f"the server sent an unexpected message of type {frame[0]} during authentication")
