"""Measured slopes -> estimates for 10^9 events and more: core hours, nodes and disk of a run, and what serving needs.

`python -m benchmarks.capacity --events 1e9 --users 2e7 --rankings-per-s 500` computes with your numbers and prints;
`--page docs/capacity.md` writes the page and its picture with the defaults. Nothing is measured here: slopes are
read from benchmarks/results/slopes.json and online_memory.json, which `python -m benchmarks.slopes` and
`python -m benchmarks.online_memory` write. Costs are assumed to grow linearly beyond the measured sizes.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.capacity_chart import Curve, draw
from benchmarks.capacity_lines import Slope, in_words, read, slope_of
from benchmarks.table import markdown

ON_SPARK = ("ingest", "validate", "histories", "statistics")
"""Stages whose units of work Spark distributes over nodes (docs/spark.md); the others run on one node."""
DAY_S = 86_400


@dataclass(frozen=True)
class Plan:
    """The workload to plan for, and the machines."""

    events: Sequence[float]  # rows of the log; each size is a row of the table
    users: float
    events_a_user: float  # in a history
    live_events_per_s: float
    rankings_per_s: float
    load_every_h: float  # hours between loads (`make absorb`, `make run`, `make load`)
    cores: int  # of a node
    within_h: float  # the time limit of a run over the whole log
    redis_gb: float  # memory of one primary
    fill: (
        float  # the share of it that data may take; rewriting the append-only file, copies and fragments take the rest
    )
    replicas: float  # of each primary


def batch(plan: Plan, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of runs over the whole log, one row per size."""
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
                "events": in_words(events),
                **{f"{name}, core hours": f"{each:,.1f}" for name, each in hours.items()},
                "hours on one node": f"{sum(hours.values()) / plan.cores:,.1f}",
                f"nodes for {plan.within_h:g} hours, without Spark's own cost": (
                    "what runs on one node takes longer" if nodes is None else f"{nodes:,}"
                ),
                "outputs, GB": f"{disk / 1e9:,.0f}",
            }
        )
    return rows


def exchanged(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of what a cluster's network carries for the stages that benchmarks.scale measured on Spark."""
    found, on_spark = [], [each for each in rows if each["engine"] == "spark"]
    for stage in dict.fromkeys(each["stage"] for each in on_spark):
        own = [each for each in on_spark if each["stage"] == stage]
        lines = {
            f"{whose} {did}, bytes a row": Slope.through(
                [(each["rows"], each[f"{who}_{way}_mb"] * 1e6) for each in own]
            )
            for who, whose in (("unit", "units"), ("driver", "the driver"))
            for did, way in (("read", "read"), ("wrote", "written"))
        }
        found.append(
            {"stage": stage, "Spark shuffled, bytes": f"{sum(each['shuffle_mb'] for each in own) * 1e6:,.0f}"}
            | {name: f"{line.a_row:,.0f}" for name, line in lines.items()}
            | {
                f"{in_words(n)} rows, GB": f"{sum(line.at(n) for line in lines.values()) / 1e9:,.0f}"
                for n in plan.events
            }
        )
    return found


def on_spark(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many times DuckDB's CPU the stages took on Spark, from least to most, at each size."""
    cpu_s = {(each["rows"], each["stage"], each["engine"]): each["cpu_s"] for each in rows}
    ratios: dict[int, list[float]] = {}
    for (num, stage, engine), spent in cpu_s.items():
        if engine == "spark":
            ratios.setdefault(num, []).append(spent / cpu_s[num, stage, "duckdb"])
    said = (f"{min(each):.1f} to {max(each):.1f} times at {in_words(num)} rows" for num, each in ratios.items())
    return " and ".join(said)


def arrivals() -> dict[str, Any]:
    """The cases of `python -m benchmarks.arrivals` by number of rows: 50 million rows took a run of their own."""
    return read("arrivals")["rows"] | read("arrivals_50m")["rows"]


def curves(stages: Sequence[Mapping[str, Any]], arrivals: Mapping[str, Any]) -> list[Curve]:
    """All stages together, and ingest with validate, which another benchmark measured at more sizes."""
    names = list(dict.fromkeys(each["stage"] for each in stages))
    checked = ["ingest", "validate"]
    checks = [
        (float(rows), sum(each["cases"][f"{name}, all"]["cpu_s"] for name in checked))
        for rows, each in arrivals.items()
    ]

    def curve(label: str, colour: str, names: Sequence[str], checks: Sequence[tuple[float, float]]) -> Curve:
        lines = [slope_of(stages, name, "cpu_s") for name in names]
        sizes = sorted({each["rows"] for each in stages})
        points = [
            (rows, sum(each["cpu_s"] for each in stages if each["rows"] == rows and each["stage"] in names))
            for rows in sizes
        ]
        return Curve(label, colour, lambda rows: sum(line.at(rows) for line in lines), points, checks)

    return [
        curve("the stages of the table", "#0072b2", names, ()),
        curve("of these, ingest and validate", "#d55e00", checked, checks),
    ]


def checked(curve: Curve) -> list[dict[str, Any]]:
    """What the line says at sizes that another run measured."""
    return [
        {"rows": f"{rows:,.0f}", "the line says, CPU s": f"{curve.at(rows):,.0f}", "measured, CPU s": f"{cpu:,.0f}"}
        for rows, cpu in curve.checks
    ]


def online(plan: Plan, memory: Sequence[Mapping[str, Any]], reads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of what Redis needs: memory, nodes, network."""
    of_user = Slope.through([(each["events_a_user"], each["bytes_a_user"]) for each in memory]).at(plan.events_a_user)
    of_read = Slope.through([(each["events_a_user"], each["bytes_a_read"]) for each in reads]).at(plan.events_a_user)
    live = max(each["bytes_a_live_event"] for each in memory) * plan.live_events_per_s * plan.load_every_h * 3600
    users_gb, commands = plan.users * of_user / 1e9, max(each["commands_a_read"] for each in reads)
    memory_source, reads_source = "online_memory.json", "slopes.json, reads"
    rows = [
        ("Redis memory of a user", f"{of_user / 1e3:,.1f} kB", memory_source),
        ("Redis memory of all users", f"{users_gb:,.0f} GB", memory_source),
        ("live events until the next load, on one primary", f"{live / 1e9:,.1f} GB", memory_source),
        (
            "primaries",
            _primaries(plan, users_gb, live / 1e9),
            f"{plan.redis_gb:g} GB each, {plan.fill:.0%} of it filled",
        ),
        (
            "replicas",
            f"{plan.replicas:g} of each primary",
            "operations.md: what is acknowledged must survive one server",
        ),
        ("read by rankings", f"{of_read * plan.rankings_per_s / 1e6:,.1f} MB/s", reads_source),
        ("commands of rankings", f"{commands * plan.rankings_per_s:,.0f} a second", reads_source),
        (
            "live events a day",
            f"{plan.live_events_per_s * DAY_S / 1e6:,.0f} million",
            "your number; the log grows by them",
        ),
    ]
    return [dict(zip(("what", "how much", "from"), row, strict=True)) for row in rows]


def _primaries(plan: Plan, users_gb: float, live_gb: float) -> str:
    """Servers for users and live events; the live events of a source share one with some users."""
    room = plan.redis_gb * plan.fill
    if live_gb > room:
        return f"one cannot take the live events: load every {plan.load_every_h * room / live_gb:.1f} hours"
    return f"{math.ceil((users_gb + live_gb) / room):,}"


def page(plan: Plan) -> str:
    """The page as Markdown."""
    slopes, memory, scaled = read("slopes"), read("online_memory"), read("scale_10m")
    stages, reads, tables = (slopes[name] for name in ("stages", "reads", "tables"))
    sizes = sorted({each["rows"] for each in stages["rows"]})
    measured = [
        {
            "stage": name,
            "CPU seconds per million rows": f"{slope_of(stages['rows'], name, 'cpu_s').a_row * 1e6:,.1f}",
            "intercept of the line, CPU s": f"{slope_of(stages['rows'], name, 'cpu_s').fixed:,.1f}",
            "bytes a row of its outputs": f"{slope_of(stages['rows'], name, 'bytes').a_row:,.1f}",
            "peak memory, MB": " / ".join(
                f"{each['peak_mb']:,.0f}" for each in stages["rows"] if each["stage"] == name
            ),
        }
        for name in dict.fromkeys(each["stage"] for each in stages["rows"])
    ]
    return f"""# Capacity

Estimates for logs larger than those that were run. `python -m benchmarks.capacity --page docs/capacity.md` wrote
this page; `python -m benchmarks.capacity --events 3e9 --users 4e7 --rankings-per-s 800 --cores 64` computes with
your numbers. Every figure extrapolates a line through two measured sizes: **nothing of 10^9 rows was run here**.
Costs that do not grow linearly (a slow disk, a full network, waiting for the last task) are not included.

## The batch run

Measured ({stages["hardware"]}, `{stages["command"]}`):

{markdown(measured)}

The peak is of the smaller and the larger size ({" and ".join(in_words(each) for each in sizes)} rows). The intercept is
no start-up time (2 s more if validate judges anything, [quality.md](quality.md)): the cost is not quite a line.

![CPU hours by events: lines through the measured points, and another run's as crosses](capacity.svg)

Ingest and validate of another log, measured apart (`python -m benchmarks.arrivals`), beside what the line says:

{markdown(checked(curves(stages["rows"], arrivals())[1]))}

The largest was measured at a load of {read("arrivals_50m")["load"].split()[0]}, where sharing caches costs CPU too.

On a whole log with empty caches and nodes of {plan.cores} cores that are all busy, these stages therefore take:

{markdown(batch(plan, stages["rows"]))}

[Spark](spark.md) distributes {", ".join(ON_SPARK)} over nodes. Starting tasks and their Python processes costs extra
CPU there: validate, histories and statistics took the CPU of one process
{on_spark(scaled["rows"])};
ingest was not measured. It is not included here. A part of each stage stays on the driver. Not in the table: the
pages, materialize, which writes and loads what the online part below holds, and the stages of the model. Later runs
process only what is new: [what a new day costs](quality.md).

**Network.** Spark shuffles nothing (its own count): units and the driver read and write files of the shared folder, and
a cluster's network carries those. By read and write calls, so that what machines keep in memory is among it, and files
that histories map into memory are not
(`{scaled["command"]}`):

{markdown(exchanged(plan, scaled["rows"]))}

The cost of training does not grow with the log, because `train.max_requests` limits it. A row of an embedding table of
width {tables["rows"][0]["width"]} takes {tables["rows"][0]["bytes_a_row"]:,.0f} bytes with dense steps and
{tables["rows"][1]["bytes_a_row"]:,.0f} with sparse ones, in every process (`{tables["command"]}`).

## Online

{plan.users:,.0f} users with {plan.events_a_user:,.0f} events each, {plan.live_events_per_s:,.0f} live events and
{plan.rankings_per_s:,.0f} rankings per second, one load every {plan.load_every_h:g} hours
(`{memory["command"]}`, `{reads["command"]}`):

{markdown(online(plan, memory["rows"], reads["rows"]))}

Not counted: the counts of users who changed since the last load, which are stored twice until the next. All live events
of a source are stored on one primary of a cluster, because their writes have one order. Its memory limits the product
of live events per second and hours between loads. The memory of a worker does not depend on the
number of users ([figures](benchmarks.md)). `python -m benchmarks.serving` measures how many rankings a worker computes
on your processor.
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
    parser.add_argument("--within-h", type=float, default=6, help="time limit of a run over the whole log, in hours")
    parser.add_argument("--redis-gb", type=float, default=64, help="memory of one Redis primary")
    parser.add_argument("--fill", type=float, default=0.6, help="share of it that data may take")
    parser.add_argument("--replicas", type=float, default=1, help="of each primary")
    parser.add_argument("--page", type=Path, help="write the page to this file")
    options = vars(parser.parse_args())
    target = options.pop("page")
    if bad := [name for name, value in options.items() if not all(0 < each < math.inf for each in _numbers(value))]:
        parser.error(f"--{bad[0].replace('_', '-')} must be a number above 0")
    text = page(plan := Plan(**options))
    if target:
        target.write_text(text, encoding="utf-8")
        draw(curves(read("slopes")["stages"]["rows"], arrivals()), plan.cores, target.with_suffix(".svg"))
    else:
        print(text)


def _numbers(value: float | Sequence[float]) -> Sequence[float]:
    return value if isinstance(value, Sequence) else [value]


if __name__ == "__main__":
    main()
