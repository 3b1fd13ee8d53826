"""The sans-I/O beginning of a connection: everything before there is a server to talk to.

    (start)   SSLRequest     -> `S`, and TLS is to begin: `upgrade`; then (start) again, inside of it
                             -> `N`, once, where TLS is off                      (start)
    (start)   GSSENCRequest  -> `N`, once                                        (start)
    (start)   0x16           direct TLS, as the very first byte: `upgrade` and `direct`
    (start)   CancelRequest                                                      done
    (start)   StartupMessage                                                     done

The client must wait for the answer to a request for encryption. Bytes that are there already when we answer were put
in by someone between us (CVE-2021-23214), so the connection is closed. Inside of TLS no encryption can be asked for.

Source: protocol documentation, "SSL Session Encryption", "GSSAPI Session Encryption", "Start-up".
"""

from __future__ import annotations

from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.codes import MAX_STARTUP_BYTES
from pgloupe.wire.startup import (
    TLS_HANDSHAKE,
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    packet_bytes,
    parse_startup,
)

_ACCEPTED: Final = b"S"
_REFUSED: Final = b"N"


class Greeting:
    """Feed it until `result` is there. `tls`: the proxy has a certificate to show."""

    def __init__(self, limit_bytes: int = MAX_STARTUP_BYTES, *, tls: bool = False) -> None:
        self._limit_bytes = limit_bytes
        self._tls = tls
        self._data = bytearray()
        self._asked: set[type[SSLRequest | GSSENCRequest]] = set()
        self._begun = False
        self.result: StartupMessage | CancelRequest | None = None
        self.rest = b""
        """What came behind the StartupMessage."""
        self.upgrade: bytes | None = None
        """The answer is to be written and then TLS is to begin, with these bytes of the client's: call `secured` when
        it stands and feed what comes out of it."""
        self.direct = False
        """The client began with TLS and has to name the protocol in it."""
        self.secure = False
        """All this is said inside of TLS."""

    @property
    def declined(self) -> bool:
        """The client asked for TLS and was told that there is none."""
        return SSLRequest in self._asked and not self._tls

    def secured(self) -> None:
        """The handshake is done."""
        self.upgrade = None
        self.secure = True

    def receive(self, data: bytes) -> bytes:
        """Take a chunk in. Gives what to answer.

        Raises ProtocolViolation: the connection is to be closed.
        """
        if not self._begun and data:
            self._begun = True
            if data[0] == TLS_HANDSHAKE:
                if not self._tls:
                    raise ProtocolViolation("the client began with a TLS handshake, but client_tls_sslmode is disable")
                self.direct = True
                self.upgrade = bytes(data)
                return b""
        self._data += data
        length = packet_bytes(self._data, self._limit_bytes)
        if not length or len(self._data) < length:
            return b""
        packet = parse_startup(bytes(self._data[:length]))
        rest = bytes(self._data[length:])
        self._data.clear()
        if isinstance(packet, (StartupMessage, CancelRequest)):
            self.result = packet
            self.rest = rest
            return b""
        if self.secure:
            raise ProtocolViolation("a request for encryption inside of TLS")
        if rest:
            raise ProtocolViolation("received unencrypted data after a request for encryption")
        if type(packet) in self._asked:
            raise ProtocolViolation("a second request for the same encryption")
        self._asked.add(type(packet))
        if self._tls and isinstance(packet, SSLRequest):
            self.upgrade = b""
            return _ACCEPTED
        return _REFUSED
