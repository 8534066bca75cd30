"""A model that was trained with contexts and co-clicks reads them online as it read them offline."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.params import load_params
from contracts.schema import UNKNOWN_INDEX
from features.encoding.counters import Counters
from features.encoding.item_codes import item_codes
from features.terms.convention import RECENT
from orchestration.configure import configure, parse_assignments
from serving import package
from serving.answering.predictor import Predictor
from serving.answering.requests import RankReply, RankRequest, RequestContext, to_iso
from serving.bundle.logged import LoggedRequest, RequestLog
from serving.http.body import KINDS, read_message
from serving.promoting.rescore import load_newest, open_fitted, score
from tests.clones import SMALL, clone
from tests.features.ebnerd_bundle import WEEK, Row, clicks, impression, write_bundle
from tests.one_process import run_stages
from tests.serving.bundles import without_items
from tests.serving.reasons import explained

pytestmark = pytest.mark.xdist_group("serving")

STAGES = (
    "features.stages.ingest",
    "features.stages.validate",
    "features.stages.histories",
    "features.stages.statistics",
    "features.stages.materialize",
    "training.train",
    "training.evaluate",
    "serving.package",
)
NUM_USERS, NUM_TASTES, HISTORY_LENGTH = 40, 4, 8
ARTICLES = range(100, 160)  # an article's taste is its remainder
TRAINING = (f"model.history_length={HISTORY_LENGTH}", "model.short_length=4", "statistics.coclick_rank=4")
FROM_THE_START = ("train.start=random", "model.global_expert=mean")
"""The preset's mixture starts as DIN, and on so small a log it stays that: no theme would count for anything."""


def week(first: int, number: int, seed: int) -> tuple[Row, ...]:
    """Impressions of a week: on an article's page its taste is clicked, on the front page the user's own."""
    draw = random.Random(seed)
    rows = []
    for name in range(first, first + number):
        user, shown = draw.randrange(NUM_USERS), draw.sample(ARTICLES, 6)
        read = draw.choice([None, draw.choice(ARTICLES)])
        taste = (user if read is None else read) % NUM_TASTES
        clicked = [next((article for article in shown if article % NUM_TASTES == taste), shown[0])]
        told = {"article_id": read, "device_type": draw.choice([1, 2, 3]), "is_subscriber": user % 5 == 0}
        seconds = draw.randrange(WEEK) + (WEEK if seed else 0)
        rows.append(impression(name, user, seconds, shown, clicked, name) | told)
    return tuple(rows)


def history(seed: int) -> tuple[Row, ...]:
    """Weeks before the log: each user read their taste."""
    draw = random.Random(seed)
    own = [[article for article in ARTICLES if article % NUM_TASTES == taste] for taste in range(NUM_TASTES)]
    times = [sorted(draw.sample(range(-2 * WEEK, 0), 6)) for _ in range(NUM_USERS)]
    return tuple(
        clicks(user, *((draw.choice(own[user % NUM_TASTES]), seconds) for seconds in times[user]))
        for user in range(NUM_USERS)
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which every stage that serving needs has run on a small EB-NeRD bundle."""
    log = write_bundle(tmp_path_factory.mktemp("log") / "eb", week(1, 700, 0), week(701, 400, 1), history(2))
    repository = clone(tmp_path_factory.mktemp("told"))
    source = {"source.name": "ebnerd", "source.path": str(log)}
    configure(source | parse_assignments([*SMALL, *TRAINING, *FROM_THE_START]), repository / "params.yaml")
    run_stages(repository, STAGES)
    return repository


@pytest.fixture(scope="module")
def opened(told: Path) -> Predictor:
    """Its bundle and online store."""
    data = told / "data" / "ebnerd"
    return Predictor.open(data / "bundle", told / ".state" / "ebnerd" / "feast", data / "feature_snapshot")


@pytest.fixture(scope="module")
def tested(told: Path) -> dict[str, tuple[LoggedRequest, np.ndarray]]:
    """Every test request by its name, as the log holds it, and its logits by evaluate."""
    data = told / "data" / "ebnerd"
    predictions = pq.read_table(data / "predictions", columns=["request_index", "mos"])
    index, logit = (predictions[name].to_numpy() for name in ("request_index", "mos"))
    logged = RequestLog.open(data).read(np.unique(index))
    return {request.name: (request, logit[index == request.index]) for request in logged}


def ask(request: LoggedRequest, **changes: Any) -> RankRequest:
    context = RequestContext(**request.context._asdict() | changes)
    return RankRequest(
        user_id=request.user_id, candidates=list(request.candidates), at=to_iso(request.at), context=context
    )


def scores(reply: RankReply, candidates: list[str]) -> np.ndarray:
    of_item = {item.item_id: item.score for item in reply.items}
    return np.array([of_item[item_id] for item_id in candidates])


def test_the_model_reads_contexts_and_co_clicks(told: Path, opened: Predictor) -> None:
    spec = opened.bundle.scorer.spec
    assert spec.context
    assert {"item_is_read", "device_3", "coclick_user", "coclick_read"} <= set(spec.scalars)
    assert spec.code_width == 4
    assert opened.bundle.scorer.reads_codes
    parity = json.loads((told / "reports/ebnerd/materialize.json").read_text())["parity"]
    assert parity["checked"] > 0
    assert parity["mismatches"] == 0


def test_its_rankings_are_explained(opened: Predictor, tested: dict[str, Any]) -> None:
    replies = [explained(opened, ask(request)) for request, _ in list(tested.values())[:5]]
    assert any(item.reasons and item.reasons.history for reply in replies for item in reply.items)


def test_an_item_of_no_training_has_the_theme_of_its_readers(opened: Predictor, tested: dict[str, Any]) -> None:
    """Every id is unknown to a model whose ids are blanked; by who read them items still have themes, and several."""
    scorer, store = opened.bundle.scorer, opened.store
    request = max((each for each, _ in tested.values()), key=lambda each: each.at)
    keys = np.arange(len(scorer.index_of))
    codes = item_codes(scorer.spec, store.counters, keys, request.at)
    unknown = np.full(len(keys), UNKNOWN_INDEX)
    theme_NT = scorer.themes(unknown, codes)
    assert (theme_NT.any(axis=1) == codes.any(axis=1)).all()
    assert codes.any(axis=1).sum() > 30
    assert len(np.unique(theme_NT[codes.any(axis=1)].argmax(axis=1))) > 1
    assert not scorer.themes(unknown, 0 * codes).any()


def test_the_service_scores_test_requests_as_evaluate_does(
    opened: Predictor, tested: dict[str, tuple[LoggedRequest, np.ndarray]]
) -> None:
    pages = {request.context.reading_item_id is not None for request, _ in tested.values()}
    assert pages == {True, False}
    for request, logit in list(tested.values())[::5]:
        served = scores(opened.rank(ask(request)), list(request.candidates))
        np.testing.assert_allclose(served, 1 / (1 + np.exp(-logit.astype(np.float64))), rtol=0, atol=1e-5)


@pytest.mark.parametrize("every", [1, 3], ids=["all items", "a third of them unknown"])
def test_promotion_scores_the_newest_requests_as_a_service_of_the_bundle_would(
    told: Path, tmp_path: Path, every: int
) -> None:
    """In batches by the log's numbers, and request by request by ids; an unknown item has the code of its readers."""
    data = told / "data" / "ebnerd"
    bundle = without_items(data / "bundle", tmp_path / "older", lambda item: every > 1 and int(item) % every == 0)
    older = open_fitted(bundle, "older")
    assert older.scorer.reads_codes
    newest = load_newest(data, [older], load_params(told / "params.yaml")["labels"], 40)
    scored, starts = score(older, newest, "older"), newest.requests.row_starts
    log = RequestLog.open(data)
    counters = Counters.from_folder(data, log.item_ids, log.histories.user_ids)
    assert len(newest.requests) == 40
    for place, request in enumerate(log.read(newest.requests.request_index)):
        wanted = package._golden(request, log, older.scorer, counters).logits
        np.testing.assert_allclose(scored.score[starts[place] : starts[place + 1]], wanted, rtol=1e-5, atol=1e-5)


def test_the_online_scalars_are_those_of_the_golden_requests(
    opened: Predictor, tested: dict[str, tuple[LoggedRequest, np.ndarray]]
) -> None:
    columns = opened.bundle.scorer.spec.scalars
    seen = set()
    for golden in opened.bundle.golden:
        context = tested[golden.request][0].context
        scalars = opened.scalars(golden.user_id, opened.events(golden.user_id), golden.candidates, golden.at, context)
        assert np.array_equal(scalars, np.array(golden.scalars, np.float32)), golden.request
        seen |= {name for name, column in zip(columns, scalars.T, strict=True) if column.any()}
    assert {"coclick_user", "coclick_last_1", "coclick_last_10", "coclick_read", "on_item_page"} <= seen


@pytest.mark.parametrize(
    "change",
    [
        {"reading_item_id": "101"},
        {"reading_item_id": "nowhere"},
        {"reading_item_id": None},
        {"device": "1"},
        {"is_subscriber": True},
    ],
    ids=str,
)
def test_what_a_request_says_of_itself_changes_its_scores(
    opened: Predictor, tested: dict[str, tuple[LoggedRequest, np.ndarray]], change: dict[str, Any]
) -> None:
    candidates = next(iter(tested.values()))[0]
    said = {"reading_item_id": "102", "device": "2", "is_subscriber": False}
    one, other = (opened.rank(ask(candidates, **said | more)) for more in ({}, change))
    ids = list(candidates.candidates)
    assert np.abs(scores(one, ids) - scores(other, ids)).max() > 1e-4
    assert other == opened.rank(ask(candidates, **said | change))


def test_a_device_that_training_never_saw_is_none(
    opened: Predictor, tested: dict[str, tuple[LoggedRequest, np.ndarray]]
) -> None:
    request = next(iter(tested.values()))[0]
    assert opened.rank(ask(request, device="fridge")) == opened.rank(ask(request, device=None))
    silent = ask(request, device=None, is_subscriber=None, reading_item_id=None)
    assert opened.rank(silent) == opened.rank(silent.model_copy(update={"context": None}))


def test_a_context_comes_out_of_the_body_of_a_request(opened: Predictor) -> None:
    """As the service reads it; tests/serving/test_service.py posts such bodies to a server."""
    golden = opened.bundle.golden[0]
    request = {"user_id": golden.user_id, "candidates": golden.candidates, "at": to_iso(golden.at)}
    answers = []
    for context in ({}, {"reading_item_id": "101", "device": "2", "is_subscriber": True}):
        read = read_message(KINDS["/rank"], json.dumps(request | {"context": context}).encode(), opened.limits)
        assert isinstance(read, RankRequest)
        assert opened.rank(read) == opened.rank(RankRequest(**request, context=RequestContext(**context)))
        answers.append([item.score for item in opened.rank(read).items])
    assert answers[0] != answers[1]


def test_a_state_that_keeps_fewer_events_than_co_clicks_read_is_refused(told: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree((told / ".state/ebnerd/feast").resolve(), tmp_path / "feast"))
    stamp = json.loads((other / "stamp.json").read_text())
    stamp["settings"]["max_length"] = RECENT - 1
    assert stamp["settings"]["max_length"] >= HISTORY_LENGTH
    (other / "stamp.json").write_text(json.dumps(stamp))
    with pytest.raises(InputError, match=f"max_length {RECENT - 1}"):
        Predictor.open(told / "data/ebnerd/bundle", other)
