"""TLS on both sides: contexts from files, handshakes, and a transport that closes without waiting.

`TlsContexts` holds what new connections use. `reload` reads the files again and swaps all of it or nothing;
connections that are open keep what they have.

Handshakes are uvloop's `start_tls`. What it leaves to us:

* A client that begins with a handshake at once (direct TLS) has sent bytes that are read already. `start_tls`
  installs its protocol and only schedules the handshake, so a callback that was scheduled before finds the protocol
  there, with its handshake not begun, and puts the bytes into its buffer (`get_buffer`, `buffer_updated`); the
  handshake then begins with them. Nothing is read from the socket in between, because `start_tls` pauses reading
  first.
* `close` would wait for the peer's answer to close_notify for as long as `ssl_shutdown_timeout`. `TlsTransport.close`
  closes the socket as soon as what was to be written is written, as libpq and the server do.
* While the application does not read, up to 256 KiB would be read all the same, and thrown away if the peer closes
  then. `TlsTransport` has reading from the socket stop with the first byte that nobody takes.
* A half of a connection cannot be closed: who stops sending has left.
* The alert that says why a handshake failed is not sent; the reason is in our log.

Source: protocol documentation, "SSL Session Encryption"; libpq documentation, "SSL Support".
"""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, cast

from pgloupe.errors import HandshakeFailed, SettingsError
from pgloupe.sslmode import SYSTEM, VERIFIED, ClientTls, ServerTls, Tls

ALPN: Final = "postgresql"
LINGER_POLL_S: Final = 0.02
SHUTDOWN_S: Final = 30.0
"""How long a peer that does not read may take to get what is still to be written."""

_LIBPQ_ROOT: Final = "~/.postgresql/root.crt"


# --- contexts ---


class TlsContexts:
    """What new connections use. Raises SettingsError, here and in `reload`, with one sentence."""

    def __init__(self, settings: Tls | None = None) -> None:
        self.settings = Tls()
        self.client: ssl.SSLContext | None = None
        """For clients; None: TLS is off."""
        self.server: ssl.SSLContext | None = None
        self.catalog: ssl.SSLContext | None = None
        self.stream: ssl.SSLContext | None = None
        self.reload(settings)

    def reload(self, settings: Tls | None = None) -> None:
        """Read all files again, with other settings if given. Where one cannot be used, everything stays as it was."""
        wanted = settings if settings is not None else self.settings
        client = client_side(wanted.client)
        server = server_side(wanted.server)
        catalog = server if wanted.catalog == wanted.server else server_side(wanted.catalog)
        stream = catalog if wanted.stream == wanted.catalog else server_side(wanted.stream)
        self.settings, self.client, self.server = wanted, client, server
        self.catalog, self.stream = catalog, stream

    def catalog_options(self) -> dict[str, Any]:
        """Keyword arguments of `asyncpg.connect` for the connection that reads the catalogs."""
        return _options(self.settings.catalog, self.catalog)

    def stream_options(self) -> dict[str, Any]:
        """Likewise for the connection that reads the change stream."""
        return _options(self.settings.stream, self.stream)


def _options(tls: ServerTls, context: ssl.SSLContext | None) -> dict[str, Any]:
    return {
        "ssl": context if tls.required else "prefer" if context is not None else False,
        "direct_tls": tls.direct,
    }


def client_side(tls: ClientTls) -> ssl.SSLContext | None:
    """The context in which we are the server. Raises SettingsError."""
    if tls.mode == "disable":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _common(context)
    # as the server: nothing to resume, and so no tickets that a client which leaves at once would not read
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load_chain(context, "client_tls_cert_file", tls.cert_file, "client_tls_key_file", tls.key_file)
    if tls.verified:
        _load_authorities(context, "client_tls_ca_file", tls.ca_file)
        # a certificate that is not good ends the handshake; that there is none can be said in words afterwards
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def server_side(tls: ServerTls) -> ssl.SSLContext | None:
    """The context in which we are a client. Raises SettingsError."""
    if tls.mode == "disable":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _common(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ca_file = tls.ca_file
    if not ca_file and tls.required:
        default = Path(_LIBPQ_ROOT).expanduser()
        if default.is_file():
            ca_file = str(default)
        elif tls.mode in VERIFIED:
            raise SettingsError(
                f"sslmode={tls.mode} needs to know who signs the server's certificate: give server_tls_ca_file or "
                f"sslrootcert, or sslrootcert=system for those that this system trusts ({_LIBPQ_ROOT} is not there)"
            )
    if ca_file and tls.required:
        if ca_file == SYSTEM:
            context.set_default_verify_paths()
        else:
            _load_authorities(context, "server_tls_ca_file or sslrootcert", ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = tls.mode == "verify-full"
    if tls.cert_file:
        names = ("server_tls_cert_file or sslcert", "server_tls_key_file or sslkey")
        _load_chain(context, names[0], tls.cert_file, names[1], tls.key_file)
    return context


def _common(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([ALPN])


class _Encrypted(Exception):
    pass


def _no_passphrase() -> str:
    raise _Encrypted


def _load_chain(context: ssl.SSLContext, cert_name: str, cert_file: str, key_name: str, key_file: str) -> None:
    if b"-----BEGIN CERTIFICATE-----" not in _read(cert_name, cert_file):
        raise SettingsError(f"{cert_name}: there is no certificate in PEM in {cert_file}")
    key = _read(key_name, key_file)
    if b"PRIVATE KEY-----" not in key:
        raise SettingsError(f"{key_name}: there is no private key in PEM in {key_file}")
    _check_private(key_name, key_file)
    try:
        context.load_cert_chain(cert_file, key_file, _no_passphrase)
    except _Encrypted:
        raise SettingsError(
            f"{key_name}: {key_file} is encrypted, and nobody is there to give a passphrase: store it without one"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"{key_name}: {key_file} is not the key of the certificate in {cert_file}") from None
        raise SettingsError(f"{cert_name}: {cert_file} and {key_file} cannot be used: {_reason(error)}") from None


def _load_authorities(context: ssl.SSLContext, name: str, path: str) -> None:
    if b"-----BEGIN " not in _read(name, path):
        raise SettingsError(f"{name}: there is no certificate in PEM in {path}")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise SettingsError(f"{name}: {path} cannot be used: {_reason(error)}") from None


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}: cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise SettingsError(f"{name}: {path!r} is no path") from None


def _check_private(name: str, path: str) -> None:
    """As the server and libpq: for the owner alone; a key of root may be read by a group."""
    found = Path(path).stat()
    others = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP | (stat.S_IRGRP if found.st_uid else 0)
    if found.st_mode & others:
        raise SettingsError(f"{name}: {path} can be read by others: chmod 600 {path}")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).replace("_", " ").lower()


# --- transports ---


class TlsTransport(asyncio.Transport):
    """uvloop's transport of an encrypted connection, `tls`, over that of its socket, `raw`. See the module."""

    def __init__(self, raw: asyncio.Transport, tls: asyncio.Transport) -> None:
        super().__init__()
        self._raw = raw
        self._tls = tls
        # of uvloop; not in typeshed
        cast(Any, tls).set_read_buffer_limits(1, 0)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls.get_extra_info(name, default)

    @property
    def alpn(self) -> str | None:
        ssl_object = self._tls.get_extra_info("ssl_object")
        return ssl_object.selected_alpn_protocol() if ssl_object is not None else None

    @property
    def peer_certificate(self) -> bytes | None:
        """In DER; None where the peer has shown none."""
        ssl_object = self._tls.get_extra_info("ssl_object")
        certificate: bytes | None = ssl_object.getpeercert(True) if ssl_object is not None else None
        return certificate

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._tls.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._tls.get_protocol()

    def is_reading(self) -> bool:
        return self._tls.is_reading()

    def pause_reading(self) -> None:
        self._tls.pause_reading()

    def resume_reading(self) -> None:
        self._tls.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tls.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._tls.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """What is still to be written, encrypted or not."""
        return self._tls.get_write_buffer_size() + self._raw.get_write_buffer_size()

    def write(self, data: Any) -> None:
        self._tls.write(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self._tls.writelines(list_of_data)

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise NotImplementedError("TLS has no half-closed connections here")

    def is_closing(self) -> bool:
        return self._tls.is_closing()

    def close(self) -> None:
        if not self._tls.is_closing():
            self._tls.close()
            self._leave()

    def _leave(self) -> None:
        if self._raw.is_closing():
            return
        if self._tls.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER_POLL_S, self._leave)
        else:
            self._raw.close()

    def abort(self) -> None:
        self._tls.abort()


async def accept_tls(
    raw: asyncio.Transport, protocol: asyncio.Protocol, context: ssl.SSLContext, head: bytes, timeout_s: float
) -> TlsTransport:
    """The server's part of a handshake; `head` is what was read of the ClientHello. `protocol` gets what comes then.

    Raises HandshakeFailed; then the connection is closed.
    """
    if head:
        asyncio.get_running_loop().call_soon(_feed, raw, head)
    return await _start(raw, protocol, context, timeout_s, server_side=True)


async def connect_tls(
    raw: asyncio.Transport, protocol: asyncio.Protocol, context: ssl.SSLContext, host: str, timeout_s: float
) -> TlsTransport:
    """The client's part of a handshake. Raises HandshakeFailed; then the connection is closed."""
    return await _start(raw, protocol, context, timeout_s, host=host)


async def _start(
    raw: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    timeout_s: float,
    *,
    server_side: bool = False,
    host: str | None = None,
) -> TlsTransport:
    loop = asyncio.get_running_loop()
    try:
        tls = await loop.start_tls(
            raw,
            protocol,
            context,
            server_side=server_side,
            server_hostname=host,
            ssl_handshake_timeout=max(timeout_s, 0.001),
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: no host name is like that; RuntimeError: closed
        raw.abort()
        ca = "client_tls_ca_file" if server_side else "server_tls_ca_file or sslrootcert"
        raise HandshakeFailed(explain(error, ca)) from None
    if tls is None or tls.get_extra_info("ssl_object") is None:
        raw.abort()
        raise HandshakeFailed("it closed the connection during the TLS handshake")
    return TlsTransport(raw, tls)


def _feed(raw: asyncio.Transport, head: bytes) -> None:
    protocol = raw.get_protocol()
    if isinstance(protocol, asyncio.Protocol) or raw.is_closing():
        return  # start_tls has failed
    sslproto = cast(asyncio.BufferedProtocol, protocol)
    while head:
        buffer = memoryview(cast(Any, sslproto.get_buffer(len(head))))
        count = min(len(buffer), len(head))
        buffer[:count] = head[:count]
        sslproto.buffer_updated(count)
        head = head[count:]


_VERIFY: Final = {
    9: "is not valid yet: look at the clocks",
    10: "has expired: it has to be renewed",
    18: "is self-signed: put it into {ca} if it is meant",
    19: "is signed by an authority that is not in {ca}",
    20: "is signed by an authority that is not in {ca}",
    21: "is signed by an authority that is not in {ca}",
    62: "is for another host",
    64: "is for another address",
}
"""OpenSSL's X509_V_ERR_… that have a remedy."""


def explain(error: Exception, ca: str) -> str:
    """One sentence for a handshake that failed; `ca` names the setting with the authorities."""
    if isinstance(error, ssl.SSLCertVerificationError):
        what = _VERIFY.get(error.verify_code, f"is not accepted: {error.verify_message}").format(ca=ca)
        if error.verify_code not in (62, 64):
            return f"its certificate {what}"
        return (
            f"its certificate {what} ({error.verify_message.rstrip('.')}): connect by a name that is in it, or use "
            "sslmode=verify-ca if only its issuer matters"
        )
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed: {_reason(error)}"
    if isinstance(error, ConnectionAbortedError):
        return "the TLS handshake took too long"
    if isinstance(error, OSError):
        return "it closed the connection during the TLS handshake"
    return f"the TLS handshake failed: {error}"
