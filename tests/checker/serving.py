"""Proxies in processes of their own, so that they can be killed, with a mutant in them where one is asked for.

They are forked from one process that has imported pgloupe already, which takes a hundredth of the time of starting the
command. `Knobs` are the times that the cache is made with: what takes a minute in production takes a second here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import multiprocessing
import signal
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import uvloop

_PATIENCE_S: Final = 30.0
_context: Final = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pgloupe.app", "pgloupe.config"])


@dataclass(frozen=True, slots=True)
class Knobs:
    """Of `pgloupe.cache.Cache`, in seconds."""

    lease_s: float = 60.0
    member_lease_s: float = 1.0
    forget_s: float = 30.0
    redis_retry_s: float = 1.0
    redis_timeout_s: float = 0.05

    def with_(self, **values: float) -> Knobs:
        return replace(self, **values)


def _serve(pipe: Connection, values: dict[str, Any], knobs: dict[str, float], mutant: str) -> None:
    """The process: tells its port, then answers each message with its figures until it is killed or we are gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who started us
    from pgloupe import app
    from pgloupe.config import settings

    logging.basicConfig(level=logging.CRITICAL if values.pop("quiet") else logging.ERROR)
    app.Cache = functools.partial(app.Cache, **knobs)  # type: ignore[misc, assignment]
    if mutant:
        from tests.checker.mutants import MUTANTS

        MUTANTS[mutant].apply()

    async def serve() -> None:
        proxy = app.App(settings({"listen": "127.0.0.1:0", **values}), lambda _line: None)
        address = await proxy.start()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def asked() -> None:
            try:
                pipe.recv()
            except (EOFError, OSError):
                if not ended.done():
                    ended.set_result(None)
                return
            cache = proxy.cache
            rules = cache.rule_statistics() if cache is not None else {}
            pipe.send({"figures": proxy.cache_statistics(), "rules": rules})

        loop.add_reader(pipe.fileno(), asked)
        pipe.send(address.port)
        await ended
        loop.remove_reader(pipe.fileno())
        await proxy.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


class ProxyProcess:
    """A proxy of its own process, in front of the server of `upstream`. A context manager; `start` again after `kill`."""

    def __init__(
        self,
        upstream: str,
        *,
        rules: list[dict[str, Any]],
        redis: str | None = None,
        catalog: str | None = None,
        knobs: Knobs | None = None,
        mutant: str = "",
        quiet: bool = False,
    ) -> None:
        knob_values = asdict(knobs or Knobs())
        cache: dict[str, Any] = {"allow": rules, "redis_timeout_s": knob_values.pop("redis_timeout_s")}
        if redis is not None:
            cache["redis"] = redis
        if catalog is not None:
            cache["catalog_url"] = catalog
        self._values = {"upstream": upstream, "cache": cache, "quiet": quiet}
        self._knobs = knob_values
        self._mutant = mutant
        self._upstream = urlsplit(upstream)
        self._process: Any = None
        self._pipe: Connection | None = None
        self.port = 0

    @property
    def url(self) -> str:
        login = self._upstream.netloc.rpartition("@")[0]
        return urlunsplit(self._upstream._replace(netloc=f"{login}@127.0.0.1:{self.port}"))

    def start(self) -> None:
        """Start it, on the port of before if there was one. Raises EOFError where it cannot start."""
        ours, theirs = _context.Pipe()
        values = dict(self._values)
        if self.port:
            values["listen"] = f"127.0.0.1:{self.port}"
        self._process = _context.Process(
            target=_serve, args=(theirs, values, self._knobs, self._mutant), daemon=True, name="proxy"
        )
        self._process.start()
        theirs.close()
        self._pipe = ours
        if not ours.poll(_PATIENCE_S):
            raise EOFError("the proxy does not start")
        self.port = ours.recv()

    def figures(self) -> dict[str, Any]:
        """`figures` of the cache and those of its `rules`; empty for one that is down."""
        if self._pipe is None:
            return {"figures": {}, "rules": {}}
        self._pipe.send(None)
        if not self._pipe.poll(_PATIENCE_S):
            raise TimeoutError("the proxy does not tell its figures")
        found: dict[str, Any] = self._pipe.recv()
        return found

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def stop(self) -> None:
        """Have it end in order, and kill it if it does not."""
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.join(_PATIENCE_S)
            self._process.kill()
            self._reap()

    def _reap(self) -> None:
        process, self._process = self._process, None
        process.join()
        process.close()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def __enter__(self) -> ProxyProcess:
        try:
            self.start()
        except BaseException:
            with contextlib.suppress(Exception):
                self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
