"""Addresses and connection URLs, read as libpq reads them as far as a proxy needs it.

Source: libpq documentation, "Connection URIs" and "Parameter Key Words".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_SCHEMES: Final = ("postgres", "postgresql")
_EXAMPLE: Final = "write postgres://user@host:5432/database"

_ENCRYPTION: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation")

_TLS_PARAMETERS: Final = frozenset(
    {
        "channel_binding",
        "gssdelegation",
        "gssencmode",
        "gsslib",
        "krbsrvname",
        "require_auth",
        "requiressl",
        "ssl",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslaccept",
        "sslcert",
        "sslcertmode",
        "sslcompression",
        "sslcrl",
        "sslcrldir",
        "sslidentity",
        "sslkey",
        "sslkeylogfile",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "sslsni",
        "uselibpqcompat",
    }
)
"""Of libpq and of drivers that have more: how a connection is encrypted and who has to prove what."""

_LIBPQ_PARAMETERS: Final = frozenset(
    {
        "application_name",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "fallback_application_name",
        "host",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "min_protocol_version",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_issuer",
        "oauth_scope",
        "options",
        "passfile",
        "password",
        "port",
        "replication",
        "requirepeer",
        "scram_client_key",
        "scram_server_key",
        "service",
        "servicefile",
        "target_session_attrs",
        "tcp_user_timeout",
        "user",
    }
)
"""Those of libpq 18 that have nothing to do with encryption. Most mean nothing to a proxy."""

_SSL_VALUES: Final = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
_NOT_DONE: Final = ("sslcrl", "sslcrldir", "sslpassword")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UrlTls:
    """What a URL says of TLS, "" for what it does not say. See `sslmode` for what becomes of it."""

    sslmode: str = ""
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""
    sslnegotiation: str = ""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server. `host` that begins with `/` is the directory of a Unix-domain socket."""

    host: str
    port: int
    user: str
    password: str | None
    database: str
    url: str
    """As given, with its password: never to be shown."""
    tls: UrlTls = UrlTls()

    @property
    def plain_url(self) -> str:
        """A URL for connections of our own: where and who, without the other parameters, which one driver knows and the
        next takes for settings of the server."""
        login = quote(self.user, safe="") + (":" + quote(self.password, safe="") if self.password is not None else "")
        database = quote(self.database, safe="")
        if self.socket_path is not None:
            return f"postgresql://{login + '@' if login else ''}/{database}?host={quote(self.host, safe='')}&port={self.port}"
        return f"postgresql://{login + '@' if login else ''}{Address(self.host, self.port)}/{database}"

    @property
    def socket_path(self) -> str | None:
        return f"{self.host}/.s.PGSQL.{self.port}" if self.host.startswith("/") else None

    def __str__(self) -> str:
        return self.socket_path or str(Address(self.host, self.port))

    def __repr__(self) -> str:
        return f"Upstream({self})"


def parse_listen(text: str) -> Address:
    """`HOST:PORT`, `[IPv6]:PORT` or `:PORT`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:6432")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address goes into brackets, such as [::1]:6432")
    return Address(host or "0.0.0.0", int(port))  # noqa: S104 (":6432" asks for all interfaces)


def parse_upstream(text: str) -> Upstream:
    """A postgres:// or postgresql:// URL, with or without a driver's suffix. Raises ValueError without the password."""
    scheme, colon, _ = text.partition("://")
    if not colon or scheme.split("+")[0] not in _SCHEMES:
        raise ValueError(f"{shown(text)!r} is not a PostgreSQL URL: {_EXAMPLE}")
    try:
        parts = urlsplit("postgres" + text[len(scheme) :])
        port = parts.port
    except ValueError:
        raise ValueError(f"{shown(text)!r} has no valid host and port: {_EXAMPLE}") from None
    if "," in parts.netloc:
        raise ValueError("several hosts in one URL are not supported: name one server")
    # not parts.hostname: it folds the case, and a percent-encoded socket directory has one
    name = parts.netloc.rpartition("@")[2]
    name = name[1 : name.index("]")] if name.startswith("[") else name.partition(":")[0]
    query = dict(parse_qsl(parts.query))
    _check_spelling(query)
    tls = _url_tls(query)
    # as libpq: a parameter wins over what stands before it
    port_text = query.get("port", "")
    if port_text and not port_text.isdigit():
        raise ValueError(f"port={port_text} is not a port: {_EXAMPLE}")
    user = query.get("user", "") or unquote(parts.username or "")
    host = query.get("host", "") or unquote(name) or "localhost"
    return Upstream(
        host=host,
        port=int(port_text or port or 5432),
        user=user,
        password=query.get("password", unquote(parts.password) if parts.password is not None else None),
        database=query.get("dbname", "") or unquote(parts.path.lstrip("/")) or user,
        url=text,
        tls=tls,
    )


def _url_tls(query: dict[str, str]) -> UrlTls:
    mode = query.get("sslmode", "")
    if not mode and "ssl" in query:
        mode = _SSL_VALUES.get(query["ssl"].lower(), query["ssl"])
    if mode == "no-verify" or (not mode and query.get("requiressl") == "1"):
        mode = "require"  # no-verify is node-postgres' word for it
    if mode not in ("", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"):
        raise ValueError(f"sslmode={mode} is none of disable, allow, prefer, require, verify-ca, verify-full")
    negotiation = query.get("sslnegotiation", "")
    if negotiation not in ("", "postgres", "direct"):
        raise ValueError(f"sslnegotiation={negotiation} is neither postgres nor direct")
    for name in _NOT_DONE:
        if query.get(name) and mode != "disable":
            raise ValueError(f"{name} is not supported in the URL of the server")
    return UrlTls(mode, query.get("sslrootcert", ""), query.get("sslcert", ""), query.get("sslkey", ""), negotiation)


def _without(query: str, names: frozenset[str]) -> str:
    """A query without the parameters of these names, in whatever case they are written."""
    return "&".join(item for item in query.split("&") if item and unquote(item.split("=")[0]).lower() not in names)


def _check_spelling(query: Mapping[str, str]) -> None:
    """Raises ValueError for a name that is nearly one of those that say how well the connection is encrypted."""
    for name in query:
        close = difflib.get_close_matches(name.lower(), _ENCRYPTION, 1, 0.8)
        if close and name not in _TLS_PARAMETERS:
            raise ValueError(f"unknown parameter {name!r} in the URL; did you mean {close[0]!r}?")


def check_parameters(url: str) -> None:
    """Raises ValueError for a parameter that libpq does not know, as libpq does. Not for the URL of an application, whose
    driver may know more of them."""
    known = _LIBPQ_PARAMETERS | _TLS_PARAMETERS
    for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in known:
            close = difflib.get_close_matches(name.lower(), sorted(known), 1, 0.7)
            hint = f"did you mean {close[0]!r}?" if close else "libpq does not know it either, so take it out"
            raise ValueError(f"unknown parameter {name!r} in the URL; {hint}")


def shown(text: str) -> str:
    """What should be a URL, without what may be a password: for error messages. Where nobody can tell, little is shown."""
    scheme, mark, rest = text.partition("://")
    if not mark or not scheme.replace("+", "").isalnum():
        return text if re.fullmatch(r"[\w.-]+(:\d+)?", text) else "…"
    head, at, tail = rest.rpartition("@")
    if at:
        return f"{scheme}://…@{tail.partition('?')[0]}" if "?" not in head else f"{scheme}://…"
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.partition(':')[0]}{':…' if ':' in authority else ''}{slash}{path}"


def rewrite(url: str, address: Address, upstream: Upstream | None = None) -> str:
    """`url` pointing at `address`, with its scheme, driver suffix and parameters kept, less those about TLS: the
    address is a proxy of our own that speaks plain text.

    User, password and database are those of `upstream`, which says where the data are; its own where that names none.
    """
    scheme, _, rest = url.partition("://")
    parts = urlsplit("postgres://" + rest)
    userinfo = parts.netloc.rpartition("@")[0]
    path = parts.path
    if upstream is not None:
        userinfo = _userinfo(userinfo, upstream)
        path = "/" + quote(upstream.database, safe="") if upstream.database else path
    names = _TLS_PARAMETERS | {"host", "port", "hostaddr"}
    if upstream is not None:  # a parameter would win over what stands before it
        said = (("user", upstream.user), ("password", upstream.password), ("dbname", upstream.database))
        names |= {name for name, value in said if value}
    query = _without(parts.query, names)
    out = f"{scheme}://{userinfo + '@' if userinfo else ''}{address}{path}"
    return out + (f"?{query}" if query else "")


def _userinfo(own: str, upstream: Upstream) -> str:
    name, _, password = own.partition(":")
    if upstream.user and upstream.user != unquote(name):
        name, password = quote(upstream.user, safe=""), ""
    if upstream.password is not None:
        password = quote(upstream.password, safe="")
    return f"{name}:{password}" if password else name


def proxy_url(upstream: Upstream, address: Address, *, password: bool, encrypted: bool = False) -> str:
    """The URL for an application that is to use the proxy at `address`; without the password unless asked. `encrypted`:
    the proxy accepts nothing else."""
    user = quote(upstream.user, safe="")
    if password and upstream.password is not None:
        user += ":" + quote(upstream.password, safe="")
    shown = replace(address, host="127.0.0.1") if address.host in ("0.0.0.0", "::") else address  # noqa: S104
    parameters = "?sslmode=require" if encrypted else ""
    return f"postgres://{user + '@' if user else ''}{shown}/{quote(upstream.database, safe='')}{parameters}"
