"""A real Redis Cluster of a test's own on loopback: three primaries, a replica each; its nodes really killed."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import redis

from tests.clones import ROOT
from tests.features.redis_server import RedisServer, free_ports

NUM_PRIMARIES, NUM_SLOTS = 3, 16_384
NODE_TIMEOUT_MS = 1_000
LIMIT_S = 90.0
HAND_OVER_S = 6.0  # Redis gives a failover that was ordered five seconds
CONFIGURED = [line.split() for line in (ROOT / "deploy" / "redis-cluster.conf").read_text().splitlines()]
OPTIONS = (
    *(part for name, *values in CONFIGURED if name != "#" for part in (f"--{name}", *(v.strip('"') for v in values))),
    *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
)
"""As people are told to start a node; a failover takes less time."""


@dataclass(frozen=True)
class Guard:
    """A password, and TLS for nodes and clients. folder: of ca.crt, and of node.crt and node.key for 127.0.0.1."""

    folder: Path
    password: str

    def options(self, port: int) -> tuple[str, ...]:
        """Of a node: no port without TLS."""
        files = {"ca-cert": "ca.crt", "cert": "node.crt", "key": "node.key"}
        named = [part for name, file in files.items() for part in (f"--tls-{name}-file", str(self.folder / file))]
        within = [part for name in ("cluster", "replication") for part in (f"--tls-{name}", "yes")]
        guarded = ["--tls-auth-clients", "no", "--requirepass", self.password, "--masterauth", self.password]
        return ("--port", "0", "--tls-port", str(port), *named, *within, *guarded)

    @property
    def login(self) -> dict[str, Any]:
        """Of redis-py's client."""
        return {"password": self.password, "ssl": True, "ssl_ca_certs": str(self.folder / "ca.crt")}

    @property
    def told(self) -> tuple[str, ...]:
        """As an address says it."""
        return (f"password={self.password}", "ssl=true", f"ssl_ca_certs={self.folder / 'ca.crt'}")


class Cluster:
    """A cluster that is formed on entry and removed on exit. Tests that kill a node heal it."""

    def __init__(self, folder: Path, guard: "Guard | None" = None) -> None:
        self._guard = guard
        self._nodes = []
        ports = free_ports(4 * NUM_PRIMARIES)
        for number in range(2 * NUM_PRIMARIES):
            node = RedisServer(folder / f"node{number}")
            node.port = ports.pop()
            node.options = (*OPTIONS, "--cluster-port", str(ports.pop()))
            if guard is not None:
                node.options += guard.options(node.port)
                node.login = guard.login
            self._nodes.append(node)
        self._stack = ExitStack()

    @property
    def address(self) -> str:
        """Two of its nodes, as a person names it."""
        return ",".join([*(node.address for node in self._nodes[:2]), *(self._guard.told if self._guard else ())])

    def __enter__(self) -> "Cluster":
        for node in self._nodes:
            self._stack.enter_context(node)
        try:
            self._form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _form(self) -> None:
        first, *others = self._nodes
        for number, node in enumerate(self._nodes):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < NUM_PRIMARIES:
                bounds = [NUM_SLOTS * each // NUM_PRIMARIES for each in (number, number + 1)]
                node.command("CLUSTER", "ADDSLOTSRANGE", bounds[0], bounds[1] - 1)
        for node in others:
            first.command("CLUSTER", "MEET", "127.0.0.1", node.port, node.options[len(OPTIONS) + 1])
        wait_until(lambda: all(node.cluster_info()["cluster_known_nodes"] == "6" for node in self._nodes))
        for primary, replica in zip(self._nodes[:NUM_PRIMARIES], self._nodes[NUM_PRIMARIES:], strict=True):
            name = primary.command("CLUSTER", "MYID")
            wait_until(lambda replica=replica, name=name: replica.replicates(name))
        self.heal()

    def heal(self) -> None:
        """Start who was killed; return once every primary is there, with a replica that follows it."""
        for node in self._nodes:
            if node.process is None:
                node.start()
        wait_until(self._is_whole)

    def _is_whole(self) -> bool:
        """Primaries count a replica that still loads its copy as connected: so it is asked too."""
        if any(node.cluster_info()["cluster_state"] != "ok" for node in self._nodes):
            return False
        roles = [node.command("ROLE") for node in self._nodes]
        primaries = [role for role in roles if role[0] == b"master"]
        are_followed = len(primaries) == NUM_PRIMARIES and all(len(role[2]) == 1 for role in primaries)
        are_connected = all(role[3] == b"connected" for role in roles if role[0] == b"slave")
        return are_followed and are_connected

    def primary_of(self, key: str | bytes) -> RedisServer:
        """The node that has a key now, as those that live say; waited for while they still vote."""
        owners: list[RedisServer] = []
        wait_until(lambda: bool(owners.extend(self._owners(key)) or owners))
        return owners[0]

    def _owners(self, key: str | bytes) -> list[RedisServer]:
        node = next(node for node in self._nodes if node.process is not None)
        slot = node.command("CLUSTER", "KEYSLOT", key)
        ports = [port for first, last, (_, port, *_), *_ in node.command("CLUSTER", "SLOTS") if first <= slot <= last]
        return [node for node in self._nodes if node.port in ports]

    def replica_of(self, primary: RedisServer) -> RedisServer:
        """The one that follows a primary."""
        ((_, port, _),) = primary.command("ROLE")[2]
        return next(node for node in self._nodes if node.port == int(port))

    def hand_over(self, key: str | bytes, replica: RedisServer) -> None:
        """Make a replica the primary of a key; no node dies. Primaries vote at most once in two timeouts."""
        deadline = time.monotonic() + LIMIT_S
        while self.primary_of(key) is not replica:
            assert time.monotonic() < deadline, "no failover came about"
            replica.command("CLUSTER", "FAILOVER")
            began = time.monotonic()
            while self.primary_of(key) is not replica and time.monotonic() < began + HAND_OVER_S:
                time.sleep(0.02)

    @contextmanager
    def moving(self, key: str) -> Iterator[Callable[..., None]]:
        """The slot of a key is on its way to another primary: the call moves keys, the end all that are left."""
        source = self.primary_of(key)
        target = next(node for node in self.primaries() if node is not source)
        slot = source.command("CLUSTER", "KEYSLOT", key)
        names = {node: node.command("CLUSTER", "MYID") for node in (source, target)}
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])

        def move(*keys: bytes) -> None:
            source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)

        yield move
        while left := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            move(*left)
        for node in (target, source):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", names[target])

    def primaries(self) -> list[RedisServer]:
        """Of a whole cluster."""
        return [node for node in self._nodes if node.command("ROLE")[0] == b"master"]

    def keys(self) -> dict[int, list[bytes]]:
        """By the port of each primary all of its keys."""
        return {node.port: node.command("KEYS", "*") for node in self.primaries()}


def wait_until(is_so: Callable[[], bool]) -> None:
    """Ask until it is, for LIMIT_S at most."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            if is_so():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, "the cluster did not come about"
        time.sleep(0.02)


@pytest.fixture(scope="package")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Whole at the start of every test: whoever kills a node heals the cluster, and writes under a name of its own."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
