"""The online store -> why the service is not ready, by one cheap read at a time with a time limit."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

from features.online.store import OnlineStore

LIMIT_S = 1.0
NOBODY = ""
"""A user id that no log has."""


class Readiness:
    """Reads in its own thread, since the computing thread may be busy for as long as a request may take."""

    def __init__(self) -> None:
        self._asking = ThreadPoolExecutor(1, "ready")
        self._asked: Future[None] | None = None

    async def reason_against(self, store: OnlineStore) -> str | None:
        """None if live events and histories can be read. Concurrent calls share one read."""
        if self._asked is None or self._asked.done():
            self._asked = self._asking.submit(_read, store)
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._asked)), LIMIT_S)
        except TimeoutError:
            return f"The online store has not answered for {LIMIT_S:g} s. `make freshness` says what it holds."
        except Exception as error:  # any error means that the store cannot be read
            return f"The online store cannot be read: {error or type(error).__name__}"
        return None


def _read(store: OnlineStore) -> None:
    store.tail.marks()
    store.history(NOBODY)
