"""Machines on one host: each with an address, a name, processes and files of its own, and one folder that all share.

A machine is a set of Linux namespaces with a bridge between their networks. It sees the system's programs, the virtual
environment, and the clone that all machines share, at the path of the repository; not this repository's other files,
nor /tmp or a home. Nothing is made in the host's own network. A machine lives as long as its first process, which ends
as soon as the tests do, even by SIGKILL, and takes everything in the namespaces along.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType

import pytest

from tests.clones import ROOT

NETWORK = "10.77.0"
NEEDED = ("unshare", "nsenter", "ip", "mount", "hostname", "env")
ISOLATED = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
ENTERED = ("--mount", "--uts", "--ipc", "--net", "--pid")
OF_ITS_OWN = ("/tmp", "/var/tmp", "/dev/shm", "/root", "/home")
CLONE_NEWNET = 0x40000000
LIMIT_S = 60.0


@dataclass
class Machine:
    """A running machine. holder: the process that keeps it; pid: of its first process, as the host counts."""

    name: str
    address: str
    holder: "subprocess.Popen[bytes]"
    pid: int
    switch: int  # pid in the network that the bridge is in
    port: str  # the bridge's end of its cable
    programs: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        """Words that run a command there, in the repository's folder."""
        return ["nsenter", "--target", str(self.pid), *ENTERED, "env", "-i", f"--chdir={ROOT}", *_login(), *words]

    def run(self, *words: str, check: bool = True) -> str:
        """Its output."""
        done = subprocess.run(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S
        )
        assert not (check and done.returncode), f"{words} on {self.name}: {done.stdout}"
        return done.stdout

    def start(self, said: Path, *words: str) -> "subprocess.Popen[bytes]":
        """Start a program. said: a file for its output. It ends with the machine: to kill it here kills nsenter."""
        said.parent.mkdir(parents=True, exist_ok=True)
        with said.open("ab") as log:
            program = subprocess.Popen(self.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.programs.append(program)
        return program

    def unplug(self) -> None:
        """Pull its cable: nobody is told, packets are lost."""
        _in_network(self.switch, f"ip link set {self.port} down")

    def plug(self) -> None:
        """Put the cable back."""
        _in_network(self.switch, f"ip link set {self.port} up")

    def power_off(self) -> None:
        """Without its cable first, so that no connection is closed."""
        self.unplug()
        self.end()

    def end(self) -> None:
        """Kill all of its processes."""
        _end(self.holder)
        for program in self.programs:
            program.wait(LIMIT_S)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Sockets that this thread opens in the block are the machine's."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{self.pid}/ns/net") as there:
            _check(libc.setns(there.fileno(), CLONE_NEWNET))
            try:
                yield
            finally:
                _check(libc.setns(ours.fileno(), CLONE_NEWNET))


class Machines:
    """Machines 10.77.0.1 and so on, that share the folder `house`. Started on entry, gone on exit."""

    def __init__(self, house: Path, number: int, folder: Path) -> None:
        if (why := missing()) is not None:
            pytest.skip(why)
        self._house, self._number, self.folder = house, number, folder
        self._stack = ExitStack()
        self.all: list[Machine] = []

    def __enter__(self) -> "Machines":
        try:
            switch, pid = self._hold("switch", ("--net",), "ip link add br0 type bridge && ip link set br0 up")
            self._stack.callback(_end, switch)
            for number in range(1, self._number + 1):
                self.all.append(self._machine(number, pid))
                self._stack.callback(self.all[-1].end)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.all)

    def __getitem__(self, number: int) -> Machine:
        return self.all[number]

    def _machine(self, number: int, switch: int) -> Machine:
        name, address, port = f"machine{number}", f"{NETWORK}.{number}", f"port{number}"
        hosts = self.folder / f"hosts{number}"
        hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")  # as Debian and Ubuntu install it
        holder, pid = self._hold(name, ISOLATED, _furnished(name, self._house, hosts))
        self._stack.callback(_end, holder)
        _in_network(
            switch,
            f"ip link add {port} type veth peer name eth0 netns {pid} && ip link set {port} master br0 up",
        )
        _in_network(pid, f"ip link set lo up && ip address add {address}/24 dev eth0 && ip link set eth0 up")
        return Machine(name, address, holder, pid, switch, port)

    def _hold(self, name: str, spaces: Sequence[str], script: str) -> tuple["subprocess.Popen[bytes]", int]:
        """A process in namespaces of its own, that waits for the end of this one; and its pid."""
        command = ["unshare", *spaces, "sh", "-ec", f"{script}\necho ready\nread forever"]
        with (self.folder / f"{name}.setup").open("wb") as said:
            holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            _end(holder)
            pytest.fail(f"{name} did not come up: {(self.folder / f'{name}.setup').read_text()}")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        return holder, int(children[0]) if "--fork" in spaces else holder.pid


@cache
def missing() -> str | None:
    """Why there can be no machines here; None: there can."""
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"machines need {', '.join(absent)} (util-linux, iproute2)"
    tried = subprocess.run(
        ["unshare", *ISOLATED, "sh", "-c", "mount -t tmpfs tmpfs /tmp && ip link add br0 type bridge"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"machines need root's rights over namespaces: {tried.stderr.strip()}" if tried.returncode else None


def _furnished(name: str, house: Path, hosts: Path) -> str:
    """The script that gives a machine its files and its name."""
    seen = {Path(sys.base_prefix): Path(sys.base_prefix), house: ROOT, Path(sys.prefix): Path(sys.prefix)}
    lines = ["mount --make-rprivate /", f"hostname {name}", f"mount --bind {_quoted(hosts)} /etc/hosts"]
    lines += [f"exec {number}<{_quoted(path)}" for number, path in enumerate(seen, 3)]  # found still when all is hidden
    hidden = dict.fromkeys([*OF_ITS_OWN, f"/{ROOT.parts[1]}"])
    lines += [f"mount -t tmpfs tmpfs {folder}" for folder in hidden if Path(folder).is_dir()]
    for number, target in enumerate(seen.values(), 3):
        lines += [f"mkdir -p {_quoted(target)}", f"mount -c --bind /proc/self/fd/{number} {_quoted(target)}"]
    lines += [f"exec {number}<&-" for number, _ in enumerate(seen, 3)]
    return "\n".join(lines)


def _login() -> list[str]:
    """The variables of a person who has logged in there and activated the virtual environment; none of the tests'."""
    kept = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "LANG") if name in os.environ}
    kept |= {"PATH": f"{Path(sys.prefix) / 'bin'}:{kept['PATH']}", "HOME": "/root", "DVC_NO_ANALYTICS": "1"}
    return [f"{name}={value}" for name, value in kept.items()]


def _in_network(pid: int, script: str) -> None:
    done = subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "sh", "-ec", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}: {done.stderr}"


def _end(holder: "subprocess.Popen[bytes]") -> None:
    """Its first process waits for the end of its input; with it all others of the machine are killed."""
    for pipe in (holder.stdin, holder.stdout):
        if pipe is not None:
            pipe.close()
    try:
        holder.wait(LIMIT_S)
    finally:
        holder.kill()


def _check(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
