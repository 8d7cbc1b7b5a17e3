from __future__ import annotations

import time

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
