"""Ways to a Redis: TLS, users, databases, a socket."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from pgloupe.cache import Cache
from support.caches import answer, entry, keep, read, started, write
from support.fault_proxy import FaultProxy
from support.redis_nodes import binary, client
from support.servers import RedisServer
from support.tls import Certificates

ONE = entry("one")

ACL = (
    "~pgloupe:* +select +client|setname +info +time +wait +cluster|slots +role +script|load +evalsha "
    "+get +set +del +hget +hset +hsetnx +hdel +hgetall +hkeys +pexpire"
)
"""As in docs/cache.md."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def encrypted(own_redis: RedisServer, certificates: Certificates) -> Iterator[FaultProxy]:
    """A Redis behind TLS, which wants a certificate of its client too."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    with FaultProxy(own_redis.url, tls=context) as relay:
        yield relay


def tls_url(relay: FaultProxy, host: str, **parameters: object) -> str:
    return f"rediss://{host}:{relay.port}/0?" + "&".join(f"{k}={quote(str(v))}" for k, v in parameters.items())


async def used(cache: Cache) -> bool:
    """Redis is up, and answers come back from it."""
    if not cache.redis_up:
        return False
    await keep(cache, read("a"), ONE)
    return await answer(cache, read("a")) == ONE


async def refusal(url: str) -> str:
    """Why Redis cannot be used; writes go on all the same."""
    async with started(redis_url=url, redis_retry_s=1e6) as cache:
        assert not cache.redis_up
        await write(cache, "author")
        assert cache._shared is not None
        return cache._shared.last_error


async def test_tls_with_certificates_on_both_sides(encrypted: FaultProxy, certificates: Certificates) -> None:
    pair = {"ssl_certfile": certificates.client.cert, "ssl_keyfile": certificates.client.key}
    for host in ("localhost", "127.0.0.1"):
        url = tls_url(encrypted, host, ssl_ca_certs=certificates.ca, **pair)
        async with started(redis_url=url, namespace=host) as cache:
            assert await used(cache)


@pytest.mark.parametrize("case", ["no CA", "another CA", "no certificate", "another name", "plain text"])
async def test_tls_that_does_not_prove_what_it_should_is_refused(
    encrypted: FaultProxy, certificates: Certificates, case: str
) -> None:
    parameters: dict[str, object] = {
        "ssl_ca_certs": certificates.ca,
        "ssl_certfile": certificates.client.cert,
        "ssl_keyfile": certificates.client.key,
    }
    if case == "no CA":
        del parameters["ssl_ca_certs"]
    elif case == "another CA":
        parameters["ssl_ca_certs"] = certificates.other_ca
    elif case == "no certificate":
        del parameters["ssl_certfile"], parameters["ssl_keyfile"]
    if case == "plain text":
        url = f"redis://127.0.0.1:{encrypted.port}/0"
    else:
        url = tls_url(encrypted, "127.0.0.2" if case == "another name" else "127.0.0.1", **parameters)
    assert await refusal(url)


async def test_what_is_not_to_be_proven_is_not_asked_for(encrypted: FaultProxy, certificates: Certificates) -> None:
    pair = {"ssl_certfile": certificates.client.cert, "ssl_keyfile": certificates.client.key}
    lenient = {"ssl_cert_reqs": "none"}
    unnamed = {"ssl_ca_certs": certificates.ca, "ssl_check_hostname": "false"}
    for number, parameters in enumerate((lenient, unnamed)):
        url = tls_url(encrypted, "127.0.0.1", **parameters, **pair)
        async with started(redis_url=url, namespace=str(number)) as cache:
            assert await used(cache)


async def test_a_user_needs_no_more_than_the_documentation_says(own_redis: RedisServer) -> None:
    with client(own_redis) as c:
        c.execute_command("ACL", "SETUSER", "pgloupe", "on", ">s3cret/@", *ACL.split())
        c.execute_command("ACL", "SETUSER", "default", "off")
    login = "pgloupe:" + quote("s3cret/@", safe="")
    url = own_redis.url.replace("//", f"//{login}@")
    async with started(redis_url=url, redis_timeout_s=10.0) as cache:
        assert await used(cache)
        assert cache._shared is not None
        assert cache._shared._server  # INFO was allowed
        await write(cache, "author")
        assert await answer(cache, read("a")) is None
        assert cache.statistics()["redis_errors"] == 0, cache._shared.last_error
    assert "username-password" in await refusal(own_redis.url.replace("//", "//pgloupe:wrong@"))
    assert "Authentication required" in await refusal(own_redis.url)


async def test_a_password_alone_is_that_of_the_default_user(own_redis: RedisServer) -> None:
    with client(own_redis) as c:
        c.config_set("requirepass", "s3cret")
    async with started(redis_url=own_redis.url.replace("//", "//:s3cret@")) as cache:
        assert await used(cache)


async def test_databases_are_apart(own_redis: RedisServer) -> None:
    async with (
        started(redis_url=own_redis.url) as one,
        started(redis_url=own_redis.url.replace("/0", "/3")) as two,
    ):
        assert await used(one)
        assert await answer(two, read("a")) is None
        with client(own_redis) as c:
            assert c.execute_command("INFO", "keyspace").keys() == {"db0", "db3"}


async def test_namespaces_are_apart(own_redis: RedisServer) -> None:
    async with (
        started(redis_url=own_redis.url, namespace="one") as one,
        started(redis_url=own_redis.url, namespace="two") as two,
    ):
        assert await used(one)
        assert await answer(two, read("a")) is None
        await write(two, "author")
        assert await answer(one, read("a")) == ONE


async def test_a_socket() -> None:
    with RedisServer(binary(), options=["--unixsocket", "redis.sock", "--unixsocketperm", "777"]) as server:
        assert server.directory is not None
        path = Path(server.directory) / "redis.sock"
        async with started(redis_url=f"unix://{path}?db=1") as cache:
            assert await used(cache)
        with client(server) as c:
            assert "db1" in c.execute_command("INFO", "keyspace")
