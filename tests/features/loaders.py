"""Loads in processes of their own, to be killed and to run at once: forked from one that has imported Feast already."""

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path

from features.live.places import state_of
from features.online.load import load

IMPORTED = [__name__, "features.online.fill", "features.online.store"]
CONTEXT = multiprocessing.get_context("forkserver")


def loading(data: Path, said: Path | None = None) -> BaseProcess:
    """A process that loads data/<source>; it writes into a file whether there was anything to load."""
    CONTEXT.set_forkserver_preload(IMPORTED)
    process = CONTEXT.Process(target=_load, args=(data, said))
    process.start()
    return process


def _load(data: Path, said: Path | None) -> None:
    loaded = load(data, state_of(data))
    if said is not None:
        said.write_text(str(loaded))
