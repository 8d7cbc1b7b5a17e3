from __future__ import annotations

import asyncio
import inspect

import pytest

from loradex import errors
from loradex.client.aio import AsyncAdapters, AsyncClient
from loradex.client.client import Adapters, Client
from loradex.client.jobs import AsyncJobs, Jobs
from tests.client.conftest import Served


def verbs(cls: type) -> dict[str, list[str]]:
    renamed = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
    methods = inspect.getmembers(cls, inspect.isfunction)
    return {renamed.get(name, name): list(inspect.signature(each).parameters) for name, each in methods}


def test_both_clients_have_the_same_verbs() -> None:
    assert verbs(AsyncClient) == verbs(Client)
    assert verbs(AsyncAdapters) == verbs(Adapters)
    assert verbs(AsyncJobs) == verbs(Jobs)


async def test_many_answers_at_once(server: Served) -> None:
    async with AsyncClient(server.url) as client:
        change = await client.adapters.add("medical", server.medical)
        names = ["base", "medical"] * 4
        answers = await asyncio.gather(*(client.chat(name, "hello") for name in names))
        assert [answer.adapter for answer in answers] == ["base", "medical@1"] * 4
        async with await client.stream("medical", "hello") as stream:
            assert await stream.text() == answers[1].text
        assert stream.adapter == "medical@1"
        assert change.digest[:12] in stream.fingerprint
        assert [each.name for each in await client.adapters.list()] == ["medical"]


async def test_errors_come_back_as_what_they_are(server: Served) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(errors.ModelNotFound):
            await client.stream("nobody", "x")
        with pytest.raises(errors.AdapterInvalid) as caught:
            await client.adapters.add("broken", server.broken)
        assert caught.value.problems
