"""Measured slopes -> what 10^9 events and more cost in core hours, nodes and disk, and what serving them needs.

`python -m benchmarks.capacity --events 1e9 --users 2e7 --rankings-per-s 500` computes with your numbers and prints;
`--page docs/capacity.md` writes the page with the defaults. Nothing is measured here: the slopes are those of
benchmarks/results/slopes.json and online_memory.json, made by `python -m benchmarks.slopes` and
`python -m benchmarks.online_memory`. Costs are taken to grow linearly beyond the sizes that were measured.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ON_SPARK = ("ingest", "validate", "histories", "statistics")
"""Stages whose units of work Spark spreads over nodes (docs/spark.md); the others run on one."""
DAY_S = 86_400


@dataclass(frozen=True)
class Slope:
    """A line through two measured points."""

    fixed: float
    a_row: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> "Slope":
        """points: (rows, cost), of the smallest and the largest size. A negative fixed part counts as none."""
        (few, low), (many, high) = min(points), max(points)
        a_row = (high - low) / (many - few)
        return cls(max(0.0, low - a_row * few), a_row)

    def at(self, rows: float) -> float:
        """The cost of so many rows."""
        return self.fixed + self.a_row * rows


@dataclass(frozen=True)
class Plan:
    """What a team has and expects."""

    events: Sequence[float]  # rows of the log; one table row each
    users: float
    events_a_user: float  # in a history
    live_events_per_s: float
    rankings_per_s: float
    load_every_h: float  # from one `make absorb`, `make run`, `make load` to the next
    cores: int  # of a node
    within_h: float  # in which a run of the whole log must end
    redis_gb: float  # of one primary


def read(name: str) -> dict[str, Any]:
    """Figures that a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def slope_of(stages: Sequence[Mapping[str, Any]], stage: str, figure: str) -> Slope:
    """A stage's cost by rows."""
    return Slope.through([(each["rows"], each[figure]) for each in stages if each["stage"] == stage])


def batch(plan: Plan, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A run over the whole log, for each size."""
    names = list(dict.fromkeys(each["stage"] for each in stages))
    rows = []
    for events in plan.events:
        hours = {name: slope_of(stages, name, "cpu_s").at(events) / 3600 for name in names}
        spread = sum(hours[name] for name in names if name in ON_SPARK)
        alone_h = (sum(hours.values()) - spread) / plan.cores
        left_h = plan.within_h - alone_h
        nodes = math.ceil(spread / plan.cores / left_h) if left_h > 0 else None
        disk = sum(slope_of(stages, name, "bytes").at(events) for name in names)
        rows.append(
            {
                "events": f"{events:.0e}".replace("e+", "e"),
                **{f"{name}, core h": f"{each:,.1f}" for name, each in hours.items()},
                "one node, h": f"{sum(hours.values()) / plan.cores:,.1f}",
                f"nodes for {plan.within_h:g} h": "one stage alone takes longer" if nodes is None else f"{nodes:,}",
                "outputs, GB": f"{disk / 1e9:,.0f}",
            }
        )
    return rows


def online(plan: Plan, memory: Sequence[Mapping[str, Any]], reads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Redis and its network."""
    of_user = Slope.through([(each["events_a_user"], each["bytes_a_user"]) for each in memory]).at(plan.events_a_user)
    of_read = Slope.through([(each["events_a_user"], each["bytes_a_read"]) for each in reads]).at(plan.events_a_user)
    live = max(each["bytes_a_live_event"] for each in memory) * plan.live_events_per_s * plan.load_every_h * 3600
    users_gb, commands = plan.users * of_user / 1e9, max(each["commands_a_read"] for each in reads)
    memory_source, reads_source = "online_memory.json", "slopes.json, reads"
    rows = [
        ("Redis memory of a user", f"{of_user / 1e3:,.1f} kB", memory_source),
        ("Redis memory of all users", f"{users_gb:,.0f} GB", memory_source),
        ("primaries for them", f"{math.ceil(users_gb / plan.redis_gb):,}", f"{plan.redis_gb:g} GB each"),
        ("live events until the next load, on one primary", f"{live / 1e9:,.1f} GB", memory_source),
        ("read by rankings", f"{of_read * plan.rankings_per_s / 1e6:,.1f} MB/s", reads_source),
        ("commands of rankings", f"{commands * plan.rankings_per_s:,.0f} a second", reads_source),
        (
            "live events a day",
            f"{plan.live_events_per_s * DAY_S / 1e6:,.0f} million",
            "your number; the log grows by them",
        ),
    ]
    return [dict(zip(("what", "how much", "from"), row, strict=True)) for row in rows]


def page(plan: Plan) -> str:
    """The whole page in Markdown."""
    slopes, memory = read("slopes"), read("online_memory")
    stages, reads, tables = (slopes[name] for name in ("stages", "reads", "tables"))
    measured = [
        {
            "stage": name,
            "CPU s a million rows": f"{slope_of(stages['rows'], name, 'cpu_s').a_row * 1e6:,.1f}",
            "start, CPU s": f"{slope_of(stages['rows'], name, 'cpu_s').fixed:,.1f}",
            "bytes a row of its outputs": f"{slope_of(stages['rows'], name, 'bytes').a_row:,.1f}",
        }
        for name in dict.fromkeys(each["stage"] for each in stages["rows"])
    ]
    return f"""# Capacity

What a log costs beyond the sizes that were run. `python -m benchmarks.capacity --page docs/capacity.md` wrote
this page; `python -m benchmarks.capacity --events 3e9 --users 4e7 --rankings-per-s 800 --cores 64` computes with
your numbers. Every figure is a line through two measured sizes, drawn further: **nothing of 10^9 rows was run
here**. What is not a line (a slow disk, a full network, tasks that wait for the last one) is not in it.

## The batch run

Measured ({stages["hardware"]}, `{stages["command"]}`):

{markdown(measured)}

So a run of the whole log from nothing takes, on nodes of {plan.cores} cores that are all busy:

{markdown(batch(plan, stages["rows"]))}

[Spark](spark.md) spreads {", ".join(ON_SPARK)} over nodes. There a task's start and its Python cost extra (1.5 to
4 times the CPU at 1 to 10 million rows, less the larger a unit is; not counted here), and a part of each stays on
the driver. A later run reads and judges what is new: [what a day more
costs](quality.md).

Training does not grow with the log: it takes `train.max_requests`. An embedding row of width
{tables["rows"][0]["width"]} takes {tables["rows"][0]["bytes_a_row"]:,.0f} bytes with dense steps and
{tables["rows"][1]["bytes_a_row"]:,.0f} with sparse ones, in every process (`{tables["command"]}`).

## Online

{plan.users:,.0f} users with {plan.events_a_user:,.0f} events each, {plan.live_events_per_s:,.0f} live events and
{plan.rankings_per_s:,.0f} rankings a second, a load every {plan.load_every_h:g} hours
(`{memory["command"]}`, `{reads["command"]}`):

{markdown(online(plan, memory["rows"], reads["rows"]))}

The live events of a source lie on one primary of a cluster (its writes have one order), which bounds live events
a second times the hours between loads. A worker's memory does not depend on users ([figures](benchmarks.md)); how
many rankings a worker computes is measured on your processor by `python -m benchmarks.serving`.
"""


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--events", type=float, nargs="+", default=[1e9, 1e10, 1e11], help="rows of the log")
    parser.add_argument("--users", type=float, default=1e8)
    parser.add_argument("--events-a-user", type=float, default=500, help="events of a history")
    parser.add_argument("--live-events-per-s", type=float, default=2000)
    parser.add_argument("--rankings-per-s", type=float, default=1000)
    parser.add_argument("--load-every-h", type=float, default=6, help="hours between two loads of the online store")
    parser.add_argument("--cores", type=int, default=32, help="of a node")
    parser.add_argument("--within-h", type=float, default=6, help="hours that a run of the whole log may take")
    parser.add_argument("--redis-gb", type=float, default=64, help="memory of one Redis primary")
    parser.add_argument("--page", type=Path, help="write the page there")
    options = vars(parser.parse_args())
    target = options.pop("page")
    if bad := [name for name, value in options.items() if not all(number > 0 for number in _numbers(value))]:
        parser.error(f"--{bad[0].replace('_', '-')} must be above 0")
    text = page(Plan(**options))
    if target:
        target.write_text(text, encoding="utf-8")
    else:
        print(text)


def _numbers(value: float | Sequence[float]) -> Sequence[float]:
    return value if isinstance(value, Sequence) else [value]


if __name__ == "__main__":
    main()
