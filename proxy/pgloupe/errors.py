"""What can go wrong, and the SQLSTATE that a client sees for it.

    PgloupeError                     XX000  never raised itself
    ├── SettingsError                F0000  a flag, variable or key of the configuration is wrong: exit code 2
    ├── ProtocolViolation            08P01  a peer sent bytes that are not the protocol
    ├── FeatureNotSupported          0A000  asked for what pgloupe does not do
    ├── ServerUnreachable            08006  no connection to the server could be made, or it was lost
    └── ShuttingDown                 57P01  the proxy ends

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
