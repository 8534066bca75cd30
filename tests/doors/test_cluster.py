"""One command beside a Spark cluster, a Redis Cluster and a bucket: from a log to a service that ranks from all three.

The slow form runs every stage in a new clone; the other takes what one machine ran to the same Redis and bucket.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from ruamel.yaml import YAML

from tests.clones import SMALL, clone
from tests.doors.conftest import Started, free_port, started, typed
from tests.features.redis_cluster import Cluster
from tests.features.spark_cluster import LOCAL, SparkCluster
from tests.prepared import add_environment
from tests.s3_server import S3Server

pytestmark = pytest.mark.xdist_group("spark")

NUM_PEOPLE, NUM_EVENINGS, NUM_SLOTS, NUM_FILES = 40, 10, 6, 3
LIMIT_S = 2400.0
DVC = "leitmotif"
"""What the keys of the DVC remote begin with, in a bucket of its own."""
COLUMNS = {"user_id": "viewer", "item_id": "film", "occurred_at": "ts", "label": "liked"}
PIPELINE = (
    *("source.id=films", "source.time_unit=s", "train.epochs=1", "train.min_history=5"),
    *(f"source.columns.{ours}={theirs}" for ours, theirs in COLUMNS.items()),
    *(each for each in SMALL if not each.startswith("simulator.")),
)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[S3Server]:
    """A server with two empty buckets, logs and versions."""
    server = S3Server(tmp_path)
    try:
        for name in ("logs", "versions"):
            server.client.create_bucket(Bucket=name)
        yield server
    finally:
        server.client.close()
        server.end()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Cluster]:
    """Three primaries and a replica each, empty."""
    with Cluster(tmp_path / "redis") as cluster:
        yield cluster


def log() -> dict[str, bytes]:
    """A log in three files: of an evening people like either the even or the odd films."""
    draw = random.Random(7)
    rows = []
    for person in range(NUM_PEOPLE):
        at = 1_700_000_000 + draw.randrange(10**6)
        for evening in range(NUM_EVENINGS):
            mood = (person + evening // 2) % 2
            for _ in range(NUM_SLOTS):
                film = draw.randrange(30)
                liked = draw.random() < (0.8 if film % 2 == mood else 0.2)
                rows.append(f"u{person},i{film},{at},{liked:d}")
                at += draw.randrange(1, 60)
            at += draw.randrange(10**4, 10**5)
    parts = {f"log/{number}.csv": rows[number::NUM_FILES] for number in range(NUM_FILES)}
    return {key: "\n".join([",".join(COLUMNS.values()), *part, ""]).encode() for key, part in parts.items()}


def ready(program: Started, port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        program.until(lambda: client.get("/readyz").status_code == 200, LIMIT_S, every_s=1)


def rank(port: int, user: str, *items: str) -> dict:
    """What the service answers."""
    asked = {"user_id": user, "candidates": items, "k": len(items), "preview": True}
    answer = httpx.post(f"http://127.0.0.1:{port}/rank", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def check_ranks(port: int, user: str, *items: str) -> None:
    """A known user's items, of a history that a posted event makes longer by one."""
    told = rank(port, user, *items)
    assert {each["item_id"] for each in told["items"]} == set(items)
    assert not told["history"]["store_away"]
    assert told["history"]["length"] > 0
    event = {"user_id": user, "item_id": items[0], "event_id": "of the cluster's test"}
    posted = httpx.post(f"http://127.0.0.1:{port}/events", json={"events": [event]}, timeout=60)
    assert posted.json()["num_new"] == 1, posted.text
    assert rank(port, user, *items)["history"]["length"] == told["history"]["length"] + 1


def check_state(redis: Cluster, house: Path, source: str) -> None:
    """Every user's row lies in the cluster, some with each primary, and so do the live events; no file has any."""
    users = {port: sum(b"user_id" in key for key in keys) for port, keys in redis.keys().items()}
    assert min(users.values()) > 0, users
    histories = json.loads((house / "reports" / source / "histories.json").read_text())
    assert sum(users.values()) == histories["num_users"]
    assert any(key.startswith(b"{leitmotif:%s}" % source.encode()) for keys in redis.keys().values() for key in keys)
    assert not list((house / ".state" / source / "feast").rglob("*.db-wal"))
    assert not (house / "live" / f"{source}.db").exists()


def check_remote(bucket: S3Server, house: Path) -> None:
    """Every out of dvc.lock is in the bucket, folders file by file; but reports, which git keeps."""
    pages = bucket.client.get_paginator("list_objects_v2").paginate(Bucket="versions", Prefix=DVC)
    keys = {each["Key"] for page in pages for each in page["Contents"]}
    lock = YAML(typ="safe").load(house / "dvc.lock")
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    outs = [out["md5"] for out in outs if not out["path"].endswith(".json")]
    assert len(outs) > 20
    assert any("/runs/" in key for key in keys), "what ran before is in the remote too"
    for out in outs:
        if out.endswith(".dir"):
            listed = bucket.client.get_object(Bucket="versions", Key=key_of(out))["Body"].read()
            assert {key_of(each["md5"]) for each in json.loads(listed)} <= keys
        else:
            assert key_of(out) in keys


def key_of(md5: str) -> str:
    """Where DVC keeps it."""
    return f"{DVC}/files/md5/{md5[:2]}/{md5[2:]}"


def test_what_one_machine_ran_goes_to_a_redis_cluster_and_a_bucket(
    house: Path, redis: Cluster, bucket: S3Server
) -> None:
    port = free_port()
    given = (f"ONLINE={redis.address}", f"PORT={port}", "ARGS=engine.name=spark")
    with started(house, "make up URL=s3://versions/leitmotif", *given, **bucket.environment) as program:
        ready(program, port)
        assert "0 of 11 stages ran" in program.said
        check_ranks(port, "u00007", "i00001", "i00045")
        check_state(redis, house, "simulator")
    check_remote(bucket, house)


class Cold(NamedTuple):
    """What is there before the command: a new clone, and a cluster of two workers."""

    house: Path
    spark: SparkCluster


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[Cold]:
    with SparkCluster(tmp_path / "spark") as spark:
        yield Cold(add_environment(clone(tmp_path / "house")), spark)


def check_ran_on_both_workers(spark: SparkCluster, said: str) -> None:
    """The executors finished as many tasks as the stages say they gave to Spark."""
    asked = sum(int(number) for number in re.findall(r": (\d+) tasks on Spark in", said))
    done = {
        place: sum(path.read_text().count("Finished task") for path in spark.folder.glob(f"work{place}/app-*/*/stderr"))
        for place in range(len(spark.workers))
    }
    assert asked > NUM_FILES
    assert sum(done.values()) == asked
    assert min(done.values()) > 0


@pytest.mark.slow
def test_a_log_in_a_bucket_runs_on_spark_to_an_answer_from_a_redis_cluster(
    cold: Cold, redis: Cluster, bucket: S3Server
) -> None:
    for key, content in log().items():
        bucket.put(key, content)
    args, port = f"engine.name=spark engine.master={cold.spark.address} {' '.join(PIPELINE)}", free_port()
    environment = bucket.environment | LOCAL  # LOCAL: the executors reach the driver on loopback
    with started(
        cold.house,
        "make up SOURCE=table DATA=s3://logs/log URL=s3://versions/leitmotif",
        f"ONLINE={redis.address}",
        f"ARGS={args}",
        f"PORT={port}",
        **environment,
    ) as program:
        ready(program, port)
        assert f"s3://logs/log: {NUM_FILES} objects" in program.said
        assert f"rows_read {NUM_PEOPLE * NUM_EVENINGS * NUM_SLOTS:,}" in program.said
        assert "11 of 11 stages ran" in program.said
        check_ran_on_both_workers(cold.spark, program.said)
        assert "rank  item" in typed(cold.house, "make ask", f"PORT={port}", "ARGS=--user u7").stdout
        check_ranks(port, "u7", "i1", "i2")
        check_state(redis, cold.house, "films")
    check_remote(bucket, cold.house)
