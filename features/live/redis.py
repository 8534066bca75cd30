"""A Redis server -> the live events of a source: a tail for the processes of many machines."""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from contracts.errors import InputError
from features.live.deadline import left_s
from features.live.redis_scripts import APPEND, BEHIND, FORGET, PRUNE
from features.live.tail import Listed, Marks, nobody
from features.sealed.event import EVENT, OUTCOME, REDIS, Fate, LiveEvent
from features.sealed.forgotten import hash_of
from features.terms.convention import key_of_text

T = TypeVar("T")

WAIT_S = 1.0
"""How long to wait for an answer; nothing is asked once the request is due (features/live/deadline.py)."""
PRUNED_AT_ONCE = 1_000
START = "`redis-server --appendonly yes --appendfsync always`"


class RedisTail:
    """See features/live/tail.py. Every append is one script, so it is done wholly or not at all.

    url: redis://[user:password@]host:port/database. prefix: what the names of its keys begin with.
    wait_s: how long an answer is waited for, in seconds. acknowledged: the newest seq that is known to have been given.
    """

    engine = REDIS

    def __init__(
        self, url: str, prefix: str, wait_s: float = WAIT_S, listed: Listed = nobody, acknowledged: int = 0
    ) -> None:
        self._wait_s = wait_s
        self._acknowledged = acknowledged
        self._listed = listed
        self._prefix = f"{prefix}:"
        try:
            self._client = Redis.from_url(
                url, socket_timeout=wait_s, socket_connect_timeout=wait_s, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as error:
            raise InputError(
                f"{url!r} does not name a Redis server: {error}. One is redis://127.0.0.1:6379/0."
            ) from error
        at = self._client.connection_pool.connection_kwargs
        self._where = f"{at.get('host', at.get('path'))}:{at.get('port', 6379)}"
        self._append = self._client.register_script(APPEND)
        self._prune = self._client.register_script(PRUNE)
        self._forget = self._client.register_script(FORGET)
        self._behind = self._client.register_script(BEHIND)
        self._is_durable = False  # not known yet

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """If the server does not answer in time, it may have kept them all the same; appending them again is safe."""
        if not events:
            return []
        arguments = [argument for event in events for argument in _arguments(event)]
        told = [self._prefix, self._acknowledged, *arguments]
        return [Fate(fate) for fate in self._ask(lambda: self._append(args=told))]

    def newest_seq(self) -> int:
        return self._mark("newest")

    def marks(self) -> Marks:
        told = self._ask(lambda: self._client.hmget(self._key("marks"), list(Marks._fields)))
        newest, pruned, origin = (int(each or 0) for each in told[:3])
        self._acknowledged = max(self._acknowledged, newest)
        return Marks(newest, pruned, origin, None if told[3] is None else int(told[3]))

    def behind(self, us: int) -> int:
        return int(self._ask(lambda: self._behind(keys=[self._key("marks")], args=[us])))

    def size(self) -> int:
        return int(self._ask(lambda: self._client.info("memory"))["used_memory"])

    def pruned_seq(self) -> int:
        return self._mark("pruned")

    def since(self, seq: int, limit: int = 10_000) -> list[tuple[int, LiveEvent]]:
        rows = self._ask(lambda: self._client.xrange(self._key("log"), f"{seq + 1}-0", "+", limit))
        events = _events([row[b"member"] for _, row in rows])
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
        return [None if gone else _events(newest[::-1]) for newest, gone in zip(members, forgotten, strict=True)]

    def held(self, event_ids: Sequence[str]) -> list[LiveEvent | None]:
        """One round trip, and a second where there are some."""
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

        return [_events([rows[0][1][b"member"]])[0] if rows else None for rows in self._ask(read)]

    def secret(self) -> bytes:
        """Whoever is first sets it."""

        def read() -> bytes | None:
            self._client.set(self._key("secret"), secrets.token_bytes(32), nx=True)
            return cast(bytes | None, self._client.get(self._key("secret")))

        return self._ask(read)

    def belongs_to(self, log: str) -> str:
        """Whoever is first sets it."""

        def read() -> bytes:
            self._client.set(self._key("belongs"), log, nx=True)
            return cast(bytes, self._client.get(self._key("belongs")))

        return self._ask(read).decode()

    def forgotten(self, user_ids: Sequence[str]) -> list[bool]:
        if not user_ids:
            return []
        names = [hash_of(user_id) for user_id in user_ids]
        return [bool(gone) for gone in self._ask(lambda: self._client.smismember(self._key("forgotten"), names))]

    def prune(self, upto_seq: int) -> int:
        """In small scripts; the loss is recorded before the first is deleted."""
        arguments = [self._prefix, upto_seq, PRUNED_AT_ONCE]
        dropped = 0
        while gone := self._ask(lambda: self._prune(args=arguments)):
            dropped += gone
        return dropped

    def forget(self, user_ids: Sequence[str]) -> None:
        """The server's append-only file is written anew, without them, as soon as it gets to it."""
        pairs = [value for user_id in user_ids for value in (user_id, hash_of(user_id))]
        self._ask(lambda: self._forget(args=[self._prefix, *pairs]))
        self._ask(self._rewrite)

    def forget_hashes(self, digests: Iterable[str]) -> int:
        """Looks for their events again once they are refused: one may have come between."""
        told = list(digests)
        if not told:
            return 0
        held = self._ask(lambda: self._client.smismember(self._key("forgotten"), told))
        lacking = frozenset(digest for digest, gone in zip(told, held, strict=True) if not gone)
        if lacking:
            self._drop_events(lacking)
            self._ask(lambda: self._client.sadd(self._key("forgotten"), *lacking))
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
        self._client.close()

    def _rewrite(self) -> None:
        try:
            self._client.bgrewriteaof()
        except ResponseError as error:  # one is under way and will be followed by another, or it is not ours to order
            if "in progress" not in str(error) and not _is_forbidden(error):
                raise

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _mark(self, name: str) -> int:
        return int(self._ask(lambda: self._client.hget(self._key("marks"), name)) or 0)

    def _ask(self, question: Callable[[], Any]) -> Any:
        if left_s(self._wait_s) <= 0:
            raise InputError(
                f"The time for an answer was over before the Redis at {self._where} could be asked. Nothing was "
                "written: send it again."
            )
        try:
            if not self._is_durable:
                self._check_durable()
                self._copy_list()
            return question()
        except RedisError as error:
            self._is_durable = False  # another server may answer next
            raise self._refusal(error) from error

    def _check_durable(self) -> None:
        """Where the server lets us ask."""
        held: dict[str, str] = {}
        try:
            for pattern in ("append*", "maxmemory*"):
                held |= cast(dict[str, str], self._client.config_get(pattern))
        except ResponseError as error:
            if not _is_forbidden(error):
                raise
        if held and (held.get("appendonly"), held.get("appendfsync")) != ("yes", "always"):
            raise InputError(
                f"The Redis server at {self._where} has appendonly {held.get('appendonly')}, appendfsync "
                f"{held.get('appendfsync')}: acknowledged events would be lost with it. Start it with {START}."
            )
        if held.get("maxmemory", "0") != "0" and held.get("maxmemory-policy", "").startswith("allkeys"):
            raise InputError(
                f"The Redis server at {self._where} has maxmemory-policy {held['maxmemory-policy']}: it would drop "
                "live events. Start it with `--maxmemory-policy noeviction`."
            )
        self._is_durable = True

    def _copy_list(self) -> None:
        """Another server, or an emptied one, may answer now."""
        try:
            self.forget_hashes(self._listed())
        except BaseException:
            self._is_durable = False
            raise

    def _refusal(self, error: RedisError) -> InputError:
        """What happened, and what to do."""
        if isinstance(error, RedisTimeoutError):
            return InputError(
                f"The Redis server at {self._where} did not answer within {self._wait_s:g} s ({error}). Events that "
                "were being appended may have been kept, all or none: append them again, none is kept twice."
            )
        if isinstance(error, RedisConnectionError):
            return InputError(
                f"The Redis server at {self._where} cannot be asked: {error}. Start it with {START}; events that were "
                "being appended may have been kept, all or none: append them again, none is kept twice."
            )
        return InputError(
            f"The Redis server at {self._where} refuses: {error}. Nothing of this call was kept; `redis-cli info` "
            "says what it lacks."
        )


def glob_escape(text: str) -> str:
    """Text as a pattern of Redis that matches it alone."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


def _arguments(event: LiveEvent) -> tuple[str | bytes | int, ...]:
    """What APPEND takes of an event. A member sorts by item and event key and ends with the whole event."""
    key = key_of_text(event.event_id) + 2**63
    whole = json.dumps(event, ensure_ascii=False, separators=(",", ":"))  # has no byte 0: JSON escapes it
    member = f"{event.item_id}\0{key:016x}\0{whole}"
    name = hash_of(event.user_id)
    in_history = int(event.in_history)
    return event.user_id, name, event.event_id, int(event.revision), in_history, int(event.counts_from), member


def _events(members: Sequence[bytes]) -> list[LiveEvent]:
    """Parsed as one text, in a quarter of the time."""
    whole = b",".join(member[member.rindex(b"\0") + 1 :] for member in members)
    return [LiveEvent(*values) for values in json.loads(b"[" + whole + b"]")]


def _is_forbidden(error: ResponseError) -> bool:
    """A server that others run may not let us ask for its settings."""
    return any(word in str(error).lower() for word in ("unknown command", "permission", "no permissions", "noperm"))
