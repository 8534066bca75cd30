"""The source that params.yaml names -> the data, registry and online store of Feast's command line.

feature_store.yaml cannot name them itself, since paths in it are fixed.
"""

from pathlib import Path
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.repo_config import RegistryConfig
from pydantic import Field, StrictStr

from contracts.errors import InputError
from contracts.params import load_params
from features.feast_store.sqlite import LeitmotifSqliteOnlineStore, LeitmotifSqliteOnlineStoreConfig
from features.live.open_tail import live_path
from features.live.places import state_of

ROOT = Path(__file__).resolve().parents[2]


def source_folder() -> Path:
    """data/<source>. Raises InputError if the source has no feature snapshot."""
    data = ROOT / "data" / load_params(ROOT / "params.yaml")["source"].id
    if not (data / "feature_snapshot" / "snapshot.json").exists():
        raise InputError(f"There is no feature snapshot in {data}. `make run` makes one, `make pull` fetches one.")
    return data


def _path(name: str) -> str:
    return str(state_of(source_folder()) / name)


class SourceRegistryStore(FileRegistryStore):
    """A registry in a file of the source's state folder; `path` is the file's name."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        super().__init__(registry_config.model_copy(update={"path": _path(registry_config.path)}), repo_path)


class SourceSqliteOnlineStoreConfig(LeitmotifSqliteOnlineStoreConfig):
    """`path` and `tail_path` default to those of the source."""

    type: Any = "features.feast_store.source.SourceSqliteOnlineStore"
    path: StrictStr = Field(default_factory=lambda: _path("online.db"))
    tail_path: str = Field(default_factory=lambda: str(live_path(state_of(source_folder()))))


class SourceSqliteOnlineStore(LeitmotifSqliteOnlineStore):
    """The online store that the service reads, live events included."""
