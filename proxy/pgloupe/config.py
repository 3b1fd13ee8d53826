"""The settings: one table of options, one frozen object.

Each option has a key as in pgloupe.toml, a kind, a default and a sentence. From the key follow the environment variable
(`cache.redis` is PGLOUPE_CACHE_REDIS) and, where the command line has one, the flag. Flags come before variables, variables
before the file. A running proxy takes over what is `live` when the settings are read again. An unknown key in the file is an error that names the nearest one; unknown PGLOUPE_… variables are left
alone, because container platforms make up such names for a service called pgloupe.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pgloupe.errors import SettingsError
from pgloupe.report.ignores import KEYS as _IGNORE_KEYS
from pgloupe.report.ignores import Ignore, parse_ignore
from pgloupe.sslmode import ClientTls, Tls, catalog_tls, client_tls, parse_mode, server_tls
from pgloupe.urls import Address, Upstream, parse_listen, parse_upstream, shown
from pgloupe.wire.codes import MAX_STARTUP_BYTES


@dataclass(frozen=True, slots=True)
class Allow:
    """One `[[cache.allow]]` rule. Exactly one of `tables`, `template` and `fingerprint` is given."""

    name: str
    ttl_s: float
    tables: tuple[str, ...] = ()
    template: str = ""
    fingerprint: str = ""
    max_entry_bytes: int = 1 << 20


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
    cache_catalog_url: str | None
    cache_allow: tuple[Allow, ...]
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
        keys = {key: getattr(self, f"server_tls_{key}") for key in ("sslmode", "ca_file", "key_file", "cert_file")}
        try:
            server = server_tls(keys, self.upstream)
            catalog = server
            url = self.cache_catalog_url or self.catalog_url
            if url is not None:
                catalog = catalog_tls(keys, parse_upstream(url))
            return Tls(self._client_tls(), server, catalog)
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def _client_tls(self) -> ClientTls:
        files = (self.client_tls_key_file, self.client_tls_cert_file, self.client_tls_ca_file)
        return client_tls(self.client_tls_sslmode, *files)


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
        return "PGLOUPE_" + self.key.replace(".", "_").upper()


_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def parse_duration(value: object) -> float:
    """Seconds: a number, or a number with ms, s, m, h or d."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(f"{value!r} is not a duration: write 500ms, 60s, 5m, 1h")
        seconds = float(match.group(1)) * _UNITS[match.group(2)]
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{value!r} is out of range")
    return seconds


def _number(value: object) -> float:
    try:
        number = float(str(value)) if not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise ValueError(f"{value!r} is not a number from 0 up")
    return number


def _whole(least: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not text.isdigit() or int(text) < least:
            raise ValueError(f"{value!r} is not a whole number from {least} up")
        return int(text)

    return parse


def _boolean(value: object) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "on", "yes", "1"):
        return True
    if text in ("false", "off", "no", "0"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _redis_url(value: object) -> str | None:
    text = str(value)
    if not text:
        return None
    if not re.match(r"(redis|rediss)://[^/]*(/\d*)?(\?.*)?$|unix://", text):
        raise ValueError(f"{shown(text)!r} is not a Redis URL: write redis://host:6379/0")
    return text


def _url(value: object) -> str | None:
    return parse_upstream(str(value)).url if value else None


OPTIONS: Final = (
    Option("upstream", lambda value: parse_upstream(str(value)), None, "URL of the PostgreSQL server."),
    Option("listen", lambda value: parse_listen(str(value)), "127.0.0.1:6432", "HOST:PORT to listen on; port 0: any."),
    Option("slow_ms", _number, 100.0, "Statements that take longer, in milliseconds, go to the slow log.", live=True),
    Option("slow_log_parameters", _boolean, False, "Write parameter values into the slow log.", live=True),
    Option("n_plus_one.threshold", _whole(2), 5, "Repeats of a statement that count without value flow.", live=True),
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
    Option("max_connections", _whole(1), 2_000, "Clients at the same time; those over it are refused.", live=True),
    Option(
        "max_startup_bytes", _whole(8), MAX_STARTUP_BYTES, "Length of the longest StartupMessage, in bytes.", live=True
    ),
    Option(
        "client_tls_sslmode",
        parse_mode,
        "disable",
        "TLS for clients: disable, allow, prefer, require, verify-ca, verify-full.",
        live=True,
    ),
    Option("client_tls_key_file", _text, "", "Private key that clients see, in PEM.", live=True),
    Option(
        "client_tls_cert_file",
        _text,
        "",
        "Certificate that clients see, with those between it and its CA, in PEM.",
        live=True,
    ),
    Option("client_tls_ca_file", _text, "", "Certificates of those who sign clients' certificates, in PEM.", live=True),
    Option(
        "server_tls_sslmode",
        lambda value: parse_mode(value) if value else "",
        "",
        "TLS to the server, as libpq's sslmode; prefer by default.",
        live=True,
    ),
    Option(
        "server_tls_ca_file", _text, "", "Certificates of those who sign the server's, in PEM, or system.", live=True
    ),
    Option("server_tls_key_file", _text, "", "Private key that the server sees, in PEM.", live=True),
    Option("server_tls_cert_file", _text, "", "Certificate that the server sees, in PEM.", live=True),
    Option(
        "catalog_url",
        _url,
        None,
        "URL for reading the catalogs, so that rules know foreign keys; the upstream's by default.",
    ),
    Option("cache.memory_bytes", _whole(0), 64 << 20, "Memory for cached answers, in bytes."),
    Option("cache.redis", _redis_url, None, "URL of a Redis that several proxies share."),
    Option("cache.redis_timeout_s", parse_duration, 0.05, "Time that a look-up in Redis may take, in seconds."),
    Option("cache.catalog_url", _url, None, "URL for reading the catalogs; that of catalog_url by default."),
)
_BY_KEY: Final = {option.key: option for option in OPTIONS}
_ALLOW_KEYS: Final = ("name", "tables", "template", "fingerprint", "ttl", "max_entry_bytes")


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


def _allow(number: int, rule: Mapping[str, Any], origin: str) -> Allow:
    where = f"{origin}: [[cache.allow]] rule {number}"
    if isinstance(rule.get("name"), str):
        where += f" ({rule['name']})"
    for key in rule:
        if key not in _ALLOW_KEYS:
            raise SettingsError(f"{where}: unknown key {key!r}{_nearest(key, list(_ALLOW_KEYS))}")
    name = rule.get("name", f"rule-{number}")
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{where}: name must be a text")
    if sum(key in rule for key in ("tables", "template", "fingerprint")) != 1:
        raise SettingsError(f"{where}: needs exactly one of tables, template and fingerprint")
    if "ttl" not in rule:
        raise SettingsError(f'{where}: needs a ttl, such as ttl = "60s"')
    try:
        ttl_s = parse_duration(rule["ttl"])
        most = _whole(1)(rule.get("max_entry_bytes", 1 << 20))
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    if ttl_s <= 0:
        raise SettingsError(f"{where}: ttl must be over 0")
    tables = rule.get("tables", [])
    if not isinstance(tables, list) or not all(isinstance(item, str) and item for item in tables):
        raise SettingsError(f'{where}: tables must be a list of names, such as ["author", "post"]')
    if "tables" in rule and not tables:
        raise SettingsError(f"{where}: tables is empty")
    fingerprint = str(rule.get("fingerprint", "")).lower()
    if "fingerprint" in rule and not re.fullmatch(r"[0-9a-f]{16}", fingerprint):
        raise SettingsError(f"{where}: fingerprint must be 16 hex digits, as `pgloupe fingerprint` prints them")
    template = rule.get("template", "")
    if not isinstance(template, str) or ("template" in rule and not template.strip()):
        raise SettingsError(f"{where}: template must be a statement")
    return Allow(name, ttl_s, tuple(tables), template, fingerprint, most)


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
) -> Settings:
    """Settings from the nested mapping that pgloupe.toml gives, variables and flags (by dotted key) before it.

    Raises SettingsError with one sentence that says what is wrong and where it came from.
    """
    flat, allow, ignore = _flatten(values, origin)
    chosen: dict[str, Any] = {}
    for option in OPTIONS:
        for value, source in (
            ((flags or {}).get(option.key), "--" + option.key.split(".")[-1].replace("_", "-")),
            ((environ or {}).get(option.variable) or None, option.variable),
            (flat.get(option.key), f"{origin}: {option.key}"),
        ):
            if value is not None:
                try:
                    chosen[option.key] = option.parse(value)
                except ValueError as error:
                    raise SettingsError(f"{source}: {error}") from None
                break
        else:
            chosen[option.key] = option.parse(option.default) if isinstance(option.default, str) else option.default
    if chosen["upstream"] is None:
        raise SettingsError(
            "no upstream: say which server, by --upstream postgres://user@host:5432/database, PGLOUPE_UPSTREAM or the "
            "key upstream in pgloupe.toml"
        )
    rules = tuple(_allow(number, rule, origin) for number, rule in enumerate(allow, 1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{origin}: two [[cache.allow]] rules are called {name!r}")
    ignored = tuple(_ignore(number, rule, origin) for number, rule in enumerate(ignore, 1))
    made = Settings(cache_allow=rules, ignore=ignored, **{option.field: chosen[option.key] for option in OPTIONS})
    try:
        made.tls  # noqa: B018 (it is what it raises that counts)
    except SettingsError as error:
        raise SettingsError(f"{origin}: {error}") from None
    return made


def load(flags: Mapping[str, Any], environ: Mapping[str, str], config: str | None) -> Settings:
    """Settings of a command: flags, variables, and the file `config`, or pgloupe.toml here if there is one.

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
    return settings(values, flags=flags, environ=environ, origin=str(path))
