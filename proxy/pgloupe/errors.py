"""What can go wrong, and the SQLSTATE that a client sees for it.

    PgloupeError                     XX000  never raised itself
    ├── SettingsError                F0000  a flag, variable or key of the configuration is wrong: exit code 2
    ├── ProtocolViolation            08P01  a peer sent bytes that are not the protocol
    ├── FeatureNotSupported          0A000  asked for what pgloupe does not do
    ├── ServerUnreachable            08006  no connection to the server could be made, or it was lost
    ├── ShuttingDown                 57P01  the proxy ends
    ├── AuthenticationTimeout        57014  a client took too long to log in
    ├── TooManyConnections           53300  `max_connections` are there
    ├── IdleTimeout                  57P05  a client was idle for too long
    ├── NotEncrypted                 28000  a client came without the TLS, or the certificate, that is required
    ├── EmptyPassword                28P01  a client that was asked for its password gave none
    ├── HandshakeFailed              08006  no TLS with a peer; told as ServerUnreachable where it is the server
    ├── ChangeStreamError            55000  the server gives no stream of changes; stays in the log, no client is told
    └── ClientLeft                   XX000  nobody is there any more who could be told

The text of an error is one sentence for the person who reads it: what, where, and what to do. SQLSTATEs are those of
PostgreSQL's appendix "PostgreSQL Error Codes".
"""

from __future__ import annotations


class PgloupeError(Exception):
    """Base of all errors that are pgloupe's own."""

    sqlstate = "XX000"


class SettingsError(PgloupeError):
    """A setting cannot be used. The text names the setting and where it came from."""

    sqlstate = "F0000"


class ProtocolViolation(PgloupeError):
    """Bytes that no version of the protocol allows at this place."""

    sqlstate = "08P01"


class FeatureNotSupported(PgloupeError):
    """Something that the protocol knows and pgloupe does not do."""

    sqlstate = "0A000"


class ServerUnreachable(PgloupeError):
    """The server behind the proxy cannot be reached."""

    sqlstate = "08006"


class ShuttingDown(PgloupeError):
    """The proxy is told to stop."""

    sqlstate = "57P01"


class AuthenticationTimeout(PgloupeError):
    """As the server says it when `authentication_timeout` is over."""

    sqlstate = "57014"


class TooManyConnections(PgloupeError):
    """As the server says it when its own `max_connections` is reached."""

    sqlstate = "53300"


class IdleTimeout(PgloupeError):
    """As the server says it when `idle_session_timeout` is over."""

    sqlstate = "57P05"


class NotEncrypted(PgloupeError):
    """As the server says it when no line of pg_hba.conf lets such a client in."""

    sqlstate = "28000"


class ChangeStreamError(PgloupeError):
    """There is no change stream, or it is lost. The text says why and what to do."""

    sqlstate = "55000"


class ClientLeft(PgloupeError):
    """The client has closed its connection."""


class EmptyPassword(PgloupeError):
    """As the server says it."""

    sqlstate = "28P01"


class HandshakeFailed(PgloupeError):
    """The text says what went wrong, with the peer as `it`, and what to do where we know it."""

    sqlstate = "08006"
