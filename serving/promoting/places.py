"""champions/<source>: the champion's bundle, the former ones that a rollback can return to, and those withdrawn.

    bundle/                     what `make serve` serves
    former/<number>-<version>/  bundles that were champions before, the highest number the latest
    withdrawn.json              versions that a rollback took back: only --force promotes them again

The folder is one to DVC. It changes in one step, and if DVC does not take it, the old one is in its place again.
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
RENAME_EXCHANGE = 2
AT_CWD = -100


def crown(home: Path, candidate: Path, num_former: int) -> None:
    """Put a bundle in the champion's place; the champion becomes the latest of the former ones."""
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
    """Put the latest former champion back. Returns (its version, the version that was withdrawn).

    Raises InputError where none is kept, or the one that is was damaged.
    """
    former = former_of(home)
    if not (home / BUNDLE).exists() or not former:
        raise InputError(
            f"{home} keeps no former champion to go back to. promote.num_former says how many `make promote` keeps; "
            f"`git log champions/{home.name}.dvc` lists all that there were: `git checkout <commit> "
            f"champions/{home.name}.dvc` and `dvc checkout champions/{home.name}.dvc` bring one back."
        )
    version = read_manifest(former[0]).model_version
    gone = version_of(home / BUNDLE)
    with _changing(home) as made:
        shutil.rmtree(made / BUNDLE)
        os.replace(made / FORMER / former[0].name, made / BUNDLE)
        write_json(made / WITHDRAWN, {"withdrawn": sorted({*withdrawn_of(home), gone})})
    return version, gone


def former_of(home: Path) -> list[Path]:
    """The bundles that were champions before, the latest first."""
    kept = (home / FORMER).iterdir() if (home / FORMER).is_dir() else ()
    return sorted(kept, key=_number, reverse=True)


def withdrawn_of(home: Path) -> list[str]:
    """Versions that a rollback took back."""
    return read_json(home / WITHDRAWN).get("withdrawn", []) if (home / WITHDRAWN).exists() else []


def other_format(bundle: Path) -> str | None:
    """Of a bundle that another version of this code packaged, how it was packaged; None of one that is read here."""
    told = read_json(bundle / MANIFEST).get("format") if (bundle / MANIFEST).exists() else FORMAT
    return None if told == FORMAT else f"{bundle} has bundle format {told}; this code reads {FORMAT}"


def version_of(bundle: Path) -> str:
    """What replies call the model: of a bundle of any format. Raises InputError where it is damaged."""
    if other_format(bundle) is None:
        return read_manifest(bundle).model_version
    with reading(bundle / MANIFEST):
        return str(read_json(bundle / MANIFEST)["bundle_hash"])[:SHORT]


@contextmanager
def _changing(home: Path) -> Iterator[Path]:
    """Give a copy of the folder to change, then put it in the folder's place and tell DVC."""
    home.parent.mkdir(parents=True, exist_ok=True)
    for left in home.parent.glob(f".{home.name}-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    made = scratch / home.name
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
        shutil.rmtree(scratch, ignore_errors=True)


def exchange(one: Path, two: Path) -> None:
    """Swap two folders: in one step where the kernel can, so that whoever reads meanwhile finds one or the other."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None and not renameat2(AT_CWD, os.fsencode(one), AT_CWD, os.fsencode(two), RENAME_EXCHANGE):
        return
    aside = one.with_name(f"{one.name}.aside")  # no Linux, or a file system that cannot
    os.replace(two, aside)
    os.replace(one, two)
    os.replace(aside, one)


def _retire(made: Path) -> None:
    numbers = [_number(path) for path in former_of(made)]
    version = version_of(made / BUNDLE)
    (made / FORMER).mkdir(exist_ok=True)
    os.replace(made / BUNDLE, made / FORMER / f"{max(numbers, default=0) + 1:04d}-{version}")


def _number(path: Path) -> int:
    number, _, _ = path.name.partition("-")
    if not number.isdigit():
        raise InputError(f"{path} is no former champion: it is not named <number>-<version>. Move it elsewhere.")
    return int(number)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=shutil.copyfile)  # not the mode: DVC's cache may be read-only


def _dvc(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()}. `dvc doctor` shows DVC's state.")
