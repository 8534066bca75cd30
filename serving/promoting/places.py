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
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from contracts.errors import InputError
from contracts.publish import write_json
from serving.bundle.loaded import read_json, reading
from serving.bundle.manifest import AGAIN, FORMAT, MANIFEST, SHORT, read_manifest
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


class Restored(NamedTuple):
    """What a rollback did."""

    version: str  # champion again
    gone: str  # the withdrawn version
    passed_over: dict[str, str]  # later former champions that cannot be read: name -> why


def restore(home: Path) -> Restored:
    """Make the latest former champion that is whole the champion again; damaged ones before it are not kept.

    Raises InputError if there is none; then the champion and all that was kept stay.
    """
    former = former_of(home)
    if not (home / BUNDLE).exists() or not former:
        raise InputError(
            f"{home} keeps no former champion to go back to. `make promote` keeps promote.num_former of them; "
            f"`git log champions/{home.name}.dvc` lists all champions: `git checkout <commit> "
            f"champions/{home.name}.dvc` and `dvc checkout champions/{home.name}.dvc` restore one."
        )
    version, chosen, passed_over = _latest_whole(home, former)
    gone = version_of(home / BUNDLE)
    damaged = [
        name for name in passed_over if damage_of(home / FORMER / name)
    ]  # one of another format may be read again
    with _changing(home, [home / BUNDLE, *(home / FORMER / name for name in damaged)]) as made:
        os.replace(made / FORMER / chosen.name, made / BUNDLE)
        write_json(made / WITHDRAWN, {"withdrawn": sorted({*withdrawn_of(home), gone} - {UNREADABLE})})
    return Restored(version, gone, passed_over)


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
def _changing(home: Path, without: Collection[Path] = ()) -> Iterator[Path]:
    """Yields a copy of the folder to change, then puts it in the folder's place and runs `dvc add`.

    without: what is not copied, such as what is damaged, of which not every file may be readable.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    for left in home.parent.glob(f".{home.name}-*"):  # left by a killed run
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    made = temporary / home.name
    try:
        _copy(home, made, without) if home.exists() else made.mkdir()
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


def _latest_whole(home: Path, former: list[Path]) -> tuple[str, Path, dict[str, str]]:
    """(the version, its folder, why each one before it cannot be read). former: the latest first."""
    passed_over = {}
    for path in former:
        try:
            return read_manifest(path).model_version, path, passed_over
        except InputError as error:
            passed_over[path.name] = str(error).removesuffix(AGAIN).rstrip(". ")
    raise InputError(
        f"none of the {len(former)} former champions in {home / FORMER} can be read, and the champion stands: "
        f"{'; '.join(f'{name}: {why}' for name, why in passed_over.items())}. `dvc checkout --force {home}.dvc` "
        "restores them from DVC's cache."
    )


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


def _copy(source: Path, target: Path, without: Collection[Path] = ()) -> None:
    """Without modes: files of DVC's cache may be read-only."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name) in without]

    shutil.copytree(source, target, copy_function=shutil.copyfile, ignore=left_out)


def _dvc(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()}. `dvc doctor` shows DVC's state.")
