"""A simulated run -> how the service's answers turn when users hop to another theme: after none, one, two and 3 clicks.

`python -m benchmarks.adaptation`: real services over HTTP, of the bundle and of DIN packaged from the same run, read an
online store that holds the log as it was when the test window began. Users who hop to another theme soon after are
taken; what they clicked there in the log is posted to /events, click by click, and both services are asked after each:
/recommend for 10 items, /rank for what the log showed them later in that session. Popularity is the clicks of a day.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from benchmarks.serving import server
from benchmarks.world import World, check, number, read_requests
from contracts.params import load_params
from contracts.publish import write_json
from features.encoding.counters import Counters
from features.online.replay import replaying
from features.terms.convention import CLICKED
from serving import package
from serving.bundle.loaded import read_json
from serving.bundle.logged import RequestLog

SEED = 0
NUM_CLICKS, LISTED = 3, 10
MIN_HISTORY = 20
DRAWS = 1000
DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000
FIGURES = ("share", "worth", "auc")
COLOURS = {"mos": "#0b6e99", "din": "#c4552d", "popularity": "#7a7a7a"}
NAMES = {"mos": "Mixture of Sequence", "din": "DIN", "popularity": "popularity"}


class Hop(NamedTuple):
    """A user who turned to another theme."""

    user_id: str
    theme: int
    at: int  # us, of the session's first request
    clicks: list[str]  # the first NUM_CLICKS on items of the theme
    later: list[str]  # items that were shown after these clicks
    labels: list[float]


def main() -> None:
    """Print and write one JSON object, and draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptation", description=__doc__)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--hours", type=float, default=8.0, help="hops within so long after the test window's begin")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/adaptation.json"))
    parser.add_argument("--chart", type=Path, default=Path("docs/adaptation.svg"))
    options = parser.parse_args()
    params = load_params()
    data = Path("data") / params["source"].id
    world = World.draw(params["simulator"], params["seed"])
    check(world, data)
    start, hops = find_hops(data, options.users, options.hours)
    with tempfile.TemporaryDirectory(dir=data.parent) as scratch:
        bundles = {"mos": data / "bundle", "din": package_din(data, Path(scratch), params["serve"])}
        answers, versions = ask(data, start, hops, bundles, Path(scratch), world)
    report = {
        "setting": {
            "users": len(hops),
            "hours": options.hours,
            "models": versions,
            "cpus": os.cpu_count(),
            "command": f"python -m benchmarks.adaptation --users {options.users} --hours {options.hours:g}",
        },
        "best_possible": best_possible(world, hops),
        "after_clicks": summarise(answers),
    }
    write_json(options.out, report)
    draw(report, options.chart)
    print(json.dumps(report, indent=1))


def find_hops(data: Path, num: int, hours: float) -> tuple[int, list[Hop]]:
    """(start of the test window in us, users whose first session in it has another theme than their last one).

    The session has to hold more than NUM_CLICKS' clicks on items of its theme, and after these a click and an item that
    was not clicked. Fewer users where the log has no more.
    """
    told, log = read_requests(data), RequestLog.open(data)
    test = pq.read_table(data / "predictions", columns=["request_index"])["request_index"].to_numpy().min()
    names = log.names["impression_id"].to_numpy(zero_copy_only=False)
    start = int(told["at"][np.flatnonzero(told["name"] == names[test])[0]])
    index_of = {name: index for index, name in enumerate(names)}
    columns = (log.impressions[name].to_numpy() for name in ("request_index", "item_index", "label"))
    index_B, item_B, label_B = columns
    item_ids, theme_of = log.item_ids.to_pylist(), read_themes(data)
    requests: dict[int, list[int]] = defaultdict(list)
    for row in range(len(told["user"])):
        requests[int(told["user"][row])].append(row)
    hops = []
    for user in np.random.default_rng(SEED).permutation(list(requests)):
        rows = np.array(requests[int(user)])
        coming = rows[told["at"][rows] >= start]
        before = rows[told["at"][rows] < start]
        if len(before) < MIN_HISTORY or not len(coming) or told["at"][coming[0]] >= start + hours * HOUR_US:
            continue
        session, theme = told["session"][coming[0]], int(told["theme"][coming[0]])
        if session == told["session"][before[-1]]:
            continue  # it began before the window
        own = coming[told["session"][coming] == session]
        shown = [
            slice(*np.searchsorted(index_B, [index, index + 1])) for index in (index_of[told["name"][r]] for r in own)
        ]
        seen = [
            (item_ids[item - 2], float(label))
            for part in shown
            for item, label in zip(item_B[part], label_B[part], strict=True)
        ]
        hop = _hop(f"u{user:05d}", theme, int(told["at"][coming[0]]), shown, seen, theme_of)
        if hop is not None:
            hops.append(hop)
        if len(hops) == num:
            break
    return start, hops


def _hop(
    user_id: str,
    theme: int,
    at: int,
    shown: Sequence[slice],
    seen: Sequence[tuple[str, float]],
    theme_of: dict[str, int],
) -> Hop | None:
    clicks: list[str] = []
    place = 0
    for part in shown:  # whole requests: what stood beside the last click was not seen later
        listed = seen[place : place + part.stop - part.start]
        place += len(listed)
        own = [item for item, label in listed if label >= CLICKED and theme_of[item] == theme]
        clicks += [item for item in dict.fromkeys(own) if item not in clicks]
        if len(clicks) >= NUM_CLICKS:
            break
    later = [(item, label) for item, label in seen[place:] if item not in clicks]
    if len(clicks) < NUM_CLICKS or len({label for _, label in later}) < 2:
        return None
    return Hop(user_id, theme, at, clicks[:NUM_CLICKS], [item for item, _ in later], [label for _, label in later])


def read_themes(data: Path) -> dict[str, int]:
    """item_id -> the theme that the simulator drew."""
    table = pq.read_table(data / "truth" / "items.parquet", columns=["item_id", "theme"])
    return dict(zip(table["item_id"].to_pylist(), table["theme"].to_pylist(), strict=True))


def package_din(data: Path, scratch: Path, serve: Any) -> Path:
    """A bundle of the same run that serves DIN: its data linked, its verdict naming the other model."""
    copy = scratch / data.name
    subprocess.run(["cp", "-al", data, copy], check=True)
    verdict = copy / "metrics" / "verdict.json"
    content = read_json(verdict)
    verdict.unlink()  # a link to the run's own
    write_json(verdict, content | {"served": "din"})
    subprocess.run(["rm", "-r", copy / "bundle"], check=True)
    package.run(copy, serve)
    return copy / "bundle"


def ask(
    data: Path, start: int, hops: Sequence[Hop], bundles: dict[str, Path], scratch: Path, world: World
) -> tuple[Mapping[tuple[str, int], Mapping[str, list[float]]], dict[str, str]]:
    """(model, clicks) -> figure -> one value a user; and the models' versions."""
    log = RequestLog.open(data)
    counters = Counters.from_folder(data, log.item_ids, log.histories.user_ids)
    snapshot = read_json(data / "feature_snapshot" / "snapshot.json")
    theme_of = read_themes(data)
    made: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with replaying(data, snapshot, start, scratch / "replay", counters) as replay, ExitStack() as stack:
        popular = popularity(replay.store, log.item_ids.to_pylist(), start)
        clients = {
            name: stack.enter_context(serving(bundle, scratch / "replay" / "feast")) for name, bundle in bundles.items()
        }
        versions = {
            name: client.get("/info").raise_for_status().json()["model_version"] for name, client in clients.items()
        }
        for hop in hops:
            worth = world.clicks(number(hop.user_id), hop.theme, hop.at)
            history = replay.store.history(hop.user_id)
            seen = set() if history is None else set(history.item_ids)
            for clicks in range(NUM_CLICKS + 1):
                if clicks:
                    event = {"user_id": hop.user_id, "item_id": hop.clicks[clicks - 1]}
                    clients["mos"].post("/events", json={"events": [event]}).raise_for_status()
                lists = {name: _answer(client, hop) for name, client in clients.items()}
                lists["popularity"] = _popular(popular, hop, seen | set(hop.clicks[:clicks]))
                for name, (items, scores) in lists.items():
                    figures = made[name, clicks]
                    figures["share"].append(float(np.mean([theme_of[item] == hop.theme for item in items])))
                    figures["worth"].append(float(np.mean([worth[number(item)] for item in items])))
                    figures["auc"].append(float(roc_auc_score(hop.labels, [scores[item] for item in hop.later])))
    return dict(made), versions


def _answer(client: httpx.Client, hop: Hop) -> tuple[list[str], dict[str, float]]:
    """What is recommended, and the scores of what was shown later."""
    asked = {"user_id": hop.user_id, "preview": True}
    told = client.post("/recommend", json=asked | {"k": LISTED}).raise_for_status().json()
    ranked = client.post("/rank", json=asked | {"candidates": hop.later}).raise_for_status().json()
    return [item["item_id"] for item in told["items"]], {item["item_id"]: item["score"] for item in ranked["items"]}


def popularity(store: Any, item_ids: list[str], at: int) -> dict[str, float]:
    """item_id -> clicks of the day before, most first, as the store counts them."""
    _, clicks = store.counters.item_counters.window(store.item_keys(item_ids), at, 0, DAY_US)
    order = np.argsort(-clicks, kind="stable")
    return {str(item_ids[row]): float(clicks[row]) for row in order.tolist()}


def _popular(popular: dict[str, float], hop: Hop, seen: set[str]) -> tuple[list[str], dict[str, float]]:
    first = [item for item in popular if item not in seen][:LISTED]
    return first, popular


def best_possible(world: World, hops: Sequence[Hop]) -> dict[str, float]:
    """The list of those most likely to be clicked, by one who knows the world, its theme included."""
    shares, worths = [], []
    for hop in hops:
        worth = world.clicks(number(hop.user_id), hop.theme, hop.at)
        first = np.argsort(-worth, kind="stable")[:LISTED]
        shares.append(float((world.items.theme[first] == hop.theme).mean()))
        worths.append(float(worth[first].mean()))
    return {"share": round(float(np.mean(shares)), 4), "worth": round(float(np.mean(worths)), 4)}


def summarise(answers: Mapping[tuple[str, int], Mapping[str, list[float]]]) -> dict[str, list[dict[str, Any]]]:
    """Model -> one entry a number of clicks: means over users with 95 % intervals, bootstrapped over users."""
    rng = np.random.default_rng(SEED)
    num = len(next(iter(answers.values()))["share"])
    drawn = rng.integers(num, size=(DRAWS, num))
    made: dict[str, list[dict[str, Any]]] = {}
    for (name, clicks), figures in sorted(answers.items()):
        entry: dict[str, Any] = {"clicks": clicks}
        for figure in FIGURES:
            values = np.array(figures[figure])
            entry[figure] = round(float(values.mean()), 4)
            entry[f"{figure}_95"] = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975]).round(4).tolist()
        made.setdefault(name, []).append(entry)
    return made


def serving(bundle: Path, state: Path) -> AbstractContextManager[httpx.Client]:
    """A service of a bundle over a state."""
    return server(LEITMOTIF_BUNDLE=str(bundle.resolve()), LEITMOTIF_STATE=str(state.resolve()))


def draw(report: dict[str, Any], path: Path) -> None:
    """Two panels by number of clicks: the new theme's share of the recommended, and the AUC of what came later."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.hashsalt": "leitmotif", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    panels = (
        (axes[0], "share", "share of the new theme\nin the 10 recommended"),
        (axes[1], "auc", "AUC of /rank on what\nwas shown later"),
    )
    for axis, figure_name, title in panels:
        for name, entries in ((name, report["after_clicks"][name]) for name in NAMES):
            clicks = [entry["clicks"] for entry in entries]
            low, high = zip(*(entry[f"{figure_name}_95"] for entry in entries), strict=True)
            axis.fill_between(clicks, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
            axis.plot(clicks, [entry[figure_name] for entry in entries], "o-", color=COLOURS[name], label=NAMES[name])
        axis.set(xticks=range(NUM_CLICKS + 1), xlabel="clicks in the new theme", title=title)
    axes[0].set_ylim(bottom=0)
    best = report["best_possible"]["share"]
    axes[0].axhline(best, color="#333333", linestyle=":", linewidth=1)
    axes[0].annotate(
        "the likeliest clicks of all, by one who knows", (NUM_CLICKS, best), ha="right", va="top", fontsize=7
    )
    axes[1].legend(frameon=False, fontsize=8, loc="center right", bbox_to_anchor=(1, 0.4))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
