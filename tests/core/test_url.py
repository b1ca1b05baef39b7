"""URLs: read as users write them, every option checked, secrets never printed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dynlog.errors import ConfigurationError
from dynlog.url import Url, parse_url, positive, read_options


def test_a_url_is_read_into_its_parts() -> None:
    url = parse_url("redis://me:s%40crt@host.example:6379/a%20b?batch=5&empty=")
    assert (url.scheme, url.user, url.password, url.host, url.port) == ("redis", "me", "s@crt", "host.example", 6379)
    assert (url.path, dict(url.options)) == ("/a b", {"batch": "5", "empty": ""})


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("sqlite:///var/lib/events.db", "", "/var/lib/events.db"),
        ("memory://", "", ""),
        ("memory://name", "name", ""),
        ("file:///", "", "/"),
        ("redis://[::1]:6379/0", "::1", "/0"),
    ],
)
def test_a_url_prints_as_it_was_written(text: str, host: str, path: str) -> None:
    url = parse_url(text)
    assert (url.host, url.path, str(url)) == (host, path, text)


@pytest.mark.parametrize(
    "text", ["redis://me:hunter2@host:1/0?x=1", "redis://:hunter2@host", "s3://hunter2u:hunter2@b/p", "k://u:hunter2@"]
)
def test_a_password_never_prints(text: str) -> None:
    url = parse_url(text)
    assert url.password == "hunter2"
    for shown in (str(url), f"{url}", repr(url)):
        assert ":hunter2" not in shown
        assert "'hunter2'" not in shown
    assert "***" in str(url)


def test_a_password_never_prints_in_the_error_of_a_wrong_url() -> None:
    for text in (
        "redis://me:hunter2@host:port/",
        "redis://me:hunter2@host?a=1&a=2",
        "redis:me:hunter2@host",
        "redis:/u:hunter2@host",
    ):
        with pytest.raises(ConfigurationError) as caught:
            parse_url(text)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA:hun/hunter2@bucket/p",
        "redis://me:1234/hunter2@host/0",
        "redis://me:hunter2?x@host/0",
        "redis://me:hunter2#x@host/0",
    ],
)
def test_a_password_that_cuts_its_url_in_two_is_refused_saying_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(text)
    assert "hunter2" not in str(caught.value)
    assert "write / as %2F" in str(caught.value)
    assert f"{text.partition('://')[0]}://***@" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "redis://host/0?password=hunter2",
        "redis://host/0?a=1&access_TOKEN=hunter2&b=2",
        "s3://b/p?endpoint=http://me:hunter2@host:9000",
        "s3://b/p?endpoint=http%3A%2F%2Fme%3Ahunter2%40host",
    ],
)
def test_a_secret_among_the_options_never_prints(text: str) -> None:
    url = parse_url(text)
    assert "hunter2" not in f"{url} {url!r}"

    def refuse(_: str) -> str:
        raise ValueError("no")

    for known in ({}, dict.fromkeys(url.options, refuse)):
        with pytest.raises(ConfigurationError) as caught:
            read_options(url, known)
        assert "hunter2" not in str(caught.value)


def test_what_stands_behind_a_hash_sign_is_not_dropped_silently() -> None:
    with pytest.raises(ConfigurationError, match="write # as %23"):
        parse_url("sqlite:///var/a#b.db")
    assert parse_url("sqlite:///var/a%23b.db").path == "/var/a#b.db"


def test_a_password_never_prints_in_the_error_of_a_wrong_option() -> None:
    url = parse_url("redis://me:hunter2@host/?size=-1&other=2")
    knowns: list[dict[str, Callable[[str], int]]] = [{"size": positive, "other": int}, {"size": int}]
    for known in knowns:
        with pytest.raises(ConfigurationError) as caught:
            read_options(url, known)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "events.db", "/var/events.db", "sqlite:/events.db", "://x", "C:\\events.db", "a b"]
)
def test_what_is_no_url_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite:///path"):
        parse_url(text)


@pytest.mark.parametrize("text", ["redis://host:port", "redis://host:99999", "redis://[::1"])
def test_a_port_or_host_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a URL"):
        parse_url(text)


def test_an_option_that_stands_twice_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'a' stands twice"):
        parse_url("memory://?a=1&b=2&a=1")


def options_of(text: str) -> Url:
    return parse_url(f"memory://x?{text}")


def test_options_are_converted_to_their_types() -> None:
    assert read_options(options_of("n=5&s=text"), {"n": positive, "s": str, "absent": int}) == {"n": 5, "s": "text"}
    assert read_options(options_of(""), {"n": int}) == {}


def test_an_unknown_option_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"'sise'.*knows: other, size"):
        read_options(options_of("sise=5"), {"size": int, "other": int})
    with pytest.raises(ConfigurationError, match="knows: none"):
        read_options(options_of("x="), {})


@pytest.mark.parametrize("value", ["", "five", "0", "-1", "1.5", "1e3"])
def test_an_option_that_does_not_fit_is_named_with_its_value(value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"size='{value}'.*: a whole number above zero is needed"):
        read_options(options_of(f"size={value}"), {"size": positive})
