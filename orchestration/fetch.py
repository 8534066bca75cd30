"""`make run DATA=s3://...`: objects of a bucket -> a folder here that the stages read; what did not change stays.

A stage reads files: by line for the quality page, by stat for what changed, by hash for DVC. So objects are brought
here once an ETag, rather than named in dvc.yaml as external dependencies, which every stage would have to read anew.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from contracts.errors import InputError
from contracts.publish import publish, write_json

log = logging.getLogger("leitmotif")

SCHEME = "s3://"
FETCHED = Path("fetched")
BLOCK = 16 * 2**20
"""Bytes asked for at once, each time only if the object's ETag is still the listed one."""
CLIENT = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2}}
TRIES = 2


class Object(NamedTuple):
    """An object of the bucket."""

    key: str  # with the bucket
    etag: str
    size: int


def is_url(path: object) -> bool:
    """Whether a source.path is an address that is fetched."""
    return isinstance(path, str) and path.startswith(SCHEME)


def fetch(url: str) -> tuple[str, str]:
    """Bring the objects at or below the address to fetched/<name>/. Returns (source.path, a line that says what came).

    Endpoint, credentials and region are those of the AWS_* environment variables, or ~/.aws. Raises InputError where
    there are none, where nothing is there, the network fails, or an object changes meanwhile; what was fetched before
    then stands.
    """
    address = url.removeprefix(SCHEME).strip("/")
    with _one_error(url):
        store = _open_store()
        objects = _listed(store, url, address)
        folder, kept = FETCHED / _name(address), FETCHED / f"{_name(address)}.json"
        before = _before(kept, folder)
        now = {name: [each.etag, each.size] for name, each in objects.items()}
        single = folder / next(iter(objects)) if [each.key for each in objects.values()] == [address] else None
        path = (single or folder).as_posix()
        if now == before:
            return path, f"{url}: nothing changed since it was fetched to {path}"
        came = 0
        with publish(FETCHED, folder.name) as staging:
            for name, each in objects.items():
                target = staging / folder.name / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if before.get(name) == now[name]:
                    os.link(folder / name, target)
                else:
                    _copy(store, url, each, target)
                    came += each.size
        write_json(kept, {"url": url, "objects": now})
    return path, f"{url}: {len(objects):,} objects, {came / 1e6:,.1f} MB came to {path}"


def _open_store() -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise InputError("DATA=s3://... needs the package s3fs. Install it: pip install -e '.[s3]'.") from error
    s3fs.S3FileSystem.retries = TRIES
    return s3fs.S3FileSystem(config_kwargs=CLIENT, skip_instance_cache=True, use_listings_cache=False)


def _listed(store: Any, url: str, address: str) -> dict[str, Object]:
    """Every object that is data, by its name below the address. Raises InputError where there is none."""
    if not address:
        raise InputError(f"{url} names no bucket. Name one, and the log in it: s3://bucket/log.parquet.")
    found = [each for each in store.find(address, detail=True).values() if each["type"] == "file"]
    objects = {}
    for each in sorted(found, key=lambda each: each["name"]):
        name = each["name"].removeprefix(address).strip("/") or PurePosixPath(address).name
        parts = name.split("/")
        if ".." in parts or "" in parts or "\0" in name:
            raise InputError(f"{url}: the key {each['name']!r} cannot be a file's name. Rename it, or name a folder.")
        if not any(part[0] in "._" for part in parts) and not each["name"].endswith("/"):
            objects[name] = Object(each["name"], each["ETag"].strip('"'), int(each["size"]))
    if not objects:
        raise InputError(f"{url}: nothing is there. Correct the address: s3://<bucket>/<key, or what keys begin with>.")
    return objects


def _copy(store: Any, url: str, each: Object, target: Path) -> None:
    with store.open(each.key, "rb", block_size=BLOCK, cache_type="readahead") as source, target.open("wb") as copy:
        if source.details["ETag"].strip('"') != each.etag:
            raise _changed(url, each)
        for block in _blocks(source):
            copy.write(block)
    if target.stat().st_size != each.size:
        raise _changed(url, each)


def _blocks(source: BinaryIO) -> Iterator[bytes]:
    while block := source.read(BLOCK):
        yield block


def _changed(url: str, each: Object) -> InputError:
    return InputError(
        f"{url}: {each.key} changed while it was being fetched. Nothing was replaced; run it again when it is written."
    )


def _name(address: str) -> str:
    """A folder's name that two addresses do not share."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", PurePosixPath(address).name.partition(".")[0]).strip("-")[:32] or "log"
    return f"{stem}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def _before(kept: Path, folder: Path) -> Mapping[str, list]:
    """ETag and size of each object that was fetched, unless its file is not as it came."""
    try:
        objects = json.loads(kept.read_text(encoding="utf-8"))["objects"]
    except (OSError, ValueError, KeyError):
        return {}
    here = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    same = {name: facts for name, facts in objects.items() if here.get(name) == facts[1]}
    return same if here.keys() == objects.keys() else {}


@contextmanager
def _one_error(url: str) -> Iterator[None]:
    """Turn what the client raises into one InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        kinds = {each.__name__ for each in type(error).__mro__}
        if "FileExpired" in kinds or "pre-conditions" in said.lower():
            what, step = "an object changed while it was being fetched", "Run it again when it is written"
        elif "NoCredentialsError" in kinds or "PartialCredentialsError" in kinds:
            what = "there are no credentials"
            step = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL for a store that is not Amazon's)"
        elif isinstance(error, PermissionError):
            what, step = "the store refuses these credentials", "Check them, and that they may list and read the bucket"
        elif isinstance(error, FileNotFoundError):
            what, step = "no such bucket, or nothing is there", "Correct the address"
        elif isinstance(error, OSError) or kinds & {"BotoCoreError", "HTTPClientError", "ClientError"}:
            what, step = "the store does not answer", "Check the network and AWS_ENDPOINT_URL, then run it again"
        else:
            raise
        raise InputError(f"{url}: {what} ({said}). {step}; what was fetched before stands.") from error
