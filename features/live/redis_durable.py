"""A Redis server -> whether acknowledged writes are durable; and errors of Redis as messages."""

from typing import cast

from redis import Redis
from redis.exceptions import (
    ClusterDownError,
    MovedError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.errors import InputError
from features.live.redis_address import CLUSTER, TYPE, RedisAddress
from features.live.redis_servers import UnconfirmedError, name_of

START = "`redis-server --appendonly yes --appendfsync always`"
AGAIN = "Events that were being appended may have been kept, all or none: append them again, none is kept twice."


def check_durable(server: Redis, address: RedisAddress) -> None:
    """Raises InputError if the server may lose acknowledged events. Not checked if it forbids CONFIG GET."""
    held: dict[str, str] = {}
    try:
        for pattern in ("append*", "maxmemory*", "cluster-enabled"):
            held |= cast(dict[str, str], server.config_get(pattern))
    except ResponseError as error:
        if not is_forbidden(error):
            raise
    where = f"The Redis server at {name_of(server)}"
    if held.get("cluster-enabled") == "yes" and not address.is_cluster:
        raise _is_a_node(address)
    if held and (held.get("appendonly"), held.get("appendfsync")) != ("yes", "always"):
        raise InputError(
            f"{where} has appendonly {held.get('appendonly')}, appendfsync {held.get('appendfsync')}: acknowledged "
            f"events would be lost with it. Start it with {START}."
        )
    if held.get("maxmemory", "0") != "0" and held.get("maxmemory-policy", "").startswith("allkeys"):
        raise InputError(
            f"{where} has maxmemory-policy {held['maxmemory-policy']}: it would drop live events. Start it with "
            "`--maxmemory-policy noeviction`."
        )


def history_of(server: Redis) -> str:
    """Which history of writes the server is on: another after each failover, also after two that end where they began.

    Where the server does not let us ask, its address, which two such failovers leave as it was.
    """
    try:
        told = cast(dict[str, str], server.info("replication"))
    except ResponseError as error:
        if not is_forbidden(error):
            raise
        return name_of(server)
    return told["master_replid"]


def refusal(error: RedisError, address: RedisAddress, wait_s: float) -> InputError:
    """An error of Redis as a message with the next step."""
    where = f"The {address.where}"
    if isinstance(error, MovedError) and not address.is_cluster:
        return _is_a_node(address)
    if isinstance(error, UnconfirmedError):
        return InputError(f"{where} has written, but {error}. {AGAIN}")
    if isinstance(error, RedisTimeoutError):
        return InputError(f"{where} did not answer within {wait_s:g} s ({error}). {AGAIN}")
    if isinstance(error, RedisConnectionError | ClusterDownError):
        todo = "A node that died is replaced by its replica within seconds; start" if address.is_cluster else "Start"
        it = "those that are away" if address.is_cluster else "it"
        return InputError(f"{where} cannot be asked: {str(error).rstrip('.')}. {todo} {it} with {START}. {AGAIN}")
    return InputError(f"{where} refuses: {error}. Nothing of this call was kept; `redis-cli info` says what it lacks.")


def is_forbidden(error: ResponseError) -> bool:
    """Whether a command is forbidden, as CONFIG is on many managed servers."""
    return any(word in str(error).lower() for word in ("unknown command", "permission", "no permissions", "noperm"))


def _is_a_node(address: RedisAddress) -> InputError:
    told = f"{address.nodes[0]},{TYPE}={CLUSTER}"
    return InputError(f"The Redis at {address.nodes[0]} is a node of a cluster. Say so: ONLINE={told}.")
