"""champions/<source>: the champion's bundle, former champions for a rollback, and withdrawn versions.

    bundle/                     what `make serve` serves
    former/<number>-<version>/  former champions, the latest with the highest number
    withdrawn.json              versions that a rollback withdrew: only --force promotes them again

DVC tracks the folder as a whole. It is replaced atomically, and restored if `dvc add` fails.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.errors import InputError
from contracts.publish import write_json
from serving.bundle.loaded import read_json, reading
from serving.bundle.manifest import FORMAT, MANIFEST, SHORT, read_manifest
from serving.locations import FORMER

BUNDLE, WITHDRAWN = "bundle", "withdrawn.json"
UNREADABLE = "unreadable"
RENAME_EXCHANGE = 2
AT_CWD = -100


def crown(home: Path, candidate: Path, num_former: int) -> None:
    """Make a bundle the champion; the current champion becomes the latest former one, unless it is damaged."""
    version = read_manifest(candidate).model_version
    withdrawn = [each for each in withdrawn_of(home) if each != version]
    with _changing(home) as made:
        if (made / BUNDLE).exists():
            _retire(made)
        for old in former_of(made)[num_former:]:
            shutil.rmtree(old)
        _copy(candidate, made / BUNDLE)
        write_json(made / WITHDRAWN, {"withdrawn": withdrawn})


def restore(home: Path) -> tuple[str, str]:
    """Make the latest former champion the champion again. Returns (its version, the withdrawn version).

    Raises InputError if there is no former champion, or it is damaged.
    """
    former = former_of(home)
    if not (home / BUNDLE).exists() or not former:
        raise InputError(
            f"{home} keeps no former champion to go back to. `make promote` keeps promote.num_former of them; "
            f"`git log champions/{home.name}.dvc` lists all champions: `git checkout <commit> "
            f"champions/{home.name}.dvc` and `dvc checkout champions/{home.name}.dvc` restore one."
        )
    version = read_manifest(former[0]).model_version
    gone = version_of(home / BUNDLE)
    with _changing(home) as made:
        shutil.rmtree(made / BUNDLE)
        os.replace(made / FORMER / former[0].name, made / BUNDLE)
        write_json(made / WITHDRAWN, {"withdrawn": sorted({*withdrawn_of(home), gone} - {UNREADABLE})})
    return version, gone


def former_of(home: Path) -> list[Path]:
    """The former champions, the latest first."""
    kept = (home / FORMER).iterdir() if (home / FORMER).is_dir() else ()
    return sorted(kept, key=_number, reverse=True)


def withdrawn_of(home: Path) -> list[str]:
    """Versions that a rollback withdrew."""
    return read_json(home / WITHDRAWN).get("withdrawn", []) if (home / WITHDRAWN).exists() else []


def other_format(bundle: Path) -> str | None:
    """A text about the format of a bundle that this code cannot read; None if it can, or the manifest is damaged."""
    try:
        format_ = read_json(bundle / MANIFEST).get("format", FORMAT)
    except InputError:
        return None
    return None if format_ == FORMAT else f"{bundle} has bundle format {format_}; this code reads {FORMAT}"


def damage_of(bundle: Path) -> str | None:
    """A text about what is wrong with a bundle of this code's format; None if it is as it was packaged."""
    if other_format(bundle) is None:
        try:
            read_manifest(bundle)
        except InputError as error:
            return str(error)
    return None


def version_of(bundle: Path) -> str:
    """The model version that a bundle names, of any format, also if it is damaged; UNREADABLE if it names none."""
    try:
        with reading(bundle / MANIFEST):
            return str(read_json(bundle / MANIFEST)["bundle_hash"])[:SHORT]
    except InputError:
        return UNREADABLE


@contextmanager
def _changing(home: Path) -> Iterator[Path]:
    """Yields a copy of the folder to change, then puts it in the folder's place and runs `dvc add`."""
    home.parent.mkdir(parents=True, exist_ok=True)
    for left in home.parent.glob(f".{home.name}-*"):  # left by a killed run
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    made = temporary / home.name
    try:
        _copy(home, made) if home.exists() else made.mkdir()
        yield made
        was_there = home.exists()
        exchange(made, home) if was_there else os.replace(made, home)
        try:
            _dvc("add", "--quiet", str(home))
        except BaseException:
            exchange(made, home) if was_there else shutil.rmtree(home)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(one: Path, two: Path) -> None:
    """Swap two folders, atomically where the kernel can, so that concurrent readers find one or the other."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None and not renameat2(AT_CWD, os.fsencode(one), AT_CWD, os.fsencode(two), RENAME_EXCHANGE):
        return
    aside = one.with_name(f"{one.name}.aside")  # not Linux, or a file system without RENAME_EXCHANGE
    os.replace(two, aside)
    os.replace(one, two)
    os.replace(aside, one)


def _retire(made: Path) -> None:
    if damage_of(made / BUNDLE):  # no rollback could use it, and it would be in the way of those before it
        shutil.rmtree(made / BUNDLE)
        return
    numbers = [_number(path) for path in former_of(made)]
    version = version_of(made / BUNDLE)
    (made / FORMER).mkdir(exist_ok=True)
    os.replace(made / BUNDLE, made / FORMER / f"{max(numbers, default=0) + 1:04d}-{version}")


def _number(path: Path) -> int:
    number, _, _ = path.name.partition("-")
    if not number.isdigit():
        raise InputError(f"{path} is not a former champion: its name is not <number>-<version>. Move it elsewhere.")
    return int(number)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, copy_function=shutil.copyfile
    )  # without modes: files of DVC's cache may be read-only


def _dvc(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()}. `dvc doctor` shows DVC's state.")
