"""A packaged model and its metrics -> MODEL_CARD.md and DATA_DICTIONARY.md, the bundle's two pages for people."""

from pathlib import Path
from typing import Any

from features.encoding.encode import FeatureSpec
from features.encoding.scalars import OLDEST_HOURS, PRIOR_RATE, PRIOR_SHOWS, TREND_S
from features.terms.convention import COCLICK_SPANS
from serving.bundle.scorer import Scorer
from serving.params import ServeParams
from training.model.alone import BackboneAlone

FIGURES = {
    "auc": "AUC",
    "iauc": "iAUC",
    "gauc": "gAUC",
    "ndcg": "NDCG",
    "logloss": "logloss",
    "normalised_entropy": "NE",
    "calibration_error": "calibration error",
    "calibration_ratio": "predicted / observed",
}
"""Metric of evaluate's report -> its column heading."""


def write_card(bundle: Path, source: str, scorer: Scorer, metrics: dict[str, Any], serve: ServeParams) -> None:
    """Write MODEL_CARD.md: the model's purpose, its measured quality, its limits."""
    params, spec, verdict = scorer.params, scorer.spec, metrics["verdict"]
    num_parameters = sum(value.numel() for value in scorer.model.parameters())
    lines = [
        "# Model card",
        "",
        f"{_name(scorer)}, trained by leitmotif on the source `{source}`. It orders candidates for a user by the "
        f"probability of a click, read from {_reads(scorer)}.",
        "",
        f"- {num_parameters:,} parameters, {len(scorer.index_of):,} items, {scorer.theme_NT.shape[1] or 'no'} themes, "
        f"width {params.width}, the newest {spec.history_length} events of a history.",
        f"- {_reader(scorer)}",
        f"- Ranks at most {serve.max_candidates:,} candidates at once, ids up to {serve.max_id_length} characters.",
        "",
        "## Measured on requests after the split",
        "",
        f"| model | {' | '.join(FIGURES.values())} | parameters | MFLOP per request |",
        "| --- |" + " --- |" * (len(FIGURES) + 2),
        *(
            _row(name, figures, metrics.get("costs", {}).get(name, {}))
            for name, figures in sorted(metrics["models"].items())
        ),
        "",
        "iAUC is the mean AUC within a request, where a tie counts one half; gAUC is the AUC within a user, weighted "
        f"by impressions; NDCG is of the first {metrics.get('ndcg_at', 'few')}; NE is the logloss divided by that of "
        "a constant prediction of the click rate. All models are measured on the same requests; trees are included if "
        "LightGBM is installed.",
        "",
        *_slices(metrics, metrics.get("served", "mos")),
        f"Verdict of the absolute rules: **{verdict['state']}**"
        + (f" ({'; '.join(verdict['reasons'])})." if verdict["reasons"] else "."),
        "",
        *(f"- {sentence}" for sentence in metrics["standing"]),
        *(f"- Warning: {sentence}." for sentence in metrics["warnings"]),
        "",
        "Intervals are 95 %, bootstrapped over users.",
        "",
        *_theme_use(metrics["themes"] if scorer.theme_NT.shape[1] else None),
        "## Limits",
        "",
        "- Scores order the candidates of one request. They are probabilities only for lists like those of the log.",
        "- Items that training never saw are ranked by their counters and flagged. Users without history are flagged.",
        "- The log contains what was shown: the model inherits the choices of the system that showed it.",
        "- The model has no weights per user: histories are read at request time.",
        "",
    ]
    (bundle / "MODEL_CARD.md").write_text("\n".join(lines), encoding="utf-8")


def write_dictionary(bundle: Path, spec: FeatureSpec) -> None:
    """Write DATA_DICTIONARY.md: every input of the model, with unit and lag."""
    events = "clicked events" if spec.labels == "clicked" else "shown and clicked events"
    lines = [
        "# Data dictionary",
        "",
        f"A history is the newest {spec.history_length} {events} of a user strictly before the request's time minus "
        f"{spec.history_lag_s:g} s. Per event:",
        "",
        "| input | meaning |",
        "| --- | --- |",
        "| item_index | 0 padding, 1 unknown, from 2 on the rank of item_id in vocabulary.parquet |",
        "| label | 1: clicked, 0: shown but not clicked |",
        f"| rank_bucket | floor(log2(rank)), the newest event has rank 1; {spec.num_rank_buckets} buckets |",
        f"| age_bucket | floor(log2(1 + age / 30 s)); {spec.num_age_buckets} buckets |",
        f"| session | 0 for the newest event's session, 1 for the one before, and so on; a gap of "
        f"{spec.session_gap_s:g} s ends a session |",
        "",
        "Per candidate, each count as of strictly before the request's time minus its lag:",
        "",
        "| input | meaning |",
        "| --- | --- |",
        *(f"| {name} | {_meaning(name, spec)} |" for name in spec.scalars),
        "",
    ]
    (bundle / "DATA_DICTIONARY.md").write_text("\n".join(lines), encoding="utf-8")


def _name(scorer: Scorer) -> str:
    return "Mixture of Sequence" if scorer.theme_NT.shape[1] else "Deep Interest Network, the baseline of the graph"


def _reads(scorer: Scorer) -> str:
    themed = "the user's history of the theme that each candidate belongs to"
    return themed if scorer.theme_NT.shape[1] else "the user's whole history; it has no themes"


def _reader(scorer: Scorer) -> str:
    """A sentence about how the model reads a history."""
    params, model = scorer.params, scorer.model
    if isinstance(model, BackboneAlone):
        return f"Reads a history by `{model.name}`."
    said = f"Router `{params.router}` by `{params.route}`, backbone `{params.backbone}`"
    return f"{said}, the whole history by {'its mean' if params.global_expert == 'mean' else 'the backbone'}."


def _theme_use(use: dict[str, Any] | None) -> list[str]:
    """A table of how evenly items and events are spread over themes; empty without themes."""
    if use is None:
        return []
    rows = [
        f"| {what} | {counts['total']:,} | {_share(counts['largest_share'])} | {counts['num_empty']} of "
        f"{use['num_themes']} | {_figure(counts['entropy'])} |"
        for what, counts in (("items", use["by_items"]), ("events", use["by_events"]))
    ]
    head = [
        "| themes by | total | largest theme | empty themes | entropy (1: even) |",
        "| --- | --- | --- | --- | --- |",
    ]
    return [*head, *rows, ""]


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _meaning(name: str, spec: FeatureSpec) -> str:
    if name in (special := _special_meanings(spec)):
        return special[name]
    for ending, beside in (("_rank", "rank within the list, 0 lowest to 1 highest, ties averaged"),
                           ("_difference", "difference to the list's mean")):  # fmt: skip
        if name.endswith(ending):
            return f"{name.removesuffix(ending)}: {beside}"
    whose, kind, scope = name.rsplit("_", 2)
    over = "in total" if scope == "total" else f"in the trailing {scope[:-1]} s"
    if kind == "rate":
        return f"{_rate(scope)} {over}"
    lag = spec.user_lag_s if whose == "user" else spec.shows_lag_s if kind == "shows" else spec.clicks_lag_s
    return f"log(1 + {kind} of the {whose}) {over}, lag {lag:g} s"


def _special_meanings(spec: FeatureSpec) -> dict[str, str]:
    never = f"at most {OLDEST_HOURS:g}, also if never"
    trend = f"of the shortest window against the longest of at most {TREND_S:,} s"
    alike = f"cosine between the summed factors of the item's readers, lag {spec.clicks_lag_s:g} s, and"
    of_user = f"lag {spec.user_lag_s:g} s"
    return {
        "item_age": f"log(1 + hours since the item was first shown), {never}, lag {spec.shows_lag_s:g} s",
        "item_seen_age": f"log(1 + hours since the item was last shown), {never}, lag {spec.shows_lag_s:g} s",
        "item_is_read": "1 if the candidate is the item on whose page the request was made",
        "item_click_age": f"log(1 + hours since the item's last click), {never}, lag {spec.clicks_lag_s:g} s",
        "item_click_trend": f"log(1 + clicks at the pace) {trend}",
        "item_rate_trend": f"log of the smoothed rate {trend}",
        "user_item_shows": f"log(1 + shows of the item to the user), {of_user}",
        "user_item_clicks": f"log(1 + clicks of the user on the item), {of_user}",
        "user_item_seen_age": f"log(1 + hours since the user last saw the item), {never}, {of_user}",
        "user_rate": f"{_rate('total')} of the user, in total, {of_user}",
        "user_age": f"log(1 + hours since the user's last event), {never}, {of_user}",
        "user_session_shows": f"log(1 + shows to the user in the trailing {spec.session_gap_s:g} s), {of_user}",
        "hour_sin": "sine of the time of day, UTC",
        "hour_cos": "cosine of the time of day, UTC",
        "on_item_page": "1 if the request was made on the page of an item",
        "is_subscriber": "1 if the request says that the user subscribes",
        **{f"device_{name}": f"1 if the request's device is {name}" for name in spec.devices},
        "coclick_user": f"{alike} the user's own factor",
        "coclick_read": f"{alike} those of the item being read",
        **{f"coclick_last_{span}": f"{alike} those of the user's last {span} clicks" for span in COCLICK_SPANS},
        "list_length": "log(1 + number of candidates)",
    }


def _rate(scope: str) -> str:
    prior = f"{PRIOR_RATE:g}" if scope == "total" else "the total's rate"
    return f"clicks per show, smoothed with {PRIOR_SHOWS:g} shows at {prior},"


def _row(name: str, figures: dict[str, float | None], cost: dict[str, Any]) -> str:
    parameters, flops = cost.get("parameters"), cost.get("flops")
    costs = [f"{parameters:,}" if parameters is not None else "", f"{flops / 1e6:.3f}" if flops is not None else ""]
    return f"| {name} | " + " | ".join([*(_figure(figures.get(key)) for key in FIGURES), *costs]) + " |"


def _slices(metrics: dict[str, Any], served: str) -> list[str]:
    """A table of the served model by slice, with intervals, without slices that have no request to rank."""
    key = f"{served}_iauc"
    rows = [
        f"| {name} | {row['requests_ranked']:,} | {_figure(row[key])} ({_figure(row[f'{key}_low'])} to "
        f"{_figure(row[f'{key}_high'])}) |"
        for name, row in metrics.get("slices", {}).items()
        if row.get("requests_ranked") and row.get(key) is not None
    ]
    return ["| slice | requests ranked | iAUC (95 %) |", "| --- | --- | --- |", *rows, ""] if rows else []


def _figure(value: float | None) -> str:
    return "not judged" if value is None else f"{value:.4f}"
