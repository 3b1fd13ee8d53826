"""The composition root: the only module that knows everyone.

It makes the rules, the cache and the listener from the settings, and hands what the sessions report to whoever wants it:
statistics, slow log, rules. Nothing that goes wrong there reaches a session.

`App` lives in a running event loop. `running` puts one into a thread of its own, for programs that are not asynchronous
themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import uvloop

from pgloupe.cache.cache import Cache
from pgloupe.cache.check import check_rules
from pgloupe.cache.dependencies import Dependencies
from pgloupe.cache.stream import ChangeStream
from pgloupe.catalog.reader import CatalogReader
from pgloupe.config import OPTIONS, Settings
from pgloupe.errors import SettingsError
from pgloupe.net.desk import CacheDesk
from pgloupe.net.listener import Limits, Listener
from pgloupe.net.tasks import Tasks
from pgloupe.net.tls import TlsContexts
from pgloupe.ops.slow_log import SlowLog
from pgloupe.ops.statistics import Statistics
from pgloupe.report.budget import Budget
from pgloupe.report.ignores import Ignores
from pgloupe.report.model import Report
from pgloupe.session.context import Context
from pgloupe.session.gate import GatedSession
from pgloupe.session.session import Session
from pgloupe.session.set_config import sets_by_function
from pgloupe.urls import Address, Upstream, parse_upstream
from pgloupe_rules.allow import Hints
from pgloupe_rules.cacheable import CacheRules
from pgloupe_rules.effects import Effect, EffectKind, effect_of
from pgloupe_rules.engine import Engine
from pgloupe_rules.engine import Settings as EngineSettings
from pgloupe_rules.fingerprint import Recognition
from pgloupe_rules.types import Decision, Finding, Outcome, Recognised, SessionInfo, Statement

_log = logging.getLogger("pgloupe")

_NO_TABLES: Final[frozenset[str]] = frozenset()

_DEFAULTS: Final = re.compile(
    r"ALTER\s+(ROLE|USER|DATABASE|SYSTEM)\b|SELECT.*pg_reload_conf", re.IGNORECASE | re.DOTALL
)
"""Statements that change the settings with which sessions begin."""

_REPLICATION: Final = (["IDENTIFY_SYSTEM"], ["START_REPLICATION"], ["READ_REPLICATION_SLOT"], ["TIMELINE_HISTORY"])
"""Commands of the streaming replication protocol that change no table."""

_READING: Final = ("SELECT", "WITH", "(", "TABLE", "VALUES")
"""How a template that a rule can be for may begin."""

_QUERYING: Final = (*_READING, "COPY", "DECLARE")
"""How a template that runs a query without writing may begin."""

_LOGIN_S: Final = 60.0
"""After so long a session has logged in, so that it has its settings (authentication_timeout)."""
_RECENT_LIMIT: Final = 10_000

TICK_S: Final = 1.0
"""How often units of work that went silent are closed."""


class App:
    """One proxy: `start`, then `drain` or `stop`. `slow_line` gets each line of the slow log, `on_finding` each finding
    when it is made and not ignored. `max_queries` is a budget for each unit of work."""

    def __init__(
        self,
        settings: Settings,
        slow_line: Callable[[str], None],
        *,
        slow_findings: bool = False,
        on_finding: Callable[[Finding], None] | None = None,
        max_queries: int | None = None,
    ) -> None:
        self.settings = settings
        self._on_finding = on_finding
        self.recognition = Recognition()
        self.statistics = Statistics()
        self.slow_log = SlowLog(
            settings.slow_ms, slow_line, parameters=settings.slow_log_parameters, clock=lambda: datetime.now(UTC)
        )
        self.findings = Report()
        self.ignores = Ignores(settings.ignore)
        self.budget = None if max_queries is None else Budget(max_queries)
        self.statements = 0
        self.sessions = 0
        self.cache: Cache | None = None
        self._tasks = Tasks()
        self._defaults = 0
        self._recent: deque[tuple[float, Context]] = deque()  # sessions that may have begun with other settings
        self._started_s = time.monotonic()
        self._slow_findings = slow_findings
        self.tls = TlsContexts(settings.tls)
        self._catalog = self.tls.catalog_options()
        self._stream = self.tls.stream_options()
        self.catalog_reader = CatalogReader(_catalog_url(settings), self._tasks.spawn, connect=self._catalog)
        self.cache_rules = self._make_rules(settings)
        self.engine = self._make_engine(settings, self.cache_rules)
        desk = None
        if not self.cache_rules.empty:
            self.cache = self._make_cache()
            self.cache.need_stream = _need_stream(settings)
            self.cache.dependencies.on_defaults = self._defaults_differ
            self.cache.dependencies.on_steady = self._defaults_stay
            desk = CacheDesk(self.cache, str(settings.upstream), self._tasks)
        self.listener = Listener(
            settings.upstream,
            self._make_session,
            self,
            desk,
            _limits(settings),
            self.tls,
        )

    def _make_rules(self, settings: Settings) -> CacheRules:
        """Raises SettingsError for a rule that can never hit, as far as that is known by now."""
        rules = CacheRules(settings.cache_allow, hints=Hints(settings.cache_hints))
        problems = rules.problems
        if self.cache is not None and not problems:
            problems, warnings = check_rules(rules, self.cache.dependencies)
            for warning in warnings if not problems else ():
                _log.warning("cache: %s", warning)
        if problems:
            raise SettingsError(f"[[cache.allow]]: {problems[0]}")
        return rules

    def _make_engine(self, settings: Settings, rules: CacheRules) -> Engine:
        return Engine(
            EngineSettings(threshold=settings.threshold, slow_ms=settings.slow_ms if self._slow_findings else None),
            decide_rules=(rules,),
            on_failure=self._rule_failed,
            catalogs=self.catalog_reader.catalogs,
            on_unit=self.budget.add if self.budget is not None else None,
        )

    def _make_cache(self) -> Cache:
        settings = self.settings
        url = settings.cache_catalog_url or settings.catalog_url
        catalog = parse_upstream(url) if url is not None else settings.upstream
        try:
            return Cache(
                memory_bytes=settings.cache_memory_bytes,
                redis_url=settings.cache_redis,
                redis_timeout_s=settings.cache_redis_timeout_s,
                redis_compress_bytes=settings.cache_redis_compress_bytes,
                member_lease_s=settings.cache_redis_hold_s,
                namespace=settings.cache_namespace,
                wait_s=settings.cache_wait_s,
                dependencies=Dependencies(catalog.plain_url, connect=self._catalog),
                change_stream=self._make_stream(catalog),
            )
        except ValueError as error:
            raise SettingsError(f"cache.redis: {error}") from None

    def _make_stream(self, catalog: Upstream) -> ChangeStream | None:
        settings = self.settings
        if not settings.cache_change_stream:
            return None
        url = settings.cache_change_stream_url
        return ChangeStream(
            (parse_upstream(url) if url is not None else catalog).plain_url,
            mode=settings.cache_change_stream,
            publication=settings.cache_change_stream_publication,
            interval_s=settings.cache_change_stream_interval_ms / 1000,
            max_lag_s=settings.cache_change_stream_max_lag_s,
            connect=self._stream,
        )

    def _make_session(self, info: SessionInfo, startup: dict[str, str]) -> Session:
        if self.cache is None:
            return Session(info, self.recognition)
        context = Context(startup, str(self._defaults))
        self._recent.append((time.monotonic(), context))
        if len(self._recent) > _RECENT_LIMIT:
            self._recent.popleft()[1].separate()
        if "replication" in startup:
            context.distrust("a replication connection")
        return GatedSession(info, self.recognition, context, self)

    # --- what the gate asks ---

    def decide(self, statement: Statement) -> Decision:
        return self.engine.decide(statement)

    def writes(self, recognised: Recognised, database: str) -> frozenset[str] | None:
        """The tables that a statement may change in this database; None for "anything"."""
        effect = effect_of(recognised)
        if self._runs_code(recognised, effect, database):
            return None
        if effect.kind is EffectKind.NOTHING:
            return _NO_TABLES
        if effect.kind is EffectKind.TABLES:
            return effect.tables
        if recognised.bare.split(None, 1)[:1] in _REPLICATION:
            return _NO_TABLES
        known = self.cache is not None and self.cache.dependencies.harmless(effect.functions, database)
        return effect.tables if effect.functions and known else None

    def _runs_code(self, recognised: Recognised, effect: Effect, database: str) -> bool:
        """It may run code of a user's that writes, behind an operator, a cast, a column or a view."""
        text = recognised.template.text
        if self.cache is None or (effect.kind is EffectKind.NOTHING and not text.startswith(_QUERYING)):
            return False
        return self.cache.dependencies.may_write(text, database)

    def unasked(self, statement: Statement, why: str) -> None:
        recognised = statement.recognised
        if self.cache is None or not recognised.template.text.startswith(_READING):
            return
        try:
            verdict = self.cache_rules.judge(recognised, statement.session)
        except Exception as error:  # counting must not reach a session
            self._rule_failed(self.cache_rules.name, error)
            return
        if verdict.rule:
            self.cache.count_bypass(verdict.rule, verdict.reason or why, recognised.template)

    def not_stored(self, rule: str, why: str) -> None:
        if self.cache is not None:
            self.cache.count_refused(rule, why)

    def strange(self, recognised: Recognised) -> bool:
        """It may change what a session is: it calls something that nobody knows, or nobody understands it, or it sets by a
        function what SET sets by a statement."""
        effect = effect_of(recognised)
        if effect.kind is EffectKind.EVERYTHING or 'U&"' in recognised.bare.upper():
            return True
        if effect.kind is not EffectKind.NOTHING and "pg_settings" in recognised.bare.lower():
            return True  # an UPDATE of this view is a SET
        if self._runs_code(recognised, effect, ""):
            return True
        calls = recognised.template.text.count("set_config")
        return calls > 0 and sets_by_function(recognised.bare, calls)

    def defaults_change(self, recognised: Recognised) -> bool:
        if _DEFAULTS.match(recognised.bare) is None:
            return False
        self.defaults_changed()
        return True

    def defaults_changed(self) -> None:
        self._defaults += 1

    def _defaults_differ(self) -> None:
        """Somebody past us changed with what settings sessions begin. Of those that began since nobody did, which have which
        is not known."""
        self._defaults += 1
        for _, context in self._recent:
            context.separate()
        self._recent.clear()

    def _defaults_stay(self, at_s: float) -> None:
        """At this time nobody had changed that."""
        while self._recent and self._recent[0][0] < at_s - _LOGIN_S:
            self._recent.popleft()

    # --- what the sessions report ---

    def session_started(self, info: SessionInfo) -> None:
        self.sessions += 1
        self.engine.start_session(info)

    def observe(self, outcomes: list[Outcome]) -> None:
        try:
            for outcome in outcomes:
                self.statements += 1
                self.statistics.observe(outcome)
                self.slow_log.observe(outcome)
                if outcome.cache_rule and self.cache is not None:
                    self.cache.timed(outcome)
                findings = self.engine.observe(outcome)
                if findings:
                    self._found(findings)
        except Exception:
            _log.exception("an outcome could not be accounted for")

    def session_ended(self, info: SessionInfo) -> None:
        try:
            self._found(self.engine.end_session(info))
        except Exception:
            _log.exception("the findings of session %d are lost", info.session)

    def _rule_failed(self, name: str, error: Exception) -> None:
        _log.error("rule %s failed and is left out where it does", name, exc_info=error)

    # --- life ---

    async def start(self) -> Address:
        """Listen. Raises SettingsError where the port cannot be taken."""
        if self.cache is not None:
            await self.cache.start()
            try:
                self._make_rules(self.settings)  # now that the catalogs are known
            except SettingsError:
                await self.cache.stop()
                raise
            if self.cache.dependencies.mode == "catalog":  # else the reason has been logged
                _log.info("cache: views, partitions, cascades and triggers are followed by the server's catalogs")
        elif self.settings.cache_redis is not None:
            _log.warning("cache: there is no [[cache.allow]] rule, so nothing is cached and Redis is not used")
        try:
            address = await self.listener.start(self.settings.listen)
        except OSError as error:
            if self.cache is not None:
                await self.cache.stop()
            reason = (error.strerror or str(error)).lower()
            hint = "; choose another port, or 0 for any" if error.errno == errno.EADDRINUSE else ""
            raise SettingsError(f"--listen {self.settings.listen}: {reason}{hint}") from None
        self._tasks.spawn(self._tick())
        return address

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self._found(self.engine.tick(now_s))
            self.catalog_reader.tick()
            self.listener.tick(now_s)

    def reload(self, settings: Settings) -> list[str]:
        """Take over what can change while the proxy runs; sessions go on. Gives the keys that need a restart.

        Raises SettingsError where something cannot be used; then everything stays as it was.
        """
        before = self.settings
        changed = [option for option in OPTIONS if getattr(settings, option.field) != getattr(before, option.field)]
        kept = {option.field: getattr(before, option.field) for option in changed if not option.live}
        restart = [option.key for option in changed if not option.live]
        if self.cache is None and settings.cache_allow:
            # sessions that are open now do not tell the cache of their writes
            kept["cache_allow"] = ()
            restart.append("cache.allow")
        if self.cache is None and settings.cache_hints == Hints.ALLOW:
            kept["cache_hints"] = before.cache_hints
            restart.append("cache.hints")
        settings = replace(settings, **kept)
        engine = None
        rules = self.cache_rules
        if (settings.threshold, settings.cache_allow, settings.cache_hints) != (
            before.threshold,
            before.cache_allow,
            before.cache_hints,
        ):
            rules = self._make_rules(settings)
            engine = self._make_engine(settings, rules)
        self.tls.reload(settings.tls)
        self._catalog.update(self.tls.catalog_options())
        self._stream.update(self.tls.stream_options())
        if engine is not None:
            self.close_units()
            self.engine = engine
            self.cache_rules = rules
            if self.cache is not None:
                self.cache.need_stream = _need_stream(settings)
        if settings.ignore != before.ignore:
            self.ignores = Ignores(settings.ignore)
        self.settings = settings
        self.slow_log.configure(settings.slow_ms, parameters=settings.slow_log_parameters)
        self.listener.limits = _limits(settings)
        return restart

    async def drain(self) -> None:
        """Let transactions end, then stop."""
        await self.listener.drain(self.settings.drain_timeout_s)
        await self.stop()

    async def stop(self) -> None:
        """End everything now."""
        await self.listener.stop()
        self.catalog_reader.close()
        await self._tasks.close()
        if self.cache is not None:
            await self.cache.stop()
        self.close_units()

    def close_units(self) -> None:
        """Count the units of work that are still open as ended."""
        self._found(self.engine.close())

    def _found(self, findings: list[Finding]) -> None:
        findings = self.ignores.take(findings)
        self.findings.add(findings)
        if self._on_finding is not None:
            for finding in findings:
                self._on_finding(finding)

    def report(self, *, show_values: bool = False) -> dict[str, Any]:
        """The report so far, version 1. Units of work still open are not in it."""
        report = self.findings.to_dict(
            self.statistics.rows(),
            self.statements,
            self.sessions,
            time.monotonic() - self._started_s,
            show_values=show_values,
            covered=self.ignores.covers,
        )
        report["ignored"] = self.ignores.to_list()
        report["cache"] = self.cache.report(self._dry_runs()) if self.cache is not None else None
        report["budget"] = self.budget.to_dict() if self.budget is not None else None
        return report

    def _dry_runs(self) -> list[tuple[str, bool]]:
        return [(rule.name, rule.dry_run) for rule in self.cache_rules.rules]

    def cache_advice(self) -> list[tuple[str, str]]:
        """For each rule of the cache a sentence on whether it pays."""
        if self.cache is None:
            return []
        return [(rule["rule"], rule["advice"]) for rule in self.cache.report(self._dry_runs())["rules"]]

    def cache_statistics(self) -> dict[str, Any]:
        """Counters of the cache; empty without one."""
        return dict(self.cache.statistics()) if self.cache is not None else {}


def _limits(settings: Settings) -> Limits:
    return Limits(
        connect_timeout_s=settings.connect_timeout_s,
        auth_timeout_s=settings.auth_timeout_s,
        max_connections=settings.max_connections,
        max_startup_bytes=settings.max_startup_bytes,
        client_idle_timeout_s=settings.client_idle_timeout_s,
    )


def _catalog_url(settings: Settings) -> str | None:
    """The URL for reading the catalogs for the rules; None where nobody says as whom."""
    url = settings.catalog_url or settings.cache_catalog_url
    upstream = parse_upstream(url) if url is not None else settings.upstream
    return upstream.plain_url if upstream.user else None


def _need_stream(settings: Settings) -> frozenset[str]:
    """Names of the rules that give no answers without a change stream."""
    return frozenset(rule.name for rule in settings.cache_allow if rule.require_change_stream)


class Running:
    """A proxy in a thread of its own. Its figures may be asked for from any thread."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop, address: Address) -> None:
        self._app = app
        self._loop = loop
        self.address = address

    @property
    def port(self) -> int:
        return self.address.port

    def _ask(self, question: Callable[[], Any]) -> Any:
        async def answer() -> Any:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(10)

    def report(self) -> dict[str, Any]:
        """The report, with the units of work that are still open counted as ended."""

        def question() -> dict[str, Any]:
            self._app.close_units()
            return self._app.report()

        report: dict[str, Any] = self._ask(question)
        return report

    def cache_statistics(self) -> dict[str, Any]:
        statistics: dict[str, Any] = self._ask(self._app.cache_statistics)
        return statistics

    def slow_statements(self) -> list[dict[str, Any]]:
        """The last lines of the slow log, as mappings."""
        lines: list[dict[str, Any]] = self._ask(lambda: list(self._app.slow_log.recent))
        return lines


@contextlib.contextmanager
def running(settings: Settings, *, slow_findings: bool = False) -> Iterator[Running]:
    """Run a proxy in a thread until the block ends. Raises SettingsError where it cannot start."""
    ready: list[Running] = []
    failed: list[BaseException] = []
    started = threading.Event()
    end: list[asyncio.Event] = []

    async def serve() -> None:
        try:
            app = App(settings, lambda _line: None, slow_findings=slow_findings)
            address = await app.start()
        except BaseException as error:
            failed.append(error)
            started.set()
            return
        end.append(asyncio.Event())
        ready.append(Running(app, asyncio.get_running_loop(), address))
        started.set()
        await end[0].wait()
        await app.stop()

    def work() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=work, name="pgloupe", daemon=True)
    thread.start()
    started.wait()
    if failed:
        thread.join()
        raise failed[0]
    try:
        yield ready[0]
    finally:
        ready[0]._loop.call_soon_threadsafe(end[0].set)
        thread.join()
