"""Text and some user_ids -> who is named in it and who may be: as it stands, and as HTML, JSON and URLs write it."""

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
"""A number of this length is taken for an id anywhere; a shorter one may be a count, unless it stands where ids do."""
ROUNDS = 3
"""JSON in HTML in a URL."""
_WORD = r"\w\-\u00c0-\u1fff\u2070-\u2fff\u3040-\ufefe\uff10-\ufffc\U00010000-\U0010ffff"
"""What a word is made of, signs such as emoji too; not spaces, quotes and other punctuation of any script."""
_JSON = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"'\\/bfnrtv]))")
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Traces(NamedTuple):
    """Which users a text or a file names."""

    named: Users = NOBODY
    maybe: Users = NOBODY  # it holds the id as a whole, in a place where it may mean something else

    def __or__(self, other: "Traces") -> "Traces":  # type: ignore[override]
        named = self.named | other.named
        return Traces(named, (self.maybe | other.maybe) - named)


@dataclass(frozen=True)
class Wanted:
    """Users to look for."""

    user_ids: Users

    @cached_property
    def numbers(self) -> Mapping[int, str]:
        """Those whose ids are whole numbers, as such."""
        return {int(user): user for user in self.user_ids if is_number(user) and str(int(user)) == user}

    @cached_property
    def somewhere(self) -> str:
        """An expression, of RE2 and of Python, for a text that may name one: a superset, quickly looked through."""
        spelt = [] if all(user.isascii() and user.isalnum() for user in self.user_ids) else [r"[\\%&+]"]
        ids = "|".join(re.escape(user) for user in sorted(self.user_ids))
        return "|".join([rf"(?:^|[^0-9A-Za-z])(?:{ids})(?:[^0-9A-Za-z]|$)", r"\\[nrtbfvu]", *spelt])

    def in_text(self, text: str) -> Traces:
        """Those whom the text names, in any of its readings."""
        found = Traces()
        for reading in readings(text):
            there = [user for user in self.user_ids if user in reading]  # far quicker than an expression
            found |= Traces(
                frozenset(user for user in there if self._patterns[user][0].search(reading)),
                frozenset(user for user in there if self._patterns[user][1].search(reading)),
            )
        return found

    def of_names(self, names: Iterable[str]) -> Users:
        """Those whose request one of these names is."""
        parts = (name.rpartition("/") for name in names)
        return self.user_ids & {user for user, slash, ordinal in parts if slash and ordinal.isdigit()}

    @cached_property
    def telling(self) -> Mapping[int, str]:
        """Those numbers that hardly anything but an id is."""
        return {number: user for number, user in self.numbers.items() if len(user) >= TELLING_DIGITS}

    def in_column(self, texts: Iterable[str]) -> Traces:
        """Those whom the texts of a table's column name. Short numbers are values there, items' ids for instance."""
        named, maybe = self.in_text("\n\n".join(texts))
        return Traces(named, frozenset(user for user in maybe if len(user) >= TELLING_DIGITS or not is_number(user)))

    @cached_property
    def _patterns(self) -> Mapping[str, tuple[re.Pattern[str], re.Pattern[str]]]:
        return {user: (re.compile(_named(user)), re.compile(_whole(user))) for user in self.user_ids}


def is_number(user_id: str) -> bool:
    """Whether an id is digits alone."""
    return user_id.isascii() and user_id.isdigit()


def readings(text: str) -> Iterator[str]:
    """The text, and what it says where it is HTML, JSON, part of a URL, or one within another."""
    told = {text}
    fresh = [text]
    yield text
    for _ in range(ROUNDS):
        read = {decode(each) for each in fresh for decode in _DECODERS} - told
        told |= read
        fresh = sorted(read)
        yield from fresh


def _named(user: str) -> str:
    """Alone: as a word, or before a request's ordinal. Numbers are everywhere: a short one must stand where ids do."""
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
