"""A cut-over ends the way in at a recorded position, once the old side is quiet and everything of it is in the topic.

* While the old side publishes nothing is ended and nothing is recorded: it is told what came, on which subject, and
  from whom where the server tells.
* Then all up to the stream's end is copied, the stream is looked at again, and the page `cut-over` is written into the
  book: that ends every mirror of this stream into this topic, and no new one begins until it is reopened.
"""

from __future__ import annotations

from collections.abc import Callable

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import stream_info
from dynlog.errors import ConfigurationError, DynlogError, SourceChanged
from dynlog.migrations.mirror.book import Book, Page, Pages
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.inward import StreamMirror
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.mirror.quiet import foreign_messages, watch_stream


class StillPublishing(DynlogError):
    """The old side publishes into the stream: stop it, or let it publish into the log, and cut over again."""


async def cut_over(
    server: NatsServer, book: Book, mirror: StreamMirror, watch_s: float, told: Callable[[Standing], None]
) -> Page:
    """Cuts an opened mirror over and returns the page that says so; one that is there already is returned as it is.

    Raises StillPublishing, what `StreamMirror.catch_up` raises; then nothing has ended.
    """
    pages, _ = await book.read()
    if (page := pages.cut_over.get(mirror.id)) is not None:
        return page
    name = mirror.info.name
    await mirror.catch_up()
    told(mirror.standing)
    now, publishing = await watch_stream(server, mirror.info, mirror.here, mirror.choice.subject, watch_s)
    if publishing is not None:
        raise StillPublishing(
            f"stream {name!r} is still published to: within {watch_s:g} s {publishing}; nothing was ended, stop that "
            "and cut over again"
        )
    if stream_place(now) != mirror.place:
        raise SourceChanged(f"stream {name!r} was made anew while it was watched; nothing was ended")
    end = await mirror.catch_up()
    after = await stream_info(server, name)
    late = await foreign_messages(server, after, end + 1, mirror.here, mirror.choice.subject)
    if late:
        subjects = ", ".join(late)
        raise StillPublishing(f"stream {name!r} is published to again, on {subjects}; nothing was ended")
    page = await mirror.write_progress()
    told(mirror.standing)
    return await book.say(page.model_copy(update={"kind": "cut-over"}))


def check_not_cut_over(pages: Pages, mirror: str, stream: str) -> None:
    """Raises ConfigurationError if the mirror was cut over and not reopened."""
    page = pages.cut_over.get(mirror)
    if page is not None:
        sequence = max(page.sequences.values(), default=0)
        raise ConfigurationError(
            f"stream {stream!r} was cut over to topic {page.topic!r} at sequence {sequence}: what comes into it now is "
            "nobody's; --reopen mirrors it again"
        )


async def reopen(book: Book, mirror: StreamMirror) -> None:
    """Takes a cut-over back: what came into the stream since is mirrored from there on."""
    await book.say(Page(kind="reopened", mirror=mirror.id, direction="in", topic=mirror.standing.target))
