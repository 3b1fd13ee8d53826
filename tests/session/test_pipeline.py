"""The FIFO of outstanding requests, by itself."""

from __future__ import annotations

import pytest

from pgloupe.errors import ProtocolViolation
from pgloupe.session.capture import Capture
from pgloupe.session.pipeline import Kind, Pipeline, Reply, Request
from pgloupe.wire.codes import BackendCode


def pipeline_of(*kinds: int) -> Pipeline:
    pipeline = Pipeline()
    for kind in kinds:
        if kind == Kind.COPY_END:
            pipeline.copy_end()
        else:
            pipeline.push(Request(kind))
    return pipeline


def kinds_of(pipeline: Pipeline) -> list[int]:
    return [request.kind for request in pipeline.drain()]


def test_requests_are_answered_in_order() -> None:
    pipeline = pipeline_of(Kind.PARSE, Kind.BIND, Kind.EXECUTE, Kind.SYNC)
    seen = []
    while pipeline.head is not None:
        seen.append(pipeline.pop().kind)
    assert seen == [Kind.PARSE, Kind.BIND, Kind.EXECUTE, Kind.SYNC]
    assert len(pipeline) == 0


def test_what_executes_and_what_is_swallowed_is_counted() -> None:
    pipeline = pipeline_of(Kind.QUERY, Kind.FUNCTION_CALL, Kind.PARSE, Kind.EXECUTE)
    pipeline.push(Request(Kind.PARSE, Reply.SKIP))
    assert (pipeline.executing, pipeline.skips) == (3, 1)
    pipeline.pop()
    pipeline.pop()
    assert (pipeline.executing, pipeline.skips) == (1, 1)
    pipeline.fail()
    assert (pipeline.executing, pipeline.skips) == (0, 0)
    assert pipeline.skipping


def test_an_error_takes_everything_up_to_sync() -> None:
    pipeline = pipeline_of(Kind.BIND, Kind.EXECUTE, Kind.SYNC, Kind.PARSE)
    assert [request.kind for request in pipeline.fail()] == [Kind.BIND, Kind.EXECUTE]
    assert not pipeline.skipping
    assert kinds_of(pipeline) == [Kind.SYNC, Kind.PARSE]


def test_without_a_sync_what_is_still_to_come_is_skipped_until_one_is_sent() -> None:
    pipeline = pipeline_of(Kind.BIND, Kind.EXECUTE)
    pipeline.fail()
    assert pipeline.skipping
    pipeline.sync_sent()
    assert not pipeline.skipping


def test_an_error_of_a_query_or_a_function_call_ends_that_alone() -> None:
    for kind in (Kind.QUERY, Kind.FUNCTION_CALL):
        pipeline = pipeline_of(kind, Kind.PARSE)
        assert [request.kind for request in pipeline.fail()] == [kind]
        assert kinds_of(pipeline) == [kind, Kind.PARSE]


def test_an_error_at_sync_takes_nothing() -> None:
    pipeline = pipeline_of(Kind.SYNC, Kind.PARSE)
    assert pipeline.fail() == []
    assert len(pipeline) == 2
    assert Pipeline().fail() == []


def test_syncs_sent_before_the_copied_data_ended_are_ignored() -> None:
    pipeline = pipeline_of(Kind.EXECUTE, Kind.SYNC, Kind.COPY_END, Kind.SYNC)
    pipeline.copy_in()
    assert not pipeline.copying_in()
    pipeline.copied()
    assert not pipeline.settled
    assert kinds_of(pipeline) == [Kind.EXECUTE, Kind.SYNC]


def test_syncs_sent_before_a_copy_failed_are_answered_or_not() -> None:
    for replies in (1, 2, 3):
        pipeline = pipeline_of(Kind.EXECUTE, Kind.SYNC, Kind.SYNC, Kind.COPY_END, Kind.SYNC)
        pipeline.copy_in()
        assert [request.kind for request in pipeline.fail()] == [Kind.EXECUTE]
        assert not pipeline.stalled
        for _ in range(replies):
            assert pipeline.head_for(BackendCode.READY_FOR_QUERY) is not None
            pipeline.ready()
        assert pipeline.settled
        pipeline.push(Request(Kind.QUERY))
        head = pipeline.head_for(BackendCode.ROW_DESCRIPTION)
        assert head is not None
        assert head.kind == Kind.QUERY
        pipeline.ready()
        assert len(pipeline) == 0


def test_what_is_said_aside_tells_nothing_of_a_doubtful_sync() -> None:
    pipeline = pipeline_of(Kind.EXECUTE, Kind.SYNC, Kind.COPY_END, Kind.SYNC)
    pipeline.copy_in()
    pipeline.fail()
    assert pipeline.head_for(BackendCode.NOTICE_RESPONSE) is None
    assert len(pipeline) == 1


def test_after_a_failed_copy_without_its_sync_only_a_sync_can_be_followed() -> None:
    pipeline = pipeline_of(Kind.EXECUTE, Kind.SYNC)
    pipeline.copy_in()
    pipeline.fail()
    assert pipeline.stalled
    with pytest.raises(ProtocolViolation):
        pipeline.push(Request(Kind.QUERY))
    pipeline.push(Request(Kind.SYNC))
    assert not pipeline.stalled
    pipeline.push(Request(Kind.QUERY))


def test_requests_between_a_doubtful_sync_and_the_next_cannot_be_followed_when_the_copy_fails() -> None:
    pipeline = pipeline_of(Kind.EXECUTE, Kind.SYNC, Kind.COPY_END, Kind.PARSE, Kind.SYNC)
    pipeline.copy_in()
    with pytest.raises(ProtocolViolation):
        pipeline.fail()


def test_syncs_during_a_copy_take_one_place_however_many_there_are() -> None:
    pipeline = pipeline_of(Kind.QUERY)
    pipeline.copy_in()
    for _ in range(1000):
        pipeline.copy_sync()
    assert len(pipeline) == 2


def test_copied_data_ends_when_its_end_is_sent() -> None:
    pipeline = pipeline_of(Kind.QUERY)
    pipeline.copy_in()
    assert pipeline.copying_in()
    pipeline.copy_end()
    assert not pipeline.copying_in()
    assert len(pipeline) == 1


def test_an_end_of_copied_data_is_not_outstanding_by_itself() -> None:
    pipeline = pipeline_of(Kind.QUERY, Kind.COPY_END, Kind.COPY_END)
    pipeline.pop()
    assert len(pipeline) == 0
    for _ in range(1000):
        pipeline.copy_end()
    assert len(pipeline) == 0
    assert pipeline.head is None


def test_an_end_of_copied_data_belongs_to_its_own_request() -> None:
    pipeline = pipeline_of(Kind.EXECUTE, Kind.COPY_END, Kind.EXECUTE, Kind.COPY_END, Kind.SYNC)
    for _ in range(2):
        pipeline.copy_in()
        assert not pipeline.copying_in()
        pipeline.pop()
    assert kinds_of(pipeline) == [Kind.SYNC]


def test_the_request_behind_the_head() -> None:
    pipeline = pipeline_of(Kind.DESCRIBE_PORTAL)
    assert pipeline.following() is None
    pipeline.push(Request(Kind.EXECUTE))
    following = pipeline.following()
    assert following is not None
    assert following.kind == Kind.EXECUTE


def test_a_capture_over_its_limit_keeps_nothing() -> None:
    capture = Capture("ticket", 10)
    capture.add(b"123456")
    assert capture.body == [b"123456"]
    capture.add(b"789012")
    assert capture.spoilt
    capture.add(b"x")
    assert capture.body == []
