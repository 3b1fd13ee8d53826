"""Addresses and connection URLs, read as libpq reads them as far as a proxy needs it.

Source: libpq documentation, "Connection URIs" and "Parameter Key Words".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_SCHEMES: Final = ("postgres", "postgresql")
_EXAMPLE: Final = "write postgres://user@host:5432/database"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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

    @property
    def plain_url(self) -> str:
        """The URL without a driver's suffix in its scheme."""
        return "postgresql://" + self.url.partition("://")[2]

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
        raise ValueError(f"{_shown(text)!r} is not a PostgreSQL URL: {_EXAMPLE}")
    try:
        parts = urlsplit("postgres" + text[len(scheme) :])
        port = parts.port
    except ValueError:
        raise ValueError(f"{_shown(text)!r} has no valid host and port: {_EXAMPLE}") from None
    if "," in parts.netloc:
        raise ValueError("several hosts in one URL are not supported: name one server")
    # not parts.hostname: it folds the case, and a percent-encoded socket directory has one
    name = parts.netloc.rpartition("@")[2]
    name = name[1 : name.index("]")] if name.startswith("[") else name.partition(":")[0]
    query = dict(parse_qsl(parts.query))
    sslmode = query.get("sslmode", "prefer")
    if sslmode not in ("disable", "allow", "prefer"):
        raise ValueError(f"sslmode={sslmode} is not supported yet: the connection to the server is not encrypted")
    port_text = query.get("port", "")
    if port_text and not port_text.isdigit():
        raise ValueError(f"port={port_text} is not a port: {_EXAMPLE}")
    user = unquote(parts.username or query.get("user", ""))
    host = unquote(name) or query.get("host", "") or "localhost"
    return Upstream(
        host=host,
        port=port or int(port_text or 5432),
        user=user,
        password=unquote(parts.password) if parts.password is not None else query.get("password"),
        database=unquote(parts.path.lstrip("/")) or query.get("dbname", "") or user,
        url=text,
    )


def _shown(text: str) -> str:
    """The URL without what may be a password."""
    head, at, tail = text.rpartition("@")
    return f"{head.partition(':')[0]}:…@{tail}" if at else text


def rewrite(url: str, address: Address, upstream: Upstream | None = None) -> str:
    """`url` pointing at `address`, with its scheme, driver suffix and parameters kept.

    User, password and database are those of `upstream`, which says where the data are; its own where that names none.
    """
    scheme, _, rest = url.partition("://")
    parts = urlsplit("postgres://" + rest)
    userinfo = parts.netloc.rpartition("@")[0]
    path = parts.path
    if upstream is not None:
        userinfo = _userinfo(userinfo, upstream)
        path = "/" + quote(upstream.database, safe="") if upstream.database else path
    query = "&".join(
        item for item in parts.query.split("&") if item and item.split("=")[0] not in ("host", "port", "hostaddr")
    )
    out = f"{scheme}://{userinfo + '@' if userinfo else ''}{address}{path}"
    return out + (f"?{query}" if query else "")


def _userinfo(own: str, upstream: Upstream) -> str:
    name, _, password = own.partition(":")
    if upstream.user and upstream.user != unquote(name):
        name, password = quote(upstream.user, safe=""), ""
    if upstream.password is not None:
        password = quote(upstream.password, safe="")
    return f"{name}:{password}" if password else name


def proxy_url(upstream: Upstream, address: Address, *, password: bool) -> str:
    """The URL for an application that is to use the proxy at `address`; without the password unless asked."""
    user = quote(upstream.user, safe="")
    if password and upstream.password is not None:
        user += ":" + quote(upstream.password, safe="")
    shown = replace(address, host="127.0.0.1") if address.host in ("0.0.0.0", "::") else address  # noqa: S104
    return f"postgres://{user + '@' if user else ''}{shown}/{quote(upstream.database, safe='')}"
