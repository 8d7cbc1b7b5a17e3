from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from loradex.service.budget import Budget, Lack
from loradex.service.eviction import Held, choose

SIZES = st.integers(0, 50 << 20)
helds = st.lists(st.tuples(SIZES, st.floats(0, 100)), max_size=8).map(
    lambda found: [Held(str(i), size, often, float(i)) for i, (size, often) in enumerate(found)]
)
lacks = st.builds(Lack, st.integers(0, 8), st.integers(0, 200 << 20))


def digests(chosen: Sequence[Held] | None) -> str:
    return "".join(sorted(each.digest for each in chosen or ()))


def enough(chosen: Sequence[Held], lack: Lack) -> bool:
    return len(chosen) >= lack.slots and sum(each.bytes for each in chosen) >= lack.bytes


@given(helds, lacks)
def test_those_who_go_are_enough_and_each_of_them_is_needed(held: list[Held], lack: Lack) -> None:
    chosen = choose(held, lack)
    if chosen is None:
        assert not enough(held, lack)
        return
    assert enough(chosen, lack)
    assert len({each.digest for each in chosen}) == len(chosen)
    for each in chosen:
        assert not enough([other for other in chosen if other is not each], lack)


def test_where_slots_are_short_who_is_seldom_asked_for_goes() -> None:
    held = [Held("a", 10, 3.0, 0), Held("b", 10, 1.0, 5), Held("c", 10, 2.0, 1)]
    assert digests(choose(held, Lack(1, 0))) == "b"
    assert digests(choose(held, Lack(2, 0))) == "bc"
    assert choose(held, Lack(4, 0)) is None
    assert choose(held, Lack(0, 0)) == []


def test_of_equals_the_one_used_longest_ago_goes() -> None:
    assert digests(choose([Held("a", 10, 1.0, 2), Held("b", 10, 1.0, 1)], Lack(1, 0))) == "b"


def test_of_equally_popular_ones_the_large_is_kept_for_a_slot_and_goes_for_bytes() -> None:
    large, small = Held("l", 40 << 20, 1.0, 0), Held("s", 1 << 20, 1.0, 0)
    assert digests(choose([large, small], Lack(1, 0))) == "s"  # it is loaded again sooner
    assert digests(choose([large, small], Lack(1, 1 << 20))) == "l"  # one load again, not forty


def test_a_large_one_does_not_take_needless_small_ones_along() -> None:
    held = [Held("a", 1 << 20, 0.1, 0), Held("b", 1 << 20, 0.1, 0), Held("l", 40 << 20, 9.0, 0)]
    assert digests(choose(held, Lack(0, 40 << 20))) == "l"


@given(st.lists(SIZES, max_size=6), SIZES, st.integers(1, 6), st.none() | st.integers(1, 100 << 20))
def test_what_lacks_is_what_does_not_fit(held: list[int], size: int, slots: int, memory: int | None) -> None:
    lack = Budget(slots, memory).lack(held, size)
    assert len(held) + 1 - lack.slots <= slots
    assert memory is None or sum(held) + size - lack.bytes <= memory
    assert bool(lack) is (len(held) + 1 > slots or (memory is not None and sum(held) + size > memory))
