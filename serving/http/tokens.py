"""A request's bearer token -> the caller, and whether the request is allowed. Tokens come from the environment only.

LEITMOTIF_TOKENS_READ, _WRITE and _ADMIN are comma-separated lists of tokens. Write includes read, admin includes both.
If none is set, everyone who reaches the service may use it, and it listens on loopback only, unless LEITMOTIF_OPEN=1
opens it to other machines.
"""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from contracts.errors import InputError
from serving.answering.refusal import Refusal

LEVELS = ("read", "write", "admin")
"""Each level includes those before it."""
PREFIX = "LEITMOTIF_TOKENS_"
OPEN_VARIABLE = "LEITMOTIF_OPEN"
MIN_LENGTH = 16
"""Minimum length of a token, against guessing."""
FREE = ("/livez", "/readyz", "/healthz", "/", "/docs.json")
"""Paths without a token: probes, the page and the OpenAPI document. They reveal nothing about users."""
FREE_BELOW = ("/page/",)
WRITTEN = ("/events",)
ADMINISTERED = "/admin/"
HOW = "Send `authorization: Bearer <token>`."


class Known(NamedTuple):
    """A known token, as its digest."""

    digest: bytes
    level: int  # of LEVELS


class Tokens(NamedTuple):
    """All known tokens; with none, every caller is answered."""

    known: tuple[Known, ...]
    is_open: bool  # whether other machines may use the service without tokens

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Tokens":
        """The tokens of the environment. Raises InputError that names the variable, never the token."""
        variables = os.environ if environment is None else environment
        known = []
        for level, name in enumerate(LEVELS):
            variable = PREFIX + name.upper()
            for token in filter(None, (each.strip() for each in variables.get(variable, "").split(","))):
                known.append(Known(_digest(_checked(token, variable)), level))
        is_open = variables.get(OPEN_VARIABLE, "0")
        if is_open not in ("", "0", "1"):
            raise InputError(f"{OPEN_VARIABLE} is {is_open!r}. Set it to 1, or unset it.")
        return cls(tuple(known), is_open == "1")

    def check(self, scope: Mapping[str, Any]) -> str:
        """The caller's key for rate limiting: a token's digest, else an address. Raises Refusal if not allowed."""
        if scope["path"] in FREE or scope["path"].startswith(FREE_BELOW):
            return ""
        if not self.known:
            return self._from_near(scope)
        found = self._level_of(scope)
        wanted = LEVELS.index(level_of(scope))
        if found is None:
            raise Refusal(401, f"This request needs a known token of level {LEVELS[wanted]}. {HOW}")
        if found.level < wanted:
            raise Refusal(
                403, f"This request needs a token of level {LEVELS[wanted]}, but the one sent is {LEVELS[found.level]}."
            )
        return found.digest.hex()

    def _from_near(self, scope: Mapping[str, Any]) -> str:
        server = scope.get("server")
        if not self.is_open and server is not None and not is_near(server[0]):
            raise Refusal(403, f"{how_to_listen(server[0])} Until then, requests to that address are refused.")
        return (scope.get("client") or [""])[0]

    def _level_of(self, scope: Mapping[str, Any]) -> Known | None:
        """The known token that was sent. It is compared with every token in constant time."""
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")
        digest = hashlib.sha256(token.strip()).digest()
        found = None
        for known in self.known:
            if hmac.compare_digest(known.digest, digest) and (found is None or found.level < known.level):
                found = known
        return found if kind.lower() == b"bearer" else None


def level_of(scope: Mapping[str, Any]) -> str:
    """The level that a request needs."""
    if scope["path"].startswith(ADMINISTERED):
        return "admin"
    return "write" if scope["path"].rstrip("/") in WRITTEN else "read"


@lru_cache(maxsize=16)  # asked at each request, about the address that the service listens on
def is_near(host: str) -> bool:
    """Whether only this machine can reach an address. A name that is no address is a socket, which is local."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def refuse_to_listen(host: str | None, tokens: Tokens) -> None:
    """Raise InputError if other machines could reach a service without tokens."""
    if host is not None and not tokens.known and not tokens.is_open and not is_near(host):
        raise InputError(how_to_listen(host))


def how_to_listen(host: str) -> str:
    """An error text: how to open the service to other machines."""
    return (
        f"Other machines can reach {host}, and no token is set: anyone could read every user and write events. Set "
        f"{PREFIX}READ, {PREFIX}WRITE and {PREFIX}ADMIN, or {OPEN_VARIABLE}=1 if that is meant, or listen on 127.0.0.1."
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _checked(token: str, variable: str) -> str:
    if len(token) < MIN_LENGTH:
        raise InputError(
            f"{variable} has a token of {len(token)} characters; at least {MIN_LENGTH} are needed. "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one."
        )
    if not token.isascii() or any(not "!" <= each <= "~" for each in token):
        raise InputError(f"{variable} has a token with characters that a header cannot carry. Use letters and digits.")
    return token
