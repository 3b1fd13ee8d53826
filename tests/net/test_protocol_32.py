"""Protocol 3.2 and what is newer: what client and server agree on by way of a proxy is what they agree on directly.

PostgreSQL 18 speaks 3.2, older servers answer NegotiateProtocolVersion with 3.0; libpq 18 asks for either. 3.9999 is no
version at all: libpq's developers let clients ask for it, so that nobody in between relies on 3.0 for ever.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from pgloupe.urls import Address, rewrite
from pgloupe.wire.frontend import build_bind, build_execute, build_parse, build_query, build_sync
from pgloupe.wire.startup import build_cancel_request, build_startup
from support.proxy import Proxy, Serve, proxy_to
from support.raw import Raw, codes, errors, eventually, masked
from support.servers import Postgres
from support.versions import MAJORS

V30, V32, GREASE, V4 = 3 << 16, 3 << 16 | 2, 3 << 16 | 9999, 4 << 16

Server = tuple[Postgres, Proxy]

libpq_18 = pytest.mark.skipif(psycopg.pq.version() < 180000, reason="libpq before 18 asks for 3.0 alone")


@pytest.fixture(scope="module")
def server_of(postgres_of: Callable[[int], Postgres]) -> Iterator[Callable[[int], Server]]:
    """A server of a version and a proxy that may cache, started when first asked for."""
    started: dict[int, Server] = {}
    with ExitStack() as stack:

        def find(major: int) -> Server:
            if major not in started:
                server = postgres_of(major)
                cache = {"allow": [{"name": "all", "tables": ["version_item"], "ttl": "60s"}]}
                proxy = stack.enter_context(proxy_to(server.url_for("trusted"), cache=cache))
                started[major] = server, proxy
            return started[major]

        yield find


def frames_of(url: str, startup: bytes, *then: bytes) -> list[bytes]:
    """All that a connection says to a StartupMessage and to what follows it, masked, up to its end."""
    with Raw(url) as client:
        client.send(startup)
        seen = client.until("Z")
        if seen[-1][:1] == b"Z":
            for data in then:
                client.send(data)
                seen += client.until("Z")
            client.terminate()
        seen += client.rest()
    return [masked(frame) for frame in seen]


def both(server: Server, startup: bytes, *then: bytes) -> list[bytes]:
    """The same frames direct and by way of the proxy; those."""
    direct = frames_of(server[0].url_for("trusted"), startup, *then)
    assert frames_of(server[1].url, startup, *then) == direct
    return direct


def startup(server: Server, protocol: int, **parameters: str) -> bytes:
    options = {name.replace("_pq_", "_pq_."): value for name, value in parameters.items()}
    return build_startup({"user": "trusted", "database": server[0].dbname, **options}, protocol)


def negotiated(frames: list[bytes]) -> list[tuple[int, list[str]]]:
    """Each NegotiateProtocolVersion: the version and the names of the options that the server does not know."""
    found = []
    for frame in frames:
        if frame[:1] == b"v":
            names = frame[13:].split(b"\0")[:-1]
            assert len(names) == int.from_bytes(frame[9:13], "big")
            found.append((int.from_bytes(frame[5:9], "big"), [name.decode() for name in names]))
    return found


# --- frames ---


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("protocol", [V30, V32, GREASE], ids=["3.0", "3.2", "3.9999"])
def test_a_session_is_the_same_frame_by_frame(server_of: Callable[[int], Server], major: int, protocol: int) -> None:
    server = server_of(major)
    extended = build_parse("", "SELECT $1::int + 1") + build_bind("", "", (b"41",)) + build_execute("") + build_sync()
    seen = both(server, startup(server, protocol), build_query("SELECT 1"), extended, build_query("SELECT 1/0"))
    assert codes(seen).endswith("ZTDCZ12DCZEZ")
    known = V32 if major >= 18 else V30
    assert negotiated(seen) == ([] if protocol <= known else [(known, [])])


@pytest.mark.parametrize("major", MAJORS)
def test_options_of_the_protocol_are_refused_by_name_exactly_once(
    server_of: Callable[[int], Server], major: int
) -> None:
    server = server_of(major)
    for protocol in (V30, V32, GREASE):
        seen = both(server, startup(server, protocol, _pq_one="1", _pq_two="", application_name="names"))
        assert [names for _, names in negotiated(seen)] == [["_pq_.one", "_pq_.two"]]
        assert codes(seen).endswith("Z")


@pytest.mark.parametrize("major", MAJORS)
def test_a_version_that_does_not_exist_is_refused(server_of: Callable[[int], Server], major: int) -> None:
    server = server_of(major)
    for url in (server[0].url_for("trusted"), server[1].url):
        ((severity, _, text),) = errors(frames_of(url, startup(server, V4)))
        assert severity == "FATAL"
        assert "unsupported frontend protocol 4.0" in text


# --- cancel ---


def asleep(observer: psycopg.Connection[tuple[str]], pid: int) -> bool:
    found = observer.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
    return found == ("PgSleep",)


@pytest.mark.parametrize(("major", "protocol", "length"), [(15, V30, 4), (16, V32, 4), (18, V30, 4), (18, V32, 32)])
def test_a_cancel_key_passes_in_its_full_length_and_cancels(
    server_of: Callable[[int], Server], major: int, protocol: int, length: int
) -> None:
    server = server_of(major)
    outcomes = []
    for url in (server[0].url_for("trusted"), server[1].url):
        with Raw(url) as client, psycopg.connect(url, autocommit=True) as observer:
            client.send(startup(server, protocol))
            (client.key,) = [frame[5:] for frame in client.until("Z") if frame[:1] == b"K"]
            key = client.key[4:]
            assert len(key) == length
            client.send(build_query("SELECT pg_sleep(60)"))
            eventually(lambda pid=client.process, to=observer: asleep(to, pid))
            with Raw(url) as wrong:
                wrong.send(build_cancel_request(client.process, bytes(length)))
                assert wrong.rest() == []
            assert asleep(observer, client.process)
            with Raw(url) as messenger:
                messenger.send(build_cancel_request(client.process, key))
                assert messenger.rest() == []
            outcomes.append(client.until("Z"))
    assert outcomes[0] == outcomes[1]
    assert errors(outcomes[0]) == [("ERROR", "57014", "canceling statement due to user request")]


@libpq_18
@pytest.mark.parametrize("major", MAJORS)
def test_libpq_cancels_by_its_own_functions(postgres_of: Callable[[int], Postgres], major: int) -> None:
    """PQcancel and PQcancelStart. A proxy in a process of its own: PQcancel stops all of this one until it is answered."""
    upstream = postgres_of(major).url_for("trusted")
    with Serve("--upstream", upstream) as proxy:
        url = rewrite(upstream, Address("127.0.0.1", proxy.port)) + "?max_protocol_version=latest"
        with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url, autocommit=True) as observer:
            pid = connection.info.backend_pid
            for cancel in (connection.cancel, connection.cancel_safe):

                def when_asleep(cancel: Callable[[], None] = cancel) -> None:
                    eventually(lambda: asleep(observer, pid))
                    cancel()

                canceller = threading.Thread(target=when_asleep)
                canceller.start()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    connection.execute("SELECT pg_sleep(60)")
                canceller.join()
                assert connection.execute("SELECT 1").fetchone() == (1,)


# --- libpq ---


@libpq_18
@pytest.mark.parametrize(
    "options", ["min_protocol_version=3.2&max_protocol_version=3.2", "max_protocol_version=latest"]
)
def test_libpq_speaks_3_2_to_a_server_that_does(server_of: Callable[[int], Server], options: str) -> None:
    server, proxy = server_of(18)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS version_item")
        connection.execute("CREATE TABLE version_item AS SELECT n FROM generate_series(1, 5) n")
    for url in (server.url, proxy.url_for(server.url)):
        with psycopg.connect(f"{url}?{options}", autocommit=True) as connection:
            assert connection.info.full_protocol_version == 30002
            for _ in range(8):
                assert connection.execute("SELECT n FROM version_item WHERE n = %s", (3,)).fetchall() == [(3,)]
            with connection.pipeline(), connection.transaction():
                cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(5)]
            assert [cursor.fetchall() for cursor in cursors] == [[(n,)] for n in range(5)]
            with connection.cursor().copy("COPY (SELECT n FROM version_item ORDER BY n) TO STDOUT") as copy:
                assert b"".join(bytes(block) for block in copy) == b"1\n2\n3\n4\n5\n"
    with psycopg.connect(f"{proxy.url_for(server.url)}?{options}", autocommit=True) as connection:
        before = proxy.running.cache_statistics()["hits"]

        def hit() -> bool:
            assert connection.execute("SELECT n FROM version_item WHERE n = %s", (3,)).fetchall() == [(3,)]
            return bool(proxy.running.cache_statistics()["hits"] > before)

        eventually(hit)


@libpq_18
@pytest.mark.parametrize("major", [15, 16])
def test_libpq_is_refused_3_2_by_an_older_server_in_the_same_words(
    server_of: Callable[[int], Server], major: int
) -> None:
    server, proxy = server_of(major)
    said = []
    for url in (server.url_for("trusted"), proxy.url):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(f"{url}?min_protocol_version=3.2&max_protocol_version=3.2")
        said.append(re.sub(r"port \d+", "port …", str(caught.value)))
    assert said[0] == said[1]
    assert "protocol version" in said[0]


@libpq_18
@pytest.mark.parametrize("major", [15, 16])
def test_libpq_falls_back_to_3_0_with_an_older_server(server_of: Callable[[int], Server], major: int) -> None:
    server, proxy = server_of(major)
    for url in (server.url_for("trusted"), proxy.url):
        with psycopg.connect(f"{url}?max_protocol_version=latest") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
