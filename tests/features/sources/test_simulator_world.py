"""The simulated world is in a steady state: users and items come and go at a constant rate until the last hour."""

import numpy as np
import pyarrow as pa
import pytest

from features.sources.log import Log
from features.sources.simulator import STARTED_AT_MS, simulate
from features.sources.simulator_shelf import ZIPF_EXPONENT, Shelf, fill_shelf
from features.sources.simulator_visits import draw_requests
from features.sources.simulator_world import WorldItems, draw_items, draw_users
from features.terms.params import SimulatorParams
from training.metrics import auc

WORLD = SimulatorParams(
    preference="item", num_days=12, num_users=500, num_items=600, num_themes=12, num_sessions=46, item_life_days=8.0
)
DAY, HOUR = 86_400, 3_600
NEW_A_DAY = 75  # 600 items of 8 days


def seconds(column: pa.ChunkedArray) -> np.ndarray:
    """Seconds since the log's start; nan for a missing time."""
    return column.cast(pa.int64()).to_numpy().astype(float) / 1e6 - STARTED_AT_MS / 1e3


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """i00012 -> 12."""
    return np.array([int(name[1:]) for name in column.to_pylist()])


class Rows:
    """The columns of the log, as numbers."""

    def __init__(self, log: Log) -> None:
        self.at_s = seconds(log.events["occurred_at"])
        self.user, self.item = numbers(log.events["user_id"]), numbers(log.events["item_id"])
        self.label = log.events["label"].to_numpy()
        self.from_s, self.until_s = (seconds(log.truth["items"][name]) for name in ("offered_from", "offered_until"))


@pytest.fixture(scope="module")
def log() -> Log:
    return simulate(WORLD, seed=3)


@pytest.fixture(scope="module")
def rows(log: Log) -> Rows:
    return Rows(log)


@pytest.fixture(scope="module")
def world() -> tuple[WorldItems, Shelf]:
    rng = np.random.default_rng(5)
    items = draw_items(WORLD, rng)
    return items, fill_shelf(WORLD, items, rng)


def test_every_day_has_as_many_rows_as_any_other(rows: Rows) -> None:
    a_day = np.bincount((rows.at_s // DAY).astype(int))
    assert len(a_day) == WORLD.num_days
    assert np.abs(a_day / a_day.mean() - 1).max() < 0.25  # the log that died out: 169,000 rows and 575


def test_the_first_hours_are_like_any_others() -> None:
    # people who were there before the log begins are somewhere between two sessions: no rush at the start, no silence
    many = WORLD.model_copy(update={"num_days": 2, "num_users": 30_000, "num_sessions": 20})
    rng = np.random.default_rng(1)
    hours = np.bincount(draw_requests(many, draw_users(many, rng), rng).at_ms // (HOUR * 1000), minlength=48)
    assert len(hours) == 48
    assert hours[:3].mean() == pytest.approx(hours.mean(), rel=0.05)
    assert hours[-3:].mean() == pytest.approx(hours.mean(), rel=0.05)
    assert np.abs(hours / hours.mean() - 1).max() < 0.1


def test_people_come_and_leave_on_every_day_and_return_until_the_last_hour(rows: Rows) -> None:
    users = np.unique(rows.user)
    first, last = (np.array([f(rows.at_s[rows.user == user]) for user in users]) for f in (np.min, np.max))
    assert len(users) == WORLD.num_users
    assert (np.bincount((first // DAY).astype(int), minlength=WORLD.num_days)[2:] > 5).all()
    assert (np.bincount((last // DAY).astype(int), minlength=WORLD.num_days) > 5).all()
    late = np.unique(rows.user[rows.at_s >= WORLD.num_days * DAY - HOUR])
    before = np.unique(rows.user[rows.at_s < WORLD.num_days * DAY - DAY])
    assert len(late) > 20
    assert np.isin(late, before).mean() > 0.8  # they return
    assert rows.at_s.max() > WORLD.num_days * DAY - 300


def test_the_first_day_has_people_of_all_ages(rows: Rows) -> None:
    # somebody seen on the first day is as likely to be there five days later as somebody seen on the sixth
    def stay(day: int) -> float:
        seen = [np.unique(rows.user[rows.at_s // DAY == each]) for each in (day, day + 5)]
        return float(np.isin(seen[0], seen[1]).mean())

    assert stay(0) == pytest.approx(stay(5), abs=0.1)


def test_new_items_come_at_a_steady_rate_and_take_the_places_of_the_oldest(log: Log, rows: Rows) -> None:
    theme, num_items = log.truth["items"]["theme"].to_numpy(), WORLD.num_items
    born_s = seconds(log.items["published_at"])
    new_a_day = np.bincount((born_s[born_s >= 0] // DAY).astype(int))
    assert np.abs(new_a_day - NEW_A_DAY).max() <= 1
    assert (np.diff(born_s) > 0).all()
    for hour in range(0, WORLD.num_days * 24, 17):
        offered = (rows.from_s <= hour * HOUR) & ~(rows.until_s <= hour * HOUR)
        assert offered.sum() == num_items
    left = np.flatnonzero(~np.isnan(rows.until_s))
    assert (theme[left + num_items] == theme[left]).all()
    assert rows.until_s[left] == pytest.approx(rows.from_s[left + num_items])
    life_days = (rows.until_s - rows.from_s)[left] / DAY
    assert np.abs(life_days - WORLD.item_life_days).max() < 0.2


def test_an_item_is_shown_only_while_it_is_on_offer(log: Log, rows: Rows) -> None:
    assert (rows.at_s >= rows.from_s[rows.item]).all()
    assert not (rows.at_s >= rows.until_s[rows.item]).any()
    assert (rows.at_s >= seconds(log.items["published_at"])[rows.item]).all()


def test_the_last_tenth_of_the_log_shows_items_that_are_not_in_training(rows: Rows) -> None:
    trained_before, test_from = np.quantile(rows.at_s, [0.85, 0.91])
    test = rows.at_s >= test_from
    cold = ~np.isin(rows.item, np.unique(rows.item[rows.at_s < trained_before]))
    assert 0.1 < cold[test].mean() < 0.5
    assert rows.label[test & cold].sum() > 200


def test_histories_at_the_end_are_long(rows: Rows) -> None:
    late = np.unique(rows.user[rows.at_s >= (WORLD.num_days - 1) * DAY])
    clicks = np.bincount(rows.user, weights=rows.label)[late]
    assert np.median(clicks) >= 150  # of 12 days; the default has 21


def test_recent_clicks_predict_the_next_clicks(rows: Rows) -> None:
    hour = (rows.at_s // HOUR).astype(int)
    clicks_IH = np.zeros((rows.item.max() + 1, WORLD.num_days * 24 + 1))
    np.add.at(clicks_IH, (rows.item, hour + 1), rows.label)
    before_IH = clicks_IH.cumsum(axis=1)  # [item, hour] up to the hour's begin
    test = rows.at_s >= (WORLD.num_days - 3) * DAY
    item, now, label = rows.item[test], hour[test], rows.label[test]
    day = auc(before_IH[item, now] - before_IH[item, now - 24], label)
    assert 0.55 < day < 0.65  # the world without drift: .503
    assert day > auc(before_IH[item, now], label) + 0.01  # popularity moves


def test_popularity_within_a_theme_follows_zipf_s_law_by_rank(log: Log, world: tuple[WorldItems, Shelf]) -> None:
    items, shelf = world
    for theme in range(WORLD.num_themes):
        share = shelf.share[shelf.theme == theme]
        assert share * np.arange(1, len(share) + 1) ** ZIPF_EXPONENT == pytest.approx(np.full(len(share), share[0]))
        assert share.sum() == pytest.approx(1)
    assert (items.theme[shelf.item] == shelf.theme).all()  # in every hour
    drawn = shelf.draw(np.full(200_000, 4), np.random.default_rng(1).random(200_000))
    share = np.bincount(drawn, minlength=len(shelf.share)) / len(drawn)
    assert share == pytest.approx(np.where(shelf.theme == 4, shelf.share, 0), abs=0.004)


def test_popularity_drifts_and_new_items_are_more_popular(world: tuple[WorldItems, Shelf]) -> None:
    items, shelf = world
    rank_HI = np.full((len(shelf.item), len(items.theme)), np.nan)
    starts = np.searchsorted(shelf.theme, shelf.theme)
    np.put_along_axis(rank_HI, shelf.item, (np.arange(len(starts)) - starts)[None, :].astype(float), axis=1)

    def alike(hour: int, later: int) -> float:
        both = ~np.isnan(rank_HI[hour] + rank_HI[later])
        return float(np.corrcoef(rank_HI[hour, both], rank_HI[later, both])[0, 1])

    assert alike(0, 1) > 0.95 > alike(0, 24) > alike(0, 96) > 0.2
    age_h = np.arange(len(shelf.item))[:, None] - items.born_h[shelf.item]
    rank_HP = np.take_along_axis(rank_HI, shelf.item, axis=1)
    assert rank_HP[age_h < 12].mean() < 0.7 * rank_HP[age_h > 96].mean()
    assert shelf.appeal[age_h < 12].mean() > shelf.appeal[age_h > 96].mean() + 0.4


def test_other_themes_mislead_and_styles_come_in_clusters() -> None:
    rng = np.random.default_rng(2)
    items, users = draw_items(WORLD, rng), draw_users(WORLD, rng)
    preference = users.preference.reshape(WORLD.num_users, WORLD.num_themes, -1)
    between = np.corrcoef(preference.transpose(1, 0, 2).reshape(WORLD.num_themes, -1))
    assert np.abs(between - np.eye(WORLD.num_themes)).max() < 0.1  # what is liked of one theme says nothing of another
    within = [
        items.style[(items.theme == theme) & (items.cluster == cluster)].std(axis=0).mean()
        for theme in range(WORLD.num_themes)
        for cluster in range(5)
    ]
    assert np.mean(within) == pytest.approx(0.175, abs=0.02)
    assert items.style.std() > 0.8
    assert set((users.weight > 0).sum(axis=1)) == {3, 4, 5, 6}


def test_the_catalogue_reveals_an_item_s_theme_only_by_its_category() -> None:
    # neither the number of an item nor the time at which it was published does
    items = draw_items(WORLD, np.random.default_rng(9))
    first = items.theme[: WORLD.num_items]
    assert (first[1:] == first[:-1]).mean() == pytest.approx(1 / 12, abs=0.04)
    assert np.ptp([items.born_h[: WORLD.num_items][first == theme].mean() for theme in range(12)]) < 48
