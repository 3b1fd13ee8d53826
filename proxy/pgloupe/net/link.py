"""One client and one server joined: two transports around a session.

The session decides, the link moves. After each event it does what the session asks (`actions`, through the cache desk),
writes what is to be written, and only then lets the session look at what went by.

Backpressure: a side is not read from while the other cannot be written to, while the session waits for the cache, or
while too much is outstanding. So a slow reader slows its own session and holds at most the transports' buffers.

Ends. When the client stops sending, the server is told (half-close) and may finish answering. When the server is gone
without a FATAL error, the client gets one, if the stream stands between two messages. A fault in our own code makes the
session opaque: it is relayed on, and the fault is logged.

Source: protocol documentation, "Termination"; "PostgreSQL Error Codes".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

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

HOLD_S = 0.005
"""How long the beginning of a cycle is held back when its end does not come."""
LINGER_S = 30.0

clock: Callable[[], float] = time.monotonic


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
        self._hold: asyncio.TimerHandle | None = None

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
        began_s = clock()
        try:
            self.session.receive_frontend(data, began_s)
        except Exception as error:
            self._fault(error)
        self._run()
        self._rest_after(began_s)

    def from_backend(self, data: bytes) -> None:
        began_s = clock()
        try:
            self.session.receive_backend(data, began_s)
        except Exception as error:
            self._fault(error)
        self._run()
        self._rest_after(began_s)

    def _rest_after(self, began_s: float) -> None:
        """The loop reads a socket that has more again and again before it looks at another one."""
        if not self._resting and not self._closed and clock() - began_s > TURN_S:
            self._resting = True
            self._steer()
            asyncio.get_running_loop().call_soon(self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._steer()

    def frontend_full(self, full: bool) -> None:
        self._frontend_full = full
        self._steer()

    def backend_full(self, full: bool) -> None:
        self._backend_full = full
        self._steer()

    def frontend_eof(self) -> bool:
        """The client sends nothing more. True keeps its transport open for what the server still answers."""
        self._frontend_ended = True
        if self._backend is None or self._backend.is_closing() or not self._backend.can_write_eof():
            return False
        if self._hold is not None:
            self._hold.cancel()  # nothing more comes that could make a cycle whole
            self._release()
        else:
            self._run()
        self._end_backend()
        return True

    def frontend_gone(self) -> None:
        """The client's connection is closed."""
        self._frontend_ended = True
        self._close()

    def backend_gone(self, error: Exception | None) -> None:
        """The server's connection is closed."""
        if self._closed:
            return
        self._run()
        session = self.session
        if not self._frontend.is_closing() and session.can_inject and not self._frontend_ended:
            reason = f": {getattr(error, 'strerror', None) or error}" if error is not None else ""
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
            return
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
        return self.session.idle

    def terminate(self, error: PgloupeError) -> None:
        """The proxy ends this session."""
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
                    asyncio.get_running_loop().call_later(LINGER_S, transport.abort)
        self._hooks.session_ended(self.session.info)
        self._on_close()
