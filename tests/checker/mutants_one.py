"""Mutants of what each proxy does by itself: effects, dependencies, keys, versions and marks. See `mutation`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from tests.checker.mutation import mutant, patch

# --- effects of statements ---


def _harmless(pattern: str) -> Callable[[], None]:
    """Statements that begin so are taken for reads."""

    def apply() -> None:
        from pgloupe.app import App

        begins = re.compile(pattern, re.IGNORECASE)

        def make(real: Any) -> Any:
            def writes(self: Any, recognised: Any, database: str) -> Any:
                return frozenset() if begins.match(recognised.bare) else real(self, recognised, database)

            return writes

        patch(App, "writes", make)

    return apply


for _scene, _pattern, _what in (
    ("merge", "MERGE", "MERGE is a write"),
    ("copy", "COPY", "COPY FROM is a write"),
    ("truncate", "TRUNCATE", "TRUNCATE is a write"),
    ("cte", "WITH", "WITH may hold a write"),
    ("function", "SELECT bump", "a function may write"),
    ("replaced_view", "CREATE OR REPLACE VIEW", "DDL raises everything"),
    ("trigger_made_meanwhile", "CREATE TRIGGER", "DDL has the dependencies read anew"),
    ("revoke", "REVOKE", "REVOKE raises everything"),
    ("two_phase_commit", "COMMIT PREPARED", "COMMIT PREPARED is a write"),
    ("update", "UPDATE", "UPDATE is a write"),
):
    mutant(_scene, _what, f"{_scene}_is_a_read")(_harmless(_pattern))


# --- dependencies ---


def _graph_without(*parts: str) -> Callable[[], None]:
    def apply() -> None:
        from pgloupe.cache import dependencies

        def make(real: Any) -> Any:
            def build(results: Any) -> Any:
                graph = real(results)
                for part in parts:
                    getattr(graph, part).clear()
                return graph

            return build

        patch(dependencies, "build_graph", make)

    return apply


for _scene, _parts in {
    "view_over_what_is_written": ("views_over", "tables_under"),
    "through_a_view": ("views_over", "tables_under"),
    "trigger": ("unsafe_writes",),
    "cascade": ("cascades",),
    "partition": ("children", "parents"),
    "partitioned": ("children", "parents"),
}.items():
    mutant(_scene, f"dependencies: {', '.join(_parts)}", f"no_{_scene}")(_graph_without(*_parts))


@mutant("trigger_made_meanwhile", "the schema token is raised by DDL")
def schema_not_raised() -> None:
    from pgloupe.cache.invalidation import Versions

    patch(
        Versions,
        "begin",
        lambda real: lambda self, mark, names, everything, schema: real(self, mark, names, everything, False),
    )


# --- the key ---


def _not_followed(setting: str) -> Callable[[], None]:
    def apply() -> None:
        from pgloupe.session.context import Context

        def without(real: Any) -> Any:
            return lambda self, name, value: None if name == setting else real(self, name, value)

        patch(Context, "_apply", without)
        patch(Context, "reported", without)

    return apply


mutant("role", "the role is in the key", "role_not_in_key")(_not_followed("role"))
mutant("search_path", "the search path is in the key", "search_path_not_in_key")(_not_followed("search_path"))


def _key_without(**arguments: Any) -> Callable[[], None]:
    def apply() -> None:
        from pgloupe.net import desk

        def make(real: Any) -> Any:
            return lambda *given, **named: real(*given, **{**named, **arguments})

        patch(desk, "cache_key", make)

    return apply


mutant("parameters", "parameters are in the key", "parameters_not_in_key")(_key_without(parameters=()))
mutant("forms_of_the_answer", "result formats are in the key", "formats_not_in_key")(_key_without(result_formats=()))


@mutant("forms_of_the_answer", "whether the answer has a RowDescription is in the key")
def description_not_in_key() -> None:
    from pgloupe.net import desk

    def make(real: Any) -> Any:
        def key(*given: Any, parameters: Any, row_description: bool, **rest: Any) -> Any:
            # of the parameters the last one is the description that the client was given before
            return real(*given, parameters=parameters[:-1], row_description=True, **rest)

        return key

    patch(desk, "cache_key", make)


@mutant("unique_comments", "comments are not in the key")
def comment_in_key() -> None:
    from pgloupe.session.gate import GatedSession
    from pgloupe_rules.types import Recognised

    def make(real: Any) -> Any:
        def question(self: Any, cycle: Any, *rest: Any) -> Any:
            ask = real(self, cycle, *rest)
            asked = Recognised(ask.recognised.template, ask.recognised.slots, cycle.query)
            return replace(ask, recognised=asked)

        return question

    patch(GatedSession, "_question", make)


@mutant("setting_that_cannot_be_followed", "sessions that cannot be followed get no answers")
def trusts_everybody() -> None:
    from pgloupe.session.context import Context

    patch(Context, "distrust", lambda real: lambda self, reason: None)


# --- versions and marks ---


@mutant("update", "the versions of what was written are raised")
def nothing_raised() -> None:
    from pgloupe.cache.invalidation import Versions

    patch(Versions, "_raise", lambda real: lambda self, mark: None)


def _clean() -> None:
    from pgloupe.cache.invalidation import Versions

    patch(Versions, "dirty", lambda real: lambda self, names: False)


mutant("commit_on_its_way", "tables are dirty while a write is under way", "no_dirty_mark")(_clean)


@mutant("slow_answer", "an answer is stored under the versions of its dispatch")
def versions_at_reply() -> None:
    from pgloupe.cache.cache import Cache

    def make(real: Any) -> Any:
        def fill(self: Any, ticket: Any, entry: Any) -> None:
            ticket.versions = self._versions.current(ticket.names)
            real(self, ticket, entry)

        return fill

    patch(Cache, "fill", make)


RAISED_LATE_S: Final = 1.0


@mutant("update", "the versions are raised before the client has its answer")
def raised_after_the_answer() -> None:
    from pgloupe.cache.cache import Cache

    def make(real: Any) -> Any:
        def end_write(self: Any, mark: Any) -> Any:
            names = frozenset(mark.names)
            late = self.begin_write(names)
            self.abandon(mark)
            self.abandon(late)
            again = type(mark)()
            again.names |= names
            loop = asyncio.get_running_loop()
            loop.call_later(RAISED_LATE_S, self._versions._raise, again)

        return end_write

    patch(Cache, "end_write", make)


@mutant("acknowledgement_lost", "a write of unknown outcome raises the versions")
def lost_not_raised() -> None:
    from pgloupe.cache.cache import Cache

    patch(Cache, "lose_write", lambda real: lambda self, mark: self.abandon(mark))


@mutant("commit_after_the_loss", "tables stay dirty after a write of unknown outcome")
def lost_not_dirty() -> None:
    from pgloupe.cache.cache import Cache

    patch(Cache, "lose_write", lambda real: lambda self, mark: self.end_write(mark))


@mutant("commit", "COMMIT raises what its transaction wrote")
def commit_not_raised() -> None:
    from pgloupe.session.gate import GatedSession

    def make(real: Any) -> Any:
        def hold_ready(self: Any, raw: bytes) -> bool:
            head = self.observer.pipeline.head
            held: bool = real(self, raw)
            if held and any(one.recognised.bare.upper() == "COMMIT" for one in head.statements):
                self.actions[-1] = replace(self.actions[-1], refused=True)
            return held

        return hold_ready

    patch(GatedSession, "_hold_ready", make)


def _answers_anywhere() -> None:
    from pgloupe.session.gate import GatedSession

    def make(real: Any) -> Any:
        def may_answer(self: Any) -> bool:
            clear = not (len(self.observer.pipeline) or self._backend_queue or self._unread_backend)
            return clear and self._context.key() is not None

        return may_answer

    patch(GatedSession, "_may_answer", make)


mutant("one_snapshot", "in a transaction the server answers", "answers_in_transactions")(_answers_anywhere)


@mutant("own_write", "after its own write a transaction asks the server")
def own_write_unseen() -> None:
    _answers_anywhere()
    _clean()


@mutant("past_the_proxies", "the ttl ends an answer")
def ttl_ignored() -> None:
    from pgloupe.cache.cache import Cache

    def make(real: Any) -> Any:
        return lambda self, read, *rest, **named: real(self, replace(read, ttl_s=3600.0), *rest, **named)

    patch(Cache, "lookup", make)
