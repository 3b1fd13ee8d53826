"""The packets with which a connection begins, and the greeting that reads them."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.errors import ProtocolViolation
from pgloupe.session.greeting import Greeting
from pgloupe.wire.codes import MAX_STARTUP_BYTES
from pgloupe.wire.startup import (
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    build_cancel_request,
    build_gssenc_request,
    build_ssl_request,
    build_startup,
    packet_bytes,
    parse_startup,
)
from support.conversation import byte_by_byte, cut

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def startup_packet(body: bytes, protocol: int = 3 << 16) -> bytes:
    return pack("!II", 8 + len(body), protocol) + body


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from([3 << 16, 3 << 16 | 2, 3 << 16 | 9999]))
def test_a_startup_message_is_read_as_it_was_built(parameters: dict[str, str], protocol: int) -> None:
    raw = build_startup(parameters, protocol)
    assert packet_bytes(raw) == len(raw)
    assert parse_startup(raw) == StartupMessage(raw, protocol, parameters)


def test_every_byte_of_a_parameter_survives() -> None:
    raw = startup_packet(b"user\0\xff\xfe\0caf\xe9\0x\0\0")
    packet = parse_startup(raw)
    assert isinstance(packet, StartupMessage)
    assert packet.raw == raw
    assert build_startup(packet.parameters) == raw


def test_options_of_newer_protocols_are_kept_as_sent() -> None:
    raw = build_startup({"user": "a", "_pq_.test_protocol_negotiation": ""}, 3 << 16 | 9999)
    packet = parse_startup(raw)
    assert isinstance(packet, StartupMessage)
    assert packet.raw == raw
    assert packet.parameters["_pq_.test_protocol_negotiation"] == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\1",
        b"user",
        b"user\0",
        b"user\0\0a",
        b"user\0app",
        b"user\0app\0",
        b"user\0\0app\0x\0",
        b"user\0app\0database\0\0\0\0",
        b"\0value\0\0",
        b"\0\0",
    ],
)
def test_parameters_without_their_terminators_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse_startup(startup_packet(body))


def test_a_startup_message_may_have_no_parameters() -> None:
    packet = parse_startup(startup_packet(b"\0"))
    assert isinstance(packet, StartupMessage)
    assert packet.parameters == {}


@pytest.mark.parametrize("protocol", [0, 2 << 16, 4 << 16, 1234 << 16 | 5677, 0xFFFFFFFF])
def test_other_protocols_are_refused(protocol: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_startup(startup_packet(b"user\0a\0\0", protocol))


@pytest.mark.parametrize("length", [0, 4, 7, MAX_STARTUP_BYTES + 5, 0x7FFFFFFF, 0xFFFFFFFF, 0x16030100])
def test_a_length_that_no_startup_packet_has_is_refused_before_its_bytes_are_there(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        packet_bytes(pack("!I", length))


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0"])
def test_too_few_bytes_tell_no_length(data: bytes) -> None:
    assert packet_bytes(data) == 0


@pytest.mark.parametrize("size", [4, 5, 32, 255, 256])
def test_a_cancel_request_carries_a_key_of_up_to_256_bytes(size: int) -> None:
    raw = build_cancel_request(4711, bytes(size))
    assert parse_startup(raw) == CancelRequest(raw)


@pytest.mark.parametrize("size", [0, 3, 257, 1000])
def test_a_cancel_request_with_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_startup(build_cancel_request(4711, bytes(size)))


def test_requests_for_encryption_have_no_body() -> None:
    assert parse_startup(build_ssl_request()) == SSLRequest()
    assert parse_startup(build_gssenc_request()) == GSSENCRequest()
    for code in (1234 << 16 | 5679, 1234 << 16 | 5680):
        with pytest.raises(ProtocolViolation):
            parse_startup(pack("!III", 12, code, 0))


@given(st.binary(max_size=64), st.booleans(), st.sampled_from([None, 3 << 16, 1234 << 16 | 5678, 1234 << 16 | 5679]))
def test_arbitrary_bytes_give_a_packet_or_a_protocol_violation(data: bytes, fits: bool, code: int | None) -> None:
    if code is not None:
        data = pack("!I", code) + data
    if fits:
        data = pack("!I", len(data) + 4) + data
    try:
        packet_bytes(data)
        parse_startup(data)
    except ProtocolViolation:
        pass


# --- the greeting ---


@given(st.lists(st.integers(0, 200), max_size=10))
def test_a_greeting_is_understood_in_any_cut(points: list[int]) -> None:
    raw = build_startup({"user": "app", "database": "shop"})
    for chunks in (byte_by_byte(raw), cut(raw, points)):
        greeting = Greeting()
        assert [greeting.receive(chunk) for chunk in chunks] == [b""] * len(chunks)
        assert greeting.result == parse_startup(raw)
        assert greeting.rest == b""


@pytest.mark.parametrize(
    "requests", [[build_ssl_request(), build_gssenc_request()], [build_gssenc_request(), build_ssl_request()]]
)
def test_each_request_for_encryption_is_refused_once_and_the_startup_message_follows(requests: list[bytes]) -> None:
    greeting = Greeting()
    for request in requests:
        assert greeting.receive(request) == b"N"
    with pytest.raises(ProtocolViolation):
        greeting.receive(requests[0])
    greeting = Greeting()
    assert greeting.receive(requests[0]) == b"N"
    assert greeting.receive(build_startup({"user": "a"}) + b"pmore") == b""
    assert isinstance(greeting.result, StartupMessage)
    assert greeting.rest == b"pmore"


def test_a_cancel_request_may_follow_a_request_for_encryption() -> None:
    greeting = Greeting()
    greeting.receive(build_ssl_request())
    greeting.receive(build_cancel_request(1, b"1234"))
    assert greeting.result == CancelRequest(build_cancel_request(1, b"1234"))


def test_bytes_behind_a_request_for_encryption_are_an_attack() -> None:
    with pytest.raises(ProtocolViolation, match="unencrypted data"):
        Greeting().receive(build_ssl_request() + build_startup({"user": "a"}))


def test_a_tls_hello_is_no_startup_packet() -> None:
    with pytest.raises(ProtocolViolation):
        Greeting().receive(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")


# --- with TLS ---


def test_a_request_for_tls_is_accepted_and_the_greeting_begins_again_inside() -> None:
    greeting = Greeting(tls=True)
    assert greeting.receive(build_gssenc_request()) == b"N"
    assert greeting.receive(build_ssl_request()) == b"S"
    assert greeting.upgrade == b""
    assert not greeting.direct
    greeting.secured()
    assert greeting.upgrade is None
    assert greeting.receive(build_startup({"user": "a"})) == b""
    assert isinstance(greeting.result, StartupMessage)
    assert greeting.secure


@pytest.mark.parametrize("request_bytes", [build_ssl_request(), build_gssenc_request()])
def test_encryption_is_not_asked_for_inside_of_tls(request_bytes: bytes) -> None:
    greeting = Greeting(tls=True)
    greeting.receive(build_ssl_request())
    greeting.secured()
    with pytest.raises(ProtocolViolation, match="inside of TLS"):
        greeting.receive(request_bytes)


def test_bytes_behind_a_request_that_would_be_accepted_are_an_attack() -> None:
    with pytest.raises(ProtocolViolation, match="unencrypted data"):
        Greeting(tls=True).receive(build_ssl_request() + b"\x16")


def test_a_handshake_may_begin_at_once_and_only_then() -> None:
    greeting = Greeting(tls=True)
    assert greeting.receive(b"\x16\x03\x01") == b""
    assert (greeting.upgrade, greeting.direct, greeting.secure) == (b"\x16\x03\x01", True, False)
    greeting = Greeting(tls=True)
    greeting.receive(build_gssenc_request())
    with pytest.raises(ProtocolViolation):
        greeting.receive(b"\x16\x03\x01\x02\x00")


@given(st.lists(st.binary(max_size=12), max_size=6), st.booleans())
def test_arbitrary_greetings_give_an_answer_or_a_protocol_violation(chunks: list[bytes], tls: bool) -> None:
    greeting = Greeting(tls=tls)
    for chunk in chunks:
        try:
            assert greeting.receive(chunk) in (b"", b"S", b"N")
        except ProtocolViolation:
            break
        if greeting.result is not None or greeting.upgrade is not None:
            break
