"""The untyped packets with which a connection begins.

Source: protocol documentation, "Start-up", "SSL Session Encryption", "GSSAPI Session Encryption", "Canceling Requests in
Progress".
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.codes import MAX_STARTUP_BYTES, RequestCode

_TWO_INTS: Final = Struct("!II")
_THREE_INTS: Final = Struct("!III")

MIN_STARTUP_BYTES: Final = 8

TLS_HANDSHAKE: Final = 0x16
"""First byte of a TLS handshake. No start-up packet begins with it: it would be far too long."""


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """`raw` is the packet as sent, which is what the server gets."""

    raw: bytes
    protocol: int
    """`major << 16 | minor`."""
    parameters: dict[str, str]
    """user, database, options, replication, run-time parameters; `_pq_.` options included."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    raw: bytes

    @property
    def key(self) -> bytes:
        """The process number and the secret key, as BackendKeyData has them."""
        return self.raw[8:]


@dataclass(frozen=True, slots=True)
class SSLRequest:
    pass


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    pass


StartupPacket: TypeAlias = StartupMessage | CancelRequest | SSLRequest | GSSENCRequest


def packet_bytes(data: bytes | bytearray, limit_bytes: int = MAX_STARTUP_BYTES) -> int:
    """Length of the start-up packet that `data` begins with, 0 if too little of it is there to tell. `limit_bytes` is for
    what comes after the length word, as in the server.

    Raises ProtocolViolation for a length that no start-up packet has.
    """
    if len(data) < 4:
        return 0
    length = int.from_bytes(data[:4], "big")
    if length < MIN_STARTUP_BYTES or length - 4 > limit_bytes:
        raise ProtocolViolation(f"invalid length {length} of a start-up packet")
    return length


def parse_startup(raw: bytes) -> StartupPacket:
    """One whole start-up packet. Raises ProtocolViolation."""
    if len(raw) < MIN_STARTUP_BYTES:
        raise ProtocolViolation(f"a start-up packet of {len(raw)} bytes is too short")
    length, code = _TWO_INTS.unpack_from(raw)
    if length != len(raw):
        raise ProtocolViolation(f"a start-up packet of {len(raw)} bytes declares {length}")
    if code in (RequestCode.SSL, RequestCode.GSSENC):
        if length != MIN_STARTUP_BYTES:
            raise ProtocolViolation(f"invalid length {length} of a request for encryption")
        return SSLRequest() if code == RequestCode.SSL else GSSENCRequest()
    if code == RequestCode.CANCEL:
        # the process number and a secret key of 4 bytes (3.0) to 256 bytes (3.2)
        if not 16 <= length <= 12 + 256:
            raise ProtocolViolation(f"invalid length {length} of a cancel request")
        return CancelRequest(raw)
    if code >> 16 != 3:
        raise ProtocolViolation(
            f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 and later of 3"
        )
    return StartupMessage(raw, code, _parameters(raw))


def _parameters(raw: bytes) -> dict[str, str]:
    if len(raw) == MIN_STARTUP_BYTES or raw[-1]:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    fields = raw[8:-1].split(b"\0")
    if fields[-1]:
        raise ProtocolViolation("invalid startup packet layout: a value without its terminator")
    fields.pop()
    if len(fields) % 2 or any(not name for name in fields[::2]):
        raise ProtocolViolation("invalid startup packet layout: a name without its value")
    texts = [item.decode("utf-8", "surrogateescape") for item in fields]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def build_startup(parameters: dict[str, str], protocol: int = 3 << 16) -> bytes:
    """A StartupMessage, for tests and for our own connections."""
    body = b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for item in parameters.items() for text in item)
    return _TWO_INTS.pack(9 + len(body), protocol) + body + b"\0"


def build_ssl_request() -> bytes:
    return _TWO_INTS.pack(8, RequestCode.SSL)


def build_gssenc_request() -> bytes:
    return _TWO_INTS.pack(8, RequestCode.GSSENC)


def build_cancel_request(process: int, secret: bytes) -> bytes:
    return _THREE_INTS.pack(12 + len(secret), RequestCode.CANCEL, process) + secret
