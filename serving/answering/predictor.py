"""The predictor: a bundle over the online store, which ranks candidates for a user at a time. No HTTP here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from contracts.errors import InputError
from contracts.schema import UNKNOWN_INDEX
from features.encoding.asked import NO_CONTEXT, Context
from features.live.clock import LOG_END
from features.live.intake import Intake
from features.online.store import OnlineStore
from serving.answering.belonging import check_log, check_stamp
from serving.answering.explaining import with_reasons
from serving.answering.feedback import Shown, intake_of, keep, show, take
from serving.answering.kept_states import KeptStates
from serving.answering.machine_code import computes, with_machine_code
from serving.answering.offers import Offering
from serving.answering.refusal import MAX_NAME, Refusal
from serving.answering.requests import (
    EventsReply,
    EventsRequest,
    HistoryView,
    RankedItem,
    RankReply,
    RankRequest,
    ThemeShare,
    check_limits,
    to_iso,
    to_microseconds,
)
from serving.answering.supposing import supposed
from serving.bundle.golden import check_golden
from serving.bundle.loaded import GOLDEN, Bundle, open_bundle, reading
from serving.bundle.manifest import read_manifest
from serving.bundle.reading import read_codes, read_events, read_scalars
from serving.bundle.scorer import NO_EVENTS, Events, Scores
from serving.locations import CHAMPIONS, find_bundle, find_snapshot, find_state
from serving.params import ServeParams
from serving.watching.stages import FEATURES, HISTORY, REASONS, SCORES, USER_SIDE, note_logits, stage

NOBODY = ""
"""The id of a user that no log has."""
NUM_USER_THEMES = 3
"""How many of a user's current themes an answer names."""


class Showing(Protocol):
    """The fields of a request that decide whether its ranking is recorded as shown, and for whom."""

    @property
    def user_id(self) -> str: ...

    @property
    def at(self) -> str | None: ...

    @property
    def preview(self) -> bool: ...

    @property
    def suppose(self) -> Sequence[str]: ...

    @property
    def model(self) -> str | None: ...


class Answer(NamedTuple):
    """A ranking, and the rows to record once it has been sent; None if it is not recorded."""

    reply: RankReply
    shown: Shown | None


@dataclass(frozen=True)
class Predictor:
    """The bundle and the online store of one worker. `answer` writes nothing and is thread-safe."""

    bundle: Bundle
    store: OnlineStore
    intake: Intake
    offering: Offering
    name: str | None = None  # what requests call it in `model`; None for the served one
    beside: "Mapping[str, Predictor]" = field(default_factory=dict)  # other models, by name (beside.py)
    kept: KeptStates = field(default_factory=KeptStates, compare=False)  # of users who asked last

    @classmethod
    def open(cls, bundle: Path, state: Path, snapshot: Path | None = None) -> "Predictor":
        """Load the bundle, reproduce its golden requests, open the store, check that the two belong together.

        snapshot: the folder feature_snapshot/ that the store should have been loaded from; None if there is none here.
        Raises InputError that says what to do.
        """
        opened = open_bundle(bundle)
        torch.set_num_threads(opened.manifest.limits.num_threads)
        with reading(bundle / GOLDEN):
            check_golden(opened.scorer, opened.golden)
        opened = with_machine_code(opened)
        store = OnlineStore.open(state)
        check_log(opened.manifest, bundle, state)
        check_stamp(opened.scorer.spec, store, state, snapshot)
        if opened.manifest.limits.clock == LOG_END:
            store.follow_log()
        return cls(opened, store, intake_of(store), Offering(opened, store))

    @property
    def limits(self) -> ServeParams:
        """What the bundle allows a request to ask for."""
        return self.bundle.manifest.limits

    def of(self, model: str | None) -> "Predictor":
        """The predictor that a request names in `model`; None: the served one. Raises Refusal if it is not loaded."""
        if model in (None, self.name):
            return self
        if (found := self.beside.get(model)) is None:
            loaded = f"{', '.join(self.beside)} may be named" if self.beside else "none is loaded beside the served one"
            raise Refusal(400, f"model: {model} is not loaded here: {loaded}. GET /info lists the models.", "model")
        return found

    def rank(self, request: RankRequest) -> RankReply:
        """`answer`, recorded as shown before it returns: for callers in this process.

        Raises InputError if the store refuses the record.
        """
        reply, shown = self.answer(request)
        if shown is not None:
            keep(self.store, shown)
        return reply

    def answer(self, request: RankRequest) -> Answer:
        """The k best of the distinct candidates, best first; equal scores keep the request's order.

        Only events before `at` are read. Unknown users and items are ranked and flagged. Raises pydantic's
        ValidationError if the request exceeds the limits, and Refusal if the model it names is not loaded.
        """
        if (other := self.of(request.model)) is not self:
            return other.answer(request)
        check_limits(request, self.limits)
        with stage(HISTORY):
            self.store.refresh()
        at = self.clock() if request.at is None else to_microseconds(request.at)
        events = self.events(request.user_id, request.suppose, at)
        context = context_of(request)
        reply = self._reply(request, request.user_id, events, at, context)
        shown = self.shown(request, [item.item_id for item in reply.items], at, context)
        return Answer(reply.model_copy(update={"impression_id": shown.impression_id}) if shown else reply, shown)

    def rank_without_store(self, request: RankRequest) -> RankReply:
        """`answer` while the store is unavailable: the user counts as unknown; the answer is flagged, not recorded."""
        if (other := self.of(request.model)) is not self:
            return other.rank_without_store(request)
        check_limits(request, self.limits)
        at = self.clock() if request.at is None else to_microseconds(request.at)
        reply = self._reply(request, NOBODY, NO_EVENTS, at, context_of(request))
        history = reply.history.model_copy(update={"known": False, "store_away": True})
        return reply.model_copy(update={"history": history})

    def _reply(self, request: RankRequest, user_id: str, events: Events | None, at: int, context: Context) -> RankReply:
        """The ranking for a user with these events, not yet recorded. events: None for an unknown user."""
        candidates = list(dict.fromkeys(request.candidates))
        index_M, scores = self.score(user_id, events, candidates, at, context)
        best = np.argsort(-scores.logit_M, kind="stable")[: request.k]
        length = 0 if events is None else self.bundle.scorer.known_events(events, at)
        items = self._items(candidates, index_M, scores, best)
        if request.explain:
            with stage(REASONS):
                items = with_reasons(self.bundle.scorer, self.store, user_id, events, candidates, items, at, context)
        return RankReply.model_construct(
            user_id=request.user_id,
            at=to_iso(at),
            items=items,
            themes=self.theme_shares(scores.current_T) if length else [],
            history=HistoryView.model_construct(
                known=events is not None,
                length=length,
                newest_event_at=to_iso(int(events.occurred_at[length - 1])) if events is not None and length else None,
            ),
            cold_start_user=length == 0,
            cold_start_items=[candidates[row] for row in np.flatnonzero(self.bundle.scorer.cold_N[index_M])],
            impression_id=None,
            model_version=self.bundle.version,
            snapshot_id=self.store.snapshot_id,
        )

    def append(self, request: EventsRequest) -> EventsReply:
        """Append live events: durable on return, read by the next ranking. Raises ValidationError naming a bad one."""
        self.store.refresh()
        return take(self.store, self.intake, self.limits, request, self.clock())

    @property
    def is_full(self) -> bool:
        """Whether serve.max_live_rows live rows are in memory. Rankings are then no longer recorded."""
        return self.store.live.num_events >= self.limits.max_live_rows

    def is_remembered(self, request: Showing) -> bool:
        """Whether somebody is shown this ranking now, so that it is recorded unless the memory limit is reached."""
        is_trial = request.preview or bool(request.suppose) or request.model is not None
        return request.at is None and not is_trial and self.limits.log_exposures

    def shown(self, request: Showing, items: Sequence[str], at: int, context: Context) -> Shown | None:
        """The rows that record a ranking as shown; None if it is not to be recorded."""
        if self.is_full or not self.is_remembered(request):
            return None
        return show(self.intake, request.user_id, items[: self.limits.max_exposed], at, context)

    def score(
        self, user_id: str, events: Events | None, candidates: Sequence[str], at: int, context: Context = NO_CONTEXT
    ) -> tuple[np.ndarray, Scores]:
        """Embedding rows and scores of distinct candidates: encodes the user once, then scores all at once."""
        scorer = self.bundle.scorer
        index_M = scorer.item_index(candidates)
        with stage(FEATURES):
            scalars_MS = self.scalars(user_id, events, candidates, at, context)
            codes, code_MF = read_codes(scorer, self.store, events, candidates, at)
        with stage(USER_SIDE):
            state = self.kept.state(scorer, user_id, events or NO_EVENTS, at, codes)
        with stage(SCORES):
            scores = scorer.score(state, index_M, scalars_MS, code_MF)
        note_logits(scores.logit_M)
        _require_finite(scores, candidates)
        return index_M, scores

    def scalars(
        self, user_id: str, events: Events | None, candidates: Sequence[str], at: int, context: Context = NO_CONTEXT
    ) -> np.ndarray:
        """[M, S] the scalar features of each candidate: from the store's counters and the request's context."""
        return read_scalars(self.bundle.scorer, self.store, user_id, events, candidates, at, context)

    def events(self, user_id: str, suppose: Sequence[str] = (), at: int = 0) -> Events | None:
        """A user's events in the online store, oldest first; None if it does not know the user.

        suppose: items to treat as clicked just before `at`. It is ignored for a user who asked to be forgotten.
        """
        with stage(HISTORY):
            events = read_events(self.store, user_id)
        if not suppose or (events is None and self.store.is_forgotten(user_id)):
            return events
        return supposed(events, suppose, at, self.bundle.scorer.spec)

    def clock(self) -> int:
        """The time, in us, of a request without `at` (features/live/clock.py)."""
        return self.store.clock.now()

    def info(self) -> dict[str, Any]:
        """The content of GET /info."""
        manifest = self.bundle.manifest
        return {
            "model_version": manifest.model_version,
            "bundle_hash": manifest.bundle_hash,
            "feature_spec_hash": manifest.feature_spec_hash,
            "source": manifest.source,
            "log": manifest.log,
            "snapshot_id": self.store.snapshot_id,
            "packaged_with_snapshot_id": manifest.snapshot_id,
            "clock": self.limits.clock,
            "at": to_iso(self.clock()),
            "limits": self.limits.model_dump(mode="json"),
            "num_items": len(self.bundle.scorer.index_of),
            "num_golden_requests": manifest.num_golden_requests,
            "theme_names": self.bundle.theme_names,
            "model": self.bundle.model,
            "beside": [each.described() for each in self.beside.values()],
            "computes": computes(self.bundle),
            "verdict": self.bundle.measured["verdict"],
            "standing": self.bundle.measured.get("standing", []),
        }

    def described(self) -> dict[str, Any]:
        """The entry in GET /info of a model loaded beside the served one."""
        version, names = self.bundle.version, self.bundle.theme_names
        return {"name": self.name, "model": self.bundle.model, "model_version": version, "theme_names": names}

    def _items(
        self, candidates: Sequence[str], index_M: np.ndarray, scores: Scores, best: np.ndarray
    ) -> list[RankedItem]:
        logit, theme_BT, names = scores.logit_M[best], scores.theme_MT[best], self.bundle.theme_names
        probability = (1 / (1 + np.exp(-logit.astype(np.float64)))).tolist()
        known = (index_M[best] != UNKNOWN_INDEX).tolist()
        if names:
            named = theme_BT.max(axis=1, initial=0) > 0  # an unknown item belongs to no theme
            theme = np.where(named, theme_BT.argmax(axis=1), -1).tolist()
            match: Sequence[float | None] = (scores.theme_MT @ scores.current_T)[best].tolist()
        else:
            theme, match = [-1] * len(best), [None] * len(best)
        return [
            RankedItem.unvalidated(
                item_id=candidates[row],
                score=probability[place],
                theme=theme[place] if theme[place] >= 0 else None,
                theme_name=names[theme[place]] if theme[place] >= 0 else None,
                match=match[place],
                known=known[place],
                reasons=None,
            )
            for place, row in enumerate(best.tolist())
        ]

    def theme_shares(self, current_T: np.ndarray) -> list[ThemeShare]:
        """The user's current themes with the largest shares, at most NUM_USER_THEMES."""
        return [
            ThemeShare.model_construct(
                theme=int(theme), name=self.bundle.theme_names[theme], share=float(current_T[theme])
            )
            for theme in np.argsort(-current_T, kind="stable")[:NUM_USER_THEMES]
        ]


def context_of(request: RankRequest) -> Context:
    """The request's context as features read it."""
    return NO_CONTEXT if request.context is None else Context(**request.context.model_dump())


def open_here() -> Predictor:
    """The predictor of this machine's bundle and online store."""
    bundle = find_bundle()
    try:
        source = read_manifest(bundle).source
    except InputError as error:
        if CHAMPIONS not in bundle.parents:
            raise
        raise InputError(
            f"{error} It is the champion: `make promote ARGS=--force` replaces it with the newest bundle."
        ) from error
    return Predictor.open(bundle, find_state(source), find_snapshot(source))


def _require_finite(scores: Scores, candidates: Sequence[str]) -> None:
    """Raise Refusal if a score is not finite: it has no rank, and pydantic would write it as null."""
    finite_M = np.isfinite(scores.logit_M) & np.isfinite(scores.theme_MT).all(axis=1)
    if not np.isfinite(scores.current_T).all():
        finite_M = np.zeros_like(finite_M)
    if not finite_M.all():
        first = candidates[int(np.argmin(finite_M))]
        raise Refusal(
            500,
            f"{np.count_nonzero(~finite_M):,} of {len(candidates):,} candidates have a score that is not finite, first "
            f"{first[:MAX_NAME]!r}: the model or the counters are damaged. `make run` and `make load` rebuild both.",
        )
