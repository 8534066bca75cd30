"""The predictor that serves -> the same with other models loaded beside it, over the same store.

    runner_up   of MoS and DIN of the run, the one that is not served; the bundle holds it
    previous    the champion before the present one
    newest      the bundle that `package` made last, where the champion is another

A request names one in `model`; its answer is never recorded as shown. LEITMOTIF_BESIDE says which are loaded: all of
these unless told, `none` for the served one alone. Each costs the memory of its embeddings.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from contracts.errors import InputError
from serving.answering.belonging import check_log, check_stamp
from serving.answering.offers import Offering
from serving.answering.predictor import Predictor, open_here
from serving.answering.requests import BESIDE, NEWEST, PREVIOUS, RUNNER_UP
from serving.bundle.golden import check_golden
from serving.bundle.loaded import GOLDEN, Bundle, open_bundle, reading
from serving.bundle.manifest import read_manifest
from serving.bundle.runner_up import RUNNER_UP as IN_BUNDLE
from serving.bundle.runner_up import open_runner_up
from serving.locations import champion_path, find_snapshot, find_state, former_path, newest_path

VARIABLE = "LEITMOTIF_BESIDE"
NONE = "none"

log = logging.getLogger("leitmotif")


def open_served(held: Predictor | None = None) -> Predictor:
    """The predictor of this machine, with what is to be loaded beside it.

    held: one that was opened before: bundles that it holds are not read again. Raises InputError where the served one
    cannot be opened; another that cannot is left out, and the log says why.
    """
    wanted = read_beside()
    served = open_here()
    found = dict(_found(served, wanted, {} if held is None else held.beside))
    return replace(served, beside={name: _over(served, name, bundle) for name, bundle in found.items()})


def read_beside() -> tuple[str, ...]:
    """LEITMOTIF_BESIDE. Raises InputError where it names something else."""
    told = [each.strip() for each in os.environ.get(VARIABLE, "").split(",") if each.strip()]
    if unknown := [each for each in told if each not in (*BESIDE, NONE)]:
        raise InputError(
            f"{VARIABLE} names {', '.join(unknown)}. It takes {', '.join(BESIDE)}, or {NONE}, separated by commas."
        )
    return tuple(name for name in BESIDE if not told or (name in told and NONE not in told))


def _found(served: Predictor, wanted: tuple[str, ...], held: Mapping[str, Predictor]) -> Iterator[tuple[str, Bundle]]:
    if RUNNER_UP in wanted and (own := _runner_up(served.bundle, held.get(RUNNER_UP))):
        yield RUNNER_UP, own
    source = served.bundle.manifest.source
    if served.bundle.path != champion_path(source):
        return
    for name, path in ((PREVIOUS, former_path(source)), (NEWEST, newest_path(source))):
        if name not in wanted or path is None or not path.exists():
            continue
        try:
            if (other := _opened(served, path, held.get(name))) is not None:
                yield name, other
        except InputError as error:
            log.warning("%s is not loaded beside the champion, as `%s`: %s", path, name, error)


def _runner_up(bundle: Bundle, held: Predictor | None) -> Bundle | None:
    if held is not None and held.bundle.manifest.bundle_hash == bundle.manifest.bundle_hash:
        return held.bundle
    opened = open_runner_up(bundle)
    if opened is not None:
        with reading(bundle.path / IN_BUNDLE):
            check_golden(opened.scorer, opened.golden)
    return opened


def _opened(served: Predictor, path: Path, held: Predictor | None) -> Bundle | None:
    """Another bundle that this store can feed; None where it is the one that is served."""
    manifest = read_manifest(path)
    if manifest.bundle_hash == served.bundle.manifest.bundle_hash:
        return None
    if held is not None and held.bundle.manifest.bundle_hash == manifest.bundle_hash:
        opened = held.bundle
    else:
        opened = open_bundle(path)
        with reading(path / GOLDEN):
            check_golden(opened.scorer, opened.golden)
    state = find_state(served.bundle.manifest.source)
    check_log(opened.manifest, path, state)
    check_stamp(opened.scorer.spec, served.store, state, find_snapshot(manifest.source))
    return opened


def _over(served: Predictor, name: str, bundle: Bundle) -> Predictor:
    return Predictor(bundle, served.store, served.intake, Offering(bundle, served.store), name)
