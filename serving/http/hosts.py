"""A request's Host header and the allowed names -> whether the service may answer.

This prevents DNS rebinding: a foreign web page can let its own name resolve to this machine, and its scripts may then
read the answers. It cannot do so with an IP address, so addresses are always allowed.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from functools import lru_cache

from serving.params import ServeParams

VARIABLE = "LEITMOTIF_ALLOWED_HOSTS"
ANY = "*"
WITH_PORT = re.compile(r"(\[(?P<inside>[^\[\]]+)\]|(?P<name>[^\[\]:]+))(:[0-9]*)?")


def allowed_hosts(limits: ServeParams) -> list[str]:
    """serve.allowed_hosts of the bundle, or the comma-separated names in the environment, which replace it."""
    names = os.environ.get(VARIABLE)
    return limits.allowed_hosts if names is None else [name.strip() for name in names.split(",") if name.strip()]


def is_known(host: str, allowed: Sequence[str]) -> bool:
    """Whether a host may be answered. allowed: names; `*.example.org` is any name below example.org, `*` any name."""
    return _is_known(host, tuple(allowed))


@lru_cache(maxsize=256)
def _is_known(host: str, allowed: tuple[str, ...]) -> bool:
    name = _without_port(host.strip()).rstrip(".").lower()
    if ANY in allowed or _is_address(name):
        return True
    return any(
        name.endswith(each[1:].lower()) and name != each[1:].lower() if each.startswith("*.") else name == each.lower()
        for each in allowed
    )


def _without_port(host: str) -> str:
    """The host without its port; unchanged, and thus unknown, if it is malformed."""
    found = WITH_PORT.fullmatch(host)
    return (found["inside"] or found["name"]) if found else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
