"""The address of a Redis in Feast's form (host:port[,host:port...][,password=...]) -> a client."""

import json
import re
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from contracts.errors import InputError

FORM = r"[^\s:/,=]+:\d+(,[^\s:/,=]+:\d+)*(,(username|password|db|ssl|ssl_ca_certs|redis_type)=[^,]*)*"
"""The form of addresses."""
TYPE, ONE_SERVER, CLUSTER = "redis_type", "redis", "redis_cluster"
"""Feast's setting and its values. Several nodes are a cluster even without it."""
LOGIN = ("username", "password", "ssl_ca_certs")
"""Settings that are always text: as JSON, a password such as 1e5 would change."""
NO_CLUSTER = "Cluster mode is not enabled"


@dataclass(frozen=True)
class RedisAddress:
    """nodes: host:port of one server, or of some nodes of a cluster. told: other settings, such as the password."""

    nodes: tuple[str, ...]
    is_cluster: bool
    told: tuple[tuple[str, Any], ...]

    @classmethod
    def read(cls, text: str, redis_type: str | None = None) -> "RedisAddress":
        """redis_type: from Feast's configuration; None: from the text. Raises InputError."""
        nodes = tuple(each for each in text.split(",") if "=" not in each)
        told = {
            key: value if key in LOGIN else _value(value)
            for key, _, value in (each.partition("=") for each in text.split(",") if "=" in each)
        }
        kind = redis_type or str(told.pop(TYPE, CLUSTER if len(nodes) > 1 else ONE_SERVER))
        if not nodes or not all(re.fullmatch(r"[^\s:/]+:\d+", each) for each in nodes):
            raise InputError(f"{shown(text)!r} does not name a Redis server. One is 127.0.0.1:6379.")
        if kind not in (ONE_SERVER, CLUSTER):
            raise InputError(
                f"{TYPE} is {kind}: live events lie on one Redis server or on a Redis Cluster. Say "
                f"{TYPE}={ONE_SERVER} or {TYPE}={CLUSTER}."
            )
        if kind == ONE_SERVER and len(nodes) > 1:
            raise InputError(f"{', '.join(nodes)} are several servers: name one, or say {TYPE}={CLUSTER}.")
        if kind == CLUSTER and told.pop("db", 0) != 0:
            raise InputError(f"The Redis Cluster at {', '.join(nodes)} has one database: leave out db=.")
        return cls(nodes, kind == CLUSTER, tuple(told.items()))

    @property
    def redis_type(self) -> str:
        """redis_type of Feast's configuration."""
        return CLUSTER if self.is_cluster else ONE_SERVER

    @property
    def text(self) -> str:
        """connection_string of Feast's configuration."""
        return ",".join([*self.nodes, *(f"{name}={_text(value)}" for name, value in self.told)])

    @property
    def where(self) -> str:
        """Text for messages, without passwords."""
        return f"Redis{' Cluster' if self.is_cluster else ''} at {', '.join(self.nodes)}"

    def connect(self, wait_s: float) -> "Redis | RedisCluster":
        """A client without retries; redis-py's default retries for ten seconds. wait_s: default timeout of answers.

        A cluster is asked for its nodes at once.
        """
        told: dict[str, Any] = {"socket_timeout": wait_s, "socket_connect_timeout": wait_s} | dict(self.told)
        (host, port), *_ = places = [(name, int(number)) for name, number in (node.split(":") for node in self.nodes)]
        once = Retry(NoBackoff(), 0)
        if not self.is_cluster:
            return Redis(host=host, port=port, retry=once, **told)
        try:
            # an unavailable shard does not affect the others; requests to it fail
            nodes = [ClusterNode(*place) for place in places]
            return RedisCluster(startup_nodes=nodes, retry=once, require_full_coverage=False, **told)
        except RedisClusterException as error:
            if NO_CLUSTER in str(error):
                raise InputError(
                    f"{', '.join(self.nodes)} is one Redis server, no cluster: say so with {TYPE}={ONE_SERVER}, or "
                    f"leave {TYPE} out. A node of a cluster runs with `redis-server --cluster-enabled yes`."
                ) from error
            raise RedisConnectionError(str(error)) from error


def shown(text: str) -> str:
    """The first part of an address, valid or not, without passwords."""
    return re.sub(r"//.*@", "//...@", re.sub(r"=.*", "=...", text.split(",")[0]))


def _value(text: str) -> Any:
    """A setting as Feast reads it: as JSON if it is valid JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
