"""Restores the latest former champion of a source that is whole, and withdraws the current one.

Writes reports/<source>/rollback.json.
"""

import sys
from pathlib import Path
from typing import Any

from contracts.errors import InputError
from contracts.params import load_params
from contracts.publish import write_json
from contracts.running import begun
from serving.locations import champion_path
from serving.promoting.places import former_of, restore

WAIT_S = 60.0


def rollback(source: str) -> dict[str, Any]:
    """Restore the latest former champion that is whole. Raises InputError if none is."""
    home = champion_path(source).parent
    done = restore(home)
    report = {
        "champion": done.version,
        "withdrawn": done.gone,
        "passed_over": done.passed_over,
        "num_former": len(former_of(home)),
    }
    write_json(Path("reports") / source / "rollback.json", report)
    return report


def main() -> None:
    """`make rollback`: for the source that params.yaml names. Takes no flags."""
    if len(sys.argv) > 1:
        print(f"{__doc__}\n\nTakes no flags.")
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    try:
        source = load_params()["source"].id
        with begun(Path(), "make rollback", WAIT_S, print):
            report = rollback(source)
    except InputError as error:
        print(f"Not rolled back: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    for name, why in report["passed_over"].items():
        print(f"The former champion {name} cannot be read and is passed over: {why}.")
    print(
        f"Rolled back for {source}: {report['champion']} is champion again, {report['withdrawn']} is withdrawn; only "
        f"`make promote ARGS=--force` promotes it again. {report['num_former']} former champions are kept. A "
        f"running service switches to it by itself. Commit champions/{source}.dvc and `make push` to share it."
    )


if __name__ == "__main__":
    main()
