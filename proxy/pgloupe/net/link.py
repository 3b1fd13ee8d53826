"""One client and one server joined: two transports around a session.

The session decides, the link moves. After each event it does what the session asks (`actions`, through the cache desk),
writes what is to be written, and only then lets the session look at what went by.

Backpressure: a side is not read from while the other cannot be written to, while the session waits for the cache, or
while too much is outstanding. So a slow reader slows its own session and holds at most the transports' buffers.

Turns. What arrives in one read may take long to look at: thousands of statements, or answers to them. Then it is taken in
slices, and after `TURN_S` the other sessions get their turn before the rest is. Long messages, rows and copied data take
hardly any time and go in one piece.

Ends. When the client stops sending, the server is told (half-close) and may finish answering. When the server is gone
without a FATAL error, the client gets one, if the stream stands between two messages; what the session still holds back comes
first. A fault in our own code makes the
session opaque: it is relayed on, and the fault is logged.

Source: protocol documentation, "Termination"; "PostgreSQL Error Codes".
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
import termios
import time
from collections.abc import Callable
from typing import Final, Protocol

from pgloupe.errors import PgloupeError, ProtocolViolation, ServerUnreachable
from pgloupe.session.actions import Action
from pgloupe.session.gate import GatedSession
from pgloupe.session.session import Session
from pgloupe.wire.backend import build_error_response
from pgloupe.wire.frontend import build_terminate
from pgloupe_rules.types import Outcome, SessionInfo

_log = logging.getLogger(__name__)

WRITE_HIGH_BYTES = 256 << 10
WRITE_LOW_BYTES = 64 << 10
TURN_S = 0.005
"""How long one session may keep the event loop at a time: then the others get their turn before it is read from again."""

SLICE_BYTES: Final = 8 << 10
"""How much is taken in before the clock is looked at."""

HOLD_S = 0.005
"""How long the beginning of a cycle is held back when its end does not come."""
LINGER_S = 30.0

clock: Callable[[], float] = time.monotonic


_FRONTEND: Final = 0
_BACKEND: Final = 1


class Hooks(Protocol):
    """Who wants to know what passes."""

    def session_started(self, info: SessionInfo, /) -> None: ...

    def observe(self, outcomes: list[Outcome], /) -> None: ...

    def session_ended(self, info: SessionInfo, /) -> None: ...


class Desk(Protocol):
    """Does what sessions with a cache ask for."""

    def perform(self, action: Action, session: GatedSession, again: Callable[[], None], /) -> None:
        """Do it now, or later and then call `again`."""
        ...

    def hurry(self, session: Session, /) -> None:
        """Its client has sent a cancel request: a statement that waits here has to be at the server when that comes."""
        ...


def in_flight(transport: asyncio.Transport) -> int:
    """Bytes that the system was given and that the peer has not taken yet; 0 where the system does not tell."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


class Backend(asyncio.Protocol):
    """The server's side of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def data_received(self, data: bytes) -> None:
        self._link.from_backend(data)

    def eof_received(self) -> bool:
        self._link.backend_gone(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._link.backend_gone(error)

    def pause_writing(self) -> None:
        self._link.backend_full(True)

    def resume_writing(self) -> None:
        self._link.backend_full(False)


class Link:
    """See the head of the module. Made when the server's address is known; `connected` when the server is there."""

    def __init__(
        self,
        session: Session,
        frontend: asyncio.Transport,
        hooks: Hooks,
        desk: Desk | None,
        on_close: Callable[[], None],
    ) -> None:
        self.session = session
        self._frontend = frontend
        self._backend: asyncio.Transport | None = None
        self._hooks = hooks
        self._desk = desk
        self._on_close = on_close
        self._frontend_full = False
        self._backend_full = False
        self._frontend_paused = True  # by whoever made this link: there is no server yet
        self._backend_paused = False
        self._frontend_ended = False
        self._closed = False
        self._resting = False
        # what came and is taken in next: the client's, the server's
        self._waiting: tuple[list[bytes], list[bytes]] = ([], [])
        self._backend_end: Exception | None = None  # the server is gone, and the session still holds back what it said
        self._left = False  # the client is gone, and the server has not been given all that it sent
        self._ends_settled = False  # the client sends no more, and the server is on TLS and cannot be told so
        self._hold: asyncio.TimerHandle | None = None
        self._aborts: list[asyncio.TimerHandle] = []

    # --- events ---

    def connected(self, backend: asyncio.Transport, first: bytes) -> None:
        """The server is there; `first` is the StartupMessage as the client sent it."""
        self._backend = backend
        backend.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self._frontend.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        backend.write(first)
        self._hooks.session_started(self.session.info)
        self._steer()

    def from_frontend(self, data: bytes) -> None:
        self._take(_FRONTEND, data)

    def from_backend(self, data: bytes) -> None:
        self._take(_BACKEND, data)

    def _take(self, side: int, data: bytes) -> None:
        """Take in what came from a side, or as much of it as there is time for. Then the others get their turn: the loop
        reads a socket that has more again and again before it looks at another one."""
        began_s = now_s = clock()
        waiting = self._waiting[side]
        if waiting:
            waiting.append(data)
            return
        end = len(data)
        position = 0
        while position < end and not self._closed:
            size = end - position if end - position <= SLICE_BYTES or self._is_bulk(side) else SLICE_BYTES
            self._receive(side, data[position : position + size] if size < end else data, now_s)
            position += size
            now_s = clock()
            if now_s - began_s > TURN_S:
                if position < end:
                    waiting.append(data[position:])
                self._rest()
                return

    def _is_bulk(self, side: int) -> bool:
        return self.session.backend_bulk if side else self.session.frontend_bulk

    def _receive(self, side: int, data: bytes, now_s: float) -> None:
        try:
            if side:
                self.session.receive_backend(data, now_s)
            else:
                self.session.receive_frontend(data, now_s)
        except Exception as error:
            self._fault(error)
        self._run()

    def _rest(self) -> None:
        if not self._resting and not self._closed:
            self._resting = True
            self._steer()
            asyncio.get_running_loop().call_soon(self._rested)

    def _rested(self) -> None:
        self._resting = False
        for side in (_FRONTEND, _BACKEND):
            waiting = self._waiting[side]
            if waiting:
                data = b"".join(waiting)
                waiting.clear()
                self._take(side, data)
        self._steer()

    def _take_all(self) -> None:
        """Nothing more comes from a side: what waits for its turn has it now."""
        for side in (_FRONTEND, _BACKEND):
            waiting = self._waiting[side]
            if waiting:
                data = b"".join(waiting)
                waiting.clear()
                self._receive(side, data, clock())

    def frontend_full(self, full: bool) -> None:
        self._frontend_full = full
        self._steer()

    def backend_full(self, full: bool) -> None:
        self._backend_full = full
        self._steer()

    def frontend_eof(self) -> bool:
        """The client sends nothing more. True keeps its transport open for what the server still answers."""
        self._take_all()
        self._frontend_ended = True
        if self._backend is None or self._backend.is_closing():
            return False
        self._release_now()
        if self._backend.can_write_eof():
            self._end_backend()
        else:
            self._ends_settled = True
            self._run()
        return not self._closed

    def frontend_gone(self) -> None:
        """The client's connection is closed."""
        self._take_all()
        self._frontend_ended = True
        if not self._closed:
            self._release_now()
        # what the client asked for is done although it has gone, as it would be without us: a write may wait for its mark
        there = not self._closed and self._backend is not None and not self._backend.is_closing()
        self._left = there and self.session.frontend_blocked
        if not self._left:
            self._close()
        self._stop_waiting()

    def backend_gone(self, error: Exception | None) -> None:
        """The server's connection is closed."""
        if self._closed or self._backend_end is not None:
            self._stop_waiting()
            return
        self._take_all()
        self._backend_end = error or ConnectionError()
        self._run()

    def _finish(self) -> None:
        """The server is gone, and the client has all that it said."""
        error = self._backend_end
        if not self._frontend.is_closing() and self.session.can_inject and not self._frontend_ended:
            reason = f": {getattr(error, 'strerror', None) or error}" if error is not None and str(error) else ""
            self.inject(ServerUnreachable(f"the server closed the connection unexpectedly{reason}"))
        self._close()

    def inject(self, error: PgloupeError) -> None:
        """Tell the client by an error of our own. Only between two messages of the server."""
        self._frontend.write(build_error_response(error.sqlstate, str(error)))

    # --- work ---

    def _run(self) -> None:
        """Do what the session asks, write what is to be written, let it look."""
        session = self.session
        try:
            while True:
                while session.actions:
                    self._perform()
                self._write()
                session.analyse(clock())
                if not session.actions:
                    break
        except Exception as error:
            self._fault(error)
            self._write()
        if session.outcomes:
            self._hooks.observe(session.take_outcomes())
        if session.must_close:
            _log.info("session %d: %s", session.info.session, session.trouble)
            if session.can_inject and not self._frontend.is_closing():
                self.inject(ProtocolViolation(session.trouble))
            self._close()
        elif self._backend_end is not None and not session.backend_blocked:
            self._finish()
        elif (self._left and not session.frontend_blocked) or (self._ends_settled and session.settled):
            self._close()
        else:
            if self._desk is not None:
                self._arm_hold()
            self._steer()

    def _perform(self) -> None:
        actions, self.session.actions = self.session.actions, []
        desk = self._desk
        if desk is not None and isinstance(self.session, GatedSession):
            for action in actions:
                desk.perform(action, self.session, self._run)

    def _write(self) -> None:
        data = self.session.data_to_backend()
        if data and self._backend is not None and not self._backend.is_closing():
            self._backend.write(data)
        data = self.session.data_to_frontend()
        if data and not self._frontend.is_closing():
            self._frontend.write(data)

    def _arm_hold(self) -> None:
        session = self.session
        if isinstance(session, GatedSession) and session.holding and self._hold is None:
            self._hold = asyncio.get_running_loop().call_later(HOLD_S, self._release)

    def _release_now(self) -> None:
        """Nothing more comes that could make a cycle whole."""
        if self._hold is not None:
            self._hold.cancel()
            self._release()
        else:
            self._run()

    def _release(self) -> None:
        self._hold = None
        session = self.session
        if isinstance(session, GatedSession) and not self._closed:
            try:
                session.release(clock())
            except Exception as error:
                self._fault(error)
            self._run()

    def _steer(self) -> None:
        """Read from whom there is room for."""
        session = self.session
        resting = self._resting
        pause = self._backend_full or self._backend is None or session.frontend_blocked or session.congested or resting
        if pause != self._frontend_paused and not (self._frontend_ended or self._frontend.is_closing()):
            self._frontend_paused = pause
            if pause:
                self._frontend.pause_reading()
            else:
                self._frontend.resume_reading()
        pause = self._frontend_full or session.backend_blocked or resting
        if pause != self._backend_paused and self._backend is not None and not self._backend.is_closing():
            self._backend_paused = pause
            if pause:
                self._backend.pause_reading()
            else:
                self._backend.resume_reading()

    def _fault(self, error: Exception) -> None:
        _log.error("session %d: relayed without looking from now on", self.session.info.session, exc_info=error)
        self.session.lose_track(f"a fault: {error}")

    # --- ends ---

    @property
    def idle(self) -> bool:
        """Outside of a transaction block with nothing outstanding."""
        return self.session.idle and not any(self._waiting)

    def terminate(self, error: PgloupeError) -> None:
        """The proxy ends this session."""
        self._take_all()
        if self._closed:
            return
        if self.session.can_inject and not self._frontend.is_closing():
            self.inject(error)
        backend = self._backend
        if backend is not None and not (backend.is_closing() or self._frontend_ended) and self.session.idle:
            backend.write(build_terminate())
        self._close()

    def _end_backend(self) -> None:
        if self._backend is not None and not self._backend.is_closing():
            self._backend.write_eof()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._hold is not None:
            self._hold.cancel()
        try:
            self.session.close(clock())
            while self.session.actions:
                self._perform()
        except Exception as error:
            _log.error("session %d: fault at its end", self.session.info.session, exc_info=error)
        if self.session.outcomes:
            self._hooks.observe(self.session.take_outcomes())
        for transport in (self._frontend, self._backend):
            if transport is not None:
                transport.close()
                if transport.get_write_buffer_size():
                    # closing waits for what is still to be written; a peer that never reads must not make it for ever
                    self._aborts.append(asyncio.get_running_loop().call_later(LINGER_S, transport.abort))
        self._hooks.session_ended(self.session.info)
        self._on_close()

    def _stop_waiting(self) -> None:
        """One side has closed after all; the timers go when neither writes any more."""
        if not any(each is not None and each.get_write_buffer_size() for each in (self._frontend, self._backend)):
            for handle in self._aborts:
                handle.cancel()
            self._aborts.clear()
