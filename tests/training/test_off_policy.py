"""What another policy would have got, from a log of one that favours some items: against a truth that is known."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.contexts import no_contexts
from training.judging.measure import Scored
from training.judging.off_policy import best, estimate, off_policy, read_propensities
from training.requests.reader import Requests

NUM_ITEMS = 40


@pytest.fixture(scope="module")
def world():
    """20,000 draws of one item each by a policy that shows what is clicked least the most often."""
    rng = np.random.default_rng(1)
    rate = rng.beta(2, 5, NUM_ITEMS)
    shown = np.exp(-4 * rate)
    shown /= shown.sum()
    item = rng.choice(NUM_ITEMS, 20_000, p=shown)
    return rate, shown, item, (rng.random(len(item)) < rate[item]).astype(float)


def test_both_estimates_find_the_value_of_a_policy_that_never_ran(world):
    rate, shown, item, clicked = world
    target = rate**2 / (rate**2).sum()  # favours what is clicked
    truth = float(target @ rate)
    found = estimate(clicked, target[item], shown[item])
    assert abs(clicked.mean() - truth) > 0.15  # the log's own click rate says something else
    assert found.ips == pytest.approx(truth, abs=0.02)
    assert found.snips == pytest.approx(truth, abs=0.02)
    assert 0 < found.effective_share < 1


def test_the_logged_policy_s_estimate_is_its_observed_reward(world):
    _, shown, item, clicked = world
    found = estimate(clicked, shown[item], shown[item])
    assert found == pytest.approx((clicked.mean(), clicked.mean(), 1.0))


def test_normalised_weights_stay_in_the_range_of_rewards_where_plain_ones_do_not():
    reward, target, propensity = np.array([1.0, 1.0]), np.array([0.9, 0.9]), np.array([0.1, 0.9])
    found = estimate(reward, target, propensity)
    assert found.snips == 1.0
    assert found.ips == pytest.approx(5.0)


def test_a_propensity_of_nothing_is_refused():
    with pytest.raises(ValueError, match="1 of 2 propensities are not above 0"):
        estimate(np.ones(2), np.ones(2), np.array([0.5, 0.0]))


def test_the_best_share_is_of_weight_and_ties_are_in_together():
    assert best(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 1.0, 1.0, 7.0])).tolist() == [1, 1, 0, 0]
    assert best(np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0])).tolist() == [1, 1, 0]


def logged(folder, shown, item, clicked, with_propensity=True):
    """The same world as evaluate finds it: requests of one candidate, names and a truth in another order."""
    for name in ("truth", "impressions", "user_histories"):
        (folder / name).mkdir(parents=True)
    number = len(item)
    names, items = [f"r{n}" for n in range(number)], [f"i{n:02d}" for n in range(NUM_ITEMS)]
    pq.write_table(
        pa.table({"request_index": pa.array(range(number), pa.int32()), "impression_id": names}),
        folder / "impressions" / "requests.parquet",
    )
    pq.write_table(pa.table({"item_id": items}), folder / "user_histories" / "vocabulary.parquet")
    truth = pa.table({"impression_id": names, "item_id": [items[i] for i in item], "propensity": shown[item]})
    truth = truth.take(np.random.default_rng(2).permutation(number)[: number - 1])  # one is not known
    pq.write_table(truth if with_propensity else truth.drop(["propensity"]), folder / "truth" / "shown.parquet")
    return Requests(
        request_index=np.arange(number),
        user_index=np.arange(number) % 50,
        at=np.arange(number),
        starts=np.zeros(number, int),
        ends=np.zeros(number, int),
        row_starts=np.arange(number + 1),
        item_index=item + 2,
        label=clicked.astype(np.float32),
        **no_contexts(number),
    )


def test_a_model_s_best_items_are_valued_as_if_all_items_had_been_shown_equally_often(world, tmp_path):
    rate, shown, item, clicked = world
    requests = logged(tmp_path, shown, item, clicked)
    score = rate + 0.05 * np.sin(np.arange(NUM_ITEMS))  # no perfect model
    found = off_policy(tmp_path, requests, {"mos": Scored(score[item], score[item])}, 50, seed=1)
    assert found is not None
    truth = rate[np.argsort(-score)[: NUM_ITEMS // 5]].mean()
    row = found["models"]["mos"]
    assert row["snips"] == pytest.approx(truth, abs=0.02)
    assert row["snips_low"] <= truth <= row["snips_high"]
    assert found["share_of_rows_known"] == pytest.approx(1 - 1 / len(item))


def test_without_propensities_there_is_no_estimate(world, tmp_path):
    _, shown, item, clicked = world
    requests = logged(tmp_path, shown, item, clicked, with_propensity=False)
    assert read_propensities(tmp_path, requests) is None
    assert off_policy(tmp_path / "none", requests, {}, 20, 1) is None
