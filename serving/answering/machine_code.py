"""A bundle -> the same with its model as machine code, where `make export ARGS=--compile` made some for it here."""

import logging
from dataclasses import replace

from contracts.errors import InputError
from serving.bundle.golden import check_golden
from serving.bundle.loaded import Bundle
from serving.bundle.programs import open_programs
from serving.locations import find_programs

log = logging.getLogger("leitmotif")


def with_machine_code(bundle: Bundle) -> Bundle:
    """The bundle with machine code of its model, where some was made for it and scores its golden requests alike."""
    programs = open_programs(find_programs(bundle.manifest.source), bundle.manifest.bundle_hash, bundle.scorer.device)
    if programs is None:
        return bundle
    scorer = replace(bundle.scorer, programs=programs)
    try:
        check_golden(scorer, bundle.golden)
    except (InputError, RuntimeError) as error:  # torch's, where a file is another half than its name says
        log.warning("the machine code is not used, PyTorch computes: %s", error)
        return bundle
    return replace(bundle, scorer=scorer)
