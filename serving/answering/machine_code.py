"""A bundle -> the same bundle with its model compiled, if `make export ARGS=--compile` wrote that here, else traced."""

import logging
from dataclasses import replace

from contracts.errors import InputError
from serving.answering.traced import Traced, trace
from serving.bundle.golden import check_golden
from serving.bundle.loaded import Bundle
from serving.bundle.programmed import ProgramScorer
from serving.bundle.programs import Programs, open_programs
from serving.locations import find_programs

log = logging.getLogger("leitmotif")


def with_machine_code(bundle: Bundle) -> Bundle:
    """The bundle with its compiled model, if there is one and it reproduces the golden requests; else as with_trace."""
    programs = open_programs(find_programs(bundle.manifest.source), bundle.manifest.bundle_hash, bundle.scorer.device)
    compiled = None if programs is None else _checked(bundle, programs, "compiled model")
    return compiled or with_trace(bundle)


def with_trace(bundle: Bundle) -> Bundle:
    """The bundle with its model traced, if it can be and the trace reproduces the golden requests; else unchanged."""
    if bundle.scorer.programs is not None:  # traced or compiled already: a bundle that is held, not read again
        return bundle
    traced = trace(bundle.scorer)
    return (traced and _checked(bundle, traced, "traced model")) or bundle


def computes(bundle: Bundle) -> str:
    """What scores: machine code, PyTorch's trace of the model, its exported programs, or the model by PyTorch."""
    if isinstance(bundle.scorer, ProgramScorer):
        return "exported programs"
    programs = bundle.scorer.programs
    if programs is None:
        return "PyTorch"
    return "PyTorch, traced" if isinstance(programs.user_side, Traced) else "machine code"


def _checked(bundle: Bundle, programs: Programs, kind: str) -> Bundle | None:
    scorer = replace(bundle.scorer, programs=programs)
    try:
        check_golden(scorer, bundle.golden)
    except (InputError, RuntimeError) as error:  # RuntimeError: torch's, if a file holds the other half of the model
        log.warning("The %s is not used: %s", kind, error)
        return None
    return replace(bundle, scorer=scorer)
