"""PostgreSQL with TLS, and certificates for it, for the proxy and for clients, made when the tests run."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import psycopg
import trustme
from cryptography.hazmat.primitives import serialization

from pgloupe.wire.startup import build_ssl_request
from support import node
from support.proxy import Proxy, proxy_to
from support.raw import Raw, eventually
from support.servers import PostgresServer, authentication, installations

CERTIFIED: Final = "certified"
"""Role that logs in by a certificate alone."""

HOSTS: Final = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files in PEM."""

    cert: Path
    key: Path


class Certificates:
    """All that tests need, in one folder. Everything is signed by `ca`, except where its name says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self._other_ca = trustme.CA()
        self.ca = self._authority("ca", self._ca)
        self.other_ca = self._authority("other_ca", self._other_ca)
        self.server = self.issue("server", *HOSTS)
        self.proxy = self.issue("proxy", *HOSTS)
        self.client = self.issue("client", "client.example", common_name=CERTIFIED)
        self.elsewhere = self.issue("elsewhere", "elsewhere.example")
        self.expired = self.issue("expired", *HOSTS, not_after=datetime.now(UTC) - timedelta(days=1))
        self.foreign = self.issue("foreign", *HOSTS, by_other=True)

    def _authority(self, name: str, ca: trustme.CA) -> Path:
        path = self.folder / f"{name}.pem"
        ca.cert_pem.write_to_path(path)
        return path

    def issue(self, name: str, *hosts: str, by_other: bool = False, **options: Any) -> Pair:
        """A new pair of files; one that is there under this name is replaced."""
        made = (self._other_ca if by_other else self._ca).issue_cert(*hosts, **options)
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        pair.key.write_bytes(made.private_key_pem.bytes())
        pair.key.chmod(0o600)
        return pair

    def encrypted_key(self) -> Path:
        """The proxy's key behind a passphrase."""
        key = serialization.load_pem_private_key(self.proxy.key.read_bytes(), None)
        path = self.folder / "encrypted.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"passphrase"),
            )
        )
        path.chmod(0o600)
        return path


def binaries_with_tls() -> Path | None:
    """Folder of a server that was built with OpenSSL: npm's, which knows direct TLS, else one that is installed."""
    candidates = installations()
    with contextlib.suppress(node.NoNode):
        candidates = [*filter(None, map(node.postgres_binaries, (18, 16))), *candidates]
    for folder in candidates:
        said = subprocess.run(["ldd", folder / "postgres"], capture_output=True, check=False, text=True).stdout
        if "libssl" in said:
            return folder
    return None


class TlsServer(PostgresServer):
    """With TLS, a certificate for localhost, the roles of `PASSWORDS` over TLS or without, and `CERTIFIED`."""

    def __init__(self, binaries: Path, certificates: Certificates) -> None:
        super().__init__(binaries)
        self.certificates = certificates

    def start(self) -> None:
        super().start()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {CERTIFIED} LOGIN")
            connection.execute("ALTER SYSTEM SET ssl_ca_file = 'ca.pem'")
            connection.execute("ALTER SYSTEM SET ssl = on")
            self.place("ca.pem", self.certificates.ca.read_bytes())
            lines = [
                f"hostssl all {CERTIFIED} all cert",
                *authentication("127.0.0.1/32"),
                "host all all all scram-sha-256",
            ]
            self.place("pg_hba.conf", "".join(f"{line}\n" for line in lines).encode())
            self.show(self.certificates.server)

    def show(self, pair: Pair) -> None:
        """Have another certificate, from now on."""
        self.place("server.crt", pair.cert.read_bytes())
        self.place("server.key", pair.key.read_bytes())
        self.reload()
        expected = ssl.PEM_cert_to_DER_cert(
            pair.cert.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
        )
        eventually(lambda: self._shown() == expected)

    def _shown(self) -> bytes | None:
        with socket.create_connection((self.host, self.port)) as raw:
            raw.sendall(build_ssl_request())
            if raw.recv(1) != b"S":
                return None
            with unverified().wrap_socket(raw) as encrypted:
                return encrypted.getpeercert(True)


def unverified() -> ssl.SSLContext:
    """A client that takes any certificate, and speaks PostgreSQL (ALPN)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    return context


def with_parameters(url: str, **parameters: str) -> str:
    """`url` with more in its query."""
    return url + ("&" if "?" in url else "?") + urlencode(parameters)


def client_side(certificates: Certificates, mode: str = "require", **others: str) -> dict[str, str]:
    """Settings of a proxy that has TLS for its clients."""
    pair = certificates.proxy
    return {
        "client_tls_sslmode": mode,
        "client_tls_cert_file": str(pair.cert),
        "client_tls_key_file": str(pair.key),
        **others,
    }


@contextmanager
def tls_proxy(server: TlsServer, *, client: bool, server_mode: str, **values: Any) -> Iterator[Proxy]:
    """A proxy in front of `server`, or of the URL `upstream`, with TLS on the sides that are asked for."""
    own: Mapping[str, Any] = client_side(server.certificates) if client else {}
    url = values.pop("upstream", server.role_url())
    with proxy_to(url, **{"server_tls_sslmode": server_mode, **own, **values}) as proxy:
        yield proxy


class TlsRaw(Raw):
    """A raw client on TLS: by an SSLRequest, or at once."""

    def __init__(
        self,
        url: str,
        *,
        direct: bool = False,
        context: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        super().__init__(url, receive_buffer_bytes=receive_buffer_bytes)
        if not direct:
            self.socket.sendall(build_ssl_request())
            assert self.socket.recv(1) == b"S"
        self.socket = (context or unverified()).wrap_socket(self.socket, server_hostname="localhost")
        self.socket.settimeout(20)
