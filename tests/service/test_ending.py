from __future__ import annotations

import asyncio

import pytest

from loradex.service.ending import to_the_end


async def test_work_ends_before_the_cancellation_comes_through() -> None:
    go, done = asyncio.Event(), []

    async def work() -> None:
        await go.wait()
        done.append(True)

    told: list[bool] = []
    task = asyncio.create_task(to_the_end(work(), lambda: told.append(True)))
    await asyncio.sleep(0)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == told == [True]


async def test_result_and_error_come_through() -> None:
    async def good() -> int:
        return 3

    async def bad() -> None:
        raise ValueError("no")

    assert await to_the_end(good()) == 3
    with pytest.raises(ValueError, match="no"):
        await to_the_end(bad())
