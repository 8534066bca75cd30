"""A ranking while the online store is unavailable: the user counts as unknown, and the answer is flagged.

Histories are not cached for this case: a cache would keep users who asked to be forgotten.
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
"""How long the store is left alone after a failure; each further attempt could take as long as a request may."""


class Away:
    """One per worker: whether the store is known to be unavailable."""

    def __init__(self) -> None:
        self._until = 0.0
        self._is_logged = False

    def answer(self, predictor: Predictor, request: RankRequest) -> Answer:
        """Rank with the store if it is available. Raises StaleStoreError if a newer load has replaced the open one."""
        if time.monotonic() < self._until:
            return self.answer_without(predictor, request)
        try:
            answer = predictor.answer(request)
        except StaleStoreError:
            raise
        except InputError as error:
            self._until = time.monotonic() + RETRY_S
            if not self._is_logged:
                log.error("The store is unavailable; every user is ranked as unknown until it answers: %s", error)
            self._is_logged = True
            return self.answer_without(predictor, request)
        if self._is_logged:
            log.warning("The store answers again; users are ranked with their histories")
        self._is_logged = False
        return answer

    def answer_without(self, predictor: Predictor, request: RankRequest) -> Answer:
        """Rank without the store. The ranking must not be recorded."""
        metrics.WITHOUT_STORE.inc()
        return Answer(predictor.rank_without_store(request), None)
