"""Our own certificate, when it is not valid any more or not yet."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.net.certificate import validity, warnings
from support.proxy import Serve
from support.raw import eventually
from support.tls import Certificates

DAY = timedelta(days=1)
URL = "postgres://u@127.0.0.1:1/db"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("year", [1951, 2049, 2050, 2200])
def test_the_dates_are_those_that_openssl_reads(certificates: Certificates, year: int) -> None:
    first = datetime(year, 1, 2, 3, 4, 5, tzinfo=UTC)
    pair = certificates.issue("dated", "localhost", not_before=first, not_after=first + DAY)
    found = x509.load_pem_x509_certificates(pair.cert.read_bytes())[0]
    assert validity(found.public_bytes(serialization.Encoding.DER)) == (first, first + DAY)
    assert (found.not_valid_before_utc, found.not_valid_after_utc) == (first, first + DAY)


def test_bytes_that_are_no_certificate_have_no_dates(certificates: Certificates) -> None:
    der = x509.load_pem_x509_certificates(certificates.proxy.cert.read_bytes())[0].public_bytes(
        serialization.Encoding.DER
    )
    assert validity(der) is not None
    for end in range(120):
        assert validity(der[:end]) is None


@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes) -> None:
    assert validity(data) is None


def test_a_certificate_is_judged_by_the_clock_that_is_given(certificates: Certificates) -> None:
    first = datetime(2030, 1, 1, tzinfo=UTC)
    path = str(certificates.issue("judged", "localhost", not_before=first, not_after=first + DAY).cert)
    assert warnings("key", path, first + DAY / 2) == []
    (late,) = warnings("key", path, first + 2 * DAY)
    assert late.startswith(f"key: the certificate in {path} has expired on 2030-01-02 00:00:00 UTC: renew it")
    (early,) = warnings("key", path, first - DAY)
    assert early.startswith(f"key: the certificate in {path} is not valid before 2030-01-01 00:00:00 UTC: look at")


def test_each_certificate_of_a_chain_is_looked_at(certificates: Certificates, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_text(certificates.proxy.cert.read_text() + "a comment\n" + certificates.expired.cert.read_text())
    (line,) = warnings("key", str(chain), datetime.now(UTC))
    assert line.startswith(f"key: certificate 2 in {chain} has expired on ")
    assert warnings("key", str(tmp_path / "nowhere.pem"), datetime.now(UTC)) == []


def test_serve_warns_at_its_start_and_at_sighup(certificates: Certificates, tmp_path: Path) -> None:
    def place(pair: str, **options: datetime) -> None:
        made = certificates.issue(pair, "localhost", **options)
        (tmp_path / "own.key").write_bytes(made.key.read_bytes())
        (tmp_path / "own.key").chmod(0o600)
        (tmp_path / "own.crt").write_bytes(made.cert.read_bytes())

    (tmp_path / "pgloupe.toml").write_text(
        f'client_tls_sslmode = "require"\nclient_tls_key_file = "{tmp_path}/own.key"\n'
        f'client_tls_cert_file = "{tmp_path}/own.crt"\n'
    )
    now = datetime.now(UTC)
    place("old", not_after=now - DAY)
    with Serve("--upstream", URL, cwd=str(tmp_path)) as serve:
        assert serve.errors().count("client_tls_cert_file: the certificate in") == 1
        assert "has expired on" in serve.errors()
        place("new")
        serve.process.send_signal(signal.SIGHUP)
        eventually(lambda: serve.errors().count("the settings were read again") == 1)
        place("future", not_before=now + DAY, not_after=now + 2 * DAY)
        serve.process.send_signal(signal.SIGHUP)
        eventually(lambda: serve.errors().count("the settings were read again") == 2)
        assert serve.stop() == 0
        assert "is not valid before" in serve.errors()
        assert serve.errors().count("client_tls_cert_file: the certificate in") == 2
