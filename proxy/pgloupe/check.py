"""`pgloupe check`: run a command behind a proxy of its own, then report.

The command finds the proxy in its environment. Signals: Ctrl-C reaches the command by the terminal, so it is left alone
here; SIGTERM is passed on. In both cases the command's end is waited for and the report of what was seen until then is
written.

Exit code: the command's own if it is not 0 (128 + n after signal n, 127 where it cannot be found, 126 where it cannot be
run); else 1 if a finding or a query budget fails the check; else 0.

In GitHub Actions the report becomes annotations as well, and a part of the job's summary.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import uvloop

from pgloupe.app import App
from pgloupe.config import Settings
from pgloupe.errors import SettingsError
from pgloupe.net.listener import DECLINED
from pgloupe.report import baseline, github, markdown
from pgloupe.report.budget import MAX_QUERIES
from pgloupe.report.ignores import RULES
from pgloupe.report.render import render
from pgloupe.report.verdict import judge
from pgloupe.report.wording import places, plural, verdict
from pgloupe.urls import Address, Upstream, parse_upstream, proxy_url, rewrite

_LEFT_OUT: Final = frozenset(
    {
        "PGHOSTADDR",  # this and the next would win over PGHOST
        "PGSERVICE",
        # how the connection to the server is encrypted and who proves what there is the proxy's business
        "PGCHANNELBINDING",
        "PGGSSDELEGATION",
        "PGGSSENCMODE",
        "PGREQUIREAUTH",
        "PGREQUIRESSL",
        "PGSSLCERT",
        "PGSSLCERTMODE",
        "PGSSLCRL",
        "PGSSLCRLDIR",
        "PGSSLKEY",
        "PGSSLNEGOTIATION",
        "PGSSLROOTCERT",
    }
)

_FOR_PROGRAMS: Final = ("json", "sarif", "junit")

_NOT_STARTED: Final = "the command could not be run"

_ADVICE: Final = (
    "It has to take the server from DATABASE_URL, or PGHOST and PGPORT, of its environment; --env NAME rewrites further "
    "variables"
)

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
    max_queries: str | None = None
    baseline: str | None = None


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


def _max_queries(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text[:9]) > MAX_QUERIES:
        raise SettingsError(f"--max-queries: {text!r} is not a whole number from 0 to {MAX_QUERIES}")
    return int(text)


def environment(
    environ: Mapping[str, str], upstream: Upstream, address: Address, variables: tuple[str, ...]
) -> dict[str, str]:
    """The command's environment: everything that names the server names the proxy. Raises SettingsError."""
    out = {name: value for name, value in environ.items() if name not in _LEFT_OUT}
    # the proxy is on this machine and speaks plain text
    out.update(PGHOST=address.host, PGPORT=str(address.port), PGSSLMODE="disable")
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
            # the scheme that every library takes: SQLAlchemy knows no postgres://
            out[name] = "postgresql" + proxy_url(upstream, address, password=True).removeprefix("postgres")
            continue
        try:
            parse_upstream(url)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None
        out[name] = rewrite(url, address, upstream)
    return out


async def _run_command(command: tuple[str, ...], env: dict[str, str]) -> tuple[int, bool]:
    """Its exit code, and whether it was started at all."""
    loop = asyncio.get_running_loop()
    try:
        process = await asyncio.create_subprocess_exec(*command, env=env)
    except OSError as error:
        sys.stderr.write(f"pgloupe: cannot run {command[0]}: {(error.strerror or str(error)).lower()}\n")
        return (127 if isinstance(error, FileNotFoundError) else 126), False

    def pass_on() -> None:
        if process.returncode is None:
            process.terminate()

    loop.add_signal_handler(signal.SIGTERM, pass_on)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    code = await process.wait()
    return (128 - code if code < 0 else code), True


def _unchecked(app: App, code: int, started: bool) -> str:
    """Why no statement came through the proxy, and what to do, without a full stop; "" where one did."""
    if app.statements:
        return ""
    if not started:
        return _NOT_STARTED
    ended = f"the command ended with {code}" if code else "the command ended"
    refusal = app.listener.refusal
    if refusal == DECLINED:
        return (
            f"{ended}, and the client asked for TLS: the proxy that a check starts is on this machine and has none, so "
            "sslmode=require must not be set in the code of the command"
        )
    if refusal:
        return f"{ended}, and its last connection failed: {refusal}"
    if app.sessions:
        return f"{ended}, and it logged in to the database but sent no statement"
    if code in (126, 127):
        what = "found" if code == 127 else "executed"
        return f"{ended}, which is what a shell says of a command that cannot be {what}"
    return f"{ended} without connecting to the proxy. {_ADVICE}"


async def _check(
    settings: Settings, plan: Plan, failing: frozenset[str], known: baseline.Baseline | None
) -> tuple[int, dict[str, Any]]:
    settings = replace(settings, client_tls_sslmode="disable")  # for the command alone, on this machine
    app = App(
        settings,
        lambda _line: None,
        slow_findings=plan.slow_findings,
        max_queries=_max_queries(plan.max_queries),
    )
    app.listener.log_refusals = False  # the command is told, and the report says it
    address = await app.start()
    try:
        env = environment(os.environ, settings.upstream, address, plan.variables)
        code, started = await _run_command(plan.command, env)
        # the command's connections are closed, but what came last may still be in the sockets
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while app.listener.frontends and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0.01)
    finally:
        await app.stop()
    watched = frozenset(RULES) if plan.slow_findings else frozenset(RULES) - {"slow_query"}
    return code, judge(
        app.report(show_values=plan.show_values),
        failing=failing,
        # where findings had to be left out, nobody knows which of the known ones are gone
        watched=frozenset() if app.findings.dropped else watched,
        command=code,
        baseline=known,
        ignored=app.ignores.keys(),
        unchecked=_unchecked(app, code, started),
    )


def _for_github(report: Mapping[str, Any], plan: Plan) -> None:
    """Annotations, and the report in Markdown for the summary of the job. Both streams of a step are read by the runner;
    a report for programs on standard output stays whole."""
    if plan.format != "github":
        machine = plan.output in (None, "-") and plan.format in _FOR_PROGRAMS
        stream = sys.stderr if machine else sys.stdout
        commands = github.workflow_commands(report)
        encoding = stream.encoding or "utf-8"
        stream.write(commands.encode(encoding, "replace").decode(encoding))
        stream.flush()
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with Path(path).open("a", encoding="utf-8", errors="replace") as summary:
                summary.write(markdown.render(report))
        except OSError as error:
            sys.stderr.write(f"pgloupe: GITHUB_STEP_SUMMARY: {path}: {(error.strerror or str(error)).lower()}\n")


def _result(report: Mapping[str, Any], output: str) -> str:
    """One line for standard error, where the report went to a file."""
    parts = [plural(len(report["findings"]), "finding")]
    if report["baseline"] is not None:
        parts[0] += f" ({report['baseline']['new']:,} new)"
    if places(report):
        parts.append(f"{plural(len(places(report)), 'place')} over the query budget")
    return f"pgloupe: {', '.join(parts)} in {plural(report['statements'], 'statement')}; the report is in {output}\n"


def check(settings: Settings, plan: Plan) -> int:
    """Run the plan. Gives the exit code. Raises SettingsError where something is wrong with it."""
    failing = failing_rules(plan.fail_on)
    _max_queries(plan.max_queries)
    known = None if plan.baseline is None else baseline.load(plan.baseline)
    output = None if plan.output == "-" else plan.output
    if output is not None:
        try:
            # emptied, so that nobody takes it for this run's if this one is killed; but what is there may be the baseline
            Path(output).open("w" if known is None else "a", encoding="utf-8").close()
        except OSError as error:
            raise SettingsError(f"--output {plan.output}: {(error.strerror or str(error)).lower()}") from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code, report = runner.run(_check(settings, plan, failing, known))
    if output is None:
        sys.stdout.flush()
        render(report, plan.format, sys.stdout)
        sys.stdout.flush()
    else:
        with Path(output).open("w", encoding="utf-8") as stream:
            render(report, plan.format, stream)
        sys.stderr.write(_result(report, output))
    if os.environ.get("GITHUB_ACTIONS") == "true" or plan.format == "github":
        _for_github(report, plan)
    # else it stands in the report that they see, or has been said
    unseen = output is not None or plan.format in _FOR_PROGRAMS
    if not report["statements"] and unseen and report["check"]["unchecked"] != _NOT_STARTED:
        sys.stderr.write(f"pgloupe: {verdict(report)[0].lower()}{verdict(report)[1:].rstrip('.')}\n")
    if code:
        return code
    return 1 if report["check"]["failed"] else 0
