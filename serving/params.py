"""The section of params.yaml that belongs to the service and its bundle."""

from typing import Literal

from pydantic import PositiveInt

from contracts.section import Section


class ServeParams(Section):
    """The bundle and the limits of a request."""

    clock: Literal["now", "log_end"]  # what `at` is where a request does not say
    num_golden_requests: PositiveInt
    max_candidates: PositiveInt
    max_id_length: PositiveInt
    num_threads: PositiveInt
