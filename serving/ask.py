"""A user and candidates -> one ranking as a table, by a running server or in this process."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.params import load_params
from serving.client import NOT_THE_SERVICE, UNREACHABLE, Client, ServiceError

SEED = 0
TITLE_WIDTH = 40
OURS = "`make serve` starts one; `make ask PORT=3002` asks another port, --url another address."
TOKEN_VARIABLE = "LEITMOTIF_TOKEN"
"""The token for servers that require one."""


def main() -> None:
    """`make ask`, `python -m serving.ask --help`."""
    parser = argparse.ArgumentParser(prog="python -m serving.ask", description=__doc__)
    parser.add_argument("--url", help="a running server, such as http://127.0.0.1:3000 (default: rank here)")
    parser.add_argument("--user", help="a user_id (default: the user with the longest history)")
    parser.add_argument("--candidates", nargs="+", metavar="ITEM", help="item_ids (default: --num at random)")
    parser.add_argument("--num", type=int, default=10, help="how many candidates to draw (default: 10)")
    parser.add_argument("--k", type=int, help="how many items to return (default: all)")
    parser.add_argument("--at", help="ISO time with a time zone (default: the service's clock)")
    parser.add_argument(
        "--context", help='the context of the request as JSON, such as \'{"reading_item_id": "i00001"}\''
    )
    parser.add_argument("--explain", action="store_true", help="explain each item's rank")
    parser.add_argument("--keep", action="store_true", help="store it as shown: unclicked items become training data")
    options = parser.parse_args()
    try:
        snapshot = Path("data") / load_params()["source"].id / "feature_snapshot"
        request = {
            "user_id": options.user or longest_history(snapshot),
            "candidates": options.candidates or draw_candidates(snapshot, options.num),
            "preview": not options.keep,
            "explain": options.explain,
        }
        request |= {name: value for name in ("k", "at") if (value := getattr(options, name)) is not None}
        request |= {"context": parse_context(options.context)} if options.context is not None else {}
        asked = (options.url, request, os.environ.get(TOKEN_VARIABLE))
        reply = post(*asked) if options.url else rank_here(request)
        print(table(reply, titles(snapshot)))
    except InputError as error:
        print(f"No ranking: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def parse_context(text: str) -> Any:
    """Parse the request's `context`; the service validates its content. Raises InputError if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f'--context {text!r} is not JSON: {error}. Quote it: \'{{"device": "phone"}}\'.') from error


def longest_history(snapshot: Path) -> str:
    """The user with the most events, the first by id among equals. Raises InputError without users."""
    users = _read(snapshot / "user_history.parquet", ["user_id", "item_ids"])
    if not len(users):
        raise InputError(f"{snapshot} has no users. Name one: --user USER.")
    lengths = users["item_ids"].combine_chunks().value_lengths().to_numpy()
    return users["user_id"][int(np.argmax(lengths))].as_py()


def draw_candidates(snapshot: Path, num: int) -> list[str]:
    """A fixed random sample of the catalogue. Raises InputError if it is empty."""
    items = _read(snapshot / "item_profile.parquet", ["item_id"])["item_id"]
    if not len(items):
        raise InputError(f"{snapshot} has no items to draw candidates from. Name some: --candidates ITEM ITEM.")
    rows = np.random.default_rng(SEED).permutation(len(items))[: max(num, 1)]
    return items.take(rows).to_pylist()


def titles(snapshot: Path) -> dict[str, str]:
    """Item -> its title in the catalogue, or else its categories."""
    items = _read(snapshot / "item_profile.parquet", ["item_id", "title", "categories"]).to_pylist()
    return {item["item_id"]: item["title"] or ", ".join(item["categories"] or []) for item in items}


def post(url: str, request: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    """Ask a running server. Raises InputError if it refuses or does not answer."""
    try:
        with Client(url, token) as client:
            return client.rank(**request).model_dump()
    except ServiceError as error:
        if error.code in (UNREACHABLE, NOT_THE_SERVICE):
            raise InputError(f"{error.message} {OURS}") from error
        raise InputError(f"{url} answered {error.status}: {error.message}") from error


def rank_here(request: dict[str, Any]) -> dict[str, Any]:
    """Rank in this process. Raises InputError."""
    from pydantic import ValidationError

    from serving.answering.predictor import open_here
    from serving.answering.refusal import Refusal, of_validation
    from serving.answering.requests import RankRequest

    try:
        checked = RankRequest.model_validate(request)
        return open_here().rank(checked).model_dump()
    except ValidationError as error:
        raise InputError(of_validation(error).reason) from error
    except Refusal as error:
        raise InputError(error.reason) from error


def table(reply: dict[str, Any], titles: dict[str, str]) -> str:
    """The answer as text."""
    history = reply["history"]
    themes = "; ".join(f"{theme['name']} ({theme['share']:.0%})" for theme in reply["themes"])
    lines = [
        f"user {reply['user_id']} at {reply['at']}: {history['length']} events, newest {history['newest_event_at']}"
        + (" (cold start)" if reply["cold_start_user"] else "")
        + (": the online store does not answer" if history["store_away"] else ""),
        f"now in {themes or 'no theme (none yet, or the model has none)'}",
        f"model {reply['model_version']}, snapshot {reply['snapshot_id'][:12]}",
        "",
        f"{'rank':>4}  {'item':<14} {'score':>7} {'match':>6}  {'theme':<24} title",
    ]
    for rank, item in enumerate(reply["items"], 1):
        name = item["theme_name"] or ("" if item["known"] else "(unknown item)")
        match = "" if item["match"] is None else f"{item['match']:.2f}"
        title = titles.get(item["item_id"], "")[:TITLE_WIDTH]
        lines.append(f"{rank:>4}  {item['item_id']:<14} {item['score']:>7.4f} {match:>6}  {name:<24} {title}")
        lines += [f"      {_because(item['reasons'])}"] if item["reasons"] else []
    return "\n".join(lines)


def _because(reasons: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {part:+.2f}" for name, part in reasons["contributions"].items())
    carried = ", ".join(f"{each['item_id']} ({each['share']:+.3f})" for each in reasons["history"])
    return parts + (f"; carried by {carried}" if carried else "")


def _read(path: Path, columns: list[str]) -> Any:
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. `make run` makes it, `make pull` fetches it.") from None
    except (OSError, pa.ArrowException) as error:
        said = f"{path} cannot be read: {' '.join(str(error).split())}."
        raise InputError(f"{said} `make run` makes it again, `make pull` fetches it.") from error


if __name__ == "__main__":
    main()
