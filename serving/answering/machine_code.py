"""A bundle -> the same bundle with its compiled model, if `make export ARGS=--compile` wrote one on this machine."""

import logging
from dataclasses import replace

from contracts.errors import InputError
from serving.bundle.golden import check_golden
from serving.bundle.loaded import Bundle
from serving.bundle.programs import open_programs
from serving.locations import find_programs

log = logging.getLogger("leitmotif")


def with_machine_code(bundle: Bundle) -> Bundle:
    """The bundle with its compiled model, if there is one and it reproduces the golden requests; else unchanged."""
    programs = open_programs(find_programs(bundle.manifest.source), bundle.manifest.bundle_hash, bundle.scorer.device)
    if programs is None:
        return bundle
    scorer = replace(bundle.scorer, programs=programs)
    try:
        check_golden(scorer, bundle.golden)
    except (InputError, RuntimeError) as error:  # RuntimeError: torch's, if a file holds the other half of the model
        log.warning("The compiled model is not used; PyTorch scores instead: %s", error)
        return bundle
    return replace(bundle, scorer=scorer)
