"""What `feast apply` finds here: the definitions that a load applies, of the source that params.yaml names.

They are in features/feast_store/repository.py, as functions: paths, lags and windows are the snapshot's. Feast looks
for them among a module's names.
"""

import json

from features.feast_store.repository import definitions, read_settings
from features.feast_store.source import source_folder

DATA = source_folder()
SNAPSHOT = DATA / "feature_snapshot"
STAMP = json.loads((SNAPSHOT / "snapshot.json").read_text(encoding="utf-8"))

globals().update({made.name: made for made in definitions(DATA, SNAPSHOT, *read_settings(SNAPSHOT, STAMP))})
