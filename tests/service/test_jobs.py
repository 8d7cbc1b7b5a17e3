from __future__ import annotations

import asyncio
from functools import partial

import pytest

from loradex.engine.base import Progress
from loradex.errors import AdapterInvalid, Conflict, NotFound
from loradex.service.jobs import KEPT, Job, Jobs
from loradex.service.views import Change
from tests.service.deck import Deck, until


def begin(deck: Deck, name: str, seed: int, **options: object) -> Job:
    def work(progress: Progress):  # type: ignore[no-untyped-def]
        return deck.service.adapters.add(name, deck.files(seed, **options), progress=progress)  # type: ignore[arg-type]

    return deck.service.jobs.start("add", name, work, actor="ada")


async def ended(job: Job) -> Job:
    await until(lambda: job.ended_at is not None)
    return job


async def test_a_job_runs_to_its_end_and_tells_what_it_did(deck: Deck) -> None:
    job = begin(deck, "medical", 1)
    assert (job.state, job.ended_at, deck.service.jobs.get(job.id)) == ("running", None, job)
    await ended(job)
    assert (job.state, job.stage, job.progress, job.error) == ("done", "commit", 1.0, None)
    assert job.result is not None
    assert str(job.result.ref) == "medical@1"
    assert (await deck.text("medical")).startswith(job.result.ref.digest[:8])
    with pytest.raises(Conflict, match="has ended"):
        deck.service.jobs.cancel(job.id)


async def test_a_job_that_fails_says_why(deck: Deck) -> None:
    job = await ended(begin(deck, "medical", 1, nan=True))
    assert (job.state, job.result) == ("failed", None)
    assert isinstance(job.error, AdapterInvalid)
    assert deck.blobs() == 0


async def test_what_nobody_foresaw_is_not_told(deck: Deck, caplog: pytest.LogCaptureFixture) -> None:
    async def work(progress: Progress) -> Change:
        raise ZeroDivisionError("secret")

    job = await ended(deck.service.jobs.start("add", "medical", work))
    assert job.error is not None
    assert "secret" not in job.error.message
    assert "secret" in caplog.text


@pytest.mark.parametrize("stage", ["check", "load", "warm"])
async def test_a_cancelled_job_leaves_nothing(deck: Deck, stage: str) -> None:
    digest = await deck.add("medical", 1)
    before = await deck.service.adapters.get("medical"), deck.resident(), deck.blobs()
    if stage == "load":
        deck.engine.loads_allowed.clear()
    if stage == "warm":
        deck.engine.tokens_per_second = 0.01
    job = begin(deck, "medical", 2)
    await until(lambda: job.stage == stage)
    assert deck.service.jobs.cancel(job.id).state == "cancelling"
    deck.engine.loads_allowed.set()
    await ended(job)
    assert (job.state, job.result, job.error) == ("cancelled", None, None)
    await deck.settle()
    assert ((await deck.service.adapters.get("medical")).record, deck.resident(), deck.blobs()) == (
        before[0].record,
        before[1],
        before[2],
    )
    deck.engine.tokens_per_second = 0
    assert (await deck.text("medical")).startswith(digest[:8])


async def test_what_takes_effect_is_not_cancelled(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[Conflict] = []
    commit = deck.registry.commit
    loop = asyncio.get_running_loop()

    def cancel(job_id: str) -> None:
        with pytest.raises(Conflict) as error:
            deck.service.jobs.cancel(job_id)
        refused.append(error.value)

    def slowly(*given: object, **more: object):  # type: ignore[no-untyped-def]
        loop.call_soon_threadsafe(partial(cancel, job.id))
        return commit(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(deck.registry, "commit", slowly)
    job = begin(deck, "medical", 1)
    await ended(job)
    assert job.state == "done"
    assert "takes effect already" in refused[0].message
    assert "rollback medical" in refused[0].hint


async def test_a_service_that_stops_cancels_its_jobs(deck: Deck) -> None:
    deck.engine.loads_allowed.clear()
    job = begin(deck, "medical", 1)
    await until(lambda: job.stage == "load")
    await deck.service.stop()
    assert job.state == "cancelled"
    assert deck.registry.list() == []
    assert deck.blobs() == 0


async def test_only_the_last_that_ended_are_remembered() -> None:
    async def work(progress: Progress) -> Change:
        raise NotFound("nothing")

    jobs = Jobs()
    begun = [jobs.start("add", "medical", work) for _ in range(KEPT + 5)]
    await until(lambda: all(job.ended_at is not None for job in begun))
    assert jobs.list() == begun[5:]
    with pytest.raises(NotFound, match="no job"):
        jobs.get(begun[0].id)
