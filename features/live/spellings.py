"""Text and user_ids -> the users it names or may name, also in the spellings of HTML, JSON and URLs."""

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote_plus

Users = frozenset[str]
NOBODY: Users = frozenset()

TELLING_DIGITS = 6
"""A number of this length counts as an id anywhere; a shorter one may be a count, unless ids are expected there."""
ROUNDS = 3
"""Depth of nested spellings, such as JSON in HTML in a URL."""
_WORD = r"\w\-\u00c0-\u1fff\u2070-\u2fff\u3040-\ufefe\uff10-\ufffc\U00010000-\U0010ffff"
"""Characters of words, including signs such as emoji, but not spaces, quotes and other punctuation of any script."""
_JSON = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"'\\/bfnrtv]))")
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Traces(NamedTuple):
    """The users that a text or a file names or may name."""

    named: Users = NOBODY
    maybe: Users = NOBODY  # it has the id as a whole word that may mean something else

    def __or__(self, other: "Traces") -> "Traces":  # type: ignore[override]
        named = self.named | other.named
        return Traces(named, (self.maybe | other.maybe) - named)


@dataclass(frozen=True)
class Wanted:
    """Users to look for."""

    user_ids: Users

    @cached_property
    def numbers(self) -> Mapping[int, str]:
        """Users whose ids are whole numbers, by number."""
        return {int(user): user for user in self.user_ids if is_number(user) and str(int(user)) == user}

    @cached_property
    def somewhere(self) -> str:
        """A fast pattern, for RE2 and Python, that matches every text that may name a user, and some others."""
        spelt = [] if all(user.isascii() and user.isalnum() for user in self.user_ids) else [r"[\\%&+]"]
        ids = "|".join(re.escape(user) for user in sorted(self.user_ids))
        return "|".join([rf"(?:^|[^0-9A-Za-z])(?:{ids})(?:[^0-9A-Za-z]|$)", r"\\[nrtbfvu]", *spelt])

    def in_text(self, text: str) -> Traces:
        """The users in a text, in any of its readings."""
        found = Traces()
        for reading in readings(text):
            there = [user for user in self.user_ids if user in reading]  # far faster than a pattern
            found |= Traces(
                frozenset(user for user in there if self._patterns[user][0].search(reading)),
                frozenset(user for user in there if self._patterns[user][1].search(reading)),
            )
        return found

    def of_names(self, names: Iterable[str]) -> Users:
        """Users of requests with these names (<user_id>/<ordinal>)."""
        parts = (name.rpartition("/") for name in names)
        return self.user_ids & {user for user, slash, ordinal in parts if slash and ordinal.isdigit()}

    @cached_property
    def telling(self) -> Mapping[int, str]:
        """Numbers that are long enough to be ids anywhere."""
        return {number: user for number, user in self.numbers.items() if len(user) >= TELLING_DIGITS}

    def in_column(self, texts: Iterable[str]) -> Traces:
        """The users in the texts of a table's column, where short numbers are values, such as ids of items."""
        named, maybe = self.in_text("\n\n".join(texts))
        return Traces(named, frozenset(user for user in maybe if len(user) >= TELLING_DIGITS or not is_number(user)))

    @cached_property
    def _patterns(self) -> Mapping[str, tuple[re.Pattern[str], re.Pattern[str]]]:
        return {user: (re.compile(_named(user)), re.compile(_whole(user))) for user in self.user_ids}


def is_number(user_id: str) -> bool:
    """Whether an id has only digits."""
    return user_id.isascii() and user_id.isdigit()


def readings(text: str) -> Iterator[str]:
    """The text, and its decodings as HTML, JSON or part of a URL, also nested."""
    told = {text}
    fresh = [text]
    yield text
    for _ in range(ROUNDS):
        read = {decode(each) for each in fresh for decode in _DECODERS} - told
        told |= read
        fresh = sorted(read)
        yield from fresh


def _named(user: str) -> str:
    """A pattern for an id as a word, or before a request's ordinal. Short numbers must be where ids are expected."""
    word = rf"(?<![{_WORD}.]){re.escape(user)}"
    if not is_number(user):
        return word + rf"(?![{_WORD}]|\.\w)"
    ends = rf"(?:\.0+)?(?![{_WORD}]|\.\w)"
    if len(user) >= TELLING_DIGITS:
        return word + ends
    quoted = rf"(?P<quote>[\"']){re.escape(user)}(?:/\d+)?(?P=quote)"
    return rf"{quoted}|(?i:user(?:_?id)?s?)[\"']?\s*[:=(\[]{{0,2}}\s*[\"']?{word}{ends}"


def _whole(user: str) -> str:
    if is_number(user):  # not a part of 7.5
        return rf"(?<![^\W_])(?<!\d\.){re.escape(user)}(?![^\W_]|\.\d)"
    return rf"(?<![^\W_]){re.escape(user)}(?![^\W_])"


def _from_json(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else _PLAIN.get(found[2], found[2])

    read = _JSON.sub(plain, text) if "\\" in text else text
    return read.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if read != text else text


def _from_html(text: str) -> str:
    return html.unescape(text) if "&" in text else text


def _from_url(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text


_DECODERS: tuple[Callable[[str], str], ...] = (_from_json, _from_html, _from_url)
