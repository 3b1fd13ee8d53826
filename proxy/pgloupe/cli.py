"""The command line. Thin: each command turns its flags into settings and calls the module that does the work.

Whatever is wrong with what the user wrote is one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, TypeVar

import click

from pgloupe import __version__, compiled
from pgloupe.config import OPTIONS, Settings, load, misspelt
from pgloupe.errors import PgloupeError, SettingsError
from pgloupe.report.render import FORMATS
from pgloupe_rules.types import Recognised, SessionInfo

Command = TypeVar("Command", bound=Callable[..., Any])

_EXAMPLE = '"SELECT name FROM author WHERE id = 1"'
_HELP = {option.key: option.help for option in OPTIONS}
_FLAGS = {
    "upstream": "upstream",
    "listen": "listen",
    "redis": "cache.redis",
    "slow_ms": "slow_ms",
    "slow_log_parameters": "slow_log_parameters",
    "threshold": "n_plus_one.threshold",
}


def _option(flag: str, key: str, metavar: str) -> Callable[[Command], Command]:
    return click.option(flag, metavar=metavar, help=_HELP[key])


def _settings_options(command: Command) -> Command:
    """The flags that `serve` and `check` share."""
    for decorate in (
        _option("--threshold", "n_plus_one.threshold", "N"),
        _option("--redis", "cache.redis", "URL"),
        click.option("--config", metavar="FILE", help="Settings in TOML; pgloupe.toml here, if there is one."),
        _option("--upstream", "upstream", "URL"),
    ):
        command = decorate(command)
    return command


def _keys(flags: dict[str, Any]) -> dict[str, Any]:
    return {_FLAGS[name]: value for name, value in flags.items() if name in _FLAGS}


def _warn_of_variables() -> None:
    """Not an error: a container platform may have made the name up."""
    for variable, known in misspelt(os.environ):
        click.echo(f"pgloupe: {variable} is no setting and is ignored; did you mean {known}?", err=True)


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"pgloupe {__version__}\ncompiled: {'yes' if compiled() else 'no'}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Print the version."
)
def cli() -> None:
    """A PostgreSQL proxy that finds N+1 queries, caches whitelisted reads and logs slow statements."""


@cli.command()
@_settings_options
@click.option("--slow-ms", metavar="MS", help=f"{_HELP['slow_ms']}  [default: 100]")
@_option("--listen", "listen", "HOST:PORT")
@click.option("--slow-log-parameters", is_flag=True, default=None, help=_HELP["slow_log_parameters"])
@click.option("--report", metavar="FILE", help="Write the JSON report to FILE at the end.")
def serve(config: str | None, report: str | None, **flags: Any) -> None:
    """Run the proxy. Point DATABASE_URL at the address that it prints."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever asks for a reload must not end what is still starting
    from pgloupe.serve import serve as run  # noqa: PLC0415 (asyncio and redis are not needed for --help)

    def read() -> Settings:
        return load(_keys(flags), os.environ, config)

    settings = read()
    _warn_of_variables()
    sys.exit(run(settings, report, read))


@cli.command(context_settings={"allow_interspersed_args": False})
@_settings_options
@click.option(
    "--slow-ms",
    metavar="MS",
    help="Statements that take longer, in milliseconds, fail the check as slow_query; by default none does.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Of the report.")
@click.option("--output", metavar="FILE", help="Where the report goes; standard output by default, or as -.")
@click.option("--fail-on", metavar="RULES", help="Rules that fail the check, with commas between; all by default.")
@click.option("--max-queries", metavar="N", help="Fail if a unit of work needs more queries than this.")
@click.option("--baseline", metavar="FILE", help="An earlier report as JSON: what it knows does not fail.")
@click.option("--env", "variables", metavar="NAME", multiple=True, help="Rewrite this variable like DATABASE_URL.")
@click.option("--show-values", is_flag=True, help="Show statements as sent, with their values.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD …")
def check(
    config: str | None,
    form: str,
    output: str | None,
    fail_on: str | None,
    max_queries: str | None,
    baseline: str | None,
    variables: tuple[str, ...],
    show_values: bool,
    command: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run CMD behind the proxy and report what it did to the database.

    CMD finds the proxy in DATABASE_URL and PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE. Exit code: CMD's own if it is
    not 0; 1 if a finding or a unit of work over --max-queries fails the check; 0 otherwise; 2 for a usage error.
    """
    from pgloupe.check import Plan  # noqa: PLC0415
    from pgloupe.check import check as run  # noqa: PLC0415

    keys = _keys(flags)
    if not command:
        raise click.UsageError("no command to check: write it behind --, as in: pgloupe check -- pytest")
    settings = load({**keys, "listen": "127.0.0.1:0"}, os.environ, config, application=True)
    _warn_of_variables()
    asked = flags["slow_ms"] is not None  # a limit for the slow log of `serve` must not fail a check
    plan = Plan(command, form, output, fail_on, variables, show_values, asked, max_queries, baseline)
    sys.exit(run(settings, plan))


@cli.command()
@click.argument("name", required=False)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print all of them as one page of Markdown.")
def rule(name: str | None, as_markdown: bool) -> None:
    """Print what the rule NAME finds, why that is bad and what to write instead. Without NAME, list the rules."""
    from rich.console import Console  # noqa: PLC0415

    from pgloupe.report import rule_docs  # noqa: PLC0415

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if as_markdown:
        click.echo(rule_docs.markdown() if name is None else rule_docs.rule_doc(name).markdown(), nl=False)
    else:
        rule_docs.show(name, Console())


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report and the figures as JSON.")
def demo(as_json: bool) -> None:
    """Show what pgloupe does, on a PostgreSQL and a shop of its own."""
    from pgloupe.demo.run import main as run  # noqa: PLC0415

    sys.exit(run(as_json=as_json))


@cli.command("explain-cache")
@_option("--upstream", "upstream", "URL")
@click.option("--config", metavar="FILE", help="Settings in TOML; pgloupe.toml here, if there is one.")
@click.option("--user", metavar="NAME", help="Who asks; the upstream's user by default.")
@click.option("--application-name", metavar="NAME", default="", help="The application_name of who asks.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.argument("sql", required=False)
def explain_cache(
    config: str | None, user: str | None, application_name: str, as_json: bool, sql: str | None, **flags: Any
) -> None:
    """Say whether SQL would be cached, under which rule and key, or why not. SQL is read from standard input as - or if
    it is left out.

    Exit code: 0 if it would be cached, 1 if not, 2 for a usage error. Without an upstream the rules alone are asked.
    """
    if sql is None and sys.stdin.isatty():
        raise click.UsageError(f"no SQL: give a statement, such as {_EXAMPLE}, or - to read one from standard input")
    if sql is None or sql == "-":
        sql = sys.stdin.read()
    if not sql.strip():
        raise click.UsageError("no SQL: it is empty")
    asked = True
    try:
        settings = load(_keys(flags), os.environ, config)
    except SettingsError as error:
        if not str(error).startswith("no upstream"):
            raise
        asked = False
        settings = load({"upstream": "postgres://127.0.0.1/"}, os.environ, config)
    from pgloupe.explain import main as run  # noqa: PLC0415 (the catalogs' driver is not needed for --help)

    upstream = settings.upstream
    who = user if user is not None else upstream.user
    session = SessionInfo(0, upstream.database or who, who, application_name)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # as for `fingerprint`
    sys.exit(run(settings, sql, session, as_json=as_json, asked=asked))


@cli.command()
@click.argument("sql", required=False)
def fingerprint(sql: str | None) -> None:
    """Print FINGERPRINT <tab> TEMPLATE of SQL.

    Without SQL, of each line of standard input, a JSON string each; several statements in one string are one line.
    """
    from pgloupe_rules.fingerprint import Recognition  # noqa: PLC0415

    recognise = Recognition()

    def line_of(found: tuple[Recognised, ...]) -> str:
        """Always one line for one input, so that output and input can be put side by side."""
        prints = [item.template.fingerprint for item in found]
        joined = prints[0] if len(prints) == 1 else blake2b("".join(prints).encode(), digest_size=8).hexdigest()
        templates = "; ".join(" ".join(item.template.text.split()) for item in found)
        return f"{joined if found else '0' * 16}\t{templates}"

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a JSON string may hold half a character
    if sql is not None:
        for item in recognise(sql):
            click.echo(line_of((item,)))
        if not recognise(sql):
            click.echo(line_of(()))
        return
    if sys.stdin.isatty():
        raise click.UsageError("no SQL: give a statement, or JSON strings on standard input, one a line")
    failed = False
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)
        except ValueError:
            text = None
        if isinstance(text, str):
            click.echo(line_of(recognise(text)))
        else:
            failed = True
            click.echo(f"pgloupe: line {number}: not a JSON string, such as {_EXAMPLE}", err=True)
    if failed:
        sys.exit(2)


def main() -> None:
    """The entry point: errors that are the user's to mend are one sentence and exit code 2."""
    try:
        cli.main(prog_name="pgloupe", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        where = f" {error.ctx.info_name}" if error.ctx is not None and error.ctx.parent is not None else ""
        click.echo(f"pgloupe{where}: {error.format_message()}\nTry 'pgloupe{where} --help'.", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except SettingsError as error:
        click.echo(f"pgloupe: {error}", err=True)
        sys.exit(2)
    except PgloupeError as error:
        click.echo(f"pgloupe: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        _give_up_stdout()
        sys.exit(1)
    except OSError as error:
        click.echo(f"pgloupe: cannot write the output: {(error.strerror or str(error)).lower()}", err=True)
        _give_up_stdout()
        sys.exit(2)


def _give_up_stdout() -> None:
    """Nobody takes what is still to be written; the interpreter would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
