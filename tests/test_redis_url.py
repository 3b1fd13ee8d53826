"""URLs of Redis: what each form means, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.cache.topology import Topology
from pgloupe.redis_url import RedisTls, RedisUrl, parse
from pgloupe.urls import Address

HERE = (Address("h", 6379),)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("redis://h", RedisUrl("single", HERE)),
        ("redis://h/", RedisUrl("single", HERE)),
        ("REDIS://h/2", RedisUrl("single", HERE, db=2)),
        ("valkey://h:7000/1", RedisUrl("single", (Address("h", 7000),), db=1)),
        ("redis://h?db=3", RedisUrl("single", HERE, db=3)),
        ("redis://:p%40ss@h", RedisUrl("single", HERE, password="p@ss")),
        ("redis://us%3Aer:p@h", RedisUrl("single", HERE, username="us:er", password="p")),
        ("redis://h?username=u&password=p%26", RedisUrl("single", HERE, username="u", password="p&")),
        ("redis://[::1]:7000/0", RedisUrl("single", (Address("::1", 7000),))),
        ("rediss://h", RedisUrl("single", HERE, tls=RedisTls())),
        ("valkeys://h", RedisUrl("single", HERE, tls=RedisTls())),
        (
            "rediss://h?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_check_hostname=false",
            RedisUrl("single", HERE, tls=RedisTls("/ca.pem", "/c.pem", "/k.pem", check_hostname=False)),
        ),
        ("rediss://h?ssl_cert_reqs=none", RedisUrl("single", HERE, tls=RedisTls("", "", "", "none", False))),
        ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", RedisUrl("single", HERE, tls=RedisTls())),
        ("unix:///run/redis/redis.sock", RedisUrl("unix", (), "/run/redis/redis.sock")),
        ("unix://u:p@/r.sock?db=4", RedisUrl("unix", (), "/r.sock", db=4, username="u", password="p")),
        ("unix:///with%20space", RedisUrl("unix", (), "/with space")),
        ("redis+sentinel://h/mymaster", RedisUrl("sentinel", (Address("h", 26379),), master="mymaster")),
        (
            "redis+sentinel://u:p@a:1,[::1]:2,b/m?db=5&sentinel_username=s&sentinel_password=q",
            RedisUrl(
                "sentinel",
                (Address("a", 1), Address("::1", 2), Address("b", 26379)),
                master="m",
                db=5,
                username="u",
                password="p",
                sentinel_username="s",
                sentinel_password="q",
            ),
        ),
        ("rediss+sentinel://h/m/2", RedisUrl("sentinel", (Address("h", 26379),), master="m", db=2, tls=RedisTls())),
        ("redis+cluster://a:7000,b", RedisUrl("cluster", (Address("a", 7000), Address("b", 6379)))),
        ("rediss+cluster://h/0", RedisUrl("cluster", HERE, tls=RedisTls())),
        ("valkeys+cluster://h", RedisUrl("cluster", HERE, tls=RedisTls())),
    ],
)
def test_a_url_means(text: str, meaning: RedisUrl) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h:6379", ["not a Redis URL", "redis://host:6379/0"]),
        ("http://h", ["not a Redis URL"]),
        ("redis+sentinels://h/m", ["not a Redis URL"]),
        ("unix+cluster:///x", ["not a Redis URL"]),
        ("redis://", ["no valid host and port"]),
        ("redis://h:port", ["no valid host and port"]),
        ("redis://h:0", ["no valid host and port"]),
        ("redis://h:65536", ["no valid host and port"]),
        ("redis://::1:6379", ["no valid host and port"]),
        ("redis://[::1", ["no valid host and port"]),
        ("redis://a,b", ["several hosts", "redis+cluster://"]),
        ("redis://h/zero", ["'zero'", "number of a Redis database"]),
        ("redis://h/-1", ["'-1'"]),
        ("redis://h?db=x", ["'x'"]),
        ("redis+cluster://h/1", ["database 0 alone"]),
        ("redis+sentinel://h", ["name of the master"]),
        ("unix://host/r.sock", ["names no socket"]),
        ("unix://", ["names no socket"]),
        ("redis://h#x", ["%23"]),
        ("rediss://h?ssl_cert_req=none", ["'ssl_cert_req'", "did you mean 'ssl_cert_reqs'"]),
        ("rediss://h?ssl_cert_reqs=maybe", ["ssl_cert_reqs=maybe", "optional"]),
        ("rediss://h?ssl_check_hostname=perhaps", ["ssl_check_hostname=perhaps"]),
        ("rediss://h?ssl_keyfile=/k", ["needs ssl_certfile"]),
        ("redis://h?ssl_ca_certs=/ca", ["ssl_ca_certs", "rediss://"]),
        ("redis://h?sentinel_password=x", ["redis+sentinel://"]),
        ("redis://h?socket_timeout=1", ["unknown parameter 'socket_timeout'", "db, username, password"]),
    ],
)
def test_what_is_no_url_is_told_in_a_sentence(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are looked at below)
        parse(text)
    for word in words:
        assert word in str(caught.value)


@given(st.text(max_size=40), st.sampled_from(["redis", "rediss", "redis+sentinel", "redis+cluster", "unix", ""]))
def test_any_text_is_a_url_or_an_error_without_its_password(rest: str, scheme: str) -> None:
    said = ""
    try:
        parse(f"{scheme}://user:h1dden@{rest}")
    except ValueError as error:
        said = str(error)
    assert "h1dden" not in said


def test_passwords_are_not_shown() -> None:
    shown = repr(parse("redis+sentinel://u:h1dden@h/m?sentinel_password=h1dden"))
    assert "h1dden" not in shown


def test_a_file_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ssl_ca_certs: cannot read"):
        Topology(parse(f"rediss://h?ssl_ca_certs={tmp_path}/none.pem"), b"key")
