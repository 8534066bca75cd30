"""Forget users, as is their right: add them to the list that ingest and service obey, and list files that name them.

`make forget USER="u1 u2"`. From then on ingest skips their rows, their live events are refused, and those sealed in
live/<source>/ are deleted. Earlier outputs still name the users; they are listed with the commands that remove them.
"""
# pyright: reportAttributeAccessIssue=false

import argparse
import inspect
import logging
import shlex
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InputError
from contracts.files import is_temporary
from contracts.params import load_params
from features.live.holdings import (
    CACHE,
    EXPERIMENTS,
    FETCHED,
    OF_DVC,
    WORKSPACE,
    Holding,
    Holdings,
    find_holdings,
    remove_all_left,
)
from features.live.open_tail import claim, live_path, open_sqlite, open_tail
from features.live.places import loaded_into, read_stamp, state_of
from features.live.spellings import Users
from features.live.tail import LiveTail
from features.sealed.event import REDIS
from features.sealed.files import engine_of, newest_seq, read_sealed, sealed_files, write_sealed, writing
from features.sealed.forgotten import NAME, add_forgotten, read_forgotten
from features.sealed.known_logs import known_path, read_known
from features.sealed.log_id import identity_of, refuse_other

log = logging.getLogger("leitmotif")

BUILDING = ".bentoml/tmp/"
"""Where BentoML builds."""
LEFT_BEHIND = ("attempts/", "dist/", ".dagster/")
"""Folders that no command rebuilds without the users."""


def forget(live: Path, user_ids: Sequence[str], tails: Sequence[LiveTail], log: str | None = None) -> tuple[int, int]:
    """Record these users and drop their live events, those of the tails and those sealed in live/<source>.

    Returns (number of users new on the list, number of sealed rows that were deleted). The list is written first, so
    that after an interruption no run takes the users' rows, all files are complete, and a second call finishes the
    rest. Raises InputError for a list, a tail or a sealed file that cannot be used.
    """
    num_new = add_forgotten(live, user_ids, log)
    for tail in tails:
        tail.forget(user_ids)
    gone, num_rows = pa.array(user_ids, pa.string()), 0
    with writing(live):
        for path in sealed_files(live):
            table = read_sealed(path)
            theirs = pc.is_in(table["user_id"], value_set=gone)
            if pc.any(theirs).as_py():
                kept = table.filter(pc.invert(theirs))
                write_sealed(path, kept, newest_seq([table]), log)
                num_rows += len(table) - len(kept)
    return num_new, num_rows


def describe(found: Holdings, user_ids: Sequence[str], source: str, raw_log: str) -> str:
    """The files and versions that still name the users, and the commands that remove them."""
    naming = [each for each in found.holdings if each.users]
    lines = [f"{found.num_files:,} files looked into, {len(naming):,} of them name a user:"]
    for place in (WORKSPACE, CACHE):
        held = [each for each in naming if each.place == place]
        if held:
            total = sum(each.num_bytes for each in held)
            lines += ["", f"{place}: {len(held):,} files, {total:,} bytes", *(_line(each, user_ids) for each in held)]
    lines += _perhaps(found, user_ids)
    unknown = [user for user in user_ids if not any(user in each.users | each.maybe for each in found.holdings)]
    if unknown:
        lines += ["", f"Nowhere found: {', '.join(unknown)}. Check the spelling; on the list all the same."]
    if found.not_read:
        lines += [
            "",
            "Could not be read, so that what they hold is not known:",
            *(f"  {each}" for each in found.not_read),
        ]
    lines += ["", *_commands(found, source), "", *_limits(found, source, raw_log)]
    return "\n".join(lines)


def _perhaps(found: Holdings, user_ids: Sequence[str]) -> list[str]:
    """Files that contain an id as a whole word that may mean something else, to be checked by a person."""
    held = [each for each in found.holdings if each.maybe]
    if not held:
        return []
    told = f"{len(held):,} files hold an id that may mean something else (a number, part of a name):"
    return ["", told, *(_line(each, user_ids, each.maybe) for each in held)]


def _line(held: Holding, user_ids: Sequence[str], users: Users | None = None) -> str:
    who = f" [{', '.join(sorted(users or held.users))}]" if len(user_ids) > 1 else ""
    versions = f"  {'; '.join(held.versions) or 'no dvc.lock names it'}" if held.place == CACHE else ""
    return f"  {held.path}  {held.num_bytes:,} bytes{who}{versions}"


def _commands(found: Holdings, source: str) -> list[str]:
    """The commands to run, in order, and what each does."""
    paths = [each.path for each in found.holdings if each.place == WORKSPACE]
    steps = []
    if any(is_temporary(Path(path)) for path in [*paths, *(each.partition(": ")[0] for each in found.not_read)]):
        steps.append(
            ("make forget", "again when the runs have ended that are writing temporary files (a dot, 32 digits)")
        )
    steps += [("dvc repro", "make every table, model and bundle again without the users, and load Feast")]
    if any(path.startswith("champions/") for path in paths):
        steps.append(("make promote ARGS=--force", "let the new bundle take the champion's place, which gc would keep"))
    if any(path.startswith(".bentoml/") for path in paths):
        steps.append(("bentoml list", "then `bentoml delete <tag>` for each, and `make bento` for a new one"))
    if any(path.startswith(BUILDING) for path in paths):
        steps.append((f"rm -r {BUILDING}", "what a killed `make bento` left; not while one builds"))
    if any(path.startswith(EXPERIMENTS) for path in paths):
        steps.append(("dvc queue remove --all", f"and `rm -r {EXPERIMENTS}/tmp*`: workspaces of experiments"))
    by_hand = sorted({"/".join(path.split("/")[:2]) for path in paths if path.startswith(LEFT_BEHIND)})
    if by_hand:
        steps.append((f"rm -r {' '.join(by_hand)}", "what failed runs and builds left, what Dagster noted of runs"))
    copies = sorted({"/".join(path.split("/")[:2]) for path in paths if path.startswith(f"{FETCHED}/")})
    if copies:
        meaning = (
            "copies of logs in buckets: remove the users there first, then `make run` with the same DATA fetches again"
        )
        steps.append((f"rm -r {' '.join(copies)}", meaning))
    if by_dvc := [path for path in paths if fnmatch(path.rpartition("/")[2], OF_DVC)]:
        steps.append((f"rm {shlex.join(by_dvc)}", "what a killed DVC command left in its cache; not while one runs"))
    steps += [
        (
            "dvc gc --workspace",
            "remove from DVC's cache every version that the workspace does not use: all older ones,",
        ),
        ("", "those of other sources too; what is asked for again is made again. --dry shows it first"),
        ("dvc gc --workspace --cloud", "the same in the remote as well, where `make push` was used: whoever shares it"),
        ("", "loses those versions too"),
    ]
    width = max(len(command) for command, _ in steps)
    return ["To remove them:", *(f"  {command:<{width}}  {meaning}" for command, meaning in steps)]


def _limits(found: Holdings, source: str, raw_log: str) -> list[str]:
    return [
        f"Not looked into: the raw log ({raw_log}) is yours, its rows of these users are skipped, not removed; other "
        "clones, backups, the remote; request logs of services (LEITMOTIF_REQUEST_LOG), which name users; "
        f"{found.num_other:,} files of kinds that hold no text (weights, say), which were "
        "fitted to what they did and go with the versions above; deleted rows that a database has not overwritten.",
        "A row that could not be parsed belongs to no user: ingest leaves out its text where one field of it is the id "
        "of a forgotten user, and cannot know of an id that is written otherwise.",
        f"Keep live/{source}/{NAME}: it holds hashes, no names. Commit live/known.json, by which every clone and every "
        "experiment of DVC knows that there is a list; one that lacks it refuses to read the log. "
        f"Neither git nor DVC carries the list, since ids can be guessed: copy live/{source}/ to other clones.",
    ]


def main() -> None:
    """Parse, forget, list. Exits 0, or 2 for invalid arguments or files."""
    parser = argparse.ArgumentParser(
        prog="python -m features.live.forget",
        description=inspect.getdoc(sys.modules[__name__]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("users", nargs="*", metavar="USER", help="a user_id, exactly as the log has it")
    parser.add_argument("--words", default="", help="more of them as one text, in quotes where they hold spaces")
    parser.add_argument(
        "--list", action="store_true", help="print the number of forgotten users of this source and exit"
    )
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    try:
        print(_run(Path.cwd(), [*arguments.users, *words_of(arguments.words)], arguments.list))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def words_of(text: str) -> list[str]:
    """Split like a shell, but without any other expansion: `a&b` and `$5` are ids."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"USER={text} cannot be taken apart: {error}. Put an id that holds quotes or spaces in quotes of the other "
            "kind: make forget USER='\"o'neil\" u2', or python -m features.live.forget <id> <id>. Nothing is done."
        ) from error


def _run(root: Path, users: Sequence[str], only_list: bool) -> str:
    source = load_params()["source"]
    live = root / "live" / source.id
    if only_list:
        num = len(read_forgotten(live))
        return f"{num:,} user{'' if num == 1 else 's'} of {source.id} forgotten (live/{source.id}/{NAME})."
    user_ids = list(dict.fromkeys(users))
    if not user_ids or not all(user_ids):
        raise InputError('No user_id was given, or an empty one. Name at least 1: make forget USER="u1 u2".')
    state, log = state_of(root / "data" / source.id), identity_of(source)
    refuse_other(read_known(live).log, source, f"What {known_path(live)} knows of live/{source.id}/")
    tails = _tails(state, live)
    for tail in tails:
        refuse_other(claim(tail, state, log), source, f"The live events of {source.id} in {tail.engine}")
    num_new, num_rows = forget(live, user_ids, tails, log)
    for tail in tails:
        tail.close()
    print(
        f"{num_new:,} of {len(user_ids):,} added to live/{source.id}/{NAME}, the others were on it; "
        f"{num_rows:,} sealed live events of theirs removed.",
        flush=True,
    )
    if num_left := remove_all_left(root, source.id):
        print(f"{num_left:,} temporary files and folders that killed runs left were removed.", flush=True)
    return describe(find_holdings(root, source.id, user_ids), user_ids, source.id, source.path)


def _tails(state: Path, live: Path) -> list[LiveTail]:
    """The configured tail, and the SQLite file if there is one. Raises InputError if a Redis would be left out."""
    tail = open_tail(state)
    if tail.engine == REDIS:
        return [tail, open_sqlite(state)] if live_path(state).exists() else [tail]
    if loaded_into(read_stamp(state) or {}) == REDIS:
        raise InputError(
            f"{state} was loaded into a Redis, and ONLINE is sqlite: live events there would stay. Nothing is done; "
            "run `make forget ONLINE=redis USER=...` (or ONLINE=host:port), which reaches SQLite as well."
        )
    if any(engine_of(path) == REDIS for path in sealed_files(live)):
        log.info(
            "live events of this source were sealed from a Redis too: one that serves now knows the users until "
            "it is opened again. `make forget ONLINE=redis USER=...` (or ONLINE=host:port) makes it forget at once"
        )
    return [tail]


if __name__ == "__main__":
    main()
