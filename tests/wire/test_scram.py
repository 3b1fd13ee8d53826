"""The client's part of SCRAM-SHA-256: the vector of RFC 7677, and what a server may not do."""

from __future__ import annotations

import base64
import contextlib
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.scram import ScramClient, end_point_binding, prepared

FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def client() -> ScramClient:
    return ScramClient(b"rOprNGfwEbeRWgbNEkqO")


def test_the_vector_of_the_rfc() -> None:
    scram = client()
    scram._bare = b"n=user,r=rOprNGfwEbeRWgbNEkqO"  # we leave the name to the StartupMessage
    assert scram.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    scram.receive_first(FIRST)
    assert scram.iterations == 4096
    assert scram.finish(b"pencil") == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    scram.receive_final(FINAL)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",  # nothing of its own in the nonce
        b"r=another,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        FIRST.replace(b"4096", b"0"),
        FIRST.replace(b"4096", b"-1"),
        FIRST.replace(b"4096", b"1" * 11),
        FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        FIRST.replace(b"gQ==", b"g==="),
        FIRST.replace(b"%", b"\0"),
        b"m=ext," + FIRST,
        b"e=other-error",
    ],
)
def test_a_first_message_that_cannot_be_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        client().receive_first(message)


@pytest.mark.parametrize("message", [b"", b"v=", b"v=AAAA", FINAL.replace(b"6", b"7"), b"e=invalid-proof", b"v=A"])
def test_a_server_that_does_not_know_the_password_is_found_out(message: bytes) -> None:
    scram = client()
    scram.receive_first(FIRST)
    scram.finish(b"pencil")
    with pytest.raises(ProtocolViolation):
        scram.receive_final(message)


@given(st.binary(max_size=100))
def test_arbitrary_messages_raise_nothing_else(message: bytes) -> None:
    for data in (message, FIRST + b"," + message, message + FIRST):
        scram = client()
        for receive in (scram.receive_first, scram.receive_final):
            with contextlib.suppress(ProtocolViolation):
                receive(data)


def test_a_binding_is_said_and_repeated_in_the_proof() -> None:
    scram = ScramClient(b"nonce", b"\xff,,\0")
    assert scram.mechanism == "SCRAM-SHA-256-PLUS"
    assert scram.first() == b"p=tls-server-end-point,,n=,r=nonce"
    scram.receive_first(b"r=nonceandmore,s=c2FsdA==,i=1")
    final = scram.finish(b"x")
    assert final.startswith(b"c=" + base64.b64encode(b"p=tls-server-end-point,,\xff,,\0") + b",r=nonceandmore,p=")


@pytest.mark.parametrize(
    ("password", "hashed"),
    [
        ("I\u00adX", "IX"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("a\u200bb", "a b"),
        ("\u0007\u00e9", "\u0007\u00e9"),  # prohibited: as it is
        ("\u0627\u0031", "\u0627\u0031"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u00ad", "\u00ad"),  # nothing would be left
    ],
)
def test_passwords_are_prepared(password: str, hashed: str) -> None:
    assert prepared(password.encode()) == hashed.encode()


@given(st.binary(max_size=50))
def test_any_bytes_are_a_password(password: bytes) -> None:
    assert isinstance(prepared(password), bytes)
    if password.isascii():
        assert prepared(password) == password


def certificate(key: Any, algorithm: Any, **options: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 60)])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=1))
    return builder.sign(key, algorithm, **options).public_bytes(serialization.Encoding.DER)


def test_the_digest_of_a_certificate_is_that_of_its_signature() -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    for key in (rsa_key, ec_key):
        for algorithm in (hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
            der = certificate(key, algorithm)
            digest = hashes.Hash(algorithm)
            digest.update(der)
            assert end_point_binding(der) == digest.finalize()
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    assert end_point_binding(certificate(rsa_key, hashes.SHA256(), rsa_padding=pss)) is None
    assert end_point_binding(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_no_certificate(der: bytes) -> None:
    assert end_point_binding(der) is None
    assert end_point_binding(b"\x30\x82" + der) is None
