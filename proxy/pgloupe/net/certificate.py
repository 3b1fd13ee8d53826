"""When certificates of our own are valid.

A server that starts with a certificate that has expired starts all the same, as PostgreSQL's does: clients that do not
verify it get their connection. Those that do are refused in a handshake whose alert names the client's trouble and not
ours, so it is said here, before anybody is refused. The standard library reads the dates only of a peer's certificate
that it has verified, hence the few lines of DER.

Source: RFC 5280, section 4.1 (Certificate, Validity, Time).
"""

from __future__ import annotations

import binascii
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pgloupe.wire.scram import inside

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----")
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17


def validity(der: bytes) -> tuple[datetime, datetime] | None:
    """From when until when a certificate in DER is valid; None for bytes that are none. Never raises."""
    try:
        start, _ = inside(der, 0)  # Certificate
        start, _ = inside(der, start)  # tbsCertificate
        if der[start] == _VERSION:
            _, start = inside(der, start)
        for _ in ("serialNumber", "signature", "issuer"):
            _, start = inside(der, start)
        start, _ = inside(der, start)  # validity
        first, end = inside(der, start)
        last, last_end = inside(der, end)
        return _time(der[start], der[first:end]), _time(der[end], der[last:last_end])
    except (IndexError, ValueError):
        return None


def _time(tag: int, text: bytes) -> datetime:
    """Raises ValueError."""
    digits = text.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:  # two digits of the year: 50 to 99 are of the last century
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def warnings(key: str, path: str, now: datetime) -> list[str]:
    """A sentence for each certificate in the PEM file `path`, the setting `key`, that is not valid `now`. A file that cannot
    be read has none: whoever loads it says so."""
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    out = []
    for number, pem in enumerate(_PEM.findall(text), 1):
        try:
            found = validity(ssl.PEM_cert_to_DER_cert(pem))
        except (ValueError, binascii.Error):
            continue
        which = f"{key}: {f'certificate {number}' if number > 1 else 'the certificate'} in {path}"
        if found is not None and now > found[1]:
            out.append(
                f"{which} has expired on {_shown(found[1])}: renew it and send SIGHUP; clients that verify refuse it"
            )
        elif found is not None and now < found[0]:
            out.append(
                f"{which} is not valid before {_shown(found[0])}: look at the clock; clients that verify refuse it"
            )
    return out


def _shown(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")
