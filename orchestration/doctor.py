"""Check what is installed on this machine. Standard library only: it runs before anything is installed."""

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

MIN_DISK_GIB = 8
MIN_MEMORY_GIB = 6
PORTS = {3000: "make serve", 3001: "make ui"}


class Finding(NamedTuple):
    """One line of the report."""

    needed: bool  # False: good to have
    ok: bool
    what: str
    advice: str


def main() -> None:
    """Print every finding; exit 1 if something required is missing."""
    if len(sys.argv) > 1:
        print(f"{__doc__}\nRun it by `make doctor`; it takes no arguments.")
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    findings = list(examine(Path.cwd()))
    for finding in findings:
        mark = "ok     " if finding.ok else ("MISSING" if finding.needed else "note   ")
        print(f"{mark} {finding.what}" + ("" if finding.ok else f"\n        {finding.advice}"))
    sys.exit(any(finding.needed and not finding.ok for finding in findings))


def examine(root: Path) -> Iterator[Finding]:
    """All findings about this machine and the repository at root."""
    version = sys.version_info
    yield Finding(
        True,
        (3, 11) <= version < (3, 13),
        f"Python {platform.python_version()} ({sys.executable})",
        "leitmotif needs 3.11 or 3.12: make PYTHON=/path/to/python3.11 doctor",
    )
    for program in ("git", "make"):
        yield Finding(
            True, shutil.which(program) is not None, program, f"Install {program} with the system's packages."
        )
    yield Finding(True, _has_venv(), "the venv module", "Install python3-venv (Debian) or a full Python.")
    free = shutil.disk_usage(root).free / 2**30
    yield Finding(
        True,
        free >= MIN_DISK_GIB,
        f"{free:.0f} GiB of disk free",
        f"{MIN_DISK_GIB} GiB are needed for .venv, data and cache.",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding(
        True,
        memory >= MIN_MEMORY_GIB,
        f"{memory:.0f} GiB of memory",
        f"{MIN_MEMORY_GIB} GiB are needed for the default run.",
    )
    yield Finding(
        False,
        sys.platform == "linux",
        f"{platform.system()} {platform.machine()}",
        "Tested on Linux only; elsewhere a killed `dvc` may leave its stage running.",
    )
    yield from _installed(root)
    for port, command in PORTS.items():
        yield Finding(
            False,
            _is_free(port),
            f"port {port} free ({command})",
            f"Something listens there: give {command} another PORT or end it.",
        )
    gpu = shutil.which("nvidia-smi") is not None
    yield Finding(False, gpu, "an NVIDIA GPU" if gpu else "no NVIDIA GPU", "Training and serving use the CPU.")
    git = (root / ".git").exists()
    yield Finding(
        True,
        git,
        "a git clone",
        "DVC keeps its versions beside git's: clone the repository rather than copying its files.",
    )


def _installed(root: Path) -> Iterator[Finding]:
    ready = (root / ".venv" / ".ready").exists()
    yield Finding(False, ready, ".venv set up", "`make setup` does it (every other target does it when needed).")
    if not ready or Path(sys.prefix) != root / ".venv":
        return
    wanted = dict(
        line.split("==")
        for line in (root / "requirements.lock").read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    have = {
        dist.metadata["Name"].lower().replace("_", "-"): dist.version.split("+")[0] for dist in metadata.distributions()
    }
    changed = [
        f"{name} {have[key]} (lock: {version})"
        for name, version in wanted.items()
        if (key := name.lower().replace("_", "-")) in have and have[key] != version
    ]
    yield Finding(
        False,
        not changed,
        "packages as requirements.lock has them",
        "; ".join(changed) + ". `rm -r .venv && make setup` restores them.",
    )


def _has_venv() -> bool:
    return (
        subprocess.run([sys.executable, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode
        == 0
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


if __name__ == "__main__":
    main()
