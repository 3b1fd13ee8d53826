"""Codes of the protocol: message types, request codes, transaction status.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", section "Message Formats". Plain final integers in a
namespace and not `enum`: they are compared for each message, and a compiler folds them.

The names of the namespaces are the directions: one code means different things in each (`D` is Describe from the frontend
and DataRow from the backend).
"""

from __future__ import annotations

from typing import Final


class FrontendCode:
    """Types of messages that the frontend sends after start-up."""

    BIND: Final = 0x42  # B
    CLOSE: Final = 0x43  # C
    DESCRIBE: Final = 0x44  # D
    EXECUTE: Final = 0x45  # E
    FUNCTION_CALL: Final = 0x46  # F
    FLUSH: Final = 0x48  # H
    PARSE: Final = 0x50  # P
    QUERY: Final = 0x51  # Q
    SYNC: Final = 0x53  # S
    TERMINATE: Final = 0x58  # X
    COPY_DONE: Final = 0x63  # c
    COPY_DATA: Final = 0x64  # d
    COPY_FAIL: Final = 0x66  # f
    PASSWORD: Final = 0x70  # p; also GSSResponse, SASLInitialResponse, SASLResponse


class BackendCode:
    """Types of messages that the backend sends."""

    PARSE_COMPLETE: Final = 0x31  # 1
    BIND_COMPLETE: Final = 0x32  # 2
    CLOSE_COMPLETE: Final = 0x33  # 3
    NOTIFICATION_RESPONSE: Final = 0x41  # A
    COMMAND_COMPLETE: Final = 0x43  # C
    DATA_ROW: Final = 0x44  # D
    ERROR_RESPONSE: Final = 0x45  # E
    COPY_IN_RESPONSE: Final = 0x47  # G
    COPY_OUT_RESPONSE: Final = 0x48  # H
    EMPTY_QUERY_RESPONSE: Final = 0x49  # I
    BACKEND_KEY_DATA: Final = 0x4B  # K
    NOTICE_RESPONSE: Final = 0x4E  # N
    AUTHENTICATION: Final = 0x52  # R
    PARAMETER_STATUS: Final = 0x53  # S
    ROW_DESCRIPTION: Final = 0x54  # T
    FUNCTION_CALL_RESPONSE: Final = 0x56  # V
    COPY_BOTH_RESPONSE: Final = 0x57  # W
    READY_FOR_QUERY: Final = 0x5A  # Z
    COPY_DONE: Final = 0x63  # c
    COPY_DATA: Final = 0x64  # d
    NO_DATA: Final = 0x6E  # n
    PORTAL_SUSPENDED: Final = 0x73  # s
    PARAMETER_DESCRIPTION: Final = 0x74  # t
    NEGOTIATE_PROTOCOL_VERSION: Final = 0x76  # v


class RequestCode:
    """The 32 bits behind the length of a start-up packet. A protocol version is `major << 16 | minor`."""

    CANCEL: Final = 1234 << 16 | 5678
    SSL: Final = 1234 << 16 | 5679
    GSSENC: Final = 1234 << 16 | 5680


class TransactionStatus:
    """The status byte of ReadyForQuery."""

    IDLE: Final = "I"
    TRANSACTION: Final = "T"
    FAILED: Final = "E"


HEADER_BYTES: Final = 5
"""Type byte and length of every message after start-up."""

MAX_FRAME_BYTES: Final = 1 << 30
"""PostgreSQL accepts no longer message (PQ_LARGE_MESSAGE_LIMIT is 1 GB - 1)."""

MAX_STARTUP_BYTES: Final = 10_000
"""MAX_STARTUP_PACKET_LENGTH of the server: what comes after the length word."""
