"""A request's Host header, the names that are allowed -> whether it is meant for this service.

A web page of a stranger can make its own name lead to this machine, and then ask as if it were at home here. It cannot
do so with a number: an address is always known.
"""

import ipaddress
import os
import re
from collections.abc import Sequence

from serving.params import ServeParams

VARIABLE = "LEITMOTIF_ALLOWED_HOSTS"
ANY = "*"
WITH_PORT = re.compile(r"(\[(?P<inside>[^\[\]]+)\]|(?P<name>[^\[\]:]+))(:[0-9]*)?")


def allowed_hosts(limits: ServeParams) -> list[str]:
    """serve.allowed_hosts of the bundle, or what the environment says in its place, names parted by commas."""
    told = os.environ.get(VARIABLE)
    return limits.allowed_hosts if told is None else [name.strip() for name in told.split(",") if name.strip()]


def is_known(host: str, allowed: Sequence[str]) -> bool:
    """allowed: names; `*.example.org` stands for all names below example.org, `*` for any."""
    name = _without_port(host.strip()).rstrip(".").lower()
    if ANY in allowed or _is_address(name):
        return True
    return any(
        name.endswith(each[1:].lower()) and name != each[1:].lower() if each.startswith("*.") else name == each.lower()
        for each in allowed
    )


def _without_port(host: str) -> str:
    """What ends as no port does is left as it is, and is then nobody's name."""
    told = WITH_PORT.fullmatch(host)
    return (told["inside"] or told["name"]) if told else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
