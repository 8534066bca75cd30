"""The errors that end a program with a message and an exit code, and how long a message may be."""

MAX_MESSAGE = 400
"""Limit, in characters, of another program's message that is quoted in ours."""


class InputError(ValueError):
    """Data, params or paths given by the user cannot be used. Exit code 2.

    The message says what happened, the value, the limit and the next step.
    """

    exit_code = 2


class Interrupted(InputError):
    """Interrupted (Ctrl-C, SIGTERM) before the work began. Exit code 130."""

    exit_code = 130


class CheckFailed(Exception):
    """The input was read, and a check on its content or on the model refuses it. Exit code 3.

    The stage's output so far is kept in attempts/<stage>/ for inspection.
    """

    exit_code = 3


def shorten(text: str, length: int) -> str:
    """Shorten a long text by leaving out its middle."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"
