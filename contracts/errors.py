"""The ways in which a program of ours may end badly on purpose, each with its exit code; how long a message may be."""

MAX_MESSAGE = 400
"""Characters of another's message that ours repeats."""


class InputError(ValueError):
    """What a person gave cannot be used: data, parameters or paths. Exit code 2.

    The message says what happened, the value, the limit and the next step.
    """

    exit_code = 2


class Interrupted(InputError):
    """A person ended it (Ctrl-C, SIGTERM) before it had begun what it was to do. Exit code 130."""

    exit_code = 130


class CheckFailed(Exception):
    """The input was read, and a check on its content or on the model refuses it. Exit code 3.

    What the stage had made by then is kept in attempts/<stage>/ for inspection.
    """

    exit_code = 3


def shorten(text: str, length: int) -> str:
    """A text with its middle left out where it is longer."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"
