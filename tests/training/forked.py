"""The processes of one training as torchrun starts them, forked after the imports so that these are paid for once: the
nodes' folders in order, each with params.yaml, data and then a `log`. Ends with 0 if all did.

`python -m tests.training.forked PORT FOLDER FOLDER`
"""

import os
import runpy
import sys
import warnings
from pathlib import Path

import training.train  # noqa: F401  (the forked processes have it)


def main(port: str, folders: list[str]) -> int:
    """Start all, one a node, and wait; the number of those that failed."""
    started = []
    for rank, folder in enumerate(folders):
        if not (process := os.fork()):
            become(rank, len(folders), port, Path(folder))
        started.append(process)
    return sum(os.waitpid(process, 0)[1] != 0 for process in started)


def become(rank: int, world: int, port: str, folder: Path) -> None:
    """Be the one process of a node: the environment of torchrun, the stage as a program."""
    said = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, sys.stdout.fileno())
    os.dup2(said, sys.stderr.fileno())
    os.chdir(folder)
    names = {"RANK": rank, "GROUP_RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": 1}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    os.environ.update({name: str(value) for name, value in names.items()})
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
    sys.argv = ["training.train"]
    runpy.run_module("training.train", run_name="__main__", alter_sys=True)  # exits


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
