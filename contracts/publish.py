"""Stage outputs are written under a temporary name and renamed on success; a failure leaves nothing."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed, InputError
from contracts.files import hash_file, is_full, write_text


@contextmanager
def publish(data: Path, *names: str) -> Iterator[Path]:
    """Yield a staging folder with one empty sub-folder per output; move each to data/<name> on success.

    data: the source's folder, data/<source>.
    names: the stage's outputs. After a CheckFailed the staging folder stays as data/<source>/.refused, which the
        runner moves to attempts/<stage>/made. After any other error it is removed. Raises InputError where the disk is
        full: earlier outputs stay in place.
    """
    data.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".staging-{os.getpid()}-", dir=data))
    try:
        with room_for(data):
            for name in names:
                (staging / name).mkdir()
            yield staging
            for name in names:
                _replace(staging / name, data / name)
    except CheckFailed:
        kept = data / ".refused"
        _replace(staging, kept)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def room_for(where: Path) -> Iterator[None]:
    """Turn any library's full-disk error into one InputError."""
    try:
        yield
    except (InputError, CheckFailed):
        raise
    except Exception as error:
        if is_full(error):
            raise InputError(no_room(where, error)) from error
        raise


def no_room(where: Path, error: Exception) -> str:
    """The message for a full disk."""
    said = " ".join(str(error).split())
    return f"{where} cannot be written: {said}. Free space on its disk, then run again; what stood there before stands."


def write_report(path: Path, report: Mapping[str, Any]) -> str:
    """Write a stage's report and return the digest of its bytes.

    An empty list is written as null, because `dvc plots show` reads every report and fails on [].
    """
    write_json(path, _without_empty_lists(report))
    return digest_of(path)


def digest_of(path: Path) -> str:
    """The digest of a report's bytes, which tells the reports of several runs apart."""
    return hash_file(path)[:16]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object atomically: keys sorted, non-finite numbers as null (JSON has none)."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def _replace(source: Path, target: Path) -> None:
    """Replace a folder by another; the old one is removed only after the new one is in place."""
    if target.exists():
        trash = Path(tempfile.mkdtemp(prefix=f".trash-{os.getpid()}-", dir=target.parent))
        os.replace(target, trash / target.name)
        os.replace(source, target)
        shutil.rmtree(trash, ignore_errors=True)
    else:
        os.replace(source, target)


def _without_empty_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_empty_lists(each) for key, each in value.items()}
    return None if isinstance(value, list | tuple) and not value else value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
