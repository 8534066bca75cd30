"""What must hold of the reasons of any ranking, whatever the model."""

import numpy as np

from serving.answering.explaining import MAX_EXPLAINED, NUM_CARRIED
from serving.answering.predictor import Predictor
from serving.answering.requests import RankReply, RankRequest, to_microseconds


def explained(predictor: Predictor, request: RankRequest) -> RankReply:
    """The ranking with its reasons, which say what they should and change nothing else of it."""
    assert request.at is not None  # the clock goes on between two rankings
    plain = predictor.rank(request)
    assert all(item.reasons is None for item in plain.items)
    reply = predictor.rank(request.model_copy(update={"explain": True}))
    assert [item.model_copy(update={"reasons": None}) for item in reply.items] == plain.items
    assert RankReply.model_validate(reply.model_dump()) == reply
    events = predictor.events(request.user_id)
    seen = [] if events is None else [*zip(events.item_ids, events.occurred_at.tolist(), strict=True)]
    for item in reply.items[:MAX_EXPLAINED]:
        assert item.reasons is not None
        logit = np.log(item.score / (1 - item.score))
        np.testing.assert_allclose(sum(item.reasons.contributions.values()), logit, rtol=0, atol=1e-5)
        assert len(item.reasons.history) <= NUM_CARRIED
        shares = [each.share for each in item.reasons.history]
        assert shares == sorted(shares, reverse=True)
        assert all(share > 0 for share in shares)
        for each in item.reasons.history:
            assert (each.item_id, to_microseconds(each.occurred_at)) in seen
            assert each.occurred_at < reply.at
    assert all(item.reasons is None for item in reply.items[MAX_EXPLAINED:])
    return reply
