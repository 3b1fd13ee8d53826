"""The settings: one table of options, one frozen object.

Each option has a key as in pgloupe.toml, a kind, a default and a sentence. From the key follow the environment variable
(`cache.redis` is PGLOUPE_CACHE_REDIS) and, where the command line has one, the flag. Flags come before variables, variables
before the file. A running proxy takes over what is `live` when the settings are read again. An unknown key in the file is
an error that names the nearest one. Unknown PGLOUPE_… variables are none, because container platforms make up such names for
a service called pgloupe; `misspelt` finds those that are nearly the name of a setting.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pgloupe.allow import KEYS as _ALLOW_KEYS
from pgloupe.allow import parse_allow
from pgloupe.errors import SettingsError
from pgloupe.kinds import (
    parse_boolean,
    parse_duration,
    parse_namespace,
    parse_number,
    parse_redis_url,
    parse_server,
    parse_server_url,
    parse_text,
    parse_whole,
)
from pgloupe.report.ignores import KEYS as _IGNORE_KEYS
from pgloupe.report.ignores import Ignore, parse_ignore
from pgloupe.sslmode import ClientTls, ServerTls, Tls, catalog_tls, client_tls, parse_mode, server_tls
from pgloupe.urls import Address, Upstream, parse_listen, parse_upstream
from pgloupe.wire.codes import MAX_STARTUP_BYTES
from pgloupe_rules.allow import AllowRule, Hints

CHANGE_STREAMS: Final = ("auto", "pgoutput", "test_decoding")
_PREFIX: Final = "PGLOUPE_"
_DATABASE_URL: Final = "DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Made by `settings` or `load`."""

    upstream: Upstream
    listen: Address
    slow_ms: float
    slow_log_parameters: bool
    threshold: int
    connect_timeout_s: float
    auth_timeout_s: float
    drain_timeout_s: float
    max_connections: int
    max_startup_bytes: int
    client_idle_timeout_s: float
    cache_memory_bytes: int
    cache_redis: str | None
    cache_redis_timeout_s: float
    cache_wait_s: float
    cache_namespace: str
    cache_redis_hold_s: float
    cache_redis_compress_bytes: int
    cache_catalog_url: str | None
    cache_change_stream: str
    cache_change_stream_url: str | None
    cache_change_stream_publication: str
    cache_change_stream_interval_ms: int
    cache_change_stream_max_lag_s: float
    cache_hints: str
    cache_allow: tuple[AllowRule, ...]
    ignore: tuple[Ignore, ...] = ()
    client_tls_sslmode: str = "disable"
    client_tls_key_file: str = ""
    client_tls_cert_file: str = ""
    client_tls_ca_file: str = ""
    server_tls_sslmode: str = ""
    server_tls_ca_file: str = ""
    server_tls_key_file: str = ""
    server_tls_cert_file: str = ""
    catalog_url: str | None = None

    @property
    def tls(self) -> Tls:
        """What follows for both sides from the keys and the URLs. Raises SettingsError for what contradicts itself."""
        try:
            return Tls(self.client_side(), self.server_side(), self.catalog_side(), self.stream_side())
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def client_side(self) -> ClientTls:
        """TLS with clients. Raises ValueError, like the two that follow."""
        files = (self.client_tls_key_file, self.client_tls_cert_file, self.client_tls_ca_file)
        return client_tls(self.client_tls_sslmode, *files)

    def server_side(self) -> ServerTls:
        """TLS with the server."""
        return server_tls(self._server_keys(), self.upstream)

    def catalog_side(self) -> ServerTls:
        """TLS of the connection that reads the catalogs."""
        url = self.cache_catalog_url or self.catalog_url
        return catalog_tls(self._server_keys(), parse_upstream(url)) if url is not None else self.server_side()

    def stream_side(self) -> ServerTls:
        """TLS of the connection that reads the change stream."""
        url = self.cache_change_stream_url
        return catalog_tls(self._server_keys(), parse_upstream(url)) if url is not None else self.catalog_side()

    def _server_keys(self) -> dict[str, str]:
        return {key: getattr(self, f"server_tls_{key}") for key in ("sslmode", "ca_file", "key_file", "cert_file")}


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. `parse` takes the value of the file or the text of a flag or variable; it raises ValueError with what
    is wrong, said so that `key: ` can stand before it."""

    key: str
    parse: Callable[[Any], Any]
    default: Any
    help: str
    """One sentence with the unit."""
    live: bool = False
    """A running proxy takes a new value when the settings are read again."""

    @property
    def field(self) -> str:
        """Of `Settings`."""
        return self.key.removeprefix("n_plus_one.").replace(".", "_")

    @property
    def variable(self) -> str:
        return _PREFIX + self.key.replace(".", "_").upper()


def _hints(value: object) -> str:
    text = str(value).lower()
    if text not in set(Hints):
        raise ValueError(f"{value!r} is none of {', '.join(Hints)}")
    return text


def _change_stream(value: object) -> str:
    text = str(value).lower()
    if text and text not in CHANGE_STREAMS:
        raise ValueError(f"{value!r} is none of {', '.join(CHANGE_STREAMS)}")
    return text


OPTIONS: Final = (
    Option("upstream", parse_server, None, "URL of the PostgreSQL server."),
    Option("listen", lambda value: parse_listen(str(value)), "127.0.0.1:6432", "HOST:PORT to listen on; port 0: any."),
    Option(
        "slow_ms",
        parse_number,
        100.0,
        "Statements that take longer, in milliseconds, go to the slow log; 0: all.",
        live=True,
    ),
    Option("slow_log_parameters", parse_boolean, False, "Write parameter values into the slow log.", live=True),
    Option(
        "n_plus_one.threshold", parse_whole(2), 5, "Repeats of a statement that count without value flow.", live=True
    ),
    Option("connect_timeout_s", parse_duration, 10.0, "Time to connect to the server, in seconds.", live=True),
    Option("auth_timeout_s", parse_duration, 60.0, "Time a client has to authenticate, in seconds.", live=True),
    Option(
        "drain_timeout_s", parse_duration, 30.0, "Time that SIGTERM gives open transactions, in seconds.", live=True
    ),
    Option(
        "client_idle_timeout_s",
        parse_duration,
        0.0,
        "Idle clients are closed after so many seconds; 0: never.",
        live=True,
    ),
    Option("max_connections", parse_whole(1), 2_000, "Clients at the same time; those over it are refused.", live=True),
    Option(
        "max_startup_bytes",
        parse_whole(8),
        MAX_STARTUP_BYTES,
        "Length of the longest StartupMessage, in bytes.",
        live=True,
    ),
    Option(
        "client_tls_sslmode",
        parse_mode,
        "disable",
        "TLS for clients: disable, allow, prefer, require, verify-ca, verify-full.",
        live=True,
    ),
    Option("client_tls_key_file", parse_text, "", "Private key that clients see, in PEM.", live=True),
    Option(
        "client_tls_cert_file",
        parse_text,
        "",
        "Certificate that clients see, with those between it and its CA, in PEM.",
        live=True,
    ),
    Option(
        "client_tls_ca_file", parse_text, "", "Certificates of those who sign clients' certificates, in PEM.", live=True
    ),
    Option(
        "server_tls_sslmode",
        lambda value: parse_mode(value) if value else "",
        "",
        "TLS to the server, as libpq's sslmode; prefer by default.",
        live=True,
    ),
    Option(
        "server_tls_ca_file",
        parse_text,
        "",
        "Certificates of those who sign the server's, in PEM, or system.",
        live=True,
    ),
    Option("server_tls_key_file", parse_text, "", "Private key that the server sees, in PEM.", live=True),
    Option("server_tls_cert_file", parse_text, "", "Certificate that the server sees, in PEM.", live=True),
    Option(
        "catalog_url",
        parse_server_url,
        None,
        "URL for reading the catalogs, so that rules know foreign keys; the upstream's by default.",
    ),
    Option("cache.memory_bytes", parse_whole(0), 64 << 20, "Memory for cached answers, in bytes."),
    Option("cache.redis", parse_redis_url, None, "URL of a Redis that several proxies share."),
    Option("cache.redis_timeout_s", parse_duration, 0.05, "Time that a look-up in Redis may take, in seconds."),
    Option("cache.namespace", parse_namespace, "", "Part of keys in Redis; proxies with another one share nothing."),
    Option(
        "cache.redis_hold_s",
        parse_duration,
        1.0,
        "Time that the answer to a write is held when Redis is lost, until no proxy answers from before it, in seconds.",
    ),
    Option(
        "cache.redis_compress_bytes",
        parse_whole(0),
        2048,
        "Answers from this size on, in bytes, are compressed in Redis; 0: none.",
    ),
    Option("cache.wait_s", parse_duration, 1.0, "Time that a read waits for another's answer to the same, in seconds."),
    Option(
        "cache.catalog_url", parse_server_url, None, "URL for reading the catalogs; that of catalog_url by default."
    ),
    Option(
        "cache.change_stream",
        _change_stream,
        "",
        "See writes that go past the proxy: auto, pgoutput, test_decoding; nothing: off.",
    ),
    Option(
        "cache.change_stream_url",
        parse_server_url,
        None,
        "URL for reading the change stream; that for the catalogs of the cache by default.",
    ),
    Option("cache.change_stream_publication", parse_text, "pgloupe", "Name of the publication for pgoutput."),
    Option(
        "cache.change_stream_interval_ms",
        parse_whole(1),
        100,
        "Pause between two readings of the change stream, in milliseconds.",
    ),
    Option(
        "cache.change_stream_max_lag_s",
        parse_duration,
        2.0,
        "Rules with require_change_stream give no answers while it is further behind, in seconds.",
    ),
    Option(
        "cache.hints",
        _hints,
        "restrict",
        "What comments of clients may do: ignore (nothing), restrict (shorten, switch off), allow (switch on too).",
        live=True,
    ),
)
_BY_KEY: Final = {option.key: option for option in OPTIONS}


def _flatten(values: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Nested tables to dotted keys, and the lists of `[[cache.allow]]` and `[[ignore]]`."""
    flat: dict[str, Any] = {}
    allow: list[Any] = []
    ignore: list[Any] = []
    for key, value in values.items():
        if key == "ignore":
            if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
                raise SettingsError(f"{origin}: ignore is a list of tables: write [[ignore]]")
            ignore = value
        elif isinstance(value, Mapping):
            for inner, inner_value in value.items():
                flat[f"{key}.{inner}"] = inner_value
        else:
            flat[key] = value
    if "cache.allow" in flat:
        found = flat.pop("cache.allow")
        if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
            raise SettingsError(f"{origin}: cache.allow is a list of tables: write [[cache.allow]]")
        allow = found
    for key in flat:
        if key not in _BY_KEY:
            raise SettingsError(f"{origin}: unknown key {key!r}{_nearest(key, [*_BY_KEY, 'cache.allow', 'ignore'])}")
    return flat, allow, ignore


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _allow(number: int, rule: Mapping[str, Any], origin: str) -> AllowRule:
    where = f"{origin}: [[cache.allow]] rule {number}"
    if isinstance(rule.get("name"), str):
        where += f" ({rule['name']})"
    for key in rule:
        if key not in _ALLOW_KEYS:
            raise SettingsError(f"{where}: unknown key {key!r}{_nearest(key, list(_ALLOW_KEYS))}")
    try:
        return parse_allow(rule, f"rule-{number}")
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None


def _ignore(number: int, rule: Mapping[str, Any], origin: str) -> Ignore:
    where = f"{origin}: [[ignore]] rule {number}"
    for key in rule:
        if key not in _IGNORE_KEYS:
            raise SettingsError(f"{where}: unknown key {key!r}{_nearest(key, list(_IGNORE_KEYS))}")
    try:
        return parse_ignore(rule)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None


def settings(
    values: Mapping[str, Any],
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    origin: str = "settings",
    application: bool = False,
) -> Settings:
    """Settings from the nested mapping that pgloupe.toml gives, variables and flags (by dotted key) before it.
    `application`: the server may be that of the application's own DATABASE_URL, which comes before the file.

    Raises SettingsError with one sentence that says what is wrong and where it came from.
    """
    flat, allow, ignore = _flatten(values, origin)
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        found: list[tuple[Any, str]] = [
            ((flags or {}).get(option.key), "--" + option.key.split(".")[-1].replace("_", "-")),
            ((environ or {}).get(option.variable) or None, option.variable),
            (flat.get(option.key), f"{origin}: {option.key}"),
        ]
        if application and option.key == "upstream":
            found.insert(2, ((environ or {}).get(_DATABASE_URL) or None, _DATABASE_URL))
        for value, source in found:
            if value is not None:
                try:
                    chosen[option.key] = parse_upstream(value) if source == _DATABASE_URL else option.parse(value)
                except ValueError as error:
                    raise SettingsError(f"{source}: {error}") from None
                sources[option.key] = source
                break
        else:
            chosen[option.key] = option.parse(option.default) if isinstance(option.default, str) else option.default
    if chosen["upstream"] is None:
        raise SettingsError(
            "no upstream: say which server, by --upstream postgres://user@host:5432/database, PGLOUPE_UPSTREAM"
            f"{', DATABASE_URL' if application else ''} or the key upstream in pgloupe.toml"
        )
    rules = tuple(_allow(number, rule, origin) for number, rule in enumerate(allow, 1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{origin}: two [[cache.allow]] rules are called {name!r}")
    ignored = tuple(_ignore(number, rule, origin) for number, rule in enumerate(ignore, 1))
    made = Settings(cache_allow=rules, ignore=ignored, **{option.field: chosen[option.key] for option in OPTIONS})
    _check_tls(made, sources)
    for number, rule in enumerate(rules, 1):
        if rule.require_change_stream and not made.cache_change_stream:
            raise SettingsError(
                f"{origin}: [[cache.allow]] rule {number} ({rule.name}): require_change_stream needs "
                'cache.change_stream, such as change_stream = "auto"'
            )
    return made


def _check_tls(made: Settings, sources: Mapping[str, str]) -> None:
    """Raises SettingsError for what contradicts itself, with the sources of all that had a say in it."""
    server = [option.key for option in OPTIONS if option.key.startswith("server_tls_")]
    client = [option.key for option in OPTIONS if option.key.startswith("client_tls_")]
    for check, url, keys in (
        (made.client_side, "", client),
        (made.server_side, "upstream", server),
        (made.catalog_side, "cache.catalog_url" if made.cache_catalog_url else "catalog_url", server),
        (made.stream_side, "cache.change_stream_url", server),
    ):
        try:
            check()
        except ValueError as error:
            said = [sources[url]] if url and "ssl" in urlsplit(_url_of(made, url)).query else []
            said += [sources[key].removesuffix(f": {key}") for key in keys if key in sources]
            raise SettingsError(f"{' and '.join(dict.fromkeys(said))}: {error}") from None


def _url_of(made: Settings, key: str) -> str:
    value: Upstream | str = getattr(made, _BY_KEY[key].field)
    return value.url if isinstance(value, Upstream) else value


def misspelt(environ: Iterable[str]) -> list[tuple[str, str]]:
    """Of the names of variables those that begin with PGLOUPE_, are no setting and nearly the name of one or the name of
    its flag; with that one. Not those of tests, PGLOUPE_TEST_…."""
    known = {option.variable.removeprefix(_PREFIX): option.variable for option in OPTIONS}
    out = []
    for variable in sorted(environ):
        name = variable.removeprefix(_PREFIX)
        if name in (variable, "") or name in known or name.startswith("TEST_"):
            continue
        ends = [one for one in known if one.endswith(f"_{name}")]
        close = difflib.get_close_matches(name.upper(), known, 1, 0.8) or (ends if len(ends) == 1 else [])
        if close:
            out.append((variable, known[close[0]]))
    return out


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: str | None, *, application: bool = False
) -> Settings:
    """Settings of a command: flags, variables, and the file `config`, or pgloupe.toml here if there is one. `application`
    is as for `settings`.

    Raises SettingsError.
    """
    path = Path(config) if config is not None else Path("pgloupe.toml")
    values: Mapping[str, Any] = {}
    if config is not None or path.is_file():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"--config: cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not valid TOML: {error}") from None
    return settings(values, flags=flags, environ=environ, origin=str(path), application=application)
