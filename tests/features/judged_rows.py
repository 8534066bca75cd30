"""Flaws of partitions, found from nothing that was kept."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from features.quality.flaws import Flaws, find_flaws
from features.tables.cache import PartitionCache
from features.terms.rules import Rule


def flaws_of(files: Sequence[Path], rules: Sequence[Rule]) -> Flaws:
    """What find_flaws says of these files with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        return find_flaws(files, rules, PartitionCache(Path(folder)))
