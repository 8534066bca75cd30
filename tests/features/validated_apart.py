"""A program: validate of data/table, in a process of its own -> its report, and which heavy modules it has loaded.

Arguments: the data folder, what to change as JSON: limits (of expectations), validate, versions (library -> version).
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

HEAVY = ("great_expectations", "ibis", "scipy", "altair")


def main() -> None:
    """Run, and print one JSON object."""
    data, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    installed, others = importlib.metadata.version, changes.get("versions", {})
    importlib.metadata.version = lambda name: others.get(name) or installed(name)  # as if another were installed

    from contracts.known_hashes import remembering
    from features.stages import validate
    from tests.features.raw_logs import expectations, limits

    with remembering(data.parent.parent):  # as the stage runner does
        report: dict[str, Any] = dict(
            validate.run(data, limits(**changes.get("validate", {})), expectations(**changes.get("limits", {})))
        )
    print(json.dumps({"report": report, "loaded": [name for name in HEAVY if name in sys.modules]}))


if __name__ == "__main__":
    main()
