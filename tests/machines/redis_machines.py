"""A Redis Cluster on three machines, a primary and another's replica on each, started as docs/deployment.md says."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis

from tests.machines.machines import Machine, Machines

PORTS = (7000, 7001)
PASSWORD = "of-the-tests"
PATIENCE_S = 60.0
Rows = Mapping[bytes, Mapping[bytes, bytes]]


class Spread:
    """The cluster of all machines."""

    def __init__(self, machines: Machines, folder: Path) -> None:
        self._machines = machines
        for machine in machines:
            for port in PORTS:
                machine.run("mkdir", "-p", f"/var/tmp/{port}")
                machine.start(
                    folder / f"{machine.name}-{port}", "redis-server", "deploy/redis-cluster.conf", "--port", str(port),
                    "--dir", f"/var/tmp/{port}", "--requirepass", PASSWORD, "--masterauth", PASSWORD,
                )  # fmt: skip
        nodes = [f"{machine.address}:{port}" for port in PORTS for machine in machines]
        until(lambda: all(self.ask(m, port, "PING") for m in machines for port in PORTS))
        made = ("redis-cli", "-a", PASSWORD, "--cluster", "create", *nodes, "--cluster-replicas", "1", "--cluster-yes")
        machines[0].run(*made)
        self.address = f"{','.join(nodes[:3])},password={PASSWORD}"
        until(self.is_whole)

    def ask(self, machine: Machine, port: int, *words: Any) -> Any:
        """What a node answers on its own machine."""
        with machine.here(), redis.Redis("127.0.0.1", port, password=PASSWORD, socket_timeout=5) as client:
            return client.execute_command(*words)

    def is_whole(self) -> bool:
        """Every primary has a replica that follows it, and each node knows."""
        states = [self.ask(m, port, "CLUSTER INFO")["cluster_state"] for m in self._machines for port in PORTS]
        roles = [self.ask(m, port, "ROLE") for m in self._machines for port in PORTS]
        followed = [len(role[2]) for role in roles if role[0] == b"master"]
        return set(states) == {"ok"} and followed == [1, 1, 1]

    def place_of(self, key: str, asked: int = 0) -> int:
        """The number of the machine whose primary has a key, as a node of the machine `asked` says."""
        slot = self.ask(self._machines[asked], PORTS[0], "CLUSTER", "KEYSLOT", key)
        for first, last, (host, *_), *_ in self.ask(self._machines[asked], PORTS[0], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return [machine.address for machine in self._machines].index(host.decode())
        raise AssertionError(f"nobody has slot {slot}")

    def rows(self, source: str) -> Rows:
        """Every row of Feast's on all primaries, field by field."""
        held: dict[bytes, Mapping[bytes, bytes]] = {}
        for machine in self._machines:
            for port in PORTS:
                if self.ask(machine, port, "ROLE")[0] == b"master":
                    with machine.here(), redis.Redis(port=port, password=PASSWORD) as client:
                        held |= rows_of(client, source)
        return held


def rows_of(client: redis.Redis, source: str) -> Rows:
    """Those that one server has; the mark is not among them."""
    keys = [key for key in client.scan_iter(b"*leitmotif_%s*" % source.encode()) if not key.endswith(b":mark")]
    return {key: dict(client.hgetall(key)) for key in keys}  # type: ignore[arg-type]


def until(is_so: Callable[[], object], seconds: float = PATIENCE_S) -> float:
    """Ask until it is; returns how long that took."""
    began = time.monotonic()
    while True:
        try:
            if is_so():
                return time.monotonic() - began
        except redis.RedisError:
            pass
        assert time.monotonic() < began + seconds, "it did not come about"
        time.sleep(0.05)
