"""`pgloupe check`: run a command behind a proxy of its own, then report.

The command finds the proxy in its environment. Signals: Ctrl-C reaches the command by the terminal, so it is left alone
here; SIGTERM is passed on. In both cases the report of what was seen until then is written.

Exit code: the command's own if it is not 0 (128 + n after signal n, 127 where it cannot be found, 126 where it cannot be
run); else 1 if a finding fails the check; else 0.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from pgloupe.app import App
from pgloupe.config import Settings
from pgloupe.errors import SettingsError
from pgloupe.report.render import render
from pgloupe.urls import Address, Upstream, parse_upstream, proxy_url, rewrite

RULES: Final = ("n_plus_one", "n_plus_one_write", "redundant_query", "slow_query")
SETTLE_S: Final = 5.0
"""How long connections that the command left behind may take to close."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for, besides the settings."""

    command: tuple[str, ...]
    format: str
    output: str | None
    fail_on: str | None
    variables: tuple[str, ...]
    show_values: bool
    slow_findings: bool = False
    """Slow statements are findings: someone asked for a limit on the command line."""


def failing_rules(text: str | None) -> frozenset[str]:
    """The rules of `--fail-on`. Raises SettingsError for one that does not exist."""
    if text is None:
        return frozenset(RULES)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["none"]:
        return frozenset()
    for name in names:
        if name not in RULES:
            close = difflib.get_close_matches(name, RULES, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"rules are {', '.join(RULES)}, or none"
            raise SettingsError(f"--fail-on: there is no rule {name!r}; {hint}")
    return frozenset(names)


def environment(
    environ: Mapping[str, str], upstream: Upstream, address: Address, variables: tuple[str, ...]
) -> dict[str, str]:
    """The command's environment: everything that names the server names the proxy. Raises SettingsError."""
    out = dict(environ)
    for name in ("PGHOSTADDR", "PGSERVICE"):
        out.pop(name, None)  # either would win over PGHOST
    out.update(PGHOST=address.host, PGPORT=str(address.port))
    if upstream.user:
        out["PGUSER"] = upstream.user
    if upstream.password is not None:
        out["PGPASSWORD"] = upstream.password
    if upstream.database:
        out["PGDATABASE"] = upstream.database
    for name in ("DATABASE_URL", *variables):
        url = environ.get(name)
        if not url:
            if name != "DATABASE_URL":
                raise SettingsError(f"--env {name}: this variable is not set")
            out[name] = proxy_url(upstream, address, password=True)
            continue
        try:
            parse_upstream(url)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None
        out[name] = rewrite(url, address, upstream)
    return out


async def _run_command(command: tuple[str, ...], env: dict[str, str]) -> int:
    loop = asyncio.get_running_loop()
    try:
        process = await asyncio.create_subprocess_exec(*command, env=env)
    except OSError as error:
        sys.stderr.write(f"pgloupe: cannot run {command[0]}: {(error.strerror or str(error)).lower()}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126

    def pass_on() -> None:
        if process.returncode is None:
            process.terminate()

    loop.add_signal_handler(signal.SIGTERM, pass_on)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    code = await process.wait()
    return 128 - code if code < 0 else code


async def _check(settings: Settings, plan: Plan) -> tuple[int, dict[str, Any]]:
    app = App(settings, lambda _line: None, slow_findings=plan.slow_findings)
    address = await app.start()
    try:
        env = environment(os.environ, settings.upstream, address, plan.variables)
        code = await _run_command(plan.command, env)
        # the command's connections are closed, but what came last may still be in the sockets
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while app.listener.frontends and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0.01)
    finally:
        await app.stop()
    return code, app.report(show_values=plan.show_values)


def check(settings: Settings, plan: Plan) -> int:
    """Run the plan. Gives the exit code. Raises SettingsError where something is wrong with it."""
    failing = failing_rules(plan.fail_on)
    output = None if plan.output == "-" else plan.output
    if output is not None:
        try:
            Path(output).write_text("", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--output {plan.output}: {(error.strerror or str(error)).lower()}") from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code, report = runner.run(_check(settings, plan))
    if output is None:
        sys.stdout.flush()
        render(report, plan.format, sys.stdout)
        sys.stdout.flush()
    else:
        with Path(output).open("w", encoding="utf-8") as stream:
            render(report, plan.format, stream)
        count = len(report["findings"])
        sys.stderr.write(
            f"pgloupe: {count} finding{'' if count == 1 else 's'} in {report['statements']} statements; "
            f"the report is in {output}\n"
        )
    if not report["statements"]:
        sys.stderr.write(
            "pgloupe: no statement came through the proxy, so nothing was checked: does the command use DATABASE_URL or "
            "PGHOST and PGPORT from its environment? --env NAME rewrites further variables\n"
        )
    if code:
        return code
    return 1 if any(finding["rule"] in failing for finding in report["findings"]) else 0
