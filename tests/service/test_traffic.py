from __future__ import annotations

import pytest

from loradex.core.adapter import AdapterRef
from loradex.errors import EngineFailed, LoradexError
from loradex.service.traffic import NO_TRAFFIC, Traffic, TrafficLog

from .deck import Deck

A, B, C = (AdapterRef("medical", version, str(version) * 64) for version in (1, 2, 3))


def test_traffic_adds_up_once_for_each_version() -> None:
    log = TrafficLog()
    log.note((A, B, A), Traffic(requests=1, prompt_tokens=5, output_tokens=2, answers=1, first_seconds=0.5))
    log.note((A,), Traffic(requests=1, errors=1, answers=1, first_seconds=1.5))
    assert log.of(A) == Traffic(2, 1, 5, 2, 2, 2.0)
    assert log.of(A).ttft == 1.0
    assert log.of(B) == Traffic(1, 0, 5, 2, 1, 0.5)
    assert log.of(C) == NO_TRAFFIC
    assert log.of(C).ttft is None


def test_the_longest_unused_is_forgotten() -> None:
    log = TrafficLog(kept=2)
    for ref in (A, B, A, C):
        log.note((ref,), Traffic(requests=1))
    assert [log.of(ref).requests for ref in (A, B, C)] == [2, 0, 1]


async def test_a_service_tells_the_traffic_of_each_version(deck: Deck) -> None:
    await deck.add("medical", 1)
    digest = await deck.add("legal", 2)
    await deck.text("medical")
    await deck.text("medical*0.5+legal*0.5")
    deck.engine.fail_answer.add(digest)
    with pytest.raises(EngineFailed):
        await deck.text("legal")
    stopped = await deck.service.generate(deck.ask("medical"))
    await stopped.aclose()
    await deck.service.residents.unload("legal")
    await deck.settle()
    deck.engine.fail_load.add(digest)
    with pytest.raises(LoradexError):
        await deck.text("legal")
    medical, legal = [(await deck.service.adapters.get(name)).versions[0].traffic for name in ("medical", "legal")]
    assert (medical.requests, medical.errors, medical.prompt_tokens, medical.answers) == (3, 0, 3 * 5, 2)
    assert medical.ttft is not None
    assert (legal.requests, legal.errors, legal.answers) == (3, 2, 1)
    assert 0 < legal.output_tokens < medical.output_tokens
