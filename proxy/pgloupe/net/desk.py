"""Does what sessions with a cache ask for: looks up, marks, releases, stores.

With memory alone everything happens at once and the link goes on in the same breath. With Redis it may take a moment; then
the session stays blocked, and the link is called again when the answer is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pgloupe.cache.answers import Answer, Read, Ticket
from pgloupe.cache.cache import Cache
from pgloupe.cache.entry import Entry
from pgloupe.cache.invalidation import Mark
from pgloupe.cache.key import DRY_RUN, EXTENDED, SIMPLE, cache_key, names_moment, session_part
from pgloupe.net.link import clock
from pgloupe.net.tasks import Tasks
from pgloupe.session.actions import Action, Ask, BeginWrite, EndWrite, Fill
from pgloupe.session.gate import GatedSession
from pgloupe.session.session import Session
from pgloupe_rules.types import SessionInfo

T = TypeVar("T")

_ISOLATION: Final = b"transaction_isolation"

MAX_PARTS: Final = 2_000


class CacheDesk:
    """`server` names the server in keys."""

    def __init__(self, cache: Cache, server: str, tasks: Tasks) -> None:
        self._cache = cache
        self._server = server
        self._tasks = tasks
        self._identity = ""
        self._parts: dict[tuple[str, str, bytes], bytes] = {}

    def perform(self, action: Action, session: GatedSession, again: Callable[[], None]) -> None:
        """See `link.Desk`."""
        if isinstance(action, Ask):
            self._ask(action, session, again)
        elif isinstance(action, Fill):
            self._fill(action)
        elif isinstance(action, BeginWrite):
            self._begin(action, session, again)
        else:
            self._end(action, session, again)

    def hurry(self, session: Session) -> None:
        """See `link.Desk`."""
        self._cache.hurry(session)

    def _ask(self, ask: Ask, session: GatedSession, again: Callable[[], None]) -> None:
        info = session.info
        rule = ask.rule
        if names_moment(ask.parameters):
            # `now` as a text is another moment each time that it is read as a date
            self._cache.count_bypass(rule.rule, "a parameter names a moment", ask.recognised.template)
            session.answered(None, None, 0, clock())
            return
        kind = SIMPLE if ask.simple else EXTENDED
        key = cache_key(
            self._whose(ask, info),
            DRY_RUN + kind if rule.dry_run else kind,
            ask.recognised.bare,
            ask.oids,
            parameters=(ask.parameters, ask.limit.to_bytes(4, "big", signed=True), ask.columns),
            result_formats=ask.results,
            row_description=ask.described,
        )
        limit_bytes = rule.max_entry_bytes
        answer = self._cache.lookup(
            Read(
                key,
                rule.tables,
                rule.rule,
                rule.ttl_s,
                limit_bytes,
                rule.functions,
                info.database,
                rule.stale_s,
                ask.recognised.template,
                rule.dry_run,
            ),
            session,
        )

        def tell(found: Answer) -> None:
            entry = found.entry
            ticket = found.ticket
            if ask.late and (_ISOLATION in ask.context or not self._cache.dependencies.read_committed(info.database)):
                ticket = None
            session.answered((entry.head, entry.body) if entry is not None else None, ticket, limit_bytes, clock())

        if isinstance(answer, Answer):
            tell(answer)
        else:
            self._later(answer, tell, again)

    def _whose(self, ask: Ask, info: SessionInfo) -> bytes:
        """The session's part of the key. Users share answers under a rule that says so, unless the name of one of them has
        a meaning of its own: a schema that `$user` stands for, or settings by ALTER ROLE."""
        if ask.common and self._cache.dependencies.impersonal(info.user, ask.roles, info.database):
            return self._session_part(info.database, "", ask.common)
        return self._session_part(info.database, info.user, ask.context)

    def _session_part(self, database: str, user: str, context: bytes) -> bytes:
        """What the session adds to its keys. The same few come again until a session changes a setting."""
        identity = self._cache.server_identity
        if identity != self._identity:
            self._identity = identity
            self._parts.clear()
        name = (database, user, context)
        part = self._parts.get(name)
        if part is None:
            if len(self._parts) >= MAX_PARTS:
                self._parts.clear()
            part = self._parts[name] = session_part(f"{self._server} {identity}", database, user, "", context)
        return part

    def _fill(self, fill: Fill) -> None:
        capture = fill.capture
        ticket = capture.ticket
        if isinstance(ticket, Ticket):
            entry = Entry(capture.row_description, b"".join(capture.body), capture.rows, fill.server_s)
            self._cache.fill(ticket, entry)

    def _begin(self, begin: BeginWrite, session: GatedSession, again: Callable[[], None]) -> None:
        database = session.info.database
        if isinstance(begin.mark, Mark):
            mark = self._cache.extend(begin.mark, begin.tables, database=database)
        else:
            mark = self._cache.begin_write(begin.tables, database=database)

        def tell(made: Mark) -> None:
            session.marked(made, clock())

        if isinstance(mark, Mark):
            tell(mark)
        else:
            self._later(mark, tell, again)

    def _end(self, end: EndWrite, session: GatedSession, again: Callable[[], None]) -> None:
        mark = end.mark
        if not isinstance(mark, Mark):
            return
        if end.lost:
            ended = self._cache.lose_write(mark)
            if ended is not None:
                self._later(ended, lambda _: None, lambda: None)
            return
        if not end.again:
            ended = self._cache.abandon(mark) if end.refused else self._cache.end_write(mark)
            if ended is None:
                session.unmarked(None, clock())
            else:
                self._later(ended, lambda _: session.unmarked(None, clock()), again)
            return
        # the new mark is made before the old one ends, so that the tables are dirty all the time
        fresh = self._cache.begin_write(end.tables, database=session.info.database)
        ended = self._cache.end_write(mark)
        if isinstance(fresh, Mark) and ended is None:
            session.unmarked(fresh, clock())
        else:
            self._later(_both(fresh, ended), lambda made: session.unmarked(made, clock()), again)

    def _later(self, result: Awaitable[T], tell: Callable[[T], None], again: Callable[[], None]) -> None:
        async def wait() -> None:
            tell(await result)
            again()

        self._tasks.spawn(wait())


async def _both(fresh: Mark | Awaitable[Mark], ended: Awaitable[None] | None) -> Mark:
    mark = fresh if isinstance(fresh, Mark) else await fresh
    if ended is not None:
        await ended
    return mark
