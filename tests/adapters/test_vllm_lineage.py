"""What follows what: the rules of a lineage, without a socket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynlog.adapters.vllm_lineage import Action, Ask, Clear, Known, Lineage, Phase, Take, Tell, digest_of
from dynlog.ingest_items import NoticeKind


def payload(sequence: int, engine: str = "a") -> bytes:
    return f"{engine}{sequence}".encode()


def known(sequence: int, engine: str = "a") -> Known:
    return Known(digest_of(payload(0, engine))[:8].hex(), sequence, digest_of(payload(sequence, engine)))


def taken(actions: list[Action]) -> list[bytes]:
    return [action.payload for action in actions if isinstance(action, Take)]


def cleared(actions: list[Action]) -> int:
    return sum(isinstance(action, Clear) for action in actions)


def asked(actions: list[Action]) -> list[int]:
    return [action.start for action in actions if isinstance(action, Ask)]


def replay(lineage: Lineage, *batches: tuple[int, str]) -> list[Action]:
    """Answers the request under way with these batches, stopping where the lineage asks anew."""
    actions: list[Action] = []
    for sequence, engine in batches:
        actions += lineage.replayed(sequence, payload(sequence, engine))
        if asked(actions):
            return actions
    return actions + lineage.replay_ended()


def flowing(last: int = 5) -> Lineage:
    """A lineage that was confirmed and takes live batches behind ``last``."""
    lineage = Lineage(known(last), has_replay=True)
    assert asked(lineage.connected()) == [last]
    replay(lineage, (last, "a"))
    assert lineage.phase is Phase.FLOWING
    return lineage


def test_a_lineage_goes_on_only_if_the_last_batch_has_the_same_bytes() -> None:
    lineage = Lineage(known(5), has_replay=True)
    lineage.connected()
    actions = replay(lineage, (5, "a"), (6, "a"), (7, "a"))
    assert (taken(actions), cleared(actions)) == ([payload(6), payload(7)], 0)


def test_other_bytes_under_the_last_number_are_a_new_engine() -> None:
    lineage = Lineage(known(5), has_replay=True)
    lineage.connected()
    actions = replay(lineage, (5, "b"), (6, "b"))
    assert (cleared(actions), asked(actions)) == (1, [0])
    actions = replay(lineage, *((n, "b") for n in range(7)))
    assert taken(actions) == [payload(n, "b") for n in range(7)]


def test_a_replay_that_begins_behind_the_last_batch_cannot_confirm_it() -> None:
    lineage = Lineage(known(5), has_replay=True)
    lineage.connected()
    actions = replay(lineage, (6, "a"), (7, "a"))
    assert (taken(actions), cleared(actions)) == ([payload(6), payload(7)], 1)


def test_a_replay_that_ends_before_the_last_batch_is_a_new_engines() -> None:
    lineage = Lineage(known(5), has_replay=True)
    lineage.connected()
    actions = replay(lineage)
    assert (cleared(actions), asked(actions)) == (1, [0])


def test_what_comes_live_before_the_engine_is_confirmed_is_held_and_taken_afterwards() -> None:
    lineage = Lineage(known(5), has_replay=True)
    lineage.connected()
    assert lineage.live(7, payload(7)) == []
    assert taken(replay(lineage, (5, "a"), (6, "a"))) == [payload(6), payload(7)]


def test_a_gap_is_asked_for_and_told_once() -> None:
    lineage = flowing(5)
    actions = lineage.live(8, payload(8))
    assert asked(actions) == [5]
    told = [action for action in actions if isinstance(action, Tell)]
    assert [(tell.kind, tell.times) for tell in told] == [(NoticeKind.GAP, 2)]
    actions = replay(lineage, (5, "a"), (6, "a"), (7, "a"), (8, "a"))
    assert taken(actions) == [payload(6), payload(7), payload(8)]


def test_a_hole_inside_a_replay_is_asked_for_again_as_long_as_that_helps() -> None:
    lineage = flowing(5)
    lineage.live(9, payload(9))
    actions = replay(lineage, (5, "a"), (6, "a"), (8, "a"), (9, "a"))
    assert (taken(actions), cleared(actions), asked(actions)) == ([payload(6)], 0, [6])
    actions = replay(lineage, (6, "a"), (7, "a"), (8, "a"), (9, "a"))
    assert taken(actions) == [payload(7), payload(8), payload(9)]


def test_a_hole_that_stays_ends_the_lineage() -> None:
    lineage = flowing(5)
    lineage.live(8, payload(8))
    actions: list[Action] = []
    for _ in range(4):
        actions += replay(lineage, (5, "a"), (7, "a"), (8, "a")) if not cleared(actions) else []
    assert cleared(actions) == 1
    assert asked(actions)[-1] == 0


def test_a_falling_number_asks_and_a_repeat_does_not() -> None:
    lineage = flowing(5)
    assert taken(lineage.live(6, payload(6))) == [payload(6)]
    (repeat,) = lineage.live(6, payload(6))
    assert isinstance(repeat, Tell)
    assert repeat.kind is NoticeKind.DUPLICATE
    assert asked(lineage.live(2, payload(2, "b"))) == [6]


def test_without_a_replay_socket_a_gap_and_a_falling_number_clear() -> None:
    lineage = Lineage(known(5), has_replay=False)
    (told,) = lineage.connected()
    assert isinstance(told, Tell)
    assert told.kind is NoticeKind.UNVERIFIED
    assert cleared(lineage.live(6, payload(6))) == 0
    assert cleared(lineage.live(9, payload(9))) == 1
    assert cleared(lineage.live(0, payload(0, "b"))) == 1


def test_without_a_replay_socket_what_arrived_before_a_break_is_taken_and_the_next_number_goes_on() -> None:
    lineage = Lineage(known(5), has_replay=False)
    lineage.connected()
    lineage.disconnected()
    assert taken(lineage.live(6, payload(6))) == [payload(6)]
    lineage.connected()
    actions = lineage.live(7, payload(7))
    assert (taken(actions), cleared(actions)) == ([payload(7)], 0)


def test_a_replay_that_never_answers_is_given_up_only_when_live_batches_wait() -> None:
    lineage = Lineage(known(5), has_replay=True)
    lineage.connected()
    for _ in range(10):
        assert asked(lineage.replay_failed()) == [5]
    lineage.live(6, payload(6))
    actions: list[Action] = []
    while lineage.phase is Phase.ASKING:
        actions += lineage.replay_failed()
    assert (taken(actions), cleared(actions)) == ([payload(6)], 0)
    assert any(isinstance(action, Tell) and action.kind is NoticeKind.UNVERIFIED for action in actions)


def test_a_probe_that_nobody_answers_holds_nothing_up() -> None:
    lineage = flowing(5)
    assert asked(lineage.probe()) == [5]
    assert taken(lineage.live(6, payload(6))) == [payload(6)]
    assert lineage.replayed(5, payload(5)) == []
    assert asked(lineage.probe()) == [6]
    assert lineage.replay_failed() == []
    assert taken(lineage.live(7, payload(7))) == [payload(7)]


def test_a_probe_finds_a_lost_last_batch() -> None:
    lineage = flowing(5)
    lineage.probe()
    assert taken(replay(lineage, (5, "a"), (6, "a"))) == [payload(6)]


def test_held_batches_are_bounded_and_their_loss_is_told_and_filled() -> None:
    lineage = Lineage(known(5), has_replay=True, max_held_bytes=5)
    lineage.connected()
    told = [action for n in (6, 7, 8) for action in lineage.live(n, payload(n))]
    assert [(tell.kind, tell.times) for tell in told if isinstance(tell, Tell)] == [(NoticeKind.OVERFLOW, 3)]
    assert taken(replay(lineage, *((n, "a") for n in range(5, 9)))) == [payload(n) for n in (6, 7, 8)]


def test_what_a_dead_connection_left_behind_is_not_taken_for_the_new_engines() -> None:
    lineage = flowing(5)
    lineage.disconnected()
    lineage.live(6, payload(6))
    assert asked(lineage.connected()) == [5]
    assert cleared(replay(lineage)) == 1
    assert taken(replay(lineage, (0, "b"))) == [payload(0, "b")]


def test_a_new_engine_whose_replay_never_answers_is_cleared_and_not_taken_for_repeats_of_the_old_one() -> None:
    lineage = Lineage(known(5), has_replay=True)
    lineage.connected()
    actions = [action for n in range(3) for action in lineage.live(n, payload(n, "b"))]
    while lineage.phase is Phase.ASKING:
        actions += lineage.replay_failed()
    assert (taken(actions), cleared(actions)) == ([payload(n, "b") for n in range(3)], 1)


def test_a_lineage_that_ended_never_shares_its_name_with_the_next_although_the_engine_is_the_same() -> None:
    lineage = Lineage(None, has_replay=True)
    lineage.connected()
    replay(lineage, *((n, "a") for n in range(4)))
    first = lineage.known
    assert first is not None
    lineage.live(6, payload(6))
    for _ in range(4):
        if lineage.known is not None:
            replay(lineage, (3, "a"), (5, "a"), (6, "a"))
    replay(lineage, *((n, "a") for n in range(4)))
    again = lineage.known
    assert again is not None
    assert (again.last, again.digest) == (first.last, first.digest)
    assert again.incarnation != first.incarnation


class Engines:
    """A lineage among engines that restart; messages are lost, replays are cut or late."""

    def __init__(self, buffer: int) -> None:
        self.lineage = Lineage(None, has_replay=True)
        self.engine = self.published = 0
        self.buffer = buffer
        self.pending: int | None = None
        self.runs: list[list[tuple[int, int]]] = [[]]
        self.note(self.lineage.connected())

    def note(self, actions: list[Action]) -> bool:
        for action in actions:
            if isinstance(action, Clear):
                self.runs.append([])
            elif isinstance(action, Take):
                name, sequence = action.payload.split(b":")
                self.runs[-1].append((int(name), int(sequence)))
            elif isinstance(action, Ask):
                self.pending = action.start
        return bool(asked(actions))

    def publish(self, *, arrives: bool) -> None:
        self.published += 1
        if arrives:
            self.note(self.lineage.live(self.published - 1, f"{self.engine}:{self.published - 1}".encode()))

    def reconnect(self, *, restarted: bool) -> None:
        if restarted:
            self.engine, self.published = self.engine + 1, 0
        self.lineage.disconnected()
        self.note(self.lineage.connected())

    def answer(self, cut_after: int | None = None) -> None:
        start, self.pending = self.pending, None
        if start is None:
            return
        for count, sequence in enumerate(range(max(start, self.published - self.buffer), self.published)):
            if count == cut_after:
                self.note(self.lineage.replay_failed())
                return
            if self.note(self.lineage.replayed(sequence, f"{self.engine}:{sequence}".encode())):
                return
        self.note(self.lineage.replay_ended())


@given(st.integers(1, 8), st.lists(st.sampled_from("pppplrcaaaxP"), max_size=60))
def test_whatever_is_lost_the_log_holds_unbroken_runs_of_one_engine_and_in_the_end_the_present_ones(
    buffer: int, steps: list[str]
) -> None:
    fleet = Engines(buffer)
    for step in steps:
        match step:
            case "p" | "l":
                fleet.publish(arrives=step == "p")
            case "r" | "c":
                fleet.reconnect(restarted=step == "r")
            case "a" | "x":
                fleet.answer(cut_after=1 if step == "x" else None)
            case _:
                fleet.note(fleet.lineage.probe())
    for _ in range(3):
        fleet.note(fleet.lineage.probe())
        for _ in range(20):
            fleet.answer()
    assert fleet.pending is None
    for run in fleet.runs:
        assert len({engine for engine, _ in run}) <= 1
        numbers = [sequence for _, sequence in run]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    if fleet.published:
        assert fleet.runs[-1][-1] == (fleet.engine, fleet.published - 1)
    else:
        assert fleet.runs[-1] == []
