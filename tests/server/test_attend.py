from __future__ import annotations

import asyncio
from typing import Any

import pytest

from loradex.server.attend import attended
from loradex.server.errors import ClientGone


class Client:
    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_work_is_returned_while_the_client_is_there() -> None:
    async def work() -> int:
        return 7

    assert await attended(Client().receive, work()) == 7


async def test_errors_of_the_work_come_through() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await attended(Client().receive, work())


async def test_work_ends_and_cleans_up_when_the_client_goes() -> None:
    client, cleaned = Client(), False

    async def work() -> None:
        nonlocal cleaned
        try:
            client.gone.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    with pytest.raises(ClientGone):
        await attended(client.receive, work())
    assert cleaned


async def test_cancelling_from_outside_cancels_the_work() -> None:
    began, cancelled = asyncio.Event(), False

    async def work() -> None:
        nonlocal cancelled
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    task = asyncio.create_task(attended(Client().receive, work()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled
