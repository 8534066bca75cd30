"""A request's bearer token -> who asks, and whether that may be asked. Tokens come from the environment alone.

LEITMOTIF_TOKENS_READ, _WRITE and _ADMIN are lists of tokens, parted by commas. A token of write may read too, one of
admin everything. Where none is set whoever reaches the service may ask, and it listens on loopback alone, unless
LEITMOTIF_OPEN=1 says that others shall reach it all the same.
"""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from contracts.errors import InputError
from serving.answering.refusal import Refusal

LEVELS = ("read", "write", "admin")
"""Each may do what those before it may."""
PREFIX = "LEITMOTIF_TOKENS_"
OPEN_VARIABLE = "LEITMOTIF_OPEN"
MIN_LENGTH = 16
"""Characters of a token: fewer can be guessed."""
FREE = ("/livez", "/readyz", "/healthz", "/", "/docs.json")
"""Asked without a token: probes, the page, and what there is to ask. They say nothing of anybody."""
FREE_BELOW = ("/page/",)
WRITTEN = ("/events",)
ADMINISTERED = "/admin/"
HOW = "Send `authorization: Bearer <token>`."


class Known(NamedTuple):
    """One token as it is kept."""

    digest: bytes
    level: int  # of LEVELS


class Tokens(NamedTuple):
    """All that are known; none: whoever asks is answered."""

    known: tuple[Known, ...]
    is_open: bool  # to other machines too, without tokens

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Tokens":
        """Raises InputError naming the variable, never the token."""
        told = os.environ if environment is None else environment
        known = []
        for level, name in enumerate(LEVELS):
            variable = PREFIX + name.upper()
            for token in filter(None, (each.strip() for each in told.get(variable, "").split(","))):
                known.append(Known(_digest(_checked(token, variable)), level))
        is_open = told.get(OPEN_VARIABLE, "0")
        if is_open not in ("", "0", "1"):
            raise InputError(f"{OPEN_VARIABLE} is {is_open!r}. Set it to 1, or not at all.")
        return cls(tuple(known), is_open == "1")

    def check(self, scope: Mapping[str, Any]) -> str:
        """Who asks, for counting: a token's digest, else an address. Raises Refusal where it may not be asked."""
        if scope["path"] in FREE or scope["path"].startswith(FREE_BELOW):
            return ""
        if not self.known:
            return self._from_near(scope)
        found = self._level_of(scope)
        wanted = LEVELS.index(level_of(scope))
        if found is None:
            raise Refusal(401, f"This service wants a token of {LEVELS[wanted]}, and none that it knows came. {HOW}")
        if found.level < wanted:
            raise Refusal(
                403, f"This takes a token of {LEVELS[wanted]}, and the one that came is of {LEVELS[found.level]}."
            )
        return found.digest.hex()

    def _from_near(self, scope: Mapping[str, Any]) -> str:
        server = scope.get("server")
        if not self.is_open and server is not None and not is_near(server[0]):
            raise Refusal(403, f"{how_to_listen(server[0])} Nothing is answered there until then.")
        return (scope.get("client") or [""])[0]

    def _level_of(self, scope: Mapping[str, Any]) -> Known | None:
        """The token that came. All are compared, each in constant time."""
        told = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = told[0].partition(b" ") if len(told) == 1 else (b"", b"", b"")
        digest = hashlib.sha256(token.strip()).digest()
        found = None
        for known in self.known:
            if hmac.compare_digest(known.digest, digest) and (found is None or found.level < known.level):
                found = known
        return found if kind.lower() == b"bearer" else None


def level_of(scope: Mapping[str, Any]) -> str:
    """What a request takes, of LEVELS."""
    if scope["path"].startswith(ADMINISTERED):
        return "admin"
    return "write" if scope["path"].rstrip("/") in WRITTEN else "read"


def is_near(host: str) -> bool:
    """Whether only this machine reaches an address. A name is one of a socket: of this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def refuse_to_listen(host: str | None, tokens: Tokens) -> None:
    """Raise InputError where other machines would reach a service that answers to anybody."""
    if host is not None and not tokens.known and not tokens.is_open and not is_near(host):
        raise InputError(how_to_listen(host))


def how_to_listen(host: str) -> str:
    """What to do so that others may reach the service."""
    return (
        f"Other machines reach {host}, and no token is set: whoever asked would read every user and write events. Set "
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
        raise InputError(f"{variable} has a token with characters that no header carries. Use letters and digits.")
    return token
