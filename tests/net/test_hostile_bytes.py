"""Hostile peers without sockets: thousands of conversations that no driver leads, by both sides. See support/bytecode.py."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgloupe.session.states import Phase
from support.bytecode import CLIENT, FIRST, LENGTHS, SERVER, greet, read_text, read_value, run

MANY = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

STEP = st.tuples(st.sampled_from(range(8)), st.sampled_from(range(8)), st.integers(0, 255), st.integers(0, 255))
VALID = st.tuples(st.sampled_from([0, 3, 5, 6, 7]), st.just(7), st.integers(0, 255)).map(bytes)
PROGRAM = st.builds(
    lambda flags, steps: bytes([flags]) + b"".join(steps),
    st.integers(0, 15),
    st.lists(st.one_of(VALID, VALID, STEP.map(bytes)), max_size=30),
)
WORDS = "SELECT ' \" $$ /* */ -- ( ) $1 E' U&' \\ ; IN , a 1 . :: VALUES BEGIN CASE END é CREATE FUNCTION - = FETCH FIRST SET {}"
FRAGMENTS = st.lists(st.sampled_from([*WORDS.split(), "\n", "\0", "\udc80"]), max_size=60).map(" ".join)


@MANY
@given(PROGRAM)
def test_messages_that_nobody_expects_do_no_harm(program: bytes) -> None:
    run(program)


@MANY
@given(st.binary(max_size=120))
def test_any_program_does_no_harm(program: bytes) -> None:
    run(program)


@MANY
@given(st.binary(max_size=60))
def test_any_beginning_does_no_harm(program: bytes) -> None:
    greet(program)


@MANY
@given(FRAGMENTS)
def test_any_text_is_recognised(text: str) -> None:
    read_text(text.encode("utf-8", "surrogateescape"))


@MANY
@given(st.binary(max_size=40))
def test_any_value_is_decoded(data: bytes) -> None:
    read_value(data)


def test_programs_reach_where_sessions_are_vulnerable() -> None:
    """The tests above would prove little if every session gave up at the first message."""
    ready = bytes([9])  # with a cache, after the greeting
    read = bytes([0, 7, 0, 5])
    write = bytes([0, 7, 1, 5])
    for program, outcomes in ((ready + read * 3 + write + read, 5), (bytes([8]) + write * 4, 4)):
        session = run(program)
        assert session.trouble in ("", "the end of the test")
        assert session.phase == Phase.CLOSED
        assert session.observer._sequence == outcomes
    assert len(CLIENT) < 256
    assert len(SERVER) < 256
    assert len(FIRST) < 256
    assert len(LENGTHS) < 256
