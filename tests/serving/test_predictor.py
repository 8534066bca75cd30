"""The predictor on a small real bundle: scores equal training's, the future changes nothing, the unknown is flagged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.errors import InputError
from contracts.params import load_params
from features.encoding.encode import FeatureSpec
from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest, to_iso
from serving.bundle.logged import RequestLog
from serving.bundle.manifest import read_manifest
from serving.bundle.scorer import NO_EVENTS, Events
from training.judging.scoring import score_requests
from training.model.build import load_model
from training.requests.batches import make_dataset
from training.requests.catalogue import load_counters, load_vocabulary
from training.requests.reader import cut_times, load_events, load_requests, log_end

pytestmark = pytest.mark.xdist_group("serving")

NUM_COMPARED = 64


def probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit.astype(np.float64)))


def test_the_service_scores_test_requests_as_training_does(made: Path, data: Path, predictor: Predictor) -> None:
    description = json.loads((data / "weights" / "model.json").read_text())
    events = load_events(data)
    requests = load_requests(data, events)
    params = load_params(made / "params.yaml")
    cuts = cut_times(params["split"], params["labels"], requests.at, log_end(requests, events))
    test = cuts.part(requests, "test").take(np.arange(NUM_COMPARED))
    spec = FeatureSpec.from_json(description["feature_spec"])
    dataset = make_dataset(spec, events, test, load_counters(data, load_vocabulary(data)))
    model = load_model("mos", data / "weights" / "mos.safetensors", description)
    trained = score_requests("mos", model, dataset)
    for number, logged in enumerate(RequestLog.open(data).read(test.request_index)):
        rows = slice(test.row_starts[number], test.row_starts[number + 1])
        reply = predictor.rank(RankRequest(user_id=logged.user_id, candidates=logged.candidates, at=to_iso(logged.at)))
        served = {item.item_id: item.score for item in reply.items}
        assert reply.history.length == test.num_events[number]
        np.testing.assert_allclose(
            [served[item_id] for item_id in logged.candidates], probability(trained[rows]), rtol=0, atol=1e-5
        )


def test_events_at_or_after_the_time_change_nothing(predictor: Predictor) -> None:
    user = predictor.bundle.golden[0].user_id
    events = predictor.events(user)
    assert events is not None
    scorer = predictor.bundle.scorer
    for end in (0, 1, len(events.item_ids) // 2, len(events.item_ids) - 1):
        at = int(events.occurred_at[end])  # the event at `end` happens at the very moment of the request
        whole, past = (scorer.user_side(part, at) for part in (events, events.between(0, end)))
        for name, value in zip(whole._fields, whole, strict=True):
            assert torch.equal(value, getattr(past, name)), name


def test_an_invented_future_changes_no_score(predictor: Predictor) -> None:
    golden = predictor.bundle.golden[-1]
    events, scorer = golden.events, predictor.bundle.scorer
    later = Events(
        [*events.item_ids, *golden.candidates],
        np.append(events.occurred_at, golden.at + np.arange(len(golden.candidates))),
        np.append(events.label, np.ones(len(golden.candidates), np.float32)),
        np.append(events.session, np.full(len(golden.candidates), 10**6)),
    )
    end = scorer.known_events(events, golden.at)
    known = events.between(0, end)
    scalars = np.array(golden.scalars, np.float32)
    index = scorer.item_index(golden.candidates)
    past, future = (scorer.score(scorer.user_side(part, golden.at), index, scalars) for part in (known, later._replace(
        item_ids=later.item_ids[:end] + later.item_ids[len(events.item_ids):],
        occurred_at=np.delete(later.occurred_at, np.s_[end:len(events.item_ids)]),
        label=np.delete(later.label, np.s_[end:len(events.item_ids)]),
        session=np.delete(later.session, np.s_[end:len(events.item_ids)]),
    )))  # fmt: skip
    assert np.array_equal(past.logit_M, future.logit_M)


def test_a_candidate_s_score_does_not_depend_on_the_others(predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    at = to_iso(golden.at)
    together = predictor.rank(RankRequest(user_id=golden.user_id, candidates=golden.candidates, at=at))
    for item in together.items:
        alone = predictor.rank(RankRequest(user_id=golden.user_id, candidates=[item.item_id], at=at))
        assert alone.items[0].score == pytest.approx(item.score, abs=1e-6)


def test_answers_are_sorted_and_k_cuts_them(predictor: Predictor) -> None:
    items = sorted(predictor.bundle.scorer.index_of)[:50]
    user = predictor.bundle.golden[0].user_id
    at = to_iso(predictor.clock())
    everything = predictor.rank(RankRequest(user_id=user, candidates=items, at=at))
    scores = [item.score for item in everything.items]
    assert scores == sorted(scores, reverse=True)
    assert {item.item_id for item in everything.items} == set(items)
    assert predictor.rank(RankRequest(user_id=user, candidates=items, k=7, at=at)).items == everything.items[:7]
    assert predictor.rank(RankRequest(user_id=user, candidates=items, k=10**30, at=at)).items == everything.items


def test_a_candidate_given_twice_is_answered_once(predictor: Predictor) -> None:
    items = sorted(predictor.bundle.scorer.index_of)[:5]
    user = predictor.bundle.golden[0].user_id
    at = to_iso(predictor.clock())
    once = predictor.rank(RankRequest(user_id=user, candidates=items, at=at))
    assert predictor.rank(RankRequest(user_id=user, candidates=[*items, *items[::-1]], at=at)) == once


def test_unknown_users_and_items_are_answered_and_flagged(predictor: Predictor) -> None:
    known = sorted(predictor.bundle.scorer.index_of)[0]
    reply = predictor.rank(RankRequest(user_id="nobody 🎈", candidates=[known, "nothing ·"]))
    assert reply.cold_start_user
    assert (reply.history.known, reply.history.length, reply.history.newest_event_at) == (False, 0, None)
    assert reply.themes == []
    assert "nothing ·" in reply.cold_start_items
    flags = {item.item_id: (item.known, item.theme is None) for item in reply.items}
    assert flags == {known: (True, False), "nothing ·": (False, True)}
    assert all(0 < item.score < 1 for item in reply.items)


def test_a_known_user_before_the_first_event_is_cold(predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    reply = predictor.rank(RankRequest(user_id=golden.user_id, candidates=golden.candidates, at="1970-01-01T00:00:00Z"))
    assert reply.history.known
    assert reply.cold_start_user


def test_the_default_clock_sees_the_whole_log(predictor: Predictor) -> None:
    user = predictor.bundle.golden[0].user_id
    events = predictor.events(user)
    assert events is not None
    reply = predictor.rank(RankRequest(user_id=user, candidates=["x"]))
    assert reply.history.length == len(events.item_ids)
    assert reply.history.newest_event_at == to_iso(int(events.occurred_at[-1]))
    assert sum(theme.share for theme in reply.themes) <= 1 + 1e-6
    assert all(theme.name for theme in reply.themes)


def test_the_online_scalars_are_those_of_the_golden_requests(predictor: Predictor) -> None:
    for golden in predictor.bundle.golden:
        events = predictor.events(golden.user_id)
        scalars = predictor.scalars(golden.user_id, events, golden.candidates, golden.at)
        assert np.array_equal(scalars, np.array(golden.scalars, np.float32)), golden.request


def test_golden_requests_hold_events_that_must_be_masked(predictor: Predictor) -> None:
    known = [predictor.bundle.scorer.known_events(golden.events, golden.at) for golden in predictor.bundle.golden]
    assert any(end < len(golden.item_ids) for end, golden in zip(known, predictor.bundle.golden, strict=True))
    assert any(known)


def test_an_empty_history_is_finite(predictor: Predictor) -> None:
    scorer = predictor.bundle.scorer
    state = scorer.user_side(NO_EVENTS, 0)
    scores = scorer.score(state, np.array([1, 2], np.int64), np.zeros((2, len(scorer.spec.scalars)), np.float32))
    assert np.isfinite(scores.logit_M).all()


def test_without_state_it_refuses_and_names_make_load(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make load"):
        Predictor.open(data / "bundle", tmp_path / "feast")


def test_a_state_of_another_snapshot_is_refused(data: Path, state: Path, tmp_path: Path) -> None:
    snapshot = shutil.copytree(data / "feature_snapshot", tmp_path / "feature_snapshot")
    content = json.loads((snapshot / "snapshot.json").read_text()) | {"snapshot_id": "0" * 64}
    (snapshot / "snapshot.json").unlink()
    (snapshot / "snapshot.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="make load"):
        Predictor.open(data / "bundle", state, snapshot)


@pytest.mark.parametrize(
    ("name", "value"), [("labels", "all"), ("session_gap_s", 60.0), ("session_max_s", 60.0), ("max_length", 10)]
)
def test_a_state_of_other_histories_is_refused(
    data: Path, state: Path, tmp_path: Path, name: str, value: object
) -> None:
    other = Path(shutil.copytree(state.resolve(), tmp_path / "feast"))
    stamp = json.loads((other / "stamp.json").read_text())
    stamp["settings"][name] = value
    (other / "stamp.json").write_text(json.dumps(stamp))
    with pytest.raises(InputError, match=f"history.{name} "):
        Predictor.open(data / "bundle", other)


def test_a_model_of_one_log_is_not_served_over_the_store_of_another(data: Path, state: Path, tmp_path: Path) -> None:
    manifest = read_manifest(data / "bundle")
    assert manifest.log
    assert manifest.log == json.loads((data / "feature_snapshot" / "snapshot.json").read_text())["log"]
    other = Path(shutil.copytree(state.resolve(), tmp_path / "feast"))
    stamp = json.loads((other / "stamp.json").read_text())
    (other / "stamp.json").write_text(json.dumps(stamp | {"log": "0123456789ab"}))
    said = rf"trained on another log \(simulator, identity {manifest.log}\).*loaded from \(identity 0123456789ab\)"
    with pytest.raises(InputError, match=said):
        Predictor.open(data / "bundle", other)
    (other / "stamp.json").write_text(json.dumps({key: said for key, said in stamp.items() if key != "log"}))
    Predictor.open(data / "bundle", other)  # loaded before there was one
