"""totals and names in, a page out."""

from pathlib import Path

from contracts.publish import publish
from contracts.stage import Report, main
from serving.params import ServeParams


def run(data: Path, serve: ServeParams) -> Report:
    """Write metrics/."""
    with Path("runs.txt").open("a") as log:
        log.write("render\n")
    with publish(data, "metrics") as staging:
        total = (data / "totals" / "total.txt").read_text()
        (staging / "metrics" / "page.txt").write_text(f"{total} {serve.clock}")
    return {"verdict": {"passed": serve.clock == "log_end", "reasons": ["the clock"]}, "length": len(total)}


if __name__ == "__main__":
    main(run)
