"""Who may ask what: tokens by level, each caller at a rate, and no stranger beyond loopback without tokens."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from contracts.errors import InputError
from serving.answering.refusal import Refusal
from serving.client import Client, ServiceError
from serving.http.admission import Admission
from serving.http.gate import Door, Gate
from serving.http.rate import MAX_CALLERS, MAX_GUESSES, Rate, user_events
from serving.http.tokens import LEVELS, Tokens, is_near, refuse_to_listen
from tests.serving.conftest import is_refusal, refused, serving
from tests.serving.test_gate import LIMITS

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

OF = {level: f"{level}-0123456789abcdef" for level in LEVELS}
ENVIRONMENT = {f"LEITMOTIF_TOKENS_{level.upper()}": token for level, token in OF.items()}
PATHS = {"read": ("/rank", "/info", "/users", "/metrics", "/nowhere"), "write": ("/events",), "admin": ("/admin/x",)}


def scope(path: str, *headers: str, server: str = "127.0.0.1") -> dict[str, Any]:
    told = [(b"authorization", each.encode()) for each in headers]
    return {"path": path, "headers": told, "server": (server, 80), "client": ("10.1.2.3", 4)}


def status(tokens: Tokens, asked: dict[str, Any]) -> int:
    try:
        tokens.check(asked)
    except Refusal as refusal:
        named = refusal.headers().get("www-authenticate") == "Bearer"
        return refusal.status if named == (refusal.status == 401) else -1
    return 200


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("wanted", LEVELS)
def test_a_token_may_do_what_its_level_and_those_below_may(level: str, wanted: str) -> None:
    tokens = Tokens.read(ENVIRONMENT)
    allowed = 200 if LEVELS.index(level) >= LEVELS.index(wanted) else 403
    for path in PATHS[wanted]:
        assert status(tokens, scope(path, f"Bearer {OF[level]}")) == allowed
        assert status(tokens, scope(path, f"bearer  {OF[level]} ")) == allowed


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer read-0123456789abcde",),
        (f"Bearer {OF['admin']}x",),
        (f"Basic {OF['admin']}",),
        (OF["admin"],),
        (f"Bearer {OF['read']}", f"Bearer {OF['admin']}"),
        ("Bearer " + "\u00e9" * 20,),
    ],
)
def test_no_token_a_wrong_one_and_two_are_a_401(headers: tuple[str, ...]) -> None:
    tokens = Tokens.read(ENVIRONMENT)
    for path in ("/rank", "/events", "/admin/reload", "/nowhere"):
        assert status(tokens, scope(path, *headers)) == 401
    for path in ("/livez", "/readyz", "/healthz", "/", "/page/a.js", "/docs.json"):
        assert status(tokens, scope(path, *headers)) == 200


def test_of_a_token_in_two_lists_the_higher_level_counts_and_callers_differ() -> None:
    twice = Tokens.read(
        {"LEITMOTIF_TOKENS_READ": f"{OF['read']}, {OF['write']}", "LEITMOTIF_TOKENS_WRITE": OF["write"]}
    )
    assert status(twice, scope("/events", f"Bearer {OF['write']}")) == 200
    callers = {twice.check(scope("/rank", f"Bearer {OF[level]}")) for level in ("read", "write")}
    assert len(callers) == 2
    assert not any(token in caller for token in OF.values() for caller in callers)


def test_without_tokens_only_this_machine_is_answered_unless_told() -> None:
    closed, told = Tokens.read({}), Tokens.read({"LEITMOTIF_OPEN": "1"})
    for server, near in (("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True),
                         ("10.0.0.5", False), ("0.0.0.0", False), ("::", False), ("/run/socket", True)):  # fmt: skip
        assert is_near(server) == near
        assert status(closed, scope("/rank", server=server)) == (200 if near else 403)
        assert status(told, scope("/rank", server=server)) == 200
        for tokens, refuses in ((closed, not near), (told, False), (Tokens.read(ENVIRONMENT), False)):
            if refuses:
                with pytest.raises(InputError, match="LEITMOTIF_TOKENS_READ"):
                    refuse_to_listen(server, tokens)
            else:
                refuse_to_listen(server, tokens)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"LEITMOTIF_TOKENS_READ": "short"}, "LEITMOTIF_TOKENS_READ has a token of 5 characters"),
        ({"LEITMOTIF_TOKENS_ADMIN": "a token with spaces in it"}, "a header cannot carry"),
        ({"LEITMOTIF_TOKENS_WRITE": "ü" * 20}, "a header cannot carry"),
        ({"LEITMOTIF_OPEN": "yes"}, "LEITMOTIF_OPEN is 'yes'"),
    ],
)
def test_what_is_no_token_is_said_and_never_repeated(environment: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        Tokens.read(environment)
    for value in environment.values():
        assert value == "yes" or value not in str(refusal.value)


def test_a_caller_beyond_the_rate_is_told_when_to_come_again() -> None:
    rate = Rate(2.0)
    for _ in range(4):  # a burst
        rate.take("a", now=100.0)
    with pytest.raises(Refusal, match="2 requests per second") as refusal:
        rate.take("a", now=100.0)
    assert refusal.value.headers() == {"retry-after": "1"}
    rate.take("b", now=100.0)
    rate.take("a", now=100.5)
    with pytest.raises(Refusal):
        rate.take("a", now=100.5)
    slow = Rate(0.1)
    slow.take("a", now=0.0)
    with pytest.raises(Refusal) as refusal:
        slow.take("a", now=0.0)
    assert refusal.value.retry_after_s == 10
    slow.take("a", now=10.0)


def test_only_so_many_callers_are_remembered_and_without_a_rate_none() -> None:
    rate, any_rate = Rate(0.5), Rate(None)
    for number in range(MAX_CALLERS + 10):
        rate.take(str(number), now=1.0)
        any_rate.take("a", now=1.0)
    assert len(rate._buckets) == MAX_CALLERS
    assert not any_rate._buckets


@pytest.mark.parametrize("told", ["0", "-1", "nan", "inf", "many"])
def test_a_rate_that_is_none_is_said(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEITMOTIF_RATE", told)
    with pytest.raises(InputError, match="LEITMOTIF_RATE"):
        Rate.read()


def test_the_service_does_not_start_for_strangers_without_tokens(made: Path) -> None:
    done = refused(made, BENTOML_HOST="0.0.0.0")
    assert done.returncode == 2
    assert "Other machines can reach 0.0.0.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_tokens_it_answers_those_who_have_one_at_their_rate(made: Path) -> None:
    with serving(made, **ENVIRONMENT, BENTOML_HOST="0.0.0.0", LEITMOTIF_RATE="5") as server:
        url = f"http://127.0.0.1:{server.base_url.port}"
        for path in ("/info", "/users", "/users/u/themes", "/metrics", "/schema.json", "/nowhere"):
            answer = server.get(url + path)
            assert answer.status_code == 401
            assert is_refusal(answer)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert server.get(url + "/docs.json").json()["security"] == [{"bearer": []}]
        event = {"events": [{"user_id": "u", "item_id": "i"}]}
        as_reader = {"authorization": f"Bearer {OF['read']}"}
        assert server.post(url + "/events", json=event, headers=as_reader).status_code == 403
        assert server.post(url + "/events", content=b"x" * 9_000_000, headers=as_reader).status_code == 403
        with Client(url, OF["read"], deadline_s=0.5) as client:
            assert client.rank("u", ["a"]).items
            with pytest.raises(ServiceError, match="5 requests per second") as refusal:
                for _ in range(30):
                    client.info()
            assert (refusal.value.status, refusal.value.code) == (429, "busy")
        with Client(url, OF["write"]) as client:
            assert client.rank("u", ["a"]).items  # a caller of its own
        assert [server.get(f"{url}{probe}").status_code for probe in ("/livez", "/readyz")] == [200, 200]


def test_tokens_that_are_none_are_answered_more_slowly_and_good_ones_all_the_same() -> None:
    door = Door(LIMITS, ["*"], Tokens.read(ENVIRONMENT), Rate(None), Rate.of_guesses(), Admission(16, 1.0, 200))
    gate = Gate(JSONResponse({}), lambda: door, 0.1)  # what is let through

    def asked(*headers: str, address: str = "10.1.2.3") -> tuple[int, str]:
        told = scope("/info", *headers) | {"type": "http", "method": "GET", "client": (address, 1)}
        told["headers"].append((b"host", b"localhost"))
        return asyncio.run(answer_of(gate, told))

    guesses = [asked(f"Bearer guess-{number:016}") for number in range(MAX_GUESSES + 3)]
    assert [status for status, _ in guesses] == [401] * MAX_GUESSES + [429] * 3
    assert "too many unknown tokens came from this address. Try again in 2 s." in guesses[-1][1]
    assert asked(f"Bearer {OF['read']}")[0] == 200
    assert asked("Bearer another-guess-0000", address="10.9.9.9")[0] == 401
    assert [asked()[0] for _ in range(MAX_GUESSES + 3)] == [401] * (MAX_GUESSES + 3)  # none is no guess


async def answer_of(app: Any, asked: dict[str, Any]) -> tuple[int, str]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(asked, receive, send)
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent).decode()


def test_one_user_may_have_so_many_live_events_an_hour_of_all_or_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEITMOTIF_USER_EVENTS", "100")
    quota = user_events()
    quota.take_each({"a": 60, "b": 1}, now=0.0)
    for _ in range(2):
        with pytest.raises(Refusal, match=r"100 live events per hour\. Try again in 360 s\.") as refusal:
            quota.take_each({"b": 90, "a": 50}, now=0.0)
        assert (refusal.value.status, refusal.value.cause, refusal.value.retry_after_s) == (429, "quota", 360)
    quota.take_each({"b": 99}, now=0.0)  # the refusals took none of it
    quota.take_each({"a": 50}, now=360.0)
    with pytest.raises(Refusal, match="Send fewer at once"):
        quota.take_each({"c": 101}, now=0.0)
    monkeypatch.setenv("LEITMOTIF_USER_EVENTS", "many")
    with pytest.raises(InputError, match="LEITMOTIF_USER_EVENTS is 'many'"):
        user_events()
    monkeypatch.delenv("LEITMOTIF_USER_EVENTS")
    user_events().take_each({"a": 10**9})


def test_a_users_quota_is_not_forgotten_for_others_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEITMOTIF_USER_EVENTS", "100")
    quota = user_events()
    quota.take_each({"a": 100}, now=0.0)
    for number in range(2 * MAX_CALLERS):
        quota.take_each({f"other-{number}": 1}, now=1.0)
    with pytest.raises(Refusal, match="100 live events per hour"):
        quota.take_each({"a": 50}, now=1.0)
    for number in range(3 * MAX_CALLERS):  # a minute later, theirs are full again
        quota.take_each({f"more-{number}": 1}, now=60.0 + number)
    assert len(quota._buckets) < 2 * MAX_CALLERS
