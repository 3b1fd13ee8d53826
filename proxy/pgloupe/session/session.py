"""The sans-I/O core of one frontend/backend pair.

Whoever owns the sockets feeds what arrives and moves what comes out:

    receive_frontend(data, now), receive_backend(data, now)
    data_to_backend(), data_to_frontend()        what to write now
    actions                                      what else to do: see `actions`; only with a cache (`gate.GatedSession`)
    analyse(now)                                 after writing: look at what went by
    outcomes                                     what ended

Write first, think later: every chunk goes out as it came in, and is looked at afterwards. The bytes that pass are never
changed, never encoded anew and never reordered. When the conversation cannot be followed any more (a frame that cannot be,
a reply to nothing asked) the session is OPAQUE: relayed and not looked at.
"""

from __future__ import annotations

from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.session.actions import Action
from pgloupe.session.context import Context
from pgloupe.session.observer import Observer
from pgloupe.session.pipeline import MAX_OUTSTANDING
from pgloupe.session.states import Phase, advance
from pgloupe.wire.backend import parse_authentication, parse_error_fields
from pgloupe.wire.codes import BackendCode, FrontendCode, TransactionStatus
from pgloupe.wire.frames import BROKEN, DEFAULT_LIMIT_BYTES, FrameReader
from pgloupe_rules.types import Outcome, Recogniser, SessionInfo

_BROKEN_FRAME: Final = "a message declares a length that no message can have"

UNREADY_BYTES: Final = 1 << 16
"""The longest message that is kept of a session that is not ready yet: whoever has not logged in gets little memory, and the
server takes none that is longer."""

LEFT: Final = "the client left before its login was done"

UNREADY_CHARACTERS: Final = 500
"""What is kept of the server's reason to refuse a login."""

MAX_KEY_DATA: Final = 5 + 4 + 256
"""The longest BackendKeyData that there is."""

BULK_BYTES: Final = 32 << 10
BULK_REQUESTS: Final = 50

MAX_EARLY: Final = 100
"""Messages that a client may send before it is told that its login is done."""
MAX_EARLY_BYTES: Final = 128 << 10


class Session:
    """A session without a cache. Times are seconds of the caller's monotonic clock."""

    def __init__(self, info: SessionInfo, recognise: Recogniser, context: Context | None = None) -> None:
        self.info = info
        self.phase: int = Phase.AUTHENTICATING
        self.observer = Observer(info, recognise, context)
        self.actions: list[Action] = []
        self.trouble = ""
        """Why the session is OPAQUE."""
        self.unready = LEFT
        """Why the session has never been ready: what the server said, where it said something. "" once it has."""
        self.cancel_key = b""
        """What a cancel request for this session holds: the process number and the secret key."""
        self.must_close = False
        """Nonsense before the session was ready: whoever owns the sockets closes both, once what is to write is written."""
        self.frontend_blocked = False
        """Nothing more of the frontend can go on until an action is told back."""
        self.backend_blocked = False
        self._now_s = 0.0  # the last time that was told
        self._last_word = False  # the server said why it closes, or the client that it goes
        self._frontend_reader = FrameReader(join_rows=False, limit_bytes=UNREADY_BYTES)
        self._backend_reader = FrameReader(join_rows=True, limit_bytes=UNREADY_BYTES)
        self._to_backend: list[bytes] = []
        self._to_frontend: list[bytes] = []
        self._unread_frontend: list[tuple[bytes, float]] = []
        self._unread_backend: list[tuple[bytes, float]] = []

    # --- bytes ---

    def receive_frontend(self, data: bytes, now_s: float) -> None:
        """A chunk came from the frontend."""
        self._now_s = now_s
        self._to_backend.append(data)
        if self.phase < Phase.OPAQUE:
            self._unread_frontend.append((data, now_s))

    def receive_backend(self, data: bytes, now_s: float) -> None:
        """A chunk came from the backend."""
        self._now_s = now_s
        self._to_frontend.append(data)
        if self.phase < Phase.OPAQUE:
            self._unread_backend.append((data, now_s))

    def data_to_backend(self) -> bytes:
        """What to write to the server now. Gives each byte once."""
        return _take(self._to_backend)

    def data_to_frontend(self) -> bytes:
        """What to write to the client now. Gives each byte once."""
        return _take(self._to_frontend)

    # --- meaning ---

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes since they were last taken. The caller empties it with `take_outcomes`."""
        return self.observer.outcomes

    def take_outcomes(self) -> list[Outcome]:
        outcomes = self.observer.outcomes
        self.observer.outcomes = []
        return outcomes

    @property
    def congested(self) -> bool:
        """So much is outstanding that nothing more should be read from the frontend."""
        return len(self.observer.pipeline) > MAX_OUTSTANDING

    @property
    def frontend_bulk(self) -> bool:
        """What comes from the frontend is copied data, one long message, or not looked at: much of it takes hardly any time."""
        return (
            self.phase >= Phase.OPAQUE
            or self.observer.pipeline.copying_in()
            or self._frontend_reader.missing > BULK_BYTES
        )

    @property
    def backend_bulk(self) -> bool:
        """Likewise of the backend: few requests are outstanding, so that it is the rows of them."""
        return self.phase >= Phase.OPAQUE or len(self.observer.pipeline) <= BULK_REQUESTS

    @property
    def idle(self) -> bool:
        """Outside of a transaction block, with nothing outstanding: not even the Sync that ends an implicit transaction."""
        observer = self.observer
        ended = observer.status == TransactionStatus.IDLE and not observer.unsynced
        return self.phase == Phase.READY and ended and observer.pipeline.settled

    @property
    def settled(self) -> bool:
        """No answer is outstanding, or nobody can tell."""
        pipeline = self.observer.pipeline
        return self.phase >= Phase.OPAQUE or pipeline.settled or pipeline.copying_in()

    @property
    def last_s(self) -> float:
        """When something last came, from either side."""
        return self._now_s

    @property
    def can_inject(self) -> bool:
        """The client's stream stands between two messages of the server, and nobody has said goodbye."""
        followed = self.phase < Phase.OPAQUE or self.must_close
        return followed and self._between_messages and not self._last_word

    @property
    def _between_messages(self) -> bool:
        """The client has no part of a message without the rest."""
        return self._backend_reader.clean

    def analyse(self, now_s: float) -> None:
        """Look at what was written since the last call; `now_s` is when it was."""
        try:
            if self._unread_frontend:
                chunks, self._unread_frontend = self._unread_frontend, []
                for data, received_s in chunks:
                    for code, raw, count in self._frontend_reader.feed(data):
                        if count == BROKEN:
                            raise ProtocolViolation(_BROKEN_FRAME)
                        if code == FrontendCode.TERMINATE:
                            self._last_word = True
                        self.observer.frontend(code, raw, count, received_s, now_s)
                        if self.phase < Phase.READY:
                            self._check_early()
            if self._unread_backend:
                chunks, self._unread_backend = self._unread_backend, []
                for data, received_s in chunks:
                    for code, raw, count in self._backend_reader.feed(data):
                        self._look_backend(code, raw, count, received_s, now_s)
        except ProtocolViolation as error:
            self.lose_track(str(error))

    def _check_early(self) -> None:
        """Before the login is done nobody may have us remember much."""
        pipeline = self.observer.pipeline
        if len(pipeline) > MAX_EARLY or pipeline.kept_bytes > MAX_EARLY_BYTES:
            raise ProtocolViolation("too much was sent before the end of the authentication")

    def _look_backend(self, code: int, raw: bytes, count: int, received_s: float, delivered_s: float) -> None:
        if count == BROKEN:
            raise ProtocolViolation(_BROKEN_FRAME)
        if code == BackendCode.ERROR_RESPONSE:
            fields = parse_error_fields(raw)
            if fields.get("V", "") in ("FATAL", "PANIC"):
                self._last_word = True
            if self.phase < Phase.READY:
                self.unready = fields.get("M", "")[:UNREADY_CHARACTERS] or self.unready
        if self.phase == Phase.READY:
            self.observer.backend(code, raw, count, received_s, delivered_s)
        elif code == BackendCode.AUTHENTICATION:
            if parse_authentication(raw) == 0:
                self.phase = advance(self.phase, Phase.STARTING)
        elif code == BackendCode.READY_FOR_QUERY:
            self.phase = advance(self.phase, Phase.READY)
            if self.phase != Phase.READY:
                raise ProtocolViolation("ReadyForQuery before AuthenticationOk")
            self.unready = ""
            self._frontend_reader.limit_bytes = self._backend_reader.limit_bytes = DEFAULT_LIMIT_BYTES
        elif code == BackendCode.PARAMETER_STATUS:
            self.observer.backend(code, raw, count, received_s, delivered_s)
        elif code == BackendCode.BACKEND_KEY_DATA and len(raw) <= MAX_KEY_DATA:
            self.cancel_key = raw[5:]

    def lose_track(self, why: str) -> None:
        """Relay from now on without looking. What was outstanding has no known outcome. Not for a session that is not
        yet authenticated: see `must_close`."""
        if self.phase >= Phase.OPAQUE:
            return
        self.trouble = why
        self.must_close = self.phase < Phase.READY
        self.phase = advance(self.phase, Phase.OPAQUE)
        self._unread_frontend.clear()
        self._unread_backend.clear()
        self.observer.lost(self._now_s)

    def close(self, now_s: float) -> None:
        """Either side is gone."""
        self.phase = advance(self.phase, Phase.CLOSED)
        self.observer.lost(now_s)


def _take(chunks: list[bytes]) -> bytes:
    if not chunks:
        return b""
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    chunks.clear()
    return data
