"""The sans-I/O beginning of a connection: everything before there is a server to talk to.

    (start)   SSLRequest     -> `N`, once         (start)
    (start)   GSSENCRequest  -> `N`, once         (start)
    (start)   CancelRequest                       done
    (start)   StartupMessage                      done

The client must wait for the answer to a request for encryption. Bytes that are there already when we answer were put in by
someone between us (CVE-2021-23214), so the connection is closed.

Source: protocol documentation, "SSL Session Encryption", "GSSAPI Session Encryption", "Start-up".
"""

from __future__ import annotations

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.codes import MAX_STARTUP_BYTES
from pgloupe.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage, packet_bytes, parse_startup

_REFUSED = b"N"


class Greeting:
    """Feed it until `result` is there."""

    def __init__(self, limit_bytes: int = MAX_STARTUP_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._asked: set[type[SSLRequest | GSSENCRequest]] = set()
        self.result: StartupMessage | CancelRequest | None = None
        self.rest = b""
        """What came behind the StartupMessage."""

    def receive(self, data: bytes) -> bytes:
        """Take a chunk in. Gives what to answer.

        Raises ProtocolViolation: the connection is to be closed.
        """
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
        if rest:
            raise ProtocolViolation("received unencrypted data after a request for encryption")
        if type(packet) in self._asked:
            raise ProtocolViolation("a second request for the same encryption")
        self._asked.add(type(packet))
        return _REFUSED
