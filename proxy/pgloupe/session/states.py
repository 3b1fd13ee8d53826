"""Where a session can be, and what leads where.

    Phase             from the backend                 leads to
    ----------------  -------------------------------  --------------
    AUTHENTICATING    AuthenticationOk                 STARTING
    STARTING          ReadyForQuery                    READY
    READY             (everything of normal operation) READY
    any               a frame that cannot be framed,   OPAQUE
                      or a reply to nothing asked
    any               either side closed               CLOSED

READY is not "idle": whether something is outstanding is the pipeline's business, and COPY is a state of the request at its
head. OPAQUE sessions are relayed as bytes and never looked into again: whoever lost track of a conversation must not act
on it. There is no way back from OPAQUE and CLOSED.

Source: protocol documentation, "Message Flow".
"""

from __future__ import annotations

from typing import Final


class Phase:
    AUTHENTICATING: Final = 0
    STARTING: Final = 1
    READY: Final = 2
    OPAQUE: Final = 3
    CLOSED: Final = 4


_NEXT: Final[dict[int, frozenset[int]]] = {
    Phase.AUTHENTICATING: frozenset({Phase.STARTING, Phase.OPAQUE, Phase.CLOSED}),
    Phase.STARTING: frozenset({Phase.READY, Phase.OPAQUE, Phase.CLOSED}),
    Phase.READY: frozenset({Phase.OPAQUE, Phase.CLOSED}),
    Phase.OPAQUE: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


def advance(phase: int, to: int) -> int:
    """`to`, if it can follow `phase`; otherwise `phase` stays."""
    return to if to in _NEXT[phase] else phase
