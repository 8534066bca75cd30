"""seed in, the numbers from 0 to seed out."""

from pathlib import Path

from contracts.publish import publish
from contracts.stage import Report, main


def run(data: Path, seed: int) -> Report:
    """Write interactions/ and names/."""
    with Path("runs.txt").open("a") as log:
        log.write("make\n")
    with publish(data, "interactions", "names") as staging:
        (staging / "interactions" / "numbers.txt").write_text("\n".join(map(str, range(seed + 1))))
        (staging / "names" / "names.txt").write_text("zero one")
    return {"rows_read": seed + 3, "rows_written": seed + 1, "dropped": {"no item_id": 2}}


if __name__ == "__main__":
    main(run)
