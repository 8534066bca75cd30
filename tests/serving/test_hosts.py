"""Which names of a Host header are the service's own."""

import pytest

from serving.http.hosts import is_known


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:3000",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:3000",
        "[::1]:3000",
        "[::1]",
        "::1",
        "10.2.3.4:8",
    ],
)
def test_localhost_and_every_address_are_known(host: str) -> None:
    assert is_known(host, ["localhost"])


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "evil@localhost",
        "[x]",
        "[::1].evil.example",
        "[::1",
        "127.0.0.1:evil.example",
        "localhost:80.evil.example",
        "localhost:3000:evil.example",
    ],
)
def test_a_name_that_nobody_allowed_is_not_known(host: str) -> None:
    assert not is_known(host, ["localhost"])


def test_names_may_be_allowed_one_by_one_below_a_domain_or_all() -> None:
    allowed = ["ranker.internal", "*.shop.example"]
    assert is_known("ranker.internal:3000", allowed)
    assert is_known("a.b.SHOP.example", allowed)
    for other in ("shop.example", "evilshop.example", "localhost", "internal"):
        assert not is_known(other, allowed)
    assert is_known("anything", ["*"])
