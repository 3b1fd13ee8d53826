"""URLs of Redis and Valkey: one server, a socket, sentinels, a cluster.

    redis://[[USER]:PASSWORD@]HOST[:6379][/DB]          one server, or any node of a cluster
    unix://[[USER]:PASSWORD@]/PATH[?db=DB]              one server by its Unix-domain socket
    redis+sentinel://[…@]HOST[:26379],HOST…/MASTER      the master that these sentinels name
    redis+cluster://[…@]HOST[:6379],HOST…               a cluster; any of its nodes

`rediss` asks for TLS, with the sentinels too; `valkey` and `valkeys` mean the same as `redis` and `rediss`. Parameters are
spelled as redis-py spells them. An unknown one is an error: `ssl_cert_req=none` that does nothing would be worse.

The standard library alone, because the settings are read before anything else is imported.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pgloupe.urls import Address, shown

EXAMPLE: Final = "write redis://host:6379/0"

_SCHEME: Final = re.compile(r"(redis|rediss|valkey|valkeys)(?:\+(sentinel|cluster))?|(unix)", re.IGNORECASE)
_COMMON: Final = ("db", "username", "password")
_TLS: Final = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")
_SENTINEL: Final = ("sentinel_username", "sentinel_password")
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class RedisTls:
    """How the server has to prove who it is, and what we show it. Names of files are "" where there is none."""

    ca_certs: str = ""
    certfile: str = ""
    keyfile: str = ""
    cert_reqs: str = "required"
    """none, optional or required."""
    check_hostname: bool = True

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The parameters that name a file, and the file."""
        named = (("ssl_ca_certs", self.ca_certs), ("ssl_certfile", self.certfile), ("ssl_keyfile", self.keyfile))
        return tuple((name, path) for name, path in named if path)


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where Redis is and who we are there. `kind` is `single`, `unix`, `sentinel` or `cluster`."""

    kind: str
    nodes: tuple[Address, ...]
    """The server; the sentinels; nodes of the cluster. Empty for a socket."""
    path: str = ""
    """Of the socket."""
    master: str = ""
    """What the sentinels call the master."""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: RedisTls | None = None


def parse(text: str) -> RedisUrl:
    """Raises ValueError with one sentence that does not hold the password."""
    scheme, mark, rest = text.partition("://")
    match = _SCHEME.fullmatch(scheme)
    if not mark or match is None:
        raise ValueError(f"{shown(text)!r} is not a Redis URL: {EXAMPLE}")
    try:
        parts = urlsplit("redis://" + rest)
    except ValueError:
        raise ValueError(f"{shown(text)!r} has no valid host and port: {EXAMPLE}") from None
    kind = "unix" if match.group(3) else (match.group(2) or "single").lower()
    encrypted = scheme.lower().partition("+")[0] in ("rediss", "valkeys")
    if parts.fragment:
        raise ValueError(f"{shown(text)!r} has a # in it: write %23")
    query = _query(parts.query, kind, encrypted)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    path = unquote(parts.path)
    master = ""
    if kind == "unix":
        if hosts or len(path) < 2:
            raise ValueError(f"{shown(text)!r} names no socket: write unix:///run/redis/redis.sock")
        nodes: tuple[Address, ...] = ()
        db_text = ""
    else:
        nodes = _nodes(hosts, 26379 if kind == "sentinel" else 6379, text)
        if kind == "single" and len(nodes) > 1:
            raise ValueError("several hosts in a Redis URL: write redis+sentinel://…/MASTER or redis+cluster://…")
        master, db_text = _master(path) if kind == "sentinel" else ("", path.strip("/"))
    db_text = query.get("db", db_text) or "0"
    if not (db_text.isascii() and db_text.isdigit() and len(db_text) < 7):
        raise ValueError(f"{db_text!r} is not the number of a Redis database: {EXAMPLE}")
    if kind == "cluster" and int(db_text):
        raise ValueError("a Redis cluster has database 0 alone")
    return RedisUrl(
        kind=kind,
        nodes=nodes,
        path=path if kind == "unix" else "",
        master=master,
        db=int(db_text),
        username=query.get("username", unquote(username)),
        password=query.get("password", unquote(password)),
        sentinel_username=query.get("sentinel_username", ""),
        sentinel_password=query.get("sentinel_password", ""),
        tls=_tls(query) if encrypted else None,
    )


def _query(text: str, kind: str, encrypted: bool) -> dict[str, str]:
    known = [*_COMMON, *(_TLS if encrypted else ()), *(_SENTINEL if kind == "sentinel" else ())]
    query = dict(parse_qsl(text, keep_blank_values=True))
    for name in query:
        if name in known:
            continue
        if name in _TLS:
            raise ValueError(f"{name} in the Redis URL is about TLS: write rediss:// for that")
        if name in _SENTINEL:
            raise ValueError(f"{name} is for redis+sentinel:// alone")
        close = difflib.get_close_matches(name.lower(), [*_COMMON, *_TLS, *_SENTINEL], 1, 0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ValueError(f"unknown parameter {name!r} in the Redis URL; {hint}")
    return query


def _nodes(hosts: str, default_port: int, text: str) -> tuple[Address, ...]:
    nodes: list[Address] = []
    for one in hosts.split(","):
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?", one.strip())
        port = int(match.group(3) or default_port) if match is not None else 0
        if match is None or not 0 < port < 65536:
            raise ValueError(f"{shown(text)!r} has no valid host and port: {EXAMPLE}")
        nodes.append(Address(match.group(1) or unquote(match.group(2)), port))
    return tuple(nodes)


def _master(path: str) -> tuple[str, str]:
    """`/MASTER` or `/MASTER/DB`."""
    master, _, db_text = path.strip("/").partition("/")
    if not master:
        raise ValueError("redis+sentinel:// needs the name of the master: write redis+sentinel://host:26379/mymaster")
    return master, db_text


def _tls(query: dict[str, str]) -> RedisTls:
    wanted = query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_") or "required"
    if wanted not in ("none", "optional", "required"):
        raise ValueError(f"ssl_cert_reqs={query['ssl_cert_reqs']} is none of none, optional, required")
    check = query.get("ssl_check_hostname", "true").lower()
    if check not in _TRUE + _FALSE:
        raise ValueError(f"ssl_check_hostname={check} is neither true nor false")
    certfile, keyfile = query.get("ssl_certfile", ""), query.get("ssl_keyfile", "")
    if keyfile and not certfile:
        raise ValueError("ssl_keyfile in the Redis URL needs ssl_certfile")
    return RedisTls(query.get("ssl_ca_certs", ""), certfile, keyfile, wanted, check in _TRUE and wanted != "none")
