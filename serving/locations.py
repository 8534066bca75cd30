"""The environment and params.yaml -> paths of the bundle and the online state that the service reads.

LEITMOTIF_BUNDLE and LEITMOTIF_STATE take precedence. A Bento references its own bundle (serving/packing/model.py).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

from contracts.errors import InputError
from contracts.params import PARAMS, load_params

BUNDLE_VARIABLE = "LEITMOTIF_BUNDLE"
STATE_VARIABLE = "LEITMOTIF_STATE"
CHAMPIONS = Path("champions")
FORMER = "former"
"""In a champion's folder (serving/promoting/places.py)."""
BENTO = Path(__file__).resolve().parents[2]
"""In a Bento: its folder, which has the code in `src`."""
BUNDLE_OF_MODEL = "bundle"
"""The folder of the bundle within BentoML's model, beside BentoML's own files."""
PROGRAMS_OF_MODEL = "programs"
"""The folder of the bundle's model as programs, if `make export` has made any."""


def find_bundle() -> Path:
    """The bundle to serve: that of the environment, the Bento's, the champion or the newest. Raises InputError."""
    if path := os.environ.get(BUNDLE_VARIABLE):
        return Path(path)
    if is_bento():
        return packed_bundle()
    source = _source()
    champion, newest = champion_path(source), newest_path(source)
    for path in (champion, newest):
        if path.exists():
            return path
    raise InputError(
        f"There is no bundle to serve for source {source!r}: neither {champion} nor {newest} exists. "
        f"`make run` makes one, `make pull` fetches one; {BUNDLE_VARIABLE} names another place."
    )


def _source() -> str:
    """`source.id` of params.yaml, parsed again when the file has changed: workers look for their bundle all the time,
    and parsing holds the interpreter for some 13 ms, in which no request is answered."""
    try:
        file = PARAMS.stat()
    except OSError:
        return load_params()["source"].id  # raises the InputError that says so
    return _source_of((file.st_dev, file.st_ino, file.st_mtime_ns, file.st_size))


@lru_cache(1)
def _source_of(_: tuple[int, ...]) -> str:
    return load_params()["source"].id


def is_bento() -> bool:
    """Whether this code runs from a Bento."""
    return (BENTO / "bento.yaml").is_file()


@contextmanager
def importable() -> Iterator[None]:
    """A Bento's code on sys.path: BentoML 1.4.39 takes it off before `on_deployment`, where more of it is imported."""
    code = str(Path(__file__).resolve().parents[1])
    if code in sys.path:
        yield
        return
    sys.path.insert(0, code)
    try:
        yield
    finally:
        sys.path.remove(code)


@cache
def packed_bundle() -> Path:
    """The Bento's bundle: in an image beside the code, elsewhere in BentoML's store."""
    import bentoml  # nothing else here needs it

    models = bentoml.Bento.from_path(str(BENTO)).info.all_models
    return Path(bentoml.models.get(models[0].tag).path_of(BUNDLE_OF_MODEL))


def find_state(source: str) -> Path:
    """The folder of Feast's online store for a source."""
    return Path(os.environ.get(STATE_VARIABLE) or Path(".state") / source / "feast")


def find_programs(source: str) -> Path:
    """The folder into which `make export` writes and from which the service loads machine code; in a Bento its own."""
    return packed_bundle().with_name(PROGRAMS_OF_MODEL) if is_bento() else Path("exported") / source


def find_snapshot(source: str) -> Path | None:
    """The feature snapshot that the state should be loaded from; None if LEITMOTIF_STATE names the state."""
    return None if os.environ.get(STATE_VARIABLE) else Path("data") / source / "feature_snapshot"


def where_commands_run() -> str:
    """In a Bento, where there is no `make`: a text on where to run the commands of an error message. Else empty."""
    if not is_bento():
        return ""
    state = os.environ.get(STATE_VARIABLE)
    given = f"{STATE_VARIABLE} is {state}" if state else f"{STATE_VARIABLE} is not set"
    return (
        f"\nThis is a Bento, which has no `make`. {given}; it must be the folder of the online store, "
        "such as .state/<source>/feast of the repository that built this Bento. Run the command above there, "
        "then start this again."
    )


def champion_path(source: str) -> Path:
    """The path of the promoted bundle."""
    return CHAMPIONS / source / "bundle"


def former_path(source: str) -> Path | None:
    """The champion before the present one; None where none is kept."""
    kept = [path for path in (CHAMPIONS / source / FORMER).glob("*-*") if path.name.partition("-")[0].isdigit()]
    return max(kept, key=lambda path: int(path.name.partition("-")[0]), default=None)


def newest_path(source: str) -> Path:
    """The path of the newest bundle, which the stage package writes."""
    return Path("data") / source / "bundle"
