"""A command that takes no arguments -> its help in place of its work, where it is given any."""

import sys


def none_taken(command: str) -> None:
    """Exit with the main module's docstring: 0 for --help, 2 for other arguments. command: what a person types."""
    if len(sys.argv) > 1:
        print(f"{sys.modules['__main__'].__doc__}\nRun it by `{command}`; it takes no arguments.")
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
