"""The served predictor -> the same predictor with other models loaded beside it, over the same online store.

    runner_up   MoS or DIN of the same run, whichever is not served; it is part of the bundle
    previous    the champion before the present one
    newest      the bundle that `package` made last, if it is not the champion

A request names one of them in `model`; such an answer is never recorded as shown. LEITMOTIF_BESIDE lists the models to
load, or `none`; all three are loaded if it is not set. Each takes the memory of its embeddings.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from contracts.errors import InputError
from serving.answering.belonging import check_log, check_stamp
from serving.answering.machine_code import with_trace
from serving.answering.offers import Offering
from serving.answering.predictor import Predictor, open_here
from serving.answering.requests import BESIDE, NEWEST, PREVIOUS, RUNNER_UP
from serving.bundle.golden import check_golden
from serving.bundle.loaded import GOLDEN, Bundle, open_bundle, reading
from serving.bundle.manifest import read_manifest
from serving.bundle.runner_up import RUNNER_UP as IN_BUNDLE
from serving.bundle.runner_up import open_runner_up
from serving.locations import champion_path, find_state, former_path, newest_path

VARIABLE = "LEITMOTIF_BESIDE"
NONE = "none"

log = logging.getLogger("leitmotif")


def open_served(held: Predictor | None = None) -> Predictor:
    """The predictor of this machine, with the models that LEITMOTIF_BESIDE asks for.

    held: the predictor in use so far; bundles it has loaded are not read again. Raises InputError if the served bundle
    cannot be opened. A model beside it that cannot be opened is left out with a warning.
    """
    wanted = read_beside()
    served = open_here()
    found = dict(_found(served, wanted, {} if held is None else held.beside))
    return replace(served, beside={name: _over(served, name, bundle) for name, bundle in found.items()})


def open_beside(served: Predictor) -> Predictor:
    """The same predictor with the models beside it that are there now; those it has are not read again."""
    found = dict(_found(served, read_beside(), served.beside))
    kept = {name: each for name, each in served.beside.items() if found.get(name) is each.bundle}
    return replace(served, beside={name: kept.get(name) or _over(served, name, each) for name, each in found.items()})


def beside_paths(source: str) -> tuple[Path, ...]:
    """The folders of bundles that may be loaded beside the champion of a source."""
    return tuple(path for path in (former_path(source), newest_path(source)) if path is not None)


def read_beside() -> tuple[str, ...]:
    """The models that LEITMOTIF_BESIDE asks for. Raises InputError if it names any other."""
    listed = [each.strip() for each in os.environ.get(VARIABLE, "").split(",") if each.strip()]
    if unknown := [each for each in listed if each not in (*BESIDE, NONE)]:
        raise InputError(
            f"{VARIABLE} names {', '.join(unknown)}. It takes {', '.join(BESIDE)}, or {NONE}, separated by commas."
        )
    return tuple(name for name in BESIDE if not listed or (name in listed and NONE not in listed))


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
    """A bundle that this online store can serve; None if it is the served bundle itself."""
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
    # a newer load may be there than the one that is served, and the bundle be of that one
    check_stamp(opened.scorer.spec, served.store, state, snapshot=None)
    return opened


def _over(served: Predictor, name: str, bundle: Bundle) -> Predictor:
    bundle = with_trace(bundle)
    return Predictor(bundle, served.store, served.intake, Offering(bundle, served.store), name)
