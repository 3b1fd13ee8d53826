"""The client's part of SCRAM-SHA-256, for logins that end at the proxy (see `net.login`).

Ours and not scramp's: PostgreSQL lets in with as few iterations as `scram_iterations` says (down to 1), with
passwords that are no UTF-8 and with those that SASLprep prohibits, which are then taken as they are. scramp refuses
all three.

The caller reads `iterations` after `receive_first` and before `finish`, which is where the time goes.

Source: RFC 5802, RFC 7677, RFC 5929 (tls-server-end-point), RFC 4013; PostgreSQL documentation, "SASL Authentication".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata
from typing import Final, final

from pgloupe.errors import ProtocolViolation

SCRAM: Final = "SCRAM-SHA-256"
SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"

_FIRST: Final = re.compile(
    rb"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/]+={0,2}),i=([1-9][0-9]{0,9})(?:,.*)?", re.DOTALL
)
_FINAL: Final = re.compile(rb"v=([A-Za-z0-9+/]+={0,2})(?:,.*)?", re.DOTALL)

_PROHIBITED: Final = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepared(password: bytes) -> bytes:
    """The password as both sides hash it: SASLprep, or as it is where that is not possible, as the server does it."""
    if password.isascii():
        return password
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    mapped = ""
    for char in text:
        if stringprep.in_table_c12(char):
            mapped += " "
        elif not stringprep.in_table_b1(char):
            mapped += char
    if not mapped or any(test(char) for char in mapped for test in _PROHIBITED):
        return password
    if any(map(stringprep.in_table_d1, mapped)) and (
        any(map(stringprep.in_table_d2, mapped))
        or not (stringprep.in_table_d1(mapped[0]) and stringprep.in_table_d1(mapped[-1]))
    ):
        return password
    return unicodedata.normalize("NFKC", mapped).encode()


@final
class ScramClient:
    """One login. `binding` is what `end_point_binding` gives for the server's certificate; without it SCRAM-SHA-256 is
    done, and the server is told that this client knows no channel binding, which is so."""

    __slots__ = (
        "_auth_message",
        "_bare",
        "_gs2",
        "_nonce",
        "_salt",
        "_server_key",
        "_server_nonce",
        "iterations",
        "mechanism",
    )

    def __init__(self, nonce: bytes, binding: bytes | None = None) -> None:
        """`nonce`: printable and without commas, new for each login."""
        self.mechanism = SCRAM if binding is None else SCRAM_PLUS
        self.iterations = 0
        """As the server asks for them; 0 until `receive_first`."""
        # what the c attribute of the last message repeats: the header, and the binding itself
        self._gs2 = b"n,," if binding is None else b"p=tls-server-end-point,," + binding
        self._nonce = nonce
        self._bare = b"n=,r=" + nonce  # the server takes the name from the StartupMessage
        self._salt = b""
        self._server_nonce = b""
        self._auth_message = b""
        self._server_key = b""

    def first(self) -> bytes:
        """client-first-message."""
        header, _, _ = self._gs2.partition(b",,")
        return header + b",," + self._bare

    def receive_first(self, message: bytes) -> None:
        """server-first-message. Raises ProtocolViolation."""
        match = _FIRST.fullmatch(message)
        if match is None:
            raise ProtocolViolation("the server's first SCRAM message is malformed")
        nonce, salt, iterations = match.groups()
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce):
            raise ProtocolViolation("the server's SCRAM nonce does not continue ours")
        self._server_nonce = nonce
        self._salt = _decoded(salt)
        self.iterations = int(iterations)
        self._auth_message = self._bare + b"," + message

    def finish(self, password: bytes) -> bytes:
        """client-final-message, with the proof. Takes as long as the iterations do; holds no lock meanwhile."""
        salted = hashlib.pbkdf2_hmac("sha256", prepared(password), self._salt, self.iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        self._server_key = hmac.digest(salted, b"Server Key", "sha256")
        without_proof = b"c=" + base64.b64encode(self._gs2) + b",r=" + self._server_nonce
        self._auth_message += b"," + without_proof
        signature = hmac.digest(hashlib.sha256(client_key).digest(), self._auth_message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)

    def receive_final(self, message: bytes) -> None:
        """server-final-message. Raises ProtocolViolation where the server does not know the password."""
        match = _FINAL.fullmatch(message)
        if match is None:
            raise ProtocolViolation("the server's last SCRAM message is malformed")
        expected = hmac.digest(self._server_key, self._auth_message, "sha256")
        if not hmac.compare_digest(_decoded(match[1]), expected):
            raise ProtocolViolation(
                "the server did not prove that it knows the password: it may not be the one it says it is"
            )


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ProtocolViolation("a SCRAM message of the server is no base64") from None


_RSA: Final = bytes.fromhex("2a864886f70d0101")
_ECDSA: Final = bytes.fromhex("2a8648ce3d04")
_DIGESTS: Final = {
    _RSA + b"\x04": "sha256",  # md5WithRSAEncryption: RFC 5929 puts SHA-256 in the place of MD5 and SHA-1
    _RSA + b"\x05": "sha256",
    _RSA + b"\x0b": "sha256",
    _RSA + b"\x0c": "sha384",
    _RSA + b"\x0d": "sha512",
    _RSA + b"\x0e": "sha224",
    _ECDSA + b"\x01": "sha256",
    _ECDSA + b"\x03\x01": "sha224",
    _ECDSA + b"\x03\x02": "sha256",
    _ECDSA + b"\x03\x03": "sha384",
    _ECDSA + b"\x03\x04": "sha512",
}
"""Object identifiers of signature algorithms to the digest in them. Those that name none (RSASSA-PSS, EdDSA) are left
out: servers and drivers do not agree on them."""


def end_point_binding(certificate: bytes) -> bytes | None:
    """tls-server-end-point of a certificate in DER; None for one whose digest nobody defined. Never raises."""
    try:
        start, _ = inside(certificate, 0)  # Certificate
        _, start = inside(certificate, start)  # over tbsCertificate
        start, _ = inside(certificate, start)  # into signatureAlgorithm
        if certificate[start] != 0x06:
            return None
        start, end = inside(certificate, start)
    except IndexError:
        return None
    digest = _DIGESTS.get(certificate[start:end])
    return hashlib.new(digest, certificate).digest() if digest is not None else None


def inside(der: bytes, start: int) -> tuple[int, int]:
    """Where the content of the element at `start` begins and ends. Raises IndexError."""
    length = der[start + 1]
    begin = start + 2
    if length & 0x80:
        count = length & 0x7F
        begin += count
        length = int.from_bytes(der[start + 2 : begin], "big")
    if begin + length > len(der):
        raise IndexError
    return begin, begin + length
