"""Great Expectations' pages -> in the place of the last ones; of results that have a page there already, that page."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from contracts.known_hashes import hash_of
from features.tables.cache import PartitionCache


def known_pages(results: Iterable[Path], docs: Path, maker: str) -> dict[Path, Path]:
    """Results whose page is among the last ones -> that page. maker: what a page has that need not be made again."""
    pages = {result: docs / "validations" / result.with_suffix(".html") for result in results}
    return {
        result: page
        for result, page in pages.items()
        if page.is_file() and maker in page.read_text(encoding="utf-8", errors="replace")
    }


def put(site: Path, docs: Path, kept: Sequence[Path]) -> None:
    """Put a site, with these pages of the last one, in its place by rename."""
    for page in kept:
        made = site / page.relative_to(docs)
        made.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, made)
    docs.parent.mkdir(parents=True, exist_ok=True)
    old, new = (docs.with_name(f".{docs.name}.{which}") for which in ("old", "new"))
    if old.exists() and not docs.exists():
        os.replace(old, docs)  # a swap was killed halfway
    for left in (old, new):
        shutil.rmtree(left, ignore_errors=True)
    shutil.move(site, new)  # from another disk, perhaps
    if docs.exists():
        os.replace(docs, old)
    os.replace(new, docs)
    shutil.rmtree(old, ignore_errors=True)


def stands(docs: Path, key: str, cache: PartitionCache) -> bool:
    """Whether a site is, file by file, what `note` noted under this key."""
    return cache.noted(key) == _files(docs)


def note(docs: Path, key: str, cache: PartitionCache) -> None:
    """Note what a site is. key: of everything that it depends on."""
    cache.note(key, _files(docs))


def _files(docs: Path) -> dict[str, str]:
    """Every file of a site -> the hash of its bytes."""
    return {path.relative_to(docs).as_posix(): hash_of(path) for path in docs.rglob("*") if path.is_file()}
