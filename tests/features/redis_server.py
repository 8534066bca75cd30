"""A real redis-server of a test's own: on a free port of loopback, its files in a folder, really killed and paused."""

import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import redis

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
START_LIMIT_S = 10


class RedisServer:
    """Started on entry, gone on exit. folder: where its append-only file lies; a restart reads it again."""

    def __init__(self, folder: Path, *options: str) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed")
        self.folder = folder
        self.options = options or DURABLE
        self.port = free_port()
        self.login: dict[str, Any] = {}  # of a client: password, certificates
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "RedisServer":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Return once it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([*command, "--save", "", *self.options], stdout=log, stderr=log)
        client = redis.Redis("127.0.0.1", self.port, socket_timeout=1, **self.login)
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.kill()
                    pytest.fail(f"redis-server did not start: {(self.folder / 'redis.log').read_text()[-2000:]}")
                time.sleep(0.02)
        client.close()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def command(self, *words: Any) -> Any:
        """What this server itself answers, whoever it thinks has a key."""
        with redis.Redis("127.0.0.1", self.port, socket_timeout=5, **self.login) as client:
            return client.execute_command(*words)

    def cluster_info(self) -> dict[str, str]:
        return self.command("CLUSTER INFO")

    def replicates(self, primary_id: bytes) -> bool:
        """Make it the replica of a node of its cluster, as soon as it knows that."""
        return bool(self.command("CLUSTER", "REPLICATE", primary_id))

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A free port."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """Free ports that differ."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(number)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
