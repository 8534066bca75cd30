"""A ranking while the online store does not answer: of somebody of whom nothing is known, and flagged.

No history is kept here for that time: it would outlive its user's wish to be forgotten.
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
"""After a store that did not answer, how long it is not asked: each question may wait as long as a request lasts."""


class Away:
    """One a worker: whether the store is known not to answer."""

    def __init__(self) -> None:
        self._until = 0.0
        self._is_said = False

    def answer(self, predictor: Predictor, request: RankRequest) -> Answer:
        """With the store where it answers. Raises StaleStoreError where a newer load must be opened."""
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
        """Without asking it. Nothing is to be kept of that."""
        metrics.WITHOUT_STORE.inc()
        return Answer(predictor.rank_without_store(request), None)
