"""``dynlog dlq``: what could not be handled, why, and sending it back."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Annotated, Any

import typer

from dynlog.batch import StoredRecord
from dynlog.cli.log_open import open_existing
from dynlog.cli.log_records import record_json
from dynlog.cli.options import AsJson, LogUrl
from dynlog.cli.output import human_time, print_facts, print_json, print_table
from dynlog.cli.run import run
from dynlog.dead_letters import LETTER, DeadLetter, DeadLetters
from dynlog.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")

TopicName = Annotated[str, typer.Argument(help="The topic that was consumed.", show_default=False)]
Chosen = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[LETTER]...", help="Letters by `partition/offset`, as `list` shows them.", show_default=False
    ),
]
OfGroup = Annotated[str | None, typer.Option("--group", help="Only letters of this group.")]
All = Annotated[bool, typer.Option("--all", help="Every letter that is still open.")]


@app.callback()
def dlq() -> None:
    """Dead letters: records that a group could not handle, parked in `TOPIC.dead` with their story.

    - `dynlog dlq list orders --log $URL`

    - `dynlog dlq show orders 0/17 --log $URL`

    - `dynlog dlq replay orders --all --group billing --log $URL` (once the cause is mended)
    """


@app.command("list")
def list_(
    topic: TopicName,
    log: LogUrl,
    group: OfGroup = None,
    everything: Annotated[bool, typer.Option("--everything", help="Also those that were replayed or dropped.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the letters that are still open, oldest first.

    With `--json`: a list of `{"letter", "group", "partition", "offset", "attempts", "error", "first", "last",
    "outcome"}`; partition and offset say where the record lay in the topic.

    - `dynlog dlq list orders --log sqlite:///tmp/events.db`
    """
    letters = [x for x in run(_letters(log, topic, group)) if everything or x.outcome is None]
    if as_json:
        print_json([letter_json(letter) for letter in letters])
        return
    rows = [
        (name_of(x), x.story.group, f"{x.story.partition}/{x.story.offset}", x.story.attempts,
         human_time(x.story.last_ms), x.outcome or "open", x.story.error)
        for x in letters
    ]  # fmt: skip
    print_table(("LETTER", "GROUP", "CAME FROM", "ATTEMPTS", "LAST", "STATE", "ERROR"), rows, empty="no dead letters")


@app.command()
def show(
    topic: TopicName,
    letter: Annotated[str, typer.Argument(help="`partition/offset`, as `list` shows it.", show_default=False)],
    log: LogUrl,
    as_json: AsJson = False,
) -> None:
    """Show one letter: its story and the record as it was.

    With `--json`: as `list`, and `"record"` as `dynlog log read --json` prints it.

    - `dynlog dlq show orders 0/17 --log sqlite:///tmp/events.db`
    """
    (found,) = choose(run(_letters(log, topic, None)), [letter])
    headers = {name: value for name, value in found.record.headers.items() if name != LETTER}
    record = replace(found.record, headers=headers)
    stored = StoredRecord(found.story.partition, found.story.offset, found.story.first_ms, record)
    if as_json:
        print_json(letter_json(found) | {"record": record_json(stored)})
        return
    print_facts(letter_json(found) | {"outcome": found.outcome or "open"})
    print()
    print_facts({name: value for name, value in record_json(stored).items() if name in ("key", "headers", "parts")})


@app.command()
def replay(
    topic: TopicName,
    log: LogUrl,
    letters: Chosen = None,
    every: All = False,
    group: OfGroup = None,
    as_json: AsJson = False,
) -> None:
    """Send letters back to the end of the partition that they came from, once, for their group only.

    Repeating it does nothing more. A record that fails again becomes a letter of its own.

    With `--json`: `{"replayed": [letter, ...], "already": [letter, ...]}`.

    - `dynlog dlq replay orders 0/17 0/18 --log sqlite:///tmp/events.db`

    - `dynlog dlq replay orders --all --log $URL`
    """
    done, already = run(_each(log, topic, group, letters or [], every, lambda dead, one: dead.replay(one)))
    _report("replayed", done, already, as_json)


@app.command()
def drop(
    topic: TopicName,
    log: LogUrl,
    letters: Chosen = None,
    every: All = False,
    group: OfGroup = None,
    as_json: AsJson = False,
) -> None:
    """Close letters that nobody wants; they stay readable in `TOPIC.dead` until that is truncated.

    With `--json`: `{"dropped": [letter, ...], "already": [letter, ...]}`.

    - `dynlog dlq drop orders 0/17 --log sqlite:///tmp/events.db`
    """
    done, already = run(_each(log, topic, group, letters or [], every, lambda dead, one: dead.drop(one)))
    _report("dropped", done, already, as_json)


async def _letters(url: str, topic: str, group: str | None) -> list[DeadLetter]:
    async with open_existing(url) as log:
        await log.topic(topic)
        return await DeadLetters(log, topic).all(group)


async def _each(
    url: str, topic: str, group: str | None, names: list[str], every: bool,
    act: Callable[[DeadLetters, DeadLetter], Coroutine[Any, Any, bool]],
) -> tuple[list[str], list[str]]:  # fmt: skip
    if every == bool(names):
        raise ConfigurationError("name letters as partition/offset, or say --all")
    async with open_existing(url) as log:
        await log.topic(topic)
        dead = DeadLetters(log, topic)
        found = await dead.all(group)
        chosen = [letter for letter in found if letter.outcome is None] if every else choose(found, names)
        done: list[str] = []
        already: list[str] = []
        for letter in chosen:
            (done if await act(dead, letter) else already).append(name_of(letter))
        return done, already


def choose(letters: list[DeadLetter], names: list[str]) -> list[DeadLetter]:
    """The letters of those names; raises ConfigurationError for one that is none."""
    by_name = {name_of(letter): letter for letter in letters}
    for name in names:
        if name not in by_name:
            raise ConfigurationError(f"there is no letter {name!r}; 'dynlog dlq list --everything' shows all")
    return [by_name[name] for name in dict.fromkeys(names)]


def name_of(letter: DeadLetter) -> str:
    """How a letter is called on the command line."""
    return f"{letter.partition}/{letter.offset}"


def letter_json(letter: DeadLetter) -> dict[str, Any]:
    """A letter's story as JSON."""
    story = letter.story
    return {
        "letter": name_of(letter),
        "group": story.group,
        "partition": story.partition,
        "offset": story.offset,
        "attempts": story.attempts,
        "error": story.error,
        "first": human_time(story.first_ms),
        "last": human_time(story.last_ms),
        "outcome": letter.outcome,
    }


def _report(what: str, done: list[str], already: list[str], as_json: bool) -> None:
    if as_json:
        print_json({what: done, "already": already})
        return
    rest = f", {len(already)} closed before" if already else ""
    print(f"{len(done)} {what}{rest}")
