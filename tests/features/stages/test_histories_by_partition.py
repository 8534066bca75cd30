"""Partitions arrive late, change and disappear: the outs are the same bytes as those of a rebuild."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import InputError
from contracts.schema import CONTEXTS, INTERACTIONS, ITEMS, QUARANTINE, REJECTED
from features.history import queries, request_writer
from features.history.pieces import decode_keys
from features.stages import histories as stage
from features.tables.histories import UserHistories
from features.terms.convention import key_of_text
from features.terms.params import HistoryParams, RequestParams
from tests.features.slow_histories import slowly
from tests.features.small_log import START, Row, contexts_of, history, request, row

DAY_S = 86_400
DAYS = ("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-05")
OFFSET_S = {day: int((np.datetime64(day) - np.datetime64(DAYS[0])).astype(int)) * DAY_S for day in DAYS}
ITEM_IDS = [f"i{number}" for number in range(6)]


def arrive(data: Path, day: str, rows: Sequence[Row]) -> None:
    """Write one partition as validate does."""
    path = data / "validated_interactions" / f"{day}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda each: (each["occurred_at"], each["event_id"]))
    pq.write_table(pa.Table.from_pylist(ordered, INTERACTIONS), path, row_group_size=7)


def surround(data: Path, log: dict[str, list[Row]]) -> None:
    """Write the other inputs of histories."""
    rows = [each for day in sorted(log) for each in log[day]]
    items = [{"item_id": item, "categories": [item]} for item in ITEM_IDS]
    tables = {
        "interactions": pa.Table.from_pylist(rows, INTERACTIONS),
        "items": pa.Table.from_pylist(items, ITEMS),
        "contexts": pa.Table.from_pylist(contexts_of(rows), CONTEXTS),
        "quarantine": QUARANTINE.empty_table(),
        "rejected": REJECTED.empty_table(),
    }
    for name, table in tables.items():
        (data / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, data / name / f"{name}.parquet")


def digests(data: Path) -> dict[str, str]:
    files = [path for name in stage.OUTS for path in sorted((data / name).iterdir())]
    return {path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rebuilt(data: Path, asked: RequestParams, kept: HistoryParams) -> dict[str, str]:
    """The outs for the same log with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "data" / "log"
        other.mkdir(parents=True)
        for name in ("validated_interactions", "interactions", "items", "contexts", "quarantine", "rejected"):
            shutil.copytree(data / name, other / name)
        stage.run(other, asked, kept)
        return digests(other)


def assert_made_as_slowly(data: Path, rows: Sequence[Row], asked: RequestParams, kept: HistoryParams) -> None:
    slow = slowly(rows, asked, kept)
    stored = UserHistories.open(data / "user_histories")
    item_ids = stored.vocabulary["item_id"].to_pylist()
    columns = [item_ids[index - 2] for index in stored.item_index], stored.occurred_at.tolist(), stored.label.tolist()
    columns = (*columns, stored.session.tolist(), stored.event_key.tolist(), stored.session_key.tolist())
    lines = list(zip(*columns, strict=True))
    users = stored.user_ids.to_pylist()
    found = {user: lines[stored.offsets[n] : stored.offsets[n + 1]] for n, user in enumerate(users)}
    assert found == slow.events
    names = pq.read_table(data / "impressions" / "requests.parquet").to_pylist()
    requests: dict[int, tuple] = {}
    for each in pq.read_table(data / "impressions" / "impressions.parquet").to_pylist():
        at = (each["occurred_at"] - START) // timedelta(microseconds=1) + 1_704_067_200_000_000
        name = names[each["request_index"]]["impression_id"]
        head = (at, users[each["user_index"]], name, each["end_offset"], [])
        requests.setdefault(each["request_index"], head)[4].append((item_ids[each["item_index"] - 2], each["label"]))
    assert [requests[number] for number in range(len(names))] == slow.requests
    known = {each["impression_id"]: each for each in contexts_of(rows)}
    for each in names:
        said = known.get(each["impression_id"], {})
        assert [each[key] for key in ("device", "is_subscriber", "reading_item_id")] == [
            said.get(key) for key in ("device", "is_subscriber", "reading_item_id")
        ]
    ledger = {each["what"]: each["rows"] for each in pq.read_table(data / "ledger" / "ledger.parquet").to_pylist()}
    assert ledger == {what: num for what, num in slow.fates.items() if num}
    assert pq.read_metadata(data / "sessions" / "sessions.parquet").num_rows == slow.num_sessions


@st.composite
def logs(draw: st.DrawFn) -> dict[str, list[Row]]:
    """Up to 30 rows a day at few and often equal times, near midnight too, of few users, items and requests."""
    stated = draw(st.booleans())
    times = st.sampled_from([0, 0.000001, 0.5, 1, 1.5, 2, 40, 100, DAY_S - 2, DAY_S - 1, DAY_S - 0.000001])

    def one(day: str, number: int) -> Row:
        session = draw(st.sampled_from([None, "s1", "s2"]))
        name = draw(st.sampled_from([None, "r1", "r2", "r3"])) if stated else None
        user = draw(st.sampled_from(["u1", "u2", "u3"]))
        return row(
            user,
            draw(st.sampled_from(ITEM_IDS)),
            OFFSET_S[day] + draw(times),
            draw(st.sampled_from([0.0, 1.0])),
            event_id=f"{day}/{number}",
            session_id=session,
            impression_id=name and f"{name}{user if draw(st.booleans()) else ''}",
            position=draw(st.sampled_from([None, 0, 1])),
            role=draw(st.sampled_from(["impression", "impression", "history"])),
        )

    return {day: [one(day, number) for number in range(draw(st.integers(0, 30)))] for day in DAYS}


PARAMS = st.fixed_dictionaries(
    {
        "labels": st.sampled_from(["clicked", "all"]),
        "lag_s": st.sampled_from([0, 0.5, 60, DAY_S]),
        "session_gap_s": st.sampled_from([0.5, 60, 2 * DAY_S]),
        "session_max_s": st.sampled_from([None, 1, DAY_S]),
        "retention_s": st.sampled_from([None, 1, 1.5 * DAY_S]),
    }
)
ASKED = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 3, 100]),
        "block_s": st.sampled_from([0.5, 60, 2 * DAY_S]),
        "min_user_events": st.sampled_from([1, 12]),
    }
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(log=logs(), kept=PARAMS, asked=ASKED, order=st.permutations(DAYS), changed=st.sampled_from(DAYS), data=st.data())
def test_any_arrival_of_any_log_gives_the_bytes_of_a_rebuild_and_the_slow_definition(
    log: dict[str, list[Row]],
    kept: dict[str, Any],
    asked: dict[str, Any],
    order: list[str],
    changed: str,
    data: st.DataObject,
) -> None:
    whole = {day: rows[: data.draw(st.integers(0, len(rows)))] if day == changed else rows for day, rows in log.items()}
    steps = [(day, log[day]) for day in order] + [(changed, whole[changed])]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "RANGE_ROWS", 20)
        patch.setattr(request_writer, "SPAN_ROWS", 10)
        here = Path(folder) / "data" / "log"
        there: dict[str, list[Row]] = {}
        for day, rows in steps:
            there[day] = rows
            arrive(here, day, rows)
            surround(here, there)
            params = request(**asked), history(**kept)
            try:
                stage.run(here, *params)
            except InputError as error:
                assert re.search("user with a valid row|is a click|No request can be made", str(error))  # noqa: PT017
                continue
            assert digests(here) == rebuilt(here, *params)
            assert_made_as_slowly(here, [each for rows in there.values() for each in rows], *params)


def test_a_new_day_makes_one_piece_and_a_removed_day_leaves_none(tmp_path: Path) -> None:
    data, log = tmp_path / "data" / "log", {day: [] for day in DAYS[:3]}
    folder = tmp_path / ".cache" / "histories" / "log"

    def entries() -> dict[str, int]:
        surround(data, log)
        stage.run(data, request(), history())
        return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_dir()}

    for day in log:
        log[day] = [row(f"u{n % 2}", ITEM_IDS[n % 6], OFFSET_S[day] + n, event_id=f"{day}/{n}") for n in range(9)]
    arrive(data, DAYS[0], log[DAYS[0]])
    arrive(data, DAYS[1], log[DAYS[1]])
    first = entries()
    arrive(data, DAYS[2], log[DAYS[2]])
    second = entries()
    assert first.items() < second.items()
    assert len(second) == 3
    (data / "validated_interactions" / f"{DAYS[0]}.parquet").unlink()
    assert len(entries()) == 2


def test_keys_decoded_from_digits_equal_the_convention_s_and_null_is_not_a_session() -> None:
    texts = [f"event {number}" for number in range(100)]
    digits = [hashlib.md5(text.encode()).hexdigest()[:16] for text in texts]
    assert decode_keys(pa.array(digits)).tolist() == [key_of_text(text) for text in texts]
    assert decode_keys(pa.array([None, *digits, None]).slice(1)).tolist() == [*map(key_of_text, texts), 0]
    assert decode_keys(pa.array([None, None], pa.string())).tolist() == [0, 0]


def test_the_same_expressions_compile_to_the_sql_of_spark() -> None:
    """In Ibis's dialect for Databricks, because its compiler for PySpark needs PySpark, which is not a dependency."""
    for expression in [*queries.tables().values(), *queries.contents().values()]:
        assert "SELECT" in str(ibis.to_sql(expression, dialect="databricks"))
