"""Start a program that listens on a port (`make ui`, `make serve`), and leave no process behind when it ends.

A port in use is reported in one line before anything is started. Ctrl-C and SIGTERM reach the program as one SIGINT,
which it handles. However it ends, and however `make` ends, every process that it started is ended too.
"""

import argparse
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

from contracts.parent import end_with_parent

PATIENCE_S = ((signal.SIGINT, 15.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
"""What the program, and then what is left of it, is sent, and for how many seconds its end is then awaited."""
CANNOT_LISTEN = 2

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Run the program after `--` and exit with its status. Without a program only check the port."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.door", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", required=True, help="where it will listen")
    parser.add_argument("--door", required=True, help="the command a person types, such as `make ui`")
    parser.add_argument("program", nargs="*")
    arguments = parser.parse_args()
    if problem := cannot_listen(arguments.host, arguments.port, arguments.door):
        print(problem, file=sys.stderr)
        sys.exit(CANNOT_LISTEN)
    if arguments.program:
        sys.exit(keep(arguments.program))


def cannot_listen(host: str, port: str, door: str) -> str | None:
    """Why nothing can listen there and what to type instead; None if the port is free."""
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        return f"PORT is {port!r}, not a number from 1 to 65535: {door} PORT=3002"
    if not host:  # to a socket that is every address of this machine
        return f"HOST is empty: {door} HOST=127.0.0.1, or HOST=0.0.0.0 for all addresses of this machine"
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: ports just left are free
            probe.bind((host, int(port)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"Port {port} is in use{_holder(int(port))}. End that, or choose another: {door} PORT={_free(host)}"
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            said = f"Nothing can listen on {host}: {error.strerror}. Choose an IPv4 address of this machine"
            return f"{said}, or 0.0.0.0 for all of them: {door} HOST=127.0.0.1"
        return f"Nothing can listen on {host}:{port}: {error.strerror}. Choose another: {door} PORT={_free(host)}"
    return None


def keep(program: Sequence[str]) -> int:
    """Run a program to its end and end the processes it leaves; returns 130 if it was interrupted."""
    asked: list[int] = []
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the program leaves behind becomes ours
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup make serve &
            signal.signal(number, lambda number, _: asked.append(number))
    end_with_parent()
    process = subprocess.Popen(program, start_new_session=True, preexec_fn=_as_child(os.getpid()))
    while process.poll() is None and not asked:
        time.sleep(0.1)
    for number, patience_s in PATIENCE_S if asked else ():
        if _ends(process, number, patience_s):
            break
    _end_the_rest()
    if asked:
        return 128 + signal.SIGINT
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _as_child(parent: int):
    """Run in the child before the program: it gets SIGINT when its parent is killed, even if a shell had it ignored."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
            if os.getppid() != parent:
                os._exit(128 + signal.SIGINT)

    return prepare


def _ends(process: "subprocess.Popen[bytes]", number: int, patience_s: float) -> bool:
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end_the_rest() -> None:
    """End the processes that the program left. Only top processes are signalled: a Dagster run ends its own stage."""
    me = psutil.Process()
    for number, patience_s in PATIENCE_S[1:]:
        left = me.children(recursive=number == signal.SIGKILL)
        for process in left:
            process.send_signal(number)
        limit = time.monotonic() + patience_s
        while (left := me.children()) and time.monotonic() < limit:
            psutil.wait_procs(left, timeout=0.1)


def _holder(port: int) -> str:
    """The process that listens on a port, if we may see it."""
    try:
        pids = {each.pid for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port}
        pid = min(pid for pid in pids if pid)
        return f" by process {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})"
    except (psutil.Error, OSError, ValueError):
        return ""


def _free(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
