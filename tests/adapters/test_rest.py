from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from loradex.adapters import rest
from loradex.adapters.rest import Rest


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept; the thread's clock goes on by 2 ms at every look."""
    ticks = iter(range(1000))
    seconds: list[float] = []
    monkeypatch.setattr(time, "thread_time", lambda: 0.002 * next(ticks))
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def test_it_sleeps_so_long_that_its_share_is_kept(slept: list[float]) -> None:
    pause = Rest(lambda: True)
    for _ in range(4):
        pause()
    assert slept == pytest.approx([0.002 * (1 / rest.SHARE - 1)] * 3)


def test_the_share_of_long_work_grows_and_has_an_end(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 14.9, 15.1, 30.0, 45.0, 1e6))
    clocks = SimpleNamespace(thread_time=time.thread_time, sleep=time.sleep, monotonic=lambda: next(times))
    monkeypatch.setattr(rest, "time", clocks)
    pause = Rest(lambda: True)
    for _ in range(7):
        pause()
    assert slept == pytest.approx([0.002 * (1 / share - 1) for share in (0.05, 0.05, 0.1, 0.2, 0.25, 0.25)])


@pytest.mark.parametrize(("share", "asleep"), [(0.5, [0.002] * 3), (1.0, [0.0] * 3), (7.0, [0.0] * 3)])
def test_a_share_that_was_set_is_kept(slept: list[float], share: float, asleep: list[float]) -> None:
    pause = Rest(lambda: True, share)
    for _ in range(4):
        pause()
    assert slept == pytest.approx(asleep)


def test_it_does_not_sleep_where_nobody_is_served(slept: list[float]) -> None:
    pause = Rest(lambda: False)
    for _ in range(4):
        pause()
    assert slept == []


def test_little_work_adds_up_before_it_sleeps(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "SLICE_SECONDS", 0.005)
    pause = Rest(lambda: True)
    for _ in range(4):
        pause()
    assert slept == pytest.approx([0.006 * (1 / rest.SHARE - 1)])
