"""A ranking while the online store does not answer: the user counts as unknown, and the answer is flagged.

Histories are not cached for that case: a cache would keep users who asked to be forgotten.
"""

import logging
import time

from contracts.errors import InputError
from features.online.store import StaleStoreError
from serving.answering.predictor import Answer, Predictor
from serving.answering.requests import RankRequest
from serving.watching import metrics

log = logging.getLogger("leitmotif")

RETRY_S = 1.0
"""How long the store is not tried again after a failure, since each try may take as long as a request."""


class Away:
    """One per worker: whether the store is known to be unavailable."""

    def __init__(self) -> None:
        self._until = 0.0
        self._is_said = False

    def answer(self, predictor: Predictor, request: RankRequest) -> Answer:
        """Rank with the store if it is available. Raises StaleStoreError if a newer load must be opened."""
        if time.monotonic() < self._until:
            return self.answer_without(predictor, request)
        try:
            answer = predictor.answer(request)
        except StaleStoreError:
            raise
        except InputError as error:
            self._until = time.monotonic() + RETRY_S
            if not self._is_said:
                log.error("Rankings know nobody until the store answers again: %s", error)
            self._is_said = True
            return self.answer_without(predictor, request)
        if self._is_said:
            log.warning("The store answers again: rankings know their users")
        self._is_said = False
        return answer

    def answer_without(self, predictor: Predictor, request: RankRequest) -> Answer:
        """Rank without the store. The ranking must not be recorded."""
        metrics.WITHOUT_STORE.inc()
        return Answer(predictor.rank_without_store(request), None)
