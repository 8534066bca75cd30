"""Validated interactions -> cumulative shows and clicks per item, per user and per (user, item), read as of t - lag."""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import logging
from pathlib import Path

import ibis
import ibis.expr.types as ir

from contracts.errors import InputError
from contracts.publish import publish
from contracts.schema import ROLE_IMPRESSION, counters
from contracts.stage import Report, main
from features import engine
from features.convention import CLICKED, micros
from features.params import StatisticsParams

log = logging.getLogger("leitmotif")

TABLES = {"item_counters": ["item_id"], "user_counters": ["user_id"], "user_item_counters": ["user_id", "item_id"]}


def run(data: Path, statistics: StatisticsParams) -> Report:
    """Every row was a show, and a label of CLICKED or more a click too. Raises InputError on an empty log.

    An item's counts leave out rows of role history: those come without the shows that were not clicked, and where a
    log has them for some weeks only, an item's clicks would mean something else from week to week.
    """
    report: dict[str, int] = {}
    with publish(data, *TABLES) as staging:
        (staging / "scratch").mkdir()
        with engine.duckdb(staging / "scratch") as connection:
            rows = engine.read(connection, data / "validated_interactions")
            num_interactions = rows.count().to_pyarrow().as_py()
            if not num_interactions:
                raise InputError(
                    f"{data / 'validated_interactions'} holds no rows: nothing to count. See its quarantine."
                )
            for name, keys in TABLES.items():
                counted = rows.filter(rows.role == ROLE_IMPRESSION) if keys == ["item_id"] else rows
                counted = cumulative_counts(counted, keys, micros(statistics.bucket_s))
                path = staging / name / f"{name}.parquet"
                report[f"num_{name}"] = engine.write_sorted(
                    connection, counted, [*keys, "occurred_at"], counters(*keys), path
                )
                log.info("%s: %s rows", name, f"{report[f'num_{name}']:,}")
    return report | {"num_interactions": num_interactions}


def cumulative_counts(rows: ir.Table, keys: list[str], bucket_us: int) -> ir.Table:
    """Running (shows, clicks) of each key, one row a time at which something happened, that time included.

    bucket_us: 0 keeps every time; otherwise events are stamped at the end of their bucket, so that none is known early.
    """
    stamped = rows.mutate(occurred_at=_bucket_end(rows.occurred_at, bucket_us)) if bucket_us else rows
    at_once = stamped.group_by([*keys, "occurred_at"]).agg(
        shows_now=stamped.count(), clicks_now=(stamped.label >= CLICKED).cast("int64").sum()
    )
    upto = ibis.cumulative_window(group_by=keys, order_by="occurred_at")
    running = at_once.mutate(shows=at_once.shows_now.sum().over(upto), clicks=at_once.clicks_now.sum().over(upto))
    return running.select(*keys, "occurred_at", "shows", "clicks")


def _bucket_end(at: ir.Column, bucket_us: int) -> ir.Column:
    return at.bucket(microseconds=bucket_us) + ibis.interval(microseconds=bucket_us)


if __name__ == "__main__":
    main(run)
