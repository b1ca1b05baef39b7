"""No password of a URL is ever printed, whatever the slip in the URL and whatever the command."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli

SLIPS = [
    "redis://me:hunter2@127.0.0.1:port/0",
    "redis:/me:hunter2@127.0.0.1/0",
    "me:hunter2@127.0.0.1",
    "redis://me:hun/hunter2@127.0.0.1/0",
    "redis://me:hunter2#@127.0.0.1/0",
    "redis://127.0.0.1/0?password=hunter2",
    "redis://me:hunter2@127.0.0.1/0?prefixx=a",
    "kafka://me:hunter2@127.0.0.1:1?acks=1",
    "nats://me:hunter2@127.0.0.1",
]


@pytest.mark.parametrize("traceback", ["0", "1"])
@pytest.mark.parametrize("url", SLIPS)
def test_a_slip_in_the_url_of_a_log_is_one_line_without_the_password(
    cli: Cli, url: str, traceback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNLOG_TRACEBACK", traceback)
    for command in (("log", "list"), ("log", "copy", "memory://a"), ("demo",)):
        target = (url,) if "copy" in command else ("--log", url)
        outcome = cli(*command, *target)
        assert outcome.status == 2
        assert "hunter2" not in outcome.out + outcome.err
        if traceback == "0":
            assert outcome.complaint


@pytest.mark.parametrize(
    "url",
    [
        "s3://me:hunter2@bucket/",
        "s3:/me:hunter2@bucket/",
        "s3://me:hun/hunter2@bucket/",
        "s3://bucket?endpoint=http://me:hunter2@127.0.0.1:1",
        "s3://me:hunter2@bucket:9000/",
        "s3://bucket?secret_key=hunter2",
    ],
)
def test_a_slip_in_the_url_of_a_store_is_one_line_without_the_password(cli: Cli, url: str) -> None:
    for command in (("put", "-", url), ("ls", url)):
        if command[0] == "ls" and url == "s3://me:hunter2@bucket/":
            continue  # there is nothing wrong with it then
        outcome = cli("objects", *command)
        assert outcome.status == 2
        assert outcome.complaint
        assert "hunter2" not in outcome.out + outcome.err


@pytest.mark.parametrize("value", ["127.0.0.1:9000", "http://me:hunter2@127.0.0.1:1", "http://127.0.0.1:port"])
def test_an_endpoint_of_the_environment_that_is_none_is_named_by_its_variable(
    cli: Cli, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", value)
    outcome = cli("objects", "ls", "s3://me:secret@bucket/")
    assert outcome.status == 2
    assert "AWS_ENDPOINT_URL" in outcome.complaint
    assert "hunter2" not in outcome.err
