"""node-postgres and postgres.js with TLS on neither, one or both sides."""

from __future__ import annotations

import pytest

from support import node
from support.servers import PASSWORDS
from support.tls import Certificates, TlsServer, tls_proxy


@pytest.fixture(scope="module", autouse=True)
def drivers() -> None:
    try:
        node.modules()
    except node.NoNode as error:
        pytest.skip(f"no drivers of Node.js: {error}")


@pytest.mark.parametrize("mode", ["disable", "require"])
@pytest.mark.parametrize("client", [False, True])
def test_drivers_of_node_log_in_and_are_refused_as_by_the_server(
    tls_postgres: TlsServer, certificates: Certificates, client: bool, mode: str
) -> None:
    with tls_proxy(tls_postgres, client=client, server_mode=mode) as proxy:
        more = [str(certificates.ca)] if client else []
        for role in ("app", "plain"):
            url = proxy.url_for(tls_postgres.role_url(role)).replace("@127.0.0.1:", "@localhost:")
            good = {"answer": 42, "name": role}
            assert node.run("tls.mjs", url, *more) == [{**good, "encrypted": client}, good]
        url = proxy.url_for(tls_postgres.url_for("app", PASSWORDS["app"] + "x", "app"))
        refused = {"code": "28P01", "message": 'password authentication failed for user "app"'}
        assert node.run("tls.mjs", url.replace("@127.0.0.1:", "@localhost:"), *more) == [refused, refused]
        if client:
            url = proxy.url.replace("@127.0.0.1:", "@localhost:")
            codes = [answer["code"] for answer in node.run("tls.mjs", url, str(certificates.other_ca))]
            assert codes == ["UNABLE_TO_VERIFY_LEAF_SIGNATURE"] * 2
