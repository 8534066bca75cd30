"""The address of a Redis -> the server that currently has a key: the only one, or a primary of a cluster.

redis-py's cluster client is used only to find the server of a slot. Commands go to single servers through its plain
client, so that a pipeline, its scripts and WAIT use one connection, as they must.
"""

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeVar, cast

from redis import Redis
from redis.cluster import RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from features.live.deadline import left_s
from features.live.redis_address import RedisAddress

T = TypeVar("T")
Key = str | bytes

WAIT_S = 1.0
"""Timeout of an answer; nothing is sent once the request is due (features/live/deadline.py)."""
NOT_DONE = (MovedError, ReadOnlyError)
"""Errors after which nothing was done, because another server has the key."""
ELSEWHERE = (*NOT_DONE, AskError, ClusterDownError, RedisConnectionError, RedisTimeoutError, TryAgainError)
"""Errors after which the map of slots is read again."""
SHARE = 0.7
"""Share of the timeout for which a replica is waited for, so that the server still answers in time."""
REPLICATED_S, LISTED_S, POLL_S = 10.0, 3.0, 0.02
log = logging.getLogger("leitmotif")


class UnconfirmedError(RedisError):
    """Written, but no replica confirmed it in time."""


class Servers:
    """The servers of an address. Connects at the first use and again after failures. Threads may share it."""

    def __init__(self, address: RedisAddress, wait_s: float) -> None:
        self.address = address
        self._wait_s = wait_s
        self._made: Redis | RedisCluster | None = None
        self._is_stale = False
        self._lock = Lock()
        self._replicas: dict[str, int] = {}  # primary -> number of its replicas when last seen

    @property
    def client(self) -> Any:
        """redis-py's client of the server or the cluster."""
        if self._made is not None and not self._is_stale:
            return self._made
        if not self._lock.acquire(timeout=left_s(self._wait_s)):
            raise RedisTimeoutError("another thread is still reading the map of slots")
        try:
            if self._made is None:
                self._made = self.address.connect(self._wait_s)
            elif self._is_stale:
                self._learn()
            self._is_stale = False
            return self._made
        finally:
            self._lock.release()

    def of(self, key: Key) -> Redis:
        """The server that has a key."""
        client = self.client
        if not isinstance(client, RedisCluster):
            return client
        node = client.get_node_from_key(key)
        assert node is not None  # raises if no node has the slot
        return client.get_redis_connection(node)

    def primaries(self) -> list[Redis]:
        """All primaries, in order of their addresses."""
        client = self.client
        if not isinstance(client, RedisCluster):
            return [client]
        nodes = sorted(client.get_primaries(), key=lambda node: str(node.name))
        return [client.get_redis_connection(node) for node in nodes]

    def look_again(self) -> None:
        """Read the map of slots again before its next use: others may have met a failover that this has not."""
        self._is_stale = self.address.is_cluster

    def copies(self, key: Key) -> list[Redis]:
        """The server that has a key and, in a cluster, its connected replicas.

        Nodes list a replica that is back only after some heartbeats, so the map is read until it has as many as the
        primary is connected to, for LISTED_S or what is left of a request.
        """
        until = time.monotonic() + left_s(LISTED_S)
        while True:
            self.look_again()
            client = self.client
            if not isinstance(client, RedisCluster):
                return [client]
            nodes = client.nodes_manager.slots_cache.get(client.keyslot(key), [])
            connected = cast(Any, self.of(key).execute_command("ROLE"))[2]
            if len(nodes) > len(connected) or time.monotonic() > until:
                return [client.get_redis_connection(node) for node in nodes]
            time.sleep(LISTED_S / 20)

    def by_server(self, keys: Sequence[Key]) -> list[tuple[Redis, list[int]]]:
        """(server, positions of its keys) for each server."""
        found: dict[int, tuple[Redis, list[int]]] = {}
        for place, key in enumerate(keys):
            server = self.of(key)
            found.setdefault(id(server), (server, []))[1].append(place)
        return list(found.values())

    def ask(self, question: Callable[[], T], adds_nothing: bool = True) -> T:
        """The answer; in a cluster, asked a second time if another server has the keys now.

        question: finds its servers itself. adds_nothing: whether it is idempotent, so that it may be repeated even if
        the first attempt may have succeeded. Raises RedisError.
        """
        try:
            return self._asked(question)
        except ELSEWHERE as error:
            if not self.address.is_cluster:
                raise
            is_once_more = adds_nothing and isinstance(error, RedisConnectionError)
            if not (is_once_more or isinstance(error, NOT_DONE)) or left_s(self._wait_s) <= 0:
                raise
            return self._asked(question)

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except ELSEWHERE:
            self._is_stale = self.address.is_cluster
            raise
        except RedisClusterException as error:  # not a RedisError
            self._is_stale = True
            raise RedisConnectionError(f"no server has the slot of a key: {error}") from error

    def pipelined(self, commands: Sequence[tuple[Key, Sequence[Any]]], script: str | None = None) -> list[Any]:
        """The answers to commands, each with its key, in one round trip per server. script: as for `written`."""
        answers: list[Any] = [None] * len(commands)
        for server, places in self.by_server([key for key, _ in commands]):
            told = _run(server, script, [commands[place][1] for place in places])
            for place, answer in zip(places, told, strict=True):
                answers[place] = answer
        return answers

    def written(self, key: Key, script: str | None, *commands: Sequence[Any]) -> list[Any]:
        """The answers to commands that write keys of one slot; in a cluster, after a replica has the writes too.

        Redis replicates after it has answered, so writes that only a primary has are lost with it. Without a replica,
        as after a failover, the primary's disk must suffice; `min-replicas-to-write` lets Redis refuse writes then.
        script: loaded if the server does not know it. Raises UnconfirmedError if a connected replica does not confirm.
        """
        server = self.of(key)
        if not self.address.is_cluster:
            return _run(server, script, commands)
        name = name_of(server)
        if not self._replicas.get(name):  # one may have reconnected, and must then be waited for
            self._note(name, len(cast(Any, server.execute_command("ROLE"))[2]))
        wait_ms = max(1, int(1000 * SHARE * left_s(self._wait_s)))
        waits = [("WAIT", 1, wait_ms)] if self._replicas[name] else []
        *answers, role = _run(server, script, [*commands, *waits, ("ROLE",)])
        self._note(name, len(role[2]))
        if waits and answers.pop() == 0 and role[2]:
            raise UnconfirmedError(f"the replica of {name} did not confirm within {wait_ms / 1000:g} s")
        return answers

    def _note(self, name: str, num_replicas: int) -> None:
        before = self._replicas.get(name)
        self._replicas[name] = num_replicas
        if not num_replicas and before != 0:
            log.warning(
                "The Redis primary at %s has no replica: until one is back, what it acknowledges is on its disk "
                "alone, and a failover would lose it.",
                name,
            )

    def run_ids(self) -> dict[str, str]:
        """Address of each primary -> run_id of the server, which changes with a failover or a restart."""
        found = {}
        for server in self.primaries():
            told = cast(dict[str, Any], server.info("server"))
            found[name_of(server)] = told["run_id"]
        return found

    def replicate(self) -> None:
        """Return once every connected replica has what its primary has now. Raises UnconfirmedError."""
        if not self.address.is_cluster:
            return
        until = time.monotonic() + REPLICATED_S
        for server in self.primaries():
            _, aim, _ = cast(Any, server.execute_command("ROLE"))
            while any(int(at) < aim for _, _, at in cast(Any, server.execute_command("ROLE"))[2]):
                if time.monotonic() > until:
                    raise UnconfirmedError(f"a replica of {name_of(server)} is more than {REPLICATED_S:g} s behind")
                time.sleep(POLL_S)

    def _learn(self) -> None:
        """Read the map of slots again; if no known node answers, ask those of the address."""
        assert isinstance(self._made, RedisCluster)
        try:
            self._made.nodes_manager.initialize()
        except RedisClusterException:
            self._made.close()
            self._made = None
            self._made = self.address.connect(self._wait_s)

    def close(self) -> None:
        """Close connections; the next use opens them again."""
        with self._lock:
            if self._made is not None:
                self._made.close()
            self._made = None


def _run(server: Redis, script: str | None, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """One round trip; three if the server does not know the script yet."""

    def run() -> list[Any]:
        if len(commands) == 1:
            return [server.execute_command(*commands[0])]
        with server.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return pipe.execute()

    try:
        return run()
    except NoScriptError:
        if script is None:
            raise
        server.script_load(script)
        return run()


def name_of(server: Redis) -> str:
    """A server's address."""
    at = server.connection_pool.connection_kwargs
    return f"{at.get('host')}:{at.get('port')}"
