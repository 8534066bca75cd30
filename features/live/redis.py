"""A Redis server -> the live events of a source: a tail for the processes of many machines."""

import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from redis import Redis
from redis.exceptions import RedisError

from contracts.errors import InputError
from features.live.deadline import left_s
from features.live.redis_address import RedisAddress
from features.live.redis_durable import check_durable, history_of, refusal
from features.live.redis_members import arguments_of, events_of
from features.live.redis_rewrite import rewrite
from features.live.redis_scripts import APPEND, BEHIND, FORGET, PRUNE, sha
from features.live.redis_servers import WAIT_S, Servers
from features.live.tail import Listed, Marks, nobody
from features.sealed.event import EVENT, OUTCOME, REDIS, Fate, LiveEvent
from features.sealed.forgotten import hash_of

T = TypeVar("T")

PRUNED_AT_ONCE = 1_000
IDLE_S = 1.0
"""Whoever asked nothing for so long looks first whether the primary of a cluster was replaced meanwhile."""


class RedisTail:
    """Implements features/live/tail.py. Every append is one Lua script, and so atomic.

    address: of a server or a cluster (features/live/redis_address.py). prefix: of the keys; in a cluster it is their
    hash tag, so that all keys are in one slot, which scripts require.
    wait_s: timeout of an answer, seconds. acknowledged: the newest seq that is known to have been acknowledged.
    """

    engine = REDIS

    def __init__(
        self,
        address: str | RedisAddress,
        prefix: str,
        wait_s: float = WAIT_S,
        listed: Listed = nobody,
        acknowledged: int = 0,
    ) -> None:
        self._wait_s = wait_s
        self._acknowledged = acknowledged
        self._listed = listed
        self._address = RedisAddress.read(address) if isinstance(address, str) else address
        self._servers = Servers(self._address, wait_s)
        self._prefix = f"{{{prefix}}}:" if self._address.is_cluster else f"{prefix}:"
        self._is_durable = False  # not checked yet
        self._unspread = f"{prefix}:marks"  # the key on a single server; unused in a cluster
        self._history = ""  # replication id of the cluster's server that had the keys at the last check
        self._failovers = 0  # number of times that it changed
        self._asked_at = 0.0  # time.monotonic() of the last command

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """If the server does not answer in time, it may still have stored them; appending them again is safe."""
        if not events:
            return []
        arguments = [argument for event in events for argument in arguments_of(event)]
        keys = self._keys_of([event.user_id for event in events])
        return [Fate(fate) for fate in self._run(APPEND, keys, self._acknowledged, *arguments)]

    def newest_seq(self) -> int:
        return self._mark("newest")

    def marks(self) -> Marks:
        """The origin changes with a failover, since events that were read but not acknowledged yet may be lost."""
        told = self._ask(lambda: self._client.hmget(self._key("marks"), list(Marks._fields)))
        newest, pruned, origin = (int(each or 0) for each in told[:3])
        self._acknowledged = max(self._acknowledged, newest)
        return Marks(newest, pruned, origin + self._failovers, None if told[3] is None else int(told[3]))

    def behind(self, us: int, end_us: int = 0, loaded_at: int = 0) -> int:
        return min(us, int(self._run(BEHIND, [], us, end_us, loaded_at)))

    def size(self) -> int:
        return int(self._ask(lambda: self._client.info("memory"))["used_memory"])

    def pruned_seq(self) -> int:
        return self._mark("pruned")

    def since(self, seq: int, limit: int = 10_000) -> list[tuple[int, LiveEvent]]:
        rows = self._ask(lambda: self._client.xrange(self._key("log"), f"{seq + 1}-0", "+", limit))
        events = events_of([row[b"member"] for _, row in rows])
        return [(int(name.split(b"-")[0]), event) for (name, _), event in zip(rows, events, strict=True)]

    def histories(self, user_ids: Sequence[str], length: int) -> list[list[LiveEvent] | None]:
        """One round trip."""

        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                for user_id in user_ids:
                    pipe.zrevrange(self._key(f"history:{user_id}"), 0, length - 1)
                pipe.smismember(self._key("forgotten"), [hash_of(user_id) for user_id in user_ids])
                return pipe.execute()

        if not user_ids:
            return []
        *members, forgotten = self._ask(read)
        return [None if gone else events_of(newest[::-1]) for newest, gone in zip(members, forgotten, strict=True)]

    def held(self, event_ids: Sequence[str]) -> list[LiveEvent | None]:
        """One round trip, and a second if there are any."""
        if not event_ids:
            return []

        def read() -> list[Any]:
            names = [f"{revision}:{event_id}" for event_id in event_ids for revision in (EVENT, OUTCOME)]
            seqs = cast(list[bytes | None], self._client.hmget(self._key("ids"), names))
            found = [show or outcome for show, outcome in zip(seqs[::2], seqs[1::2], strict=True)]
            with self._client.pipeline(transaction=False) as pipe:
                for seq in found:
                    if seq is not None:
                        pipe.xrange(self._key("log"), f"{seq.decode()}-0", f"{seq.decode()}-0")
                rows = iter(pipe.execute())
            return [None if seq is None else next(rows) for seq in found]

        return [events_of([rows[0][1][b"member"]])[0] if rows else None for rows in self._ask(read)]

    def secret(self) -> bytes:
        """The first process sets it."""

        return self._first("secret", secrets.token_bytes(32))

    def belongs_to(self, log: str) -> str:
        """The first process sets it."""

        return self._first("belongs", log).decode()

    def forgotten(self, user_ids: Sequence[str]) -> list[bool]:
        if not user_ids:
            return []
        names = [hash_of(user_id) for user_id in user_ids]
        return [bool(gone) for gone in self._ask(lambda: self._client.smismember(self._key("forgotten"), names))]

    def prune(self, upto_seq: int) -> int:
        """In small scripts. The seq is recorded before any event is deleted."""
        dropped = 0
        while gone := self._run(PRUNE, self._keys_of([]), upto_seq, PRUNED_AT_ONCE):
            dropped += gone
        return dropped

    def forget(self, user_ids: Sequence[str]) -> None:
        """The server is asked to rewrite its append-only file, in the background, without these users."""
        pairs = [value for user_id in user_ids for value in (user_id, hash_of(user_id))]
        self._run(FORGET, self._keys_of(user_ids), *pairs)
        self._ask(lambda: rewrite(self._servers, self._prefix))

    def forget_hashes(self, digests: Iterable[str]) -> int:
        """Drops their events again after recording them, since one may have been appended in between."""
        told = list(digests)
        if not told:
            return 0
        held = self._ask(lambda: self._client.smismember(self._key("forgotten"), told))
        lacking = frozenset(digest for digest, gone in zip(told, held, strict=True) if not gone)
        if lacking:
            self._drop_events(lacking)
            self._write(None, ("SADD", self._key("forgotten"), *lacking))
            self._drop_events(lacking)
        return len(lacking)

    def _drop_events(self, digests: frozenset[str]) -> None:
        prefix = self._key("events:")

        def users() -> list[str]:
            keys = self._client.scan_iter(match=f"{glob_escape(prefix)}*", count=1_000)
            return [cast(bytes, key).decode().removeprefix(prefix) for key in keys]

        if theirs := [user for user in self._ask(users) if hash_of(user) in digests]:
            self.forget(theirs)

    def drop(self) -> None:
        def unlink() -> None:
            for key in self._client.scan_iter(match=f"{glob_escape(self._prefix)}*", count=1_000):
                self._client.unlink(key)

        self._ask(unlink)
        self.close()

    def close(self) -> None:
        self._servers.close()

    @property
    def _client(self) -> Redis:
        """The server that currently has the keys."""
        return self._servers.of(self._prefix)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _mark(self, name: str) -> int:
        return int(self._ask(lambda: self._client.hget(self._key("marks"), name)) or 0)

    def _first(self, name: str, value: str | bytes) -> bytes:
        """The value of a key, set to this one if it has none."""
        key = self._key(name)
        return self._write(None, ("SET", key, value, "NX"), ("GET", key))[1]

    def _keys_of(self, user_ids: Sequence[str]) -> list[str]:
        """The keys, besides the marks, that a script about these users touches."""
        whose = [f"{name}:{user_id}" for user_id in dict.fromkeys(user_ids) for name in ("events", "history")]
        return [self._key(name) for name in ("log", "ids", "forgotten", *whose)]

    def _run(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """The result of a script. keys: besides the marks; a cluster runs it only if one server has all."""
        command = ("EVALSHA", sha(script), 1 + len(keys), self._key("marks"), *keys, self._prefix, *arguments)
        return self._write(script, command)[0]

    def _write(self, script: str | None, *commands: Sequence[Any]) -> list[Any]:
        return self._ask(lambda: self._servers.written(self._prefix, script, *commands), adds_nothing=False)

    def _ask(self, question: Callable[[], Any], adds_nothing: bool = True) -> Any:
        """adds_nothing: as in Servers.ask; False for appends, whose second attempt would report repetitions."""
        if left_s(self._wait_s) <= 0:
            raise InputError(
                f"The time for an answer was over before the {self._address.where} could be asked. Nothing was "
                "written: send it again."
            )

        def asked() -> Any:
            if not self._is_durable:
                self._check_durable()
                self._copy_list()
            try:
                self._look_after_idleness()
                return question()
            except RedisError:
                self._is_durable = False  # another server may answer next
                raise

        try:
            return self._servers.ask(asked, adds_nothing)
        except RedisError as error:
            raise refusal(error, self._address, self._wait_s) from error

    def _check_durable(self) -> None:
        server = self._client
        check_durable(server, self._address)
        if self._address.is_cluster:
            if not self._history and self._servers.of(self._unspread).exists(self._unspread):
                raise self._refuse_copies()
            self._look_at_history(server)
        self._is_durable = True

    def _look_after_idleness(self) -> None:
        now = time.monotonic()
        if self._address.is_cluster and now - self._asked_at > IDLE_S:
            self._look_at_history(self._client)
        self._asked_at = now

    def _look_at_history(self, server: Redis) -> None:
        before, self._history = self._history, history_of(server)
        self._failovers += before not in ("", self._history)
        self._asked_at = time.monotonic()

    def _refuse_copies(self) -> InputError:
        start = self._unspread.removesuffix("marks")
        return InputError(
            f"The {self._address.where} holds live events as one Redis server names them ({start}*): copied from one, "
            "they lie in many slots and cannot be used. Run `make absorb` with ONLINE of that server, then remove the "
            "copies, and `make load`."
        )

    def _copy_list(self) -> None:
        """Apply the list of forgotten users, since another server, or an emptied one, may answer now."""
        try:
            self.forget_hashes(self._listed())
        except BaseException:
            self._is_durable = False
            raise


def glob_escape(text: str) -> str:
    """Escape text for a Redis glob pattern."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)
