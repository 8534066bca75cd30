"""The sentence that the project is for: whoever turns to another theme, the next answer has turned with them."""

import httpx
import numpy as np
import pytest

from serving.answering.predictor import Predictor

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

NUM_USERS, NUM_CLICKS, LISTED = 6, 3, 10


def share(service: httpx.Client, user: str, theme: int) -> float:
    """Of a theme among what is recommended."""
    told = service.post("/recommend", json={"user_id": user, "k": LISTED, "preview": True}).json()
    return sum(item["theme"] == theme for item in told["items"]) / len(told["items"])


def test_after_a_click_in_a_theme_that_the_user_was_not_in_the_next_list_has_turned_to_it(
    keeping: httpx.Client, predictor: Predictor
) -> None:
    """Over HTTP, the clicks of each user on the most clicked items of a theme that is none of its current ones."""
    offers, item_ids = predictor.offering.at(predictor.clock()), predictor.bundle.index.item_ids
    users = sorted({golden.user_id for golden in predictor.bundle.golden})[:NUM_USERS]
    shares = []
    for user in users:
        asked = {"user_id": user, "candidates": item_ids[:1], "preview": True}
        current = {each["theme"] for each in keeping.post("/rank", json=asked).json()["themes"]}
        theme = next(theme for theme in range(len(predictor.bundle.theme_names)) if theme not in current)
        own = np.flatnonzero(offers.on_offer_N & (offers.routing_NT.argmax(axis=1) == theme))
        clicked = own[np.argsort(-offers.clicks_N[own], kind="stable")][:NUM_CLICKS]
        told = [share(keeping, user, theme)]
        for row in clicked:
            event = {"user_id": user, "item_id": item_ids[row]}
            assert keeping.post("/events", json={"events": [event]}).status_code == 200
            told.append(share(keeping, user, theme))
        shares.append(told)
    before, first, *_, last = np.mean(shares, axis=0)
    assert first > before + 0.1, shares
    assert last > before + 0.1, shares
