"""Two copies of one conversation: what a server says to a client, and what arrives of it behind a proxy.

A `Case` is a conversation written by hand, with what each step waits for. A program is a list of `Turn`s that nobody has
thought through, for as many as two sessions: there nobody knows beforehand what is going to be answered. So it is played
directly first. A turn that settles ends with a question whose answer cannot be mistaken for another; one that lingers takes
what comes until nothing comes for a moment. How many messages each turn got is written down, and behind a proxy exactly so many
are waited for. A moment that was too short makes a weaker test, never another verdict.

Each side has a database of its own, copied from one template, so that object identifiers are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import sql

from pgloupe.wire.frontend import build_query, build_sync
from support.proxy import Proxy, proxy_to
from support.raw import Raw, codes, copy_fail, eventually, masked, play
from support.scripts.common import CACHED, FILL, SCHEMA, Case
from support.servers import Postgres

LINGER_S: Final = 0.004
GIVE_UP_S: Final = 0.05
"""After so long without a word in a failed transaction block, in which no question can be asked, nothing more is expected."""

SETTLED: Final = "VALUES ($1)"
"""Template of the question that ends a turn which settles. Nothing else in the programs has it."""

THE_END: Final = "SHOW server_version_num"
"""Last query of each case: the proxy has followed the conversation if it has recognised this one."""


# --- programs: made up ---


@dataclass(frozen=True)
class Turn:
    """What one session sends. Session 1 speaks only while session 0 is known to be between two transactions, so that none
    waits for a lock of the other."""

    data: bytes
    session: int = 0
    wait: str = "settle"
    """settle, linger, or go on: send the next turn at once. rest: send nothing, and let the cache come to itself."""
    chunk_bytes: int = 0
    """Into pieces of how many bytes it is cut, 0 for one piece."""

    def __repr__(self) -> str:
        return f"{self.session}:{self.wait}:{self.chunk_bytes}:{shown(self.data)}"


@dataclass
class Record:
    """What one turn got. `ended`: the connection is closed."""

    frames: list[bytes] = field(default_factory=list)
    played: bool = True
    ended: bool = False


class _Talk:
    """One session of a program."""

    def __init__(self, url: str) -> None:
        self.client = Raw(url)
        self.status = b"I"
        self.ended = False
        self._copies = 0

    def send(self, turn: Turn, number: int) -> None:
        data = turn.data
        self._copies += data.count(b"FROM STDIN")
        if turn.wait == "settle":
            # a copy that still wants data is given up: it would take the question for data
            data += copy_fail("settle") * self._copies + build_sync() + build_query(_question(number))
            self._copies = 0
        size = turn.chunk_bytes or len(data)
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), size):
                self.client.send(data[at : at + size])

    def listen(self, turn: Turn, number: int) -> list[bytes]:
        """What the server says to a turn; as long as it says something."""
        frames: list[bytes] = []
        answer = f"settled {number}\0".encode()[:-1]
        answered = False
        while turn.wait != "go on":
            frame = self.client.read_within(_patience(turn, answered, self.status, frames))
            if frame is None:
                self.ended = self.client.at_end
                break
            self._take(frame, frames)
            answered = answered or (frame[:1] == b"D" and frame.endswith(answer))
            if answered and frame[:1] == b"Z":
                break
        return frames

    def expect(self, count: int, ended: bool) -> list[bytes]:
        """So many messages, and the end if that is to come."""
        frames: list[bytes] = []
        while len(frames) < count and (frame := self.client.read()) is not None:
            self._take(frame, frames)
        self.ended = ended
        return frames

    def _take(self, frame: bytes, frames: list[bytes]) -> None:
        frames.append(frame)
        if frame[:1] == b"Z":
            self.status = frame[5:6]


def _question(number: int) -> str:
    return f"VALUES ('settled {number}')"


def _patience(turn: Turn, answered: bool, status: bytes, frames: Sequence[bytes]) -> float | None:
    """None for as long as it takes."""
    if turn.wait == "linger":
        return LINGER_S
    failed = not answered and status == b"E" and bool(frames) and frames[-1][:1] == b"Z"
    return GIVE_UP_S if failed else None


def converse(
    url: str, program: Sequence[Turn], told: Sequence[Record] | None = None, rest: Callable[[], None] | None = None
) -> list[Record]:
    """Play a program. `told` is what happened directly: without it this is the direct one. `rest` waits for the cache."""
    records: list[Record] = []
    talks: list[_Talk] = []
    try:
        for _ in range(2):
            talks.append(_Talk(url))
            talks[-1].client.start()
        for number, turn in enumerate(program):
            talk = talks[turn.session]
            record = Record()
            records.append(record)
            if turn.wait == "rest":
                if rest is not None:
                    rest()
                continue
            if told is None:
                quiet = turn.session == 0 or (talks[0].status == b"I" and _settled(program, records))
                record.played = not talk.ended and quiet
            else:
                record.played = told[number].played
            if not record.played:
                continue
            talk.send(turn, number)
            if told is None:
                record.frames = talk.listen(turn, number)
            else:
                record.frames = talk.expect(len(told[number].frames), told[number].ended)
            record.ended = talk.ended
        for talk in talks:
            with contextlib.suppress(ConnectionError):
                talk.client.terminate()
            records.append(Record(talk.client.rest(), ended=True))
    finally:
        for talk in talks:
            talk.client.socket.close()
    return records


def _settled(program: Sequence[Turn], records: Sequence[Record]) -> bool:
    """The last turn of session 0 that was played got all its answers."""
    for turn, record in reversed(list(zip(program, records[:-1], strict=False))):
        if turn.session == 0 and record.played and turn.wait != "rest":
            return turn.wait == "settle" or record.ended
    return True


def transcript(records: Sequence[Record], first_new_oid: int) -> list[tuple[bool, list[bytes]]]:
    """What is to be equal on both sides. Tables made later than `first_new_oid` have a number of their own on each side."""
    return [
        (record.ended, [without_new_tables(masked(frame), first_new_oid) for frame in record.frames])
        for record in records
    ]


def without_new_tables(frame: bytes, first_new_oid: int) -> bytes:
    """A RowDescription with 0 for the tables that are made by the program."""
    if frame[:1] != b"T":
        return frame
    out = bytearray(frame)
    position = 7
    for _ in range(int.from_bytes(frame[5:7], "big")):
        position = frame.index(b"\0", position) + 1
        if int.from_bytes(frame[position : position + 4], "big") >= first_new_oid:
            out[position : position + 4] = bytes(4)
        position += 18
    return bytes(out)


def shown(data: bytes) -> str:
    """Messages of the frontend as a person reads them."""
    parts: list[str] = []
    while data:
        length = 1 + int.from_bytes(data[1:5], "big")
        code, body, data = chr(data[0]), data[5:length], data[length:]
        parts.append(f"{code}({body.decode('latin-1').rstrip(chr(0))!r})" if body else code)
    return " ".join(parts)


# --- sides ---


class Side:
    """One way to a server, with a database of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._changed = False

    def refill(self) -> None:
        """Fill the tables anew if they may have changed, as a client of this side does it."""
        if self._changed:
            fill(self.url)
        self._changed = False

    def answers(self, case: Case, *, chunk_bytes: int = 0) -> list[list[bytes]]:
        """Play a case; its masked answers, step by step."""
        self.refill()
        self._changed = case.writes
        script = case.script
        if not case.ends:
            script = [*script, (build_query(THE_END), 1)]
        if chunk_bytes:
            script = [
                (data[at : at + chunk_bytes], wait if at + chunk_bytes >= len(data) else None)
                for data, wait in script
                for at in range(0, len(data), chunk_bytes)
            ]
        return play(self.url, script)

    def converse(self, program: Sequence[Turn], told: Sequence[Record] | None = None) -> list[Record]:
        """Play a program, which may change the tables: see `converse`."""
        self.refill()
        self._changed = True
        return converse(self.url, program, told, self.rest)

    def rest(self) -> None:
        """Wait until the cache knows the catalogs again."""


class ProxySide(Side):
    """Likewise by way of a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy.url)
        self.proxy = proxy

    def rest(self) -> None:
        cache = self.proxy.running._app.cache
        if cache is not None:
            eventually(lambda: cache.dependencies.mode == "catalog")

    def followed(self, template: str) -> int:
        """How many queries of this template the proxy has understood."""
        return self.proxy.calls().get(template, 0)

    @property
    def hits(self) -> int:
        hits: int = self.proxy.running.cache_statistics()["hits"]
        return hits


@dataclass(frozen=True)
class Sides:
    """One server, three ways to it."""

    direct: Side
    watching: ProxySide
    caching: ProxySide
    first_new_oid: int
    """Tables from this number on were made later, so that they have another number on each side."""


@contextlib.contextmanager
def sides(postgres: Postgres) -> Iterator[Sides]:
    """Databases with the tables of all scripts, for a role that needs no password."""
    template = postgres.create_database()
    name = template.rpartition("/")[2]
    mine = postgres.url_for("trusted", name)
    with psycopg.connect(template, autocommit=True) as owner:
        owner.execute("GRANT CREATE ON SCHEMA public TO trusted")
        owner.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO trusted").format(sql.Identifier(name)))
    with psycopg.connect(mine, autocommit=True) as maker:
        maker.execute(SCHEMA)
        maker.execute(FILL)
        first = maker.execute("SELECT max(oid)::bigint + 1 FROM pg_class").fetchone()
    urls = [postgres.create_database(template=name) for _ in range(3)]
    direct, watched, cached = (postgres.url_for("trusted", url.rpartition("/")[2]) for url in urls)
    rule = {"name": "all", "tables": list(CACHED), "ttl": "60s"}
    with proxy_to(watched) as watching, proxy_to(cached, cache={"allow": [rule]}) as caching:
        yield Sides(Side(direct), ProxySide(watching), ProxySide(caching), first[0] if first is not None else 0)


def fill(url: str) -> None:
    """Fill the tables anew, as a client of this side does."""
    with Raw(url) as client:
        client.start()
        if "E" not in codes(client.query("SELECT extra FROM note LIMIT 0")):
            client.query("ALTER TABLE note DROP COLUMN extra")
        frames = client.query(FILL)
        assert "E" not in codes(frames), frames
