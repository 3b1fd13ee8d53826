"""What is to be encrypted, and how well: the settings of TLS on both sides of the proxy.

The keys are PgBouncer's (`client_tls_…` for the side of the clients, `server_tls_…` for that of the server), the
parameters of the upstream's URL are libpq's (`sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `sslnegotiation`). Both
may say the same thing; where they contradict each other nothing starts, because either choice could be weaker than
what somebody asked for.

    sslmode       to the server                             from the clients
    ------------  ----------------------------------------  -------------------------------------------
    disable       never                                     a request for TLS is answered with no
    allow         as prefer (PgBouncer does so too)         as prefer
    prefer        if the server has it                      who asks for it gets it
    require       or no connection; not verified, unless    clients without it are refused
                  there is a root certificate (as libpq)
    verify-ca     and the certificate is signed by the CA   … and those without a certificate of the CA
    verify-full   and is for this host                      as verify-ca

Connections through a Unix-domain socket are never encrypted.

Source: libpq documentation, "SSL Support" and "Parameter Key Words"; PgBouncer documentation, "TLS settings".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgloupe.urls import Upstream, UrlTls

MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
REQUIRED: Final = ("require", "verify-ca", "verify-full")
VERIFIED: Final = ("verify-ca", "verify-full")
SYSTEM: Final = "system"
"""Stands for the authorities that the operating system trusts."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The side of the clients. Paths, "" where none is given."""

    mode: str = "disable"
    key_file: str = ""
    cert_file: str = ""
    ca_file: str = ""

    @property
    def required(self) -> bool:
        return self.mode in REQUIRED

    @property
    def verified(self) -> bool:
        return self.mode in VERIFIED


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The side of a server. Paths, "" where none is given."""

    mode: str = "disable"
    ca_file: str = ""
    """Or `SYSTEM`."""
    cert_file: str = ""
    key_file: str = ""
    direct: bool = False
    """The handshake begins without an SSLRequest (PostgreSQL 17 and later)."""

    @property
    def required(self) -> bool:
        return self.mode in REQUIRED


@dataclass(frozen=True, slots=True)
class Tls:
    """Both sides, and the connections that read the catalogs and the change stream."""

    client: ClientTls = ClientTls()
    server: ServerTls = ServerTls()
    catalog: ServerTls = ServerTls()
    stream: ServerTls = ServerTls()


def parse_mode(value: object) -> str:
    """A mode by its name. Raises ValueError."""
    text = str(value)
    if text not in MODES:
        raise ValueError(f"{text!r} is not one of {', '.join(MODES)}")
    return text


def client_tls(mode: str, key_file: str, cert_file: str, ca_file: str) -> ClientTls:
    """Raises ValueError where a file is missing that the mode needs."""
    if mode != "disable":
        for name, value in (("client_tls_key_file", key_file), ("client_tls_cert_file", cert_file)):
            if not value:
                raise ValueError(f"client_tls_sslmode = {mode!r} needs {name}: the proxy has to show a certificate")
        if mode in VERIFIED and not ca_file:
            raise ValueError(
                f"client_tls_sslmode = {mode!r} needs client_tls_ca_file: who signed the clients' certificates"
            )
    return ClientTls(mode, _path(key_file), _path(cert_file), _path(ca_file))


def server_tls(keys: Mapping[str, str], upstream: Upstream) -> ServerTls:
    """From the keys `sslmode`, `ca_file`, `cert_file` and `key_file`, "" where not given, and the URL.

    Raises ValueError for a contradiction and for what cannot be together.
    """
    url = upstream.tls
    chosen = {
        key: _one(f"server_tls_{key}", keys.get(key, ""), parameter, value)
        for key, parameter, value in _parameters(url)
    }
    return _server_tls(chosen, url, upstream)


def catalog_tls(keys: Mapping[str, str], upstream: Upstream) -> ServerTls:
    """For `cache.catalog_url`: what that URL says, and the keys for what it does not say. Raises ValueError."""
    url = upstream.tls
    chosen = {key: value or keys.get(key, "") for key, _, value in _parameters(url)}
    return _server_tls(chosen, url, upstream)


def _parameters(url: UrlTls) -> tuple[tuple[str, str, str], ...]:
    return (
        ("sslmode", "sslmode", url.sslmode),
        ("ca_file", "sslrootcert", url.sslrootcert),
        ("cert_file", "sslcert", url.sslcert),
        ("key_file", "sslkey", url.sslkey),
    )


def _one(key: str, value: str, parameter: str, in_url: str) -> str:
    if value and in_url and value != in_url:
        raise ValueError(f"{key} is {value!r}, but the upstream's URL says {parameter}={in_url}: say it in one place")
    return value or in_url


def _server_tls(chosen: Mapping[str, str], url: UrlTls, upstream: Upstream) -> ServerTls:
    if upstream.socket_path is not None:
        return ServerTls()
    ca_file = chosen["ca_file"]
    mode = chosen["sslmode"] or ("verify-full" if ca_file == SYSTEM else "prefer")
    direct = url.sslnegotiation == "direct"
    if mode == "disable":
        return ServerTls()
    if ca_file == SYSTEM and mode != "verify-full":
        raise ValueError(
            f"sslrootcert=system with sslmode={mode}: anybody can have a certificate that this system trusts, so only "
            "sslmode=verify-full is of use with it"
        )
    if direct and mode not in REQUIRED:
        raise ValueError(f"sslnegotiation=direct with sslmode={mode}: it needs sslmode=require or a stricter one")
    if bool(chosen["cert_file"]) != bool(chosen["key_file"]):
        raise ValueError(
            "a certificate for the server needs its key and a key its certificate: give server_tls_cert_file and "
            "server_tls_key_file, or sslcert and sslkey in the URL"
        )
    ca_file = ca_file if ca_file == SYSTEM else _path(ca_file)
    return ServerTls(mode, ca_file, _path(chosen["cert_file"]), _path(chosen["key_file"]), direct)


def _path(text: str) -> str:
    try:
        return str(Path(text).expanduser()) if text else ""
    except RuntimeError as error:  # ~nobody/…
        raise ValueError(f"{text!r} is no path: {str(error).rstrip('.').lower()}") from None
