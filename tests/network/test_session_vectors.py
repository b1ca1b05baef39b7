"""The bytes in docs/protocol-vectors.json are what this end writes, and mean to it what the file says."""

from __future__ import annotations

import pytest

from dynlog.network.frames import FrameKind, RecordKind
from tests.network.session_vectors import Json, Talk, explained, other_frames, read_vectors, refused

VECTORS = read_vectors()


def test_the_conversation_of_the_vectors_is_held_byte_by_byte() -> None:
    talk = Talk(VECTORS)
    for step in VECTORS["frames"]:
        frame, events = talk.step(step)
        assert frame.hex() == step["hex"], step["name"]
        assert events == step["events"], step["name"]


@pytest.mark.parametrize("step", VECTORS["frames"], ids=lambda step: str(step["name"]))
def test_every_frame_reads_field_by_field_as_the_file_says(step: Json) -> None:
    assert explained(bytes.fromhex(step["hex"])) == step["parts"]


def test_handshakes_are_written_as_they_are_read() -> None:
    for name, there, again in other_frames(VECTORS):
        assert there == again, name


@pytest.mark.parametrize("bad", VECTORS["bad"], ids=lambda bad: str(bad["name"]))
def test_bad_frames_end_what_the_file_says(bad: Json) -> None:
    assert refused(bad, VECTORS) == {"ends": bad["ends"], "error": bad["error"]}
    assert bad["ends"] in ("handshake", "channel", "session")


def test_every_kind_of_frame_and_record_has_a_vector() -> None:
    frames = {bytes.fromhex(step["hex"])[0] for step in VECTORS["frames"]}
    frames |= {bytes.fromhex(one["hex"])[0] for one in VECTORS["handshakes"]}
    assert frames == set(FrameKind)
    said = {what for step in VECTORS["frames"] for _, what in step["parts"]}
    assert {kind.name for kind in RecordKind} <= said
