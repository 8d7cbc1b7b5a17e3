from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loradex.service.settling import Mark, Settling

A, B = Path("a"), Path("b")


def mark(size: int) -> Mark:
    return (("f", size, 0, 0),)


def test_an_entry_is_due_once_when_it_has_rested() -> None:
    settling = Settling(2.0)
    assert settling.look(0.0, {A: mark(1)}) == []
    assert settling.look(1.9, {A: mark(2)}) == []  # it grew
    assert settling.look(3.8, {A: mark(2)}) == []
    assert settling.pending
    assert settling.look(3.9, {A: mark(2)}) == [A]
    assert settling.look(99.0, {A: mark(2)}) == []
    assert not settling.pending
    assert settling.look(100.0, {A: mark(3)}) == []
    assert settling.look(102.0, {A: mark(3)}) == [A]


def test_what_rested_before_is_due_at_once_and_what_failed_again_later() -> None:
    settling = Settling(2.0)
    assert settling.look(0.0, {A: mark(1), B: mark(1)}, [A]) == [A]
    settling.again(1.0, A)
    assert settling.look(2.5, {A: mark(1), B: mark(1)}) == [B]
    assert settling.look(3.0, {A: mark(1), B: mark(1)}) == [A]


def test_an_entry_that_goes_and_comes_back_is_due_again() -> None:
    settling = Settling(1.0)
    assert settling.look(0.0, {A: mark(1)}, [A]) == [A]
    assert settling.look(1.0, {}) == []
    assert not settling.pending
    assert settling.look(2.0, {A: mark(1)}) == []
    assert settling.look(3.0, {A: mark(1)}) == [A]


@given(st.lists(st.tuples(st.floats(0.01, 3), st.integers(0, 3)), max_size=40))
def test_nothing_is_due_before_it_has_rested(looks: list[tuple[float, int]]) -> None:
    settling = Settling(2.0)
    now, since, last = 0.0, 0.0, -1
    for step, size in looks:
        now += step
        since = now if size != last else since
        last = size
        if settling.look(now, {A: mark(size)}):
            assert now - since >= 2.0
