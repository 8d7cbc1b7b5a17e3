"""Priorities: lower numbers first, and nobody for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.local.levels import Levels
from loradex.engine.local.line import OVERTAKES
from loradex.engine.local.sequence import Sequence

PATIENCE = 4


def sequence(name: str, priority: int = 0, adapter: str | None = None) -> Sequence:
    return Sequence(name, [1, 2], 2, Sampling(), Mix.of(adapter), priority=priority)


def admit(levels: Levels) -> Sequence:
    """Let the first candidate go, as where everybody fits."""
    found = next(levels.candidates())
    levels.take(found)
    return found


def test_lower_numbers_come_first_and_equals_in_order_of_arrival() -> None:
    levels = Levels()
    for name, priority in (("a", 3), ("b", 0), ("c", -1), ("d", 0)):
        levels.append(sequence(name, priority))
    assert len(levels) == 4
    assert [each.id for each in levels] == ["c", "b", "d", "a"]
    assert [admit(levels).id for _ in range(4)] == ["c", "b", "d", "a"]
    assert not levels
    assert list(levels.candidates()) == []


@given(st.lists(st.integers(-2, 2), max_size=6), st.lists(st.integers(-2, 2), min_size=60, max_size=60))
def test_nobody_waits_for_ever(early: list[int], stream: list[int]) -> None:
    levels = Levels(PATIENCE)
    waits = {f"e{i}": 0 for i in range(len(early))}
    for name, priority in zip(waits, early, strict=True):
        levels.append(sequence(name, priority))
    for i, priority in enumerate(stream):  # as many come as are admitted
        levels.append(sequence(f"s{i}", priority))
        gone = admit(levels).id
        waits.pop(gone, None)
        for name in waits:
            waits[name] += 1
    # Each of the five levels has a turn in so many, and at most six of a level were there first.
    assert all(waited <= 6 * (PATIENCE + 5) for waited in waits.values())


def test_one_that_does_not_fit_is_passed_only_so_often_by_less_urgent_ones_too() -> None:
    levels = Levels(PATIENCE)
    large = sequence("large", 0, "a")
    levels.append(large)
    for i in range(2 * OVERTAKES):
        levels.append(sequence(str(i), 1, "b"))
    passed = 0
    while fitting := [each for each in levels.candidates() if each is not large]:
        levels.take(fitting[0])
        passed += 1
    assert passed == OVERTAKES
    assert admit(levels) is large
    assert admit(levels).id == str(passed)


def test_who_was_preempted_holds_back_its_own_level_and_less_urgent_ones() -> None:
    levels = Levels()
    back = sequence("back", 0)
    for each in (sequence("same", 0), sequence("less", 1), sequence("more", -1)):
        levels.append(each)
    levels.put_back(back)
    assert [each.id for each in levels.candidates()] == ["more", "back"]


def test_those_who_leave_and_those_who_switch() -> None:
    levels = Levels()
    one, other = sequence("one", 2, "old"), sequence("other", 2)
    levels.append(one)
    levels.append(other)
    levels.move(one, Mix.of("new"))
    assert one.mix == Mix.of("new")
    levels.remove(one)
    levels.remove(other)
    assert len(levels) == 0
